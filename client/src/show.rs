//! What the prompt and scripts show alike.
#![allow(
    clippy::print_stderr,
    reason = "errors of the program itself go to standard error"
)]

use messagebase_protocol::json::Status;

use crate::error::ClientError;
use crate::exit::Exit;

/// Writes an error with its hint to standard error; the exit code that it means.
pub(crate) fn complain(error: &ClientError) -> Exit {
    eprintln!("mbclient: {error}");
    if let Some(hint) = error.hint() {
        eprintln!("Hint: {hint}");
    }
    Exit::from(error)
}

/// `n1 leader term 3 applied 42 ready`, or `n2 down`.
pub(crate) fn status_line(node: u16, status: Option<&Status>) -> String {
    let Some(status) = status else {
        return format!("n{node} down\n");
    };
    let view = &status.replica;
    let applied = view
        .applied
        .map_or_else(|| "-".to_owned(), |applied| applied.to_string());
    let ready = if view.ready { "ready" } else { "not ready" };
    format!(
        "n{node} {} term {} applied {applied} {ready}\n",
        view.role, view.term
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_a_line() {
        let status = crate::election::tests::status(1);
        assert_eq!(
            status_line(1, Some(&status)),
            "n1 follower term 1 applied 10 ready\n"
        );
        assert_eq!(status_line(2, None), "n2 down\n");
    }
}
