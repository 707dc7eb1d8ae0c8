//! Who uses this terminal: the session that is taken up at the start, logging in, changing to another account, making
//! one. A terminal leaves a session without ending it, because other terminals may use the same one.

use messagebase_protocol::code::{Code, Failure};
use messagebase_protocol::name::{check_name, check_password, fold_name};

use crate::cli::Cli;
use crate::command::Command;
use crate::error::ClientError;
use crate::repl::Repl;
use crate::token::Token;

impl Repl {
    /// Takes the last session up again, or tells a newcomer how to begin.
    pub(super) async fn begin(&mut self, cli: &Cli, cluster: &str) -> Result<(), ClientError> {
        self.editor
            .print(&format!(
                "MessageBase, cluster \"{cluster}\". /help shows all commands, Ctrl-D leaves."
            ))
            .await;
        let connected = self.connect().await;
        let stored = self.store.load(cli.user.as_deref());
        let user = cli
            .user
            .clone()
            .or_else(|| stored.as_ref().map(|token| token.user.clone()));
        if let (Some(password), Some(user)) = (cli.given_password()?, &user) {
            self.login(user, password, false).await;
        } else if let Some(token) = stored {
            let user = token.user.clone();
            if !connected {
                // The outbox takes messages meanwhile, and the session is taken up when the cluster is back.
                let resume =
                    self.client
                        .resume(&token.user, &token.token, token.cluster_id.as_deref());
                let _ = tokio::time::timeout(std::time::Duration::ZERO, resume).await;
            } else if self.resume(token).await {
                let hint = match cli.user {
                    Some(_) => "",
                    None => " (--user NAME for another account)",
                };
                self.editor.print(&format!("resumed as {user}{hint}")).await;
            } else if self.client.user().is_none() {
                self.editor
                    .print(&format!("the last session of {user} is over"))
                    .await;
                self.ask_and_login(&user).await;
            }
        } else if let Some(user) = user {
            self.ask_and_login(&user).await;
        } else {
            self.editor
                .print("New here? /register NAME makes an account, /login NAME begins a session.")
                .await;
        }
        Ok(())
    }

    /// Waits for a node: only the cluster's identity tells which tokens are good for it. False: there is no node.
    async fn connect(&mut self) -> bool {
        let client = self.client.clone();
        match self
            .while_showing(async move { client.connected().await })
            .await
        {
            Some(Ok(up)) => {
                if let Some(id) = &up.cluster_id {
                    self.store.select(id);
                }
                true
            }
            Some(Err(error)) => {
                self.complain(&error).await;
                false
            }
            None => false,
        }
    }

    /// Takes a stored session up again. False: it is over, which is forgotten, or the cluster does not answer.
    async fn resume(&mut self, token: Token) -> bool {
        let (client, user) = (self.client.clone(), token.user.clone());
        let resumed = async move {
            client
                .resume(&token.user, &token.token, token.cluster_id.as_deref())
                .await
        };
        match self.while_showing(resumed).await {
            Some(Ok(())) => return true,
            Some(Err(ClientError::NotLoggedIn)) => self.forget(&user).await,
            Some(Err(error)) => self.complain(&error).await,
            None => {}
        }
        false
    }

    async fn ask_and_login(&mut self, user: &str) {
        let asked = self
            .editor
            .ask_secret(&format!("Password of {user}: "))
            .await;
        match asked.filter(|password| !password.is_empty()) {
            Some(password) => self.login(user, password, true).await,
            None => self.editor.print(&format!("Hint: /login {user}")).await,
        }
    }

    /// `/login`: also in place of another account, whose session goes on elsewhere.
    pub(super) async fn switch(&mut self, user: Option<String>, password: Option<String>) {
        let Some(user) = self.name(user, "/login NAME").await else {
            return;
        };
        let former = self.client.user();
        if let Some(former) = &former
            && fold_name(former) == fold_name(&user)
        {
            return self
                .editor
                .print(&format!("already logged in as {former}"))
                .await;
        }
        if former.is_some() {
            if !self.may_leave().await {
                return;
            }
            self.acknowledge_shown().await;
            if let Err(error) = self.client.detach().await {
                return self.complain(&error).await;
            }
        }
        match password {
            Some(password) => self.login(&user, password, false).await,
            None => self.ask_and_login(&user).await,
        }
        // Nothing came of it: back to the account that was there.
        if self.client.user().is_none()
            && let Some(token) = former.and_then(|former| self.store.load(Some(&former)))
        {
            let former = token.user.clone();
            if self.resume(token).await {
                self.editor.print(&format!("still {former}")).await;
            }
        }
    }

    /// Logs in; with a password that was just `asked` for, a missing account can be made of it.
    async fn login(&mut self, user: &str, password: String, asked: bool) {
        let command = Command::Login {
            user: Some(user.to_owned()),
            password: Some(password.clone()),
        };
        match self.execute(command).await {
            None => {}
            Some(Ok(reply)) => self.reply(&reply).await,
            Some(Err(ClientError::Refused(Failure {
                code: Code::BadCredentials,
                ..
            }))) if asked && check_name(user).and(check_password(&password)).is_ok() => {
                self.offer_account(user, password).await;
            }
            Some(Err(error)) => self.complain(&error).await,
        }
    }

    /// The cluster does not tell a missing account from a wrong password; the user knows which of the two it is.
    async fn offer_account(&mut self, user: &str, password: String) {
        self.editor
            .print(&format!(
                "there is no account {user}, or its password is another one"
            ))
            .await;
        let prompt = format!("To register {user}, type the same password again (Enter: don't): ");
        match self.editor.ask_secret(&prompt).await.as_deref() {
            None | Some("") => self.editor.print(&format!("Hint: /login {user}")).await,
            Some(again) if again == password => self.make_account(user, password, true).await,
            Some(_) => self.editor.print("the two differ; nothing was done").await,
        }
    }

    /// `/register`: the account is used at once, unless somebody is logged in. A pipe line does what it does at a node.
    pub(super) async fn register(&mut self, user: Option<String>, password: Option<String>) {
        let Some(user) = self.name(user, "/register NAME").await else {
            return;
        };
        let by_pipe = password.is_some();
        let password = match password {
            Some(password) => password,
            None => match self.new_password(&format!("Password for {user}: ")).await {
                Some(password) => password,
                None => return,
            },
        };
        let log_in = !by_pipe && self.client.user().is_none();
        self.make_account(&user, password, log_in).await;
    }

    async fn make_account(&mut self, user: &str, password: String, log_in: bool) {
        let command = Command::Register {
            user: Some(user.to_owned()),
            password: Some(password.clone()),
        };
        match self.execute(command).await {
            None => {}
            Some(Ok(reply)) => {
                self.reply(&reply).await;
                if log_in {
                    Box::pin(self.login(user, password, false)).await;
                } else {
                    self.editor
                        .print(&format!("Hint: /login {user} goes on as {user} here"))
                        .await;
                }
            }
            Some(Err(error)) => self.complain(&error).await,
        }
    }

    async fn name(&self, given: Option<String>, usage: &str) -> Option<String> {
        if given.is_none() {
            self.editor
                .print(&format!("a name is missing\nHint: {usage}"))
                .await;
        }
        given
    }

    pub(super) async fn new_password(&mut self, prompt: &str) -> Option<String> {
        let first = self.editor.ask_secret(prompt).await?;
        if let Err(failure) = check_password(&first) {
            self.editor.print(&failure.message).await;
            return None;
        }
        let second = self.editor.ask_secret("Once more: ").await?;
        if first != second {
            self.editor.print("the two differ; nothing was done").await;
            return None;
        }
        Some(first)
    }
}
