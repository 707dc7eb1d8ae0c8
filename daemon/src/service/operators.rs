//! Accounts as an operator changes them: on any account, without a session, while registration is closed. Proposed like every
//! change; apply decides. `admin` turns the results into words for operators.

use messagebase_protocol::code::Failure;
use messagebase_protocol::name::{check_name, check_password, fold_name};
use messagebase_protocol::peer::UserRow;
use tokio::time::Instant;

use super::verdict::{self, Unapplied};
use super::{Deadline, Service, send_key};
use crate::change::{Change, Outcome, Refusal, Secrets};
use crate::raft::api::Verdict;
use crate::state::read::{self, Account};

/// Rows of one list.
const USERS_MAX: u32 = 10_000;

/// Why an operator's request failed. The refusals of apply that only an operator can meet, or that read differently to one,
/// are told apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OperatorError {
    /// There is no account and no reserved name.
    NoSuchUser,
    /// The name belongs to somebody or is reserved.
    NameTaken,
    /// The name is an account's, so it is not reserved.
    NameInUse,
    /// As for clients.
    Failed(Failure),
}

impl From<Failure> for OperatorError {
    fn from(failure: Failure) -> Self {
        OperatorError::Failed(failure)
    }
}

impl From<Unapplied> for OperatorError {
    fn from(why: Unapplied) -> Self {
        match why {
            Unapplied::Refused(Refusal::NoSuchUser) => OperatorError::NoSuchUser,
            Unapplied::Refused(Refusal::NameTaken) => OperatorError::NameTaken,
            Unapplied::Refused(Refusal::NameInUse) => OperatorError::NameInUse,
            other => OperatorError::Failed(other.into()),
        }
    }
}

impl Service {
    /// Accounts whose names match a glob.
    pub async fn list_users(&self, pattern: Option<String>) -> Result<Vec<UserRow>, OperatorError> {
        let deadline = Deadline::from_arrival(Instant::now());
        self.linear(&deadline).await?;
        let pattern = pattern.as_deref().map(fold_name);
        let rows: Vec<(Option<Account>, UserRow)> = self
            .read(move |db| {
                let rows = read::user_rows(db, pattern.as_deref(), USERS_MAX)?;
                rows.into_iter()
                    .map(|row| Ok((read::user_by_name(db, &fold_name(&row.name))?, row)))
                    .collect()
            })
            .await?;
        let with_presence = |(account, row): (Option<Account>, UserRow)| UserRow {
            online: account.is_some_and(|account| self.presence.is_online(account.id)),
            ..row
        };
        Ok(rows.into_iter().map(with_presence).collect())
    }

    /// One account.
    pub async fn show_user(&self, name: &str) -> Result<Vec<UserRow>, OperatorError> {
        check_name(name)?;
        let found = self.list_users(Some(name.to_owned())).await?;
        if found.is_empty() {
            return Err(OperatorError::NoSuchUser);
        }
        Ok(found)
    }

    /// Makes an account, also while registration is closed.
    pub async fn add_user(&self, name: &str, password: String) -> Result<(), OperatorError> {
        check_name(name)?;
        let secrets = self.hashed(password).await?;
        // A new key for each request: a key that was used before would not register a name again that was freed since.
        let body = Change::Register {
            name: name.to_owned(),
            key: send_key()?,
            by_operator: true,
        };
        self.operate(body, Some(secrets)).await
    }

    /// Locks an account and ends its sessions.
    pub async fn lock_user(&self, name: &str) -> Result<(), OperatorError> {
        let name = name.to_owned();
        self.operate(Change::Lock { name }, None).await
    }

    /// Unlocks an account.
    pub async fn unlock_user(&self, name: &str) -> Result<(), OperatorError> {
        let name = name.to_owned();
        self.operate(Change::Unlock { name }, None).await
    }

