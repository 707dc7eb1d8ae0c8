//! Accounts and their sessions: `register`, `login`, `resume`, `password`, `delete` (`logout` is in `messages`). A password
//! is verified before anything is proposed. The change carries the `credential_version` that was verified, and apply
//! refuses it if the version has changed since.

use std::sync::Arc;
use std::time::Instant;

use messagebase_protocol::code::{Code, Failure};
use messagebase_protocol::json::{ClosingReason, Consistency, LoggedIn, Registered, Resumed};
use messagebase_protocol::limits::TOKEN_MAX_BYTES;
use messagebase_protocol::name::{check_key, check_name, check_password, fold_name};

use super::{Connection, Deadline, Service, Session, reads, token, verdict};
use crate::change::{Change, Outcome, Secrets};
use crate::raft::api::{Draft, Verdict};
use crate::state::read::{self, Account, AccountKey, SessionRow};

/// A `delete`, of either dialect.
#[derive(Clone)]
pub struct DeleteRequest {
    /// Verified first; the pipe dialect asks for none.
    pub password: Option<String>,
    /// Idempotency key.
    pub key: String,
    /// The account, which must be the one that is logged in.
    pub user: Option<String>,
}

impl Service {
    /// Makes an account. A repetition under its key is answered without hashing.
    pub async fn register(
        &self,
        user: String,
        password: String,
        key: String,
        mut deadline: Deadline,
    ) -> Result<Registered, Failure> {
        check_name(&user)?;
        check_password(&password)?;
        check_key(&key)?;
        // An applied change is final, so local state is enough to repeat its answer.
        if let Some(first) = self
            .account_key("register", fold_name(&user), key.clone())
            .await?
        {
            return Ok(Registered { user: first.name });
        }
        let hash = deadline.extended_by(self.hasher.hash(password)).await?;
        let body = Change::Register {
            name: user,
            key,
            by_operator: false,
        };
        match self
            .propose_one(None, body, Some(secrets_of_hash(hash)), &deadline)
            .await?
        {
            Outcome::Registered { name, .. } => Ok(Registered { user: name }),
            other => Err(verdict::unexpected(&other)),
        }
    }

    /// Begins a session on this connection. Holds events back: the caller queues the reply, then releases them.
    pub async fn login(
        &self,
        conn: &Connection,
        user: String,
        password: String,
        mut deadline: Deadline,
    ) -> Result<LoggedIn, Failure> {
        conn.check_free()?;
        check_name(&user)?;
        check_password(&password)?;
        let folded = fold_name(&user);
        self.login_limits
            .check(&folded, conn.address, Instant::now())?;
        // A stale read could refuse an account that was made on another node a moment ago.
        self.linear(&deadline).await?;
        let account = self.account(folded.clone()).await?;
        let account = deadline
            .extended_by(self.verify(conn, &folded, account, password))
            .await?;
        let token = token::new()?;
        let token_hash = token::hash(&token);
        let body = Change::Login {
            user: account.id,
            credential_version: account.credential_version,
        };
        let secrets = Secrets {
            token_hash: Some(token_hash),
            ..Secrets::default()
        };
        match self
            .propose_one(None, body, Some(secrets), &deadline)
            .await?
        {
            Outcome::LoggedIn {
                session,
                user,
                name,
                ..
            } => {
                let attachment = self.attach(conn, user, session);
                let read = self.session_and_queue(token_hash, user).await;
                // The session exists now, so a failed read is no `not_done`.
                let (row, queued) = read.map_err(verdict::after_apply)?;
                if !row.is_some_and(|row| reads::is_live(&row)) {
                    return Err(Failure::unknown(
                        Code::Closing,
                        "the session was ended at once; log in again",
                    ));
                }
                conn.begin_session(Session::new(session, user, &name, true, attachment));
                Ok(LoggedIn {
                    user: name,
                    token,
                    queued,
                })
            }
            other => Err(verdict::unexpected(&other)),
        }
    }

