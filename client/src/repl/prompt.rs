//! What the prompt says and what Enter does: a pure state machine. Its rule: the prompt is always true. Enter on the
//! empty line opens a conversation with the user that the prompt on the screen named, and no other. A message that
//! arrives never changes the recipient of an open conversation.

use crate::command::{Command, parse_pipe, parse_slash};

/// The first words when a text has no recipient.
pub const NOT_SENT: &str = "not sent: nobody is addressed";

/// What Enter on the empty line does, as the prompt on the screen says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EmptyEnter {
    /// Shows the prompt again.
    Nothing,
    /// Opens the conversation with this user.
    Reply(String),
}

/// A prompt as it stands on the screen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// Its text, ending with a blank.
    pub text: String,
    /// What it promises.
    pub empty_enter: EmptyEnter,
    /// The recipient of a line that is no command.
    pub conversation: Option<String>,
}

/// What a line means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Nothing to do but to show the prompt again.
    Nothing,
    /// A command for the cluster or about the client.
    Run(Command),
    /// A message in the open conversation.
    Say {
        /// Recipient.
        to: String,
        /// Text.
        text: String,
    },
    /// A conversation was opened with this user.
    Opened(String),
    /// A conversation was left.
    Closed(String),
    /// Nothing was done; what is wrong and what to do.
    Refused(String),
}

/// Who and where the user is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PromptState {
    user: Option<String>,
    node: Option<u16>,
    conversation: Option<String>,
    /// The latest sender outside the open conversation.
    sender: Option<String>,
}

impl PromptState {
    /// The user logged in or out. What belonged to the former one is forgotten.
    pub fn set_user(&mut self, user: Option<String>) {
        if self.user != user {
            (self.conversation, self.sender) = (None, None);
            self.user = user;
        }
    }

    /// The client is on this node, or on none.
    pub fn set_node(&mut self, node: Option<u16>) {
        self.node = node;
    }

    /// A message of this sender was shown.
    pub fn message_from(&mut self, sender: &str) {
        // The partner of the open conversation is answered by just typing.
        if !self
            .conversation
            .as_deref()
            .is_some_and(|partner| partner.eq_ignore_ascii_case(sender))
        {
            self.sender = Some(sender.to_owned());
        }
    }

    /// The prompt for the next line.
    pub fn prompt(&self) -> Prompt {
        let user = self.user.as_deref().unwrap_or("(not logged in)");
        let place = self
            .node
            .map_or_else(|| "no node".to_owned(), |node| format!("n{node}"));
        let (text, empty_enter) = match (&self.conversation, &self.sender) {
            (Some(partner), _) => (format!("{user}@{place} → {partner}> "), EmptyEnter::Nothing),
            (None, Some(sender)) => (
                format!("{user}@{place} [Enter: reply to {sender}]> "),
                EmptyEnter::Reply(sender.clone()),
            ),
            (None, None) => (format!("{user}@{place}> "), EmptyEnter::Nothing),
        };
        Prompt {
            text,
            empty_enter,
            conversation: self.conversation.clone(),
        }
    }

    /// A line was entered at this prompt.
    pub fn typed(&mut self, line: &str, shown: &Prompt) -> Action {
        match &shown.conversation {
            // Addressed as the screen said, also if the session ended meanwhile: then sending is refused.
            Some(partner) => self.typed_in_conversation(line, partner.clone()),
            None => self.typed_at_prompt(line, &shown.empty_enter),
        }
    }

    fn typed_in_conversation(&mut self, line: &str, partner: String) -> Action {
        if line.trim().is_empty() {
            return Action::Nothing;
        }
        match line.strip_prefix('/') {
            Some(text) if text.starts_with('/') => Action::Say {
                to: partner,
                text: text.to_owned(),
            },
            Some(command) => self.slash(command),
            None => Action::Say {
                to: partner,
                text: line.to_owned(),
            },
        }
    }

    fn typed_at_prompt(&mut self, line: &str, empty_enter: &EmptyEnter) -> Action {
        if line.trim().is_empty() {
            return match empty_enter {
                EmptyEnter::Nothing => Action::Nothing,
                EmptyEnter::Reply(sender) => self.open(sender.clone()),
            };
        }
        if let Some(parsed) = parse_pipe(line) {
            return match parsed {
                Ok(command) => Action::Run(command),
                Err(wrong) => Action::Refused(wrong.0),
            };
        }
        match line.trim_start().strip_prefix('/') {
            Some(command) => self.slash(command),
            None => Action::Refused(match &self.sender {
                Some(sender) => format!(
                    "{NOT_SENT}\nHint: press Enter on the empty line to reply to {sender}, \
                     or /msg NAME TEXT; /help shows all commands"
                ),
                None => format!(
                    "{NOT_SENT}\nHint: /msg NAME TEXT, or d|NAME|TEXT; /help shows all commands"
                ),
            }),
        }
    }