    /// Sets a password and ends the sessions.
    pub async fn reset_password(&self, name: &str, password: String) -> Result<(), OperatorError> {
        let secrets = self.hashed(password).await?;
        let name = name.to_owned();
        self.operate(Change::ResetPassword { name }, Some(secrets))
            .await
    }

    /// Deletes an account; its name stays reserved. The change has no key, so when replication repeats it, the repetition finds
    /// no account. If there was one before, it is deleted then: by this change or another.
    pub async fn delete_user(&self, name: &str) -> Result<(), OperatorError> {
        let deadline = Deadline::from_arrival(Instant::now());
        self.linear(&deadline).await?;
        let folded = fold_name(name);
        let found = self.read(move |db| read::user_by_name(db, &folded)).await?;
        if found.is_none() {
            return Err(OperatorError::NoSuchUser);
        }
        let name = name.to_owned();
        match self
            .propose(None, Change::Remove { name }, None, &deadline)
            .await?
        {
            Verdict::InDoubt(Refusal::NoSuchUser)
            | Verdict::Applied {
                outcome: Outcome::Refused(Refusal::NoSuchUser),
                ..
            } => Ok(()),
            verdict => Ok(verdict::applied(verdict).map(drop)?),
        }
    }

    /// Releases a reserved name.
    pub async fn free_name(&self, name: &str) -> Result<(), OperatorError> {
        let name = name.to_owned();
        self.operate(Change::FreeName { name }, None).await
    }

    async fn hashed(&self, password: String) -> Result<Secrets, Failure> {
        check_password(&password)?;
        Ok(Secrets {
            password_hash: Some(self.hasher.hash(password).await?),
            token_hash: None,
        })
    }

    async fn operate(&self, body: Change, secrets: Option<Secrets>) -> Result<(), OperatorError> {
        let deadline = Deadline::from_arrival(Instant::now());
        let verdict = self.propose(None, body, secrets, &deadline).await?;
        Ok(verdict::applied(verdict).map(drop)?)
    }
}

#[cfg(test)]
mod tests {
    use messagebase_protocol::code::Code;

    use super::*;
    use crate::service::testing::TestNode;

    #[tokio::test]
    async fn an_account_from_its_beginning_to_a_free_name() {
        let node = TestNode::start();
        let service = &node.service;
        let password = || "correct horse".to_owned();
        service.add_user("anna", password()).await.expect("new");
        let again = service.add_user("Anna", password()).await;
        assert_eq!(again, Err(OperatorError::NameTaken));
        service.lock_user("anna").await.expect("there");
        let rows = service.show_user("ANNA").await.expect("there");
        assert!(rows[0].locked && !rows[0].online);
        service.unlock_user("anna").await.expect("there");
        service
            .reset_password("anna", password())
            .await
            .expect("there");
        let used = service.free_name("anna").await;
        assert_eq!(used, Err(OperatorError::NameInUse));
        service.delete_user("anna").await.expect("there");
        let gone = service.delete_user("anna").await;
        assert_eq!(gone, Err(OperatorError::NoSuchUser));
        let reserved = service.add_user("anna", password()).await;
        assert_eq!(reserved, Err(OperatorError::NameTaken));
        service.free_name("anna").await.expect("reserved");
        service.add_user("anna", password()).await.expect("free");
    }

    #[tokio::test]
    async fn a_deletion_whose_answer_was_lost_is_done() {
        let node = TestNode::start();
        let added = node.service.add_user("anna", "correct horse".into()).await;
        added.expect("new");
        *node.cluster.next_verdict.lock().unwrap() = Some(Verdict::InDoubt(Refusal::NoSuchUser));
        assert_eq!(node.service.delete_user("anna").await, Ok(()));
        *node.cluster.next_verdict.lock().unwrap() = Some(Verdict::InDoubt(Refusal::NameTaken));
        let Err(OperatorError::Failed(failure)) = node.service.lock_user("anna").await else {
            panic!("an answer was lost");
        };
        assert_eq!(failure.code, Code::NoQuorum);
    }
}
