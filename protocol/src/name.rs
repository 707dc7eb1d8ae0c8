//! User names, passwords, keys and bodies: the checks of both ends before anything is sent or hashed.

use std::borrow::Cow;

use crate::code::{Code, Failure};
use crate::limits::{
    BODY_MAX_BYTES, KEY_MAX_BYTES, NAME_MAX_BYTES, PASSWORD_MAX_BYTES, PASSWORD_MIN_BYTES,
};

/// Checks a user name: 1–32 of `A-Z a-z 0-9 _ . -`, the first a letter or digit.
pub fn check_name(name: &str) -> Result<(), Failure> {
    let ok_char = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'.' | b'-');
    let first_ok = name
        .as_bytes()
        .first()
        .is_some_and(u8::is_ascii_alphanumeric);
    if first_ok && name.len() <= NAME_MAX_BYTES && name.bytes().all(ok_char) {
        return Ok(());
    }
    Err(Failure::not_done(
        Code::BadName,
        "a user name is 1 to 32 of A-Z a-z 0-9 _ . - and begins with a letter or digit",
    ))
}

/// The form in which names are compared: ASCII lower case.
pub fn fold_name(name: &str) -> String {
    name.to_ascii_lowercase()
}

/// As [`fold_name`], without copying a name that has this form already.
pub fn folded(name: &str) -> Cow<'_, str> {
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        fold_name(name).into()
    } else {
        name.into()
    }
}

/// Checks a password's length; called before any hashing.
pub fn check_password(password: &str) -> Result<(), Failure> {
    if (PASSWORD_MIN_BYTES..=PASSWORD_MAX_BYTES).contains(&password.len()) {
        return Ok(());
    }
    Err(Failure::not_done(
        Code::BadPassword,
        "a password is 8 to 256 bytes long",
    ))
}

/// Checks an idempotency key: 1–64 printable ASCII characters.
pub fn check_key(key: &str) -> Result<(), Failure> {
    let printable = key.bytes().all(|c| (0x20..0x7f).contains(&c));
    if !key.is_empty() && key.len() <= KEY_MAX_BYTES && printable {
        return Ok(());
    }
    Err(Failure::not_done(
        Code::BadRequest,
        "a key is 1 to 64 printable ASCII characters",
    ))
}

/// Checks a message body: at most 16,384 bytes, no NUL.
pub fn check_body(body: &str) -> Result<(), Failure> {
    if body.len() > BODY_MAX_BYTES {
        return Err(Failure::not_done(
            Code::TooLarge,
            "a message is at most 16384 bytes of UTF-8",
        ));
    }
    if body.contains('\0') {
        return Err(Failure::not_done(
            Code::BadRequest,
            "a message cannot contain a NUL character",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folded_name_is_copied_only_when_it_changes() {
        for name in ["anna", "a.b-c_9", "Anna", "annA", "A"] {
            let folded = folded(name);
            assert_eq!(folded, fold_name(name));
            assert_eq!(matches!(folded, Cow::Borrowed(_)), folded == name, "{name}");
        }
    }
}