    fn slash(&mut self, line: &str) -> Action {
        let command = match parse_slash(line) {
            Ok(command) => command,
            Err(wrong) => return Action::Refused(wrong.0),
        };
        match command {
            Command::Msg { to, text: None } => self.open(to),
            Command::Reply { text } => match (
                self.sender.clone().or_else(|| self.conversation.clone()),
                text,
            ) {
                (None, _) => Action::Refused("nobody has written yet\nHint: /msg NAME TEXT".into()),
                (Some(sender), None) => self.open(sender),
                (Some(sender), Some(text)) => Action::Say { to: sender, text },
            },
            Command::Close => match self.conversation.take() {
                Some(partner) => Action::Closed(partner),
                // At the prompt it puts the offered reply away.
                None => match self.sender.take() {
                    Some(_) => Action::Nothing,
                    None => {
                        Action::Refused("no conversation is open\nHint: /msg NAME opens one".into())
                    }
                },
            },
            Command::Listen => Action::Refused("messages are shown as they come; just wait".into()),
            command => Action::Run(command),
        }
    }

    fn open(&mut self, partner: String) -> Action {
        if self.user.is_none() {
            return Action::Refused(
                "not logged in\nHint: /login NAME, or /register NAME for a new account".into(),
            );
        }
        if let Err(failure) = messagebase_protocol::name::check_name(&partner) {
            return Action::Refused(failure.message);
        }
        if self
            .sender
            .as_deref()
            .is_some_and(|sender| sender.eq_ignore_ascii_case(&partner))
        {
            self.sender = None;
        }
        self.conversation = Some(partner.clone());
        Action::Opened(partner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alice() -> PromptState {
        let mut mode = PromptState::default();
        mode.set_user(Some("alice".into()));
        mode.set_node(Some(2));
        mode
    }

    fn enter(mode: &mut PromptState, line: &str) -> Action {
        let shown = mode.prompt();
        mode.typed(line, &shown)
    }

    fn say(to: &str, text: &str) -> Action {
        Action::Say {
            to: to.into(),
            text: text.into(),
        }
    }

    #[test]
    fn prompts() {
        let mut mode = PromptState::default();
        assert_eq!(mode.prompt().text, "(not logged in)@no node> ");
        mode.set_node(Some(1));
        assert_eq!(mode.prompt().text, "(not logged in)@n1> ");
        let mut mode = alice();
        assert_eq!(mode.prompt().text, "alice@n2> ");
        mode.message_from("bob");
        assert_eq!(mode.prompt().text, "alice@n2 [Enter: reply to bob]> ");
        enter(&mut mode, "");
        assert_eq!(mode.prompt().text, "alice@n2 → bob> ");
        mode.set_node(Some(3));
        assert_eq!(mode.prompt().text, "alice@n3 → bob> ");
    }

    #[test]
    fn enter_on_the_empty_line_replies_to_whom_the_prompt_names() {
        let mut mode = alice();
        assert_eq!(enter(&mut mode, ""), Action::Nothing);
        mode.message_from("bob");
        assert_eq!(enter(&mut mode, "  "), Action::Opened("bob".into()));
        assert_eq!(enter(&mut mode, "hello"), say("bob", "hello"));
    }

    #[test]
    fn a_message_that_comes_while_the_plain_prompt_stands_opens_nothing() {
        let mut mode = alice();
        let shown = mode.prompt();
        mode.message_from("bob");
        assert_eq!(mode.typed("", &shown), Action::Nothing);
        assert_eq!(
            mode.prompt().text,
            "alice@n2 [Enter: reply to bob]> ",
            "the next one offers it"
        );
    }

    #[test]
    fn a_later_message_does_not_redirect_the_reply_that_the_screen_offers() {
        let mut mode = alice();
        mode.message_from("bob");
        let shown = mode.prompt();
        mode.message_from("carol");
        assert_eq!(mode.typed("", &shown), Action::Opened("bob".into()));
    }

    #[test]
    fn a_message_never_changes_whom_a_conversation_addresses() {
        let mut mode = alice();
        enter(&mut mode, "/msg bob");
        let shown = mode.prompt();
        mode.message_from("carol");
        assert_eq!(mode.prompt(), shown);
        assert_eq!(mode.typed("for bob", &shown), say("bob", "for bob"));
        enter(&mut mode, "/close");
        assert_eq!(mode.prompt().text, "alice@n2 [Enter: reply to carol]> ");
    }

    #[test]
    fn the_partners_own_messages_offer_no_reply() {
        let mut mode = alice();
        enter(&mut mode, "/msg Bob");
        mode.message_from("bob");
        assert_eq!(enter(&mut mode, "/close"), Action::Closed("Bob".into()));
        assert_eq!(mode.prompt().text, "alice@n2> ");
    }

    #[test]
    fn in_a_conversation_pipe_lines_are_text() {
        let mut mode = alice();
        enter(&mut mode, "/msg bob");
        for line in ["4", "h", "1|a|b", "d|carol|hi", "5|x", " leading blank"] {
            assert_eq!(enter(&mut mode, line), say("bob", line));
        }
        assert_eq!(enter(&mut mode, ""), Action::Nothing);
    }

    #[test]
    fn in_a_conversation_a_slash_is_a_command_and_two_are_a_slash() {
        let mut mode = alice();
        enter(&mut mode, "/msg bob");
        assert_eq!(enter(&mut mode, "//etc/passwd"), say("bob", "/etc/passwd"));
        assert_eq!(enter(&mut mode, "/status"), Action::Run(Command::Status));
        assert!(matches!(
            enter(&mut mode, "/etc/passwd"),
            Action::Refused(_)
        ));
        assert_eq!(enter(&mut mode, "still bob"), say("bob", "still bob"));
    }

    #[test]
    fn at_the_prompt_text_is_refused_with_a_hint() {
        let mut mode = alice();
        let Action::Refused(why) = enter(&mut mode, "hello") else {
            panic!("text went somewhere")
        };
        assert!(why.contains("Hint: /msg NAME TEXT"), "{why}");
        mode.message_from("bob");
        let Action::Refused(why) = enter(&mut mode, "hello") else {
            panic!("text went somewhere")
        };
        assert!(why.contains("reply to bob"), "{why}");
    }

    #[test]
    fn at_the_prompt_pipe_lines_are_commands() {
        let mut mode = alice();
        assert_eq!(
            enter(&mut mode, "4"),
            Action::Run(Command::Users { pattern: None })
        );
        assert_eq!(
            enter(&mut mode, "d|bob|hi"),
            Action::Run(Command::Msg {
                to: "bob".into(),
                text: Some("hi".into())
            })
        );
        assert!(matches!(enter(&mut mode, "d|bob"), Action::Refused(_)));
    }

    #[test]
    fn reply_answers_the_latest_sender() {
        let mut mode = alice();
        assert!(matches!(enter(&mut mode, "/reply"), Action::Refused(_)));
        mode.message_from("bob");
        assert_eq!(enter(&mut mode, "/reply hi"), say("bob", "hi"));
        assert_eq!(mode.prompt().text, "alice@n2 [Enter: reply to bob]> ");
        assert_eq!(enter(&mut mode, "/reply"), Action::Opened("bob".into()));
    }

    #[test]
    fn close_at_the_prompt_puts_the_offer_away() {
        let mut mode = alice();
        assert!(matches!(enter(&mut mode, "/close"), Action::Refused(_)));
        mode.message_from("bob");
        assert_eq!(enter(&mut mode, "/close"), Action::Nothing);
        assert_eq!(mode.prompt().text, "alice@n2> ");
    }

    #[test]
    fn another_user_inherits_nothing() {
        let mut mode = alice();
        mode.message_from("carol");
        enter(&mut mode, "/msg bob");
        mode.set_user(Some("dave".into()));
        assert_eq!(mode.prompt().text, "dave@n2> ");
    }

    #[test]
    fn nobody_can_open_a_conversation_without_a_session_or_a_name() {
        let mut nobody = PromptState::default();
        assert!(matches!(enter(&mut nobody, "/msg bob"), Action::Refused(_)));
        assert!(matches!(
            enter(&mut alice(), "/msg -bob"),
            Action::Refused(_)
        ));
    }
}
