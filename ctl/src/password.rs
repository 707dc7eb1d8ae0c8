//! Where a new password comes from: a file, the environment or the terminal; never the command line, which every user
//! of the machine can read.

use std::io::IsTerminal;
use std::path::Path;

use messagebase_protocol::name::check_password;

use crate::error::CtlError;

/// Environment variable that holds a password.
pub const PASSWORD_ENV: &str = "MESSAGEBASE_PASSWORD";

/// Gets the new password of `name`.
///
/// # Errors
/// There is none to be had, or it is too short or too long (exit 2).
pub fn new_password(name: &str, file: Option<&Path>) -> Result<String, CtlError> {
    let password = match (file, std::env::var(PASSWORD_ENV)) {
        (Some(file), _) => first_line(file)?,
        (None, Ok(password)) => password,
        (None, Err(std::env::VarError::NotUnicode(_))) => {
            return Err(CtlError::usage(format!("${PASSWORD_ENV} is not UTF-8")));
        }
        (None, Err(std::env::VarError::NotPresent)) => ask(name)?,
    };
    check_password(&password).map_err(|e| CtlError::usage(e.message))?;
    Ok(password)
}

fn first_line(file: &Path) -> Result<String, CtlError> {
    let text = std::fs::read_to_string(file).map_err(|e| {
        CtlError::usage(format!(
            "failed to read the password from {}",
            file.display()
        ))
        .because(e)
    })?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

fn ask(name: &str) -> Result<String, CtlError> {
    if !std::io::stdin().is_terminal() {
        return Err(
            CtlError::usage("there is no terminal to ask for the password")
                .hint(format!("set {PASSWORD_ENV} or use --password-file FILE")),
        );
    }
    let prompt = |text: String| {
        rpassword::prompt_password(text)
            .map_err(|e| CtlError::usage("failed to read the password").because(e))
    };
    let first = prompt(format!("New password of {name}: "))?;
    if prompt("Again: ".into())? != first {
        return Err(CtlError::usage("the two passwords differ"));
    }
    Ok(first)
}