    /// Resumes a session by its token. Holds events back like [`Service::login`].
    pub async fn resume(
        &self,
        conn: &Connection,
        token: String,
        consistency: Consistency,
        deadline: Deadline,
    ) -> Result<Resumed, Failure> {
        conn.check_free()?;
        if token.len() > TOKEN_MAX_BYTES {
            return Err(verdict::bad_credentials());
        }
        let hash = token::hash(&token);
        let local = if consistency == Consistency::Local {
            self.live_session(hash).await?
        } else {
            None
        };
        let linear = local.is_none();
        let found = match local {
            Some(row) => row,
            None => {
                // Only a linear read may say that a token is dead.
                self.linear(&deadline).await?;
                self.live_session(hash)
                    .await?
                    .ok_or_else(verdict::bad_credentials)?
            }
        };
        let attachment = self.attach(conn, found.user, found.session);
        // Read again: no event told of an end between the first read and the attachment.
        let (row, queued) = self.session_and_queue(hash, found.user).await?;
        if !row.is_some_and(|row| reads::is_live(&row)) {
            return Err(if linear {
                verdict::bad_credentials()
            } else {
                verdict::no_quorum()
            });
        }
        conn.begin_session(Session::new(
            found.session,
            found.user,
            &found.name,
            linear,
            attachment,
        ));
        Ok(Resumed {
            user: found.name,
            queued,
            linear,
        })
    }

    /// Replaces the password; the user's other sessions end.
    pub async fn password(
        &self,
        conn: &Connection,
        old: String,
        new: String,
        key: String,
        mut deadline: Deadline,
    ) -> Result<(), Failure> {
        let session = conn.session()?;
        check_password(&old)?;
        check_password(&new)?;
        check_key(&key)?;
        // The key before the password: after a success `old` no longer matches, and a repetition answers the same.
        let scope = session.user.to_string();
        if self
            .account_key("password", scope.clone(), key.clone())
            .await?
            .is_some()
        {
            return Ok(());
        }
        let folded = fold_name(&session.name);
        self.login_limits
            .check(&folded, conn.address, Instant::now())?;
        let session = self
            .session_for_read_within(conn, Consistency::Linear, &deadline)
            .await?;
        if self
            .account_key("password", scope, key.clone())
            .await?
            .is_some()
        {
            return Ok(());
        }
        let account = self
            .verify_own(conn, &session, &folded, old, &mut deadline)
            .await?;
        let hash = deadline.extended_by(self.hasher.hash(new)).await?;
        let body = Change::Password {
            user: session.user,
            credential_version: account.credential_version,
            key,
        };
        match self
            .propose_one(
                Some(session.id),
                body,
                Some(secrets_of_hash(hash)),
                &deadline,
            )
            .await?
        {
            Outcome::Done => Ok(()),
            other => Err(verdict::unexpected(&other)),
        }
    }

    /// Deletes the account that is logged in. Without a session only a repetition under a used key is answered.
    pub async fn delete(
        &self,
        conn: &Connection,
        request: DeleteRequest,
        mut deadline: Deadline,
    ) -> Result<(), Failure> {
        check_key(&request.key)?;
        if let Some(user) = &request.user {
            check_name(user)?;
        }
        let session = match conn.session() {
            Ok(session) => session,
            // The pipe dialect's keys are made by the node: none of them can have been used before.
            Err(failure) if request.password.is_none() => return Err(failure),
            Err(_) => return self.delete_again(conn, request, &deadline).await,
        };
        let folded = fold_name(&session.name);
        if request
            .user
            .as_ref()
            .is_some_and(|user| fold_name(user) != folded)
        {
            return Err(Failure::not_done(
                Code::NotPermitted,
                "that is somebody else's account",
            ));
        }
        let credential_version = match request.password {
            None => None,
            Some(password) => {
                check_password(&password)?;
                self.login_limits
                    .check(&folded, conn.address, Instant::now())?;
                let session = match self
                    .session_for_read_within(conn, Consistency::Linear, &deadline)
                    .await
                {
                    Err(failure) if failure.code == Code::NotLoggedIn => {
                        return self.deleted_before(folded, request.key).await;
                    }
                    other => other?,
                };
                let account = self
                    .verify_own(conn, &session, &folded, password, &mut deadline)
                    .await?;
                Some(account.credential_version)
            }
        };
        let body = Change::Delete {
            user: session.user,
            credential_version,
            key: request.key.clone(),
        };
        match self
            .propose_one(Some(session.id), body, None, &deadline)
            .await
        {
            Ok(Outcome::Done) => {
                conn.end_session(ClosingReason::Deleted);
                Ok(())
            }
            Ok(other) => Err(verdict::unexpected(&other)),
            // An earlier request under this key deleted it: the session went with the account.
            Err(failure) if failure.code == Code::NotLoggedIn => self
                .deleted_before(folded, request.key)
                .await
                .map_err(verdict::after_apply),
            Err(failure) => Err(failure),
        }
    }

