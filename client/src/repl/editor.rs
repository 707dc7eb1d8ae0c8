//! The line editor on a thread of its own, because it blocks. The async side asks for a line or a password, prints
//! above the line being typed, and may change the prompt while a line is being read.
//!
//! rustyline can't change a prompt under way. So the read is interrupted as Ctrl-C would (by SIGINT to ourselves; the
//! real Ctrl-C comes as a key and is told apart by its binding) and begun again with the new prompt. That happens only
//! while the line is empty: a half-typed line is never touched, and its prompt goes on meaning what it says.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rustyline::completion::Completer;
use rustyline::config::Configurer;
use rustyline::error::ReadlineError;
use rustyline::highlight::{CmdKind, Highlighter};
use rustyline::hint::{Hint, Hinter};
use rustyline::history::DefaultHistory;
use rustyline::validate::Validator;
use rustyline::{
    Cmd, ColorMode, ConditionalEventHandler, Context, Editor as Rustyline, Event, EventContext,
    EventHandler, ExternalPrinter, Helper, KeyEvent, RepeatCount,
};
use tokio::sync::mpsc;

use crate::command::is_secret;
use crate::repl::completion;
use crate::repl::prompt::Prompt;

/// Lines of history kept.
const HISTORY_MAX: usize = 1_000;
/// Texts that wait to be printed; beyond it the printing task waits.
const PRINTS_MAX: usize = 64;
/// Names that completion remembers.
const NAMES_MAX: usize = 10_000;

/// What the async side wants.
enum Ask {
    Line,
    Secret(String),
}

/// What the user did.
#[derive(Debug)]
pub enum Typed {
    /// A line, at this prompt.
    Line {
        /// As typed.
        text: String,
        /// What stood on the screen.
        prompt: Prompt,
    },
    /// A password; `None` if the user thought better of it.
    Secret(Option<String>),
    /// Ctrl-C.
    Interrupted,
    /// Ctrl-D, or the terminal is gone.
    End,
}

/// What both sides see. Every lock is held for a copy only.
struct Shared {
    /// The prompt that should stand on the screen.
    wanted: Mutex<Prompt>,
    /// The prompt that does; `None` while no line is read.
    shown: Mutex<Option<Prompt>>,
    /// What has been typed of the line, and where the cursor is.
    typed: Mutex<(String, usize)>,
    /// Ctrl-C was pressed: tells it apart from our own interruption.
    ctrl_c: AtomicBool,
    /// We interrupted the read.
    nudged: AtomicBool,
    /// A password is being typed: nothing of it may be shown or remembered.
    secret: AtomicBool,
    /// The line became empty: a prompt that had to wait may be shown now.
    emptied: tokio::sync::Notify,
    /// For completion.
    names: Mutex<BTreeSet<String>>,
}

/// The async side's handle.
pub struct Editor {
    asks: mpsc::Sender<Ask>,
    typed: mpsc::Receiver<Typed>,
    /// `None` on a terminal that can't edit lines: then texts are just written.
    prints: Option<mpsc::Sender<String>>,
    /// A line was asked for and has not come: texts belong above it.
    asked: bool,
    shared: Arc<Shared>,
}

impl Editor {
    /// Starts the threads.
    ///
    /// # Errors
    /// The terminal can't be used.
    pub fn start(history: Option<PathBuf>, first: Prompt) -> rustyline::Result<Editor> {
        let shared = Arc::new(Shared {
            wanted: Mutex::new(first),
            shown: Mutex::new(None),
            typed: Mutex::new((String::new(), 0)),
            ctrl_c: AtomicBool::new(false),
            nudged: AtomicBool::new(false),
            secret: AtomicBool::new(false),
            emptied: tokio::sync::Notify::new(),
            names: Mutex::new(BTreeSet::new()),
        });
        let mut line_editor = line_editor(&shared, history.as_ref())?;
        let prints = line_editor
            .create_external_printer()
            .ok()
            .map(|mut printer| {
                let (prints, mut texts) = mpsc::channel::<String>(PRINTS_MAX);
                // A thread because printing waits while the user searches the history.
                std::thread::spawn(move || {
                    while let Some(text) = texts.blocking_recv() {
                        if printer.print(text).is_err() {
                            return;
                        }
                    }
                });
                prints
            });
        let edits = prints.is_some();
        let (asks, mut asked) = mpsc::channel(1);
        let (typed_sender, typed) = mpsc::channel(1);
        std::thread::spawn({
            let shared = shared.clone();
            move || {
                while let Some(ask) = asked.blocking_recv() {
                    let answer = match ask {
                        Ask::Line => read_line(&mut line_editor, &shared, history.as_ref()),
                        Ask::Secret(prompt) if edits => {
                            Typed::Secret(read_secret(&mut line_editor, &shared, &prompt))
                        }
                        Ask::Secret(prompt) => Typed::Secret(crate::secret::ask(&prompt).ok()),
                    };
                    if typed_sender.blocking_send(answer).is_err() {
                        return;
                    }
                }
            }
        });
        Ok(Editor {
            asks,
            typed,
            prints,
            asked: false,
            shared,
        })
    }