    async fn delete_again(
        &self,
        conn: &Connection,
        request: DeleteRequest,
        deadline: &Deadline,
    ) -> Result<(), Failure> {
        let name = request
            .user
            .or_else(|| conn.past_name().map(|name| name.to_string()));
        let folded = fold_name(&name.ok_or_else(verdict::not_logged_in)?);
        if self
            .was_deleted(folded.clone(), request.key.clone())
            .await?
        {
            return Ok(());
        }
        self.linear(deadline).await?;
        self.deleted_before(folded, request.key).await
    }

    async fn deleted_before(&self, folded: String, key: String) -> Result<(), Failure> {
        if self.was_deleted(folded, key).await? {
            Ok(())
        } else {
            Err(verdict::not_logged_in())
        }
    }

    async fn was_deleted(&self, folded: String, key: String) -> Result<bool, Failure> {
        self.read(move |db| read::deleted_by_key(db, &folded, &key))
            .await
    }

    /// Verifies a password against an account, or against the dummy when there is none.
    async fn verify(
        &self,
        conn: &Connection,
        folded: &str,
        account: Option<Account>,
        password: String,
    ) -> Result<Account, Failure> {
        let stored = account
            .as_ref()
            .map(|account| account.password_hash.clone());
        let right = self.hasher.verify(password, stored).await?;
        match account {
            Some(account) if right && account.locked => Err(verdict::locked()),
            Some(account) if right => Ok(account),
            _ => {
                self.login_limits
                    .failed(folded, conn.address, Instant::now());
                Err(verdict::bad_credentials())
            }
        }
    }

    fn attach(&self, conn: &Connection, user: u64, session: u64) -> crate::fanout::Attachment {
        conn.outbox.hold_events();
        self.fanout
            .attach(user, session, conn.dialect, Arc::clone(&conn.outbox))
    }

    async fn propose_one(
        &self,
        actor: Option<u64>,
        body: Change,
        secrets: Option<Secrets>,
        deadline: &Deadline,
    ) -> Result<Outcome, Failure> {
        verdict::outcome(self.propose(actor, body, secrets, deadline).await?)
    }

    /// Proposes one change. `actor`: the acting session.
    pub(super) async fn propose(
        &self,
        actor: Option<u64>,
        body: Change,
        secrets: Option<Secrets>,
        deadline: &Deadline,
    ) -> Result<Verdict, Failure> {
        let within = deadline.proposal_timeout()?;
        let draft = Draft {
            actor,
            body,
            secrets,
        };
        let mut verdicts = self.replication.propose(vec![draft], within).await;
        verdicts
            .pop()
            .ok_or_else(|| verdict::internal_unknown("replication gave no verdict"))
    }

    async fn account(&self, folded: String) -> Result<Option<Account>, Failure> {
        self.read(move |db| read::user_by_name(db, &folded)).await
    }

    /// Verifies the password of a live session's account; `not_logged_in` when the account was deleted since.
    async fn verify_own(
        &self,
        conn: &Connection,
        session: &Session,
        folded: &str,
        password: String,
        deadline: &mut Deadline,
    ) -> Result<Account, Failure> {
        let account = self.account(folded.to_owned()).await?;
        let account = account
            .filter(|account| account.id == session.user)
            .ok_or_else(verdict::not_logged_in)?;
        deadline
            .extended_by(self.verify(conn, folded, Some(account), password))
            .await
    }

    async fn account_key(
        &self,
        kind: &'static str,
        scope: String,
        key: String,
    ) -> Result<Option<AccountKey>, Failure> {
        self.read(move |db| read::account_key(db, kind, &scope, &key))
            .await
    }

    async fn live_session(&self, hash: [u8; 32]) -> Result<Option<SessionRow>, Failure> {
        let row = self
            .read(move |db| read::session_by_token_hash(db, &hash))
            .await?;
        Ok(row.filter(reads::is_live))
    }

    async fn session_and_queue(
        &self,
        hash: [u8; 32],
        user: u64,
    ) -> Result<(Option<SessionRow>, u64), Failure> {
        self.read(move |db| {
            Ok((
                read::session_by_token_hash(db, &hash)?,
                read::queued_count(db, user)?,
            ))
        })
        .await
    }
}

fn secrets_of_hash(hash: String) -> Secrets {
    Secrets {
        password_hash: Some(hash),
        ..Secrets::default()
    }
}