    /// Begins to read a line; [`Editor::typed`] gets it.
    pub async fn ask_line(&mut self, prompt: Prompt) {
        *self.shared.wanted.lock() = prompt;
        self.asked = true;
        // If the thread is gone, `typed` says so.
        let _ = self.asks.send(Ask::Line).await;
    }

    /// Asks for a password without echo.
    pub async fn ask_secret(&mut self, prompt: &str) -> Option<String> {
        self.asks.send(Ask::Secret(prompt.to_owned())).await.ok()?;
        match self.typed().await {
            Typed::Secret(secret) => secret,
            Typed::Line { .. } | Typed::Interrupted | Typed::End => None,
        }
    }

    /// Waits for what the user does. Cancel-safe.
    pub async fn typed(&mut self) -> Typed {
        let typed = self.typed.recv().await.unwrap_or(Typed::End);
        self.asked = false;
        typed
    }

    /// Prints whole lines: above the line being typed, or where the cursor is when none is.
    pub async fn print(&self, text: &str) {
        if let (true, Some(prints)) = (self.asked, &self.prints) {
            // Just before the read begins the printer writes at once, which is above the prompt, too. A printer that
            // is gone means a terminal that is gone, which the reader notices.
            let _ = prints.send(format!("{text}\n")).await;
        } else {
            use tokio::io::AsyncWriteExt;
            let mut stdout = tokio::io::stdout();
            let _ = stdout.write_all(format!("{text}\n").as_bytes()).await;
            let _ = stdout.flush().await;
        }
    }

    /// Changes the prompt of the line being read, if nothing has been typed; otherwise it shows with the next line.
    pub fn set_prompt(&self, prompt: Prompt) {
        *self.shared.wanted.lock() = prompt;
        self.nudge();
    }

    /// Whether the screen shows an old prompt that could be changed now.
    pub fn is_prompt_stale(&self) -> bool {
        let wanted = self.shared.wanted.lock().clone();
        self.prints.is_some()
            && self.shared.typed.lock().0.is_empty()
            && self
                .shared
                .shown
                .lock()
                .as_ref()
                .is_some_and(|shown| *shown != wanted)
    }

    /// Wakes when the user has deleted what was typed.
    pub fn emptied(&self) -> impl Future<Output = ()> + use<> {
        let shared = self.shared.clone();
        async move { shared.emptied.notified().await }
    }

    /// Interrupts the read if the prompt is stale. It may fall into the instant before the read begins and be lost, so
    /// the caller repeats it while [`Editor::is_prompt_stale`].
    pub fn nudge(&self) {
        if self.is_prompt_stale() {
            self.shared.nudged.store(true, Ordering::SeqCst);
            let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGINT);
        }
    }

    /// Whether a SIGINT that the async side saw was our own, meant for the reader.
    pub fn was_nudge(&self) -> bool {
        self.shared.nudged.swap(false, Ordering::SeqCst)
    }

    /// Remembers a name for completion.
    pub fn learn_name(&self, name: &str) {
        let mut names = self.shared.names.lock();
        if names.len() < NAMES_MAX {
            names.insert(name.to_owned());
        }
    }
}

type LineEditor = Rustyline<Assistant, DefaultHistory>;

fn line_editor(shared: &Arc<Shared>, history: Option<&PathBuf>) -> rustyline::Result<LineEditor> {
    let config = rustyline::Config::builder()
        .max_history_size(HISTORY_MAX)?
        .auto_add_history(false)
        .completion_type(rustyline::CompletionType::List)
        .build();
    let mut line_editor = Rustyline::with_config(config)?;
    line_editor.set_helper(Some(Assistant(shared.clone())));
    line_editor.bind_sequence(
        KeyEvent::ctrl('C'),
        EventHandler::Conditional(Box::new(CtrlC(shared.clone()))),
    );
    if let Some(history) = history {
        // The first start has none.
        let _ = line_editor.load_history(history);
    }
    Ok(line_editor)
}

fn read_line(line_editor: &mut LineEditor, shared: &Shared, history: Option<&PathBuf>) -> Typed {
    let mut initial = (String::new(), String::new());
    loop {
        let prompt = shared.wanted.lock().clone();
        *shared.typed.lock() = (format!("{}{}", initial.0, initial.1), initial.0.len());
        *shared.shown.lock() = Some(prompt.clone());
        let read =
            line_editor.readline_with_initial(prompt.text.as_str(), (&initial.0, &initial.1));
        *shared.shown.lock() = None;
        match read {
            Ok(text) => {
                keep(line_editor, &text, history);
                return Typed::Line { text, prompt };
            }
            Err(ReadlineError::Interrupted) if shared.ctrl_c.swap(false, Ordering::SeqCst) => {
                return Typed::Interrupted;
            }
            Err(ReadlineError::Interrupted) => {
                shared.nudged.store(false, Ordering::SeqCst);
                let (typed, at) = shared.typed.lock().clone();
                erase(line_editor, &format!("{}{typed}", prompt.text));
                initial = match typed.split_at_checked(at) {
                    Some((left, right)) => (left.to_owned(), right.to_owned()),
                    None => (typed, String::new()),
                };
            }
            Err(_) => return Typed::End,
        }
    }
}

/// Reads a password with the line editor, which may hold it already: read past the editor, a password that was typed
/// ahead would come as the next line, and go into the history or to somebody.
fn read_secret(line_editor: &mut LineEditor, shared: &Shared, prompt: &str) -> Option<String> {
    shared.secret.store(true, Ordering::SeqCst);
    // Regardless of NO_COLOR: without highlighting the editor would show what is typed.
    line_editor.set_color_mode(ColorMode::Forced);
    let secret = loop {
        match line_editor.readline(prompt) {
            Ok(secret) => break Some(secret),
            // A nudge that came too late for the line before.
            Err(ReadlineError::Interrupted) if !shared.ctrl_c.swap(false, Ordering::SeqCst) => {
                erase(line_editor, prompt);
            }
            Err(_) => break None,
        }
    };
    line_editor.set_color_mode(ColorMode::Enabled);
    shared.secret.store(false, Ordering::SeqCst);
    secret
}

/// Removes the abandoned prompt from the screen; the cursor stands on the line below it.
fn erase(line_editor: &mut LineEditor, shown: &str) {
    let columns = line_editor
        .dimensions()
        .map_or(80, |(columns, _)| usize::from(columns))
        .max(1);
    let rows = shown.chars().count().div_ceil(columns).max(1);
    let mut stdout = std::io::stdout();
    // A terminal that can't be written to ends the read that follows.
    let _ = write!(stdout, "\x1b[{rows}A\r\x1b[J").and_then(|()| stdout.flush());
}

/// Adds a line to the history, unless it carries a password.
fn keep(line_editor: &mut LineEditor, text: &str, history: Option<&PathBuf>) {
    if text.trim().is_empty() || is_secret(text) {
        return;
    }
    let added = line_editor.add_history_entry(text).unwrap_or(false);
    if let (true, Some(history)) = (added, history) {
        // A history that can't be kept must not get in the way of a conversation.
        if line_editor.save_history(history).is_ok() {
            use std::os::unix::fs::PermissionsExt;
            let _ = std::fs::set_permissions(history, std::fs::Permissions::from_mode(0o600));
        }
    }
}

/// Ctrl-C as a key.
struct CtrlC(Arc<Shared>);

impl ConditionalEventHandler for CtrlC {
    fn handle(&self, _: &Event, _: RepeatCount, _: bool, _: &EventContext) -> Option<Cmd> {
        self.0.ctrl_c.store(true, Ordering::SeqCst);
        Some(Cmd::Interrupt)
    }
}

/// Gives rustyline the completions, and tells the async side what has been typed so far.
struct Assistant(Arc<Shared>);

/// A hint that only shows: Right must not put a usage text into the line.
struct Usage(String);

impl Hint for Usage {
    fn display(&self) -> &str {
        &self.0
    }
    fn completion(&self) -> Option<&str> {
        None
    }
}

impl Hinter for Assistant {
    type Hint = Usage;

    /// Called after every change of the line, which is what `typed` relies on.
    fn hint(&self, line: &str, at: usize, _: &Context<'_>) -> Option<Usage> {
        if self.0.secret.load(Ordering::SeqCst) {
            return None;
        }
        let before = std::mem::replace(&mut *self.0.typed.lock(), (line.to_owned(), at));
        if line.is_empty() && !before.0.is_empty() {
            self.0.emptied.notify_one();
        }
        if self
            .0
            .shown
            .lock()
            .as_ref()
            .is_some_and(|prompt| prompt.conversation.is_some())
            && !line.starts_with('/')
        {
            return None;
        }
        completion::hint(line, at).map(Usage)
    }
}

impl Completer for Assistant {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        at: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        Ok(completion::complete(line, at, &self.0.names.lock()))
    }
}

impl Highlighter for Assistant {
    fn highlight<'l>(&self, line: &'l str, _: usize) -> Cow<'l, str> {
        Cow::Borrowed(if self.0.secret.load(Ordering::SeqCst) {
            ""
        } else {
            line
        })
    }

    /// Without this the editor writes a letter at the end of the line as it is.
    fn highlight_char(&self, _: &str, _: usize, _: CmdKind) -> bool {
        self.0.secret.load(Ordering::SeqCst)
    }

    fn highlight_hint<'h>(&self, hint: &'h str) -> Cow<'h, str> {
        Cow::Owned(format!("\x1b[2m{hint}\x1b[0m"))
    }
}

impl Validator for Assistant {}
impl Helper for Assistant {}
