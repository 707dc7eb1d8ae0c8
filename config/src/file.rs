//! The TOML as written: every key optional, every value with its place, types checked but not yet meanings
//! ([`crate::validate`] does that). serde reads it; [`explain`] turns its errors into ones that name the key, the line
//! and the next step.

use std::ops::Range;

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Deserializer};

use crate::ConfigError;
use crate::error::Source;

/// A value that may be left out, and where it stands.
pub(crate) type Given<T> = Option<Spanned<T>>;

/// The whole file.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Raw {
    pub(crate) cluster: Given<String>,
    pub(crate) data_dir: Given<String>,
    pub(crate) pki_dir: Given<String>,
    pub(crate) registration: Given<String>,
    pub(crate) session_days: Given<i64>,
    #[serde(rename = "node")]
    pub(crate) nodes: Vec<Spanned<RawNode>>,
    pub(crate) limits: RawLimits,
    pub(crate) retention: RawRetention,
    pub(crate) password: RawPassword,
}

/// One `[[node]]`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RawNode {
    pub(crate) id: Given<i64>,
    pub(crate) client: Given<String>,
    pub(crate) peer: Given<String>,
    pub(crate) http: Given<String>,
    pub(crate) plain: Given<String>,
    pub(crate) client_bind: Given<String>,
    pub(crate) peer_bind: Given<String>,
    pub(crate) http_bind: Given<String>,
}

/// `[limits]`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RawLimits {
    pub(crate) connections: Given<i64>,
    pub(crate) sessions_per_user: Given<i64>,
    pub(crate) failed_logins_per_name: Given<i64>,
    pub(crate) failed_logins_per_address: Given<i64>,
    pub(crate) queued_messages_per_user: Given<i64>,
    pub(crate) queued_bytes_per_user: Given<i64>,
    pub(crate) change_log_bytes: Given<i64>,
}

/// `[retention]`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RawRetention {
    pub(crate) delivered_days: Given<i64>,
}

/// `[password]`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RawPassword {
    pub(crate) memory_kib: Given<i64>,
    pub(crate) passes: Given<i64>,
    pub(crate) lanes: Given<i64>,
}

/// Reads the text.
pub(crate) fn parse(source: &Source<'_>) -> Result<Raw, ConfigError> {
    let table = DeTable::parse(source.text).map_err(|e| ConfigError {
        line: e.span().map(|span| source.line(&span)),
        key: None,
        ..source.error(&(0..0), "", format!("is not valid TOML: {}", e.message()))
    })?;
    check_tables(source, table.get_ref())?;
    Raw::deserialize(Deserializer::from(table.clone()))
        .map_err(|e| explain(source, table.get_ref(), &e))
}

/// Refuses what is no table where one belongs. serde would take a list too, its elements for the fields in their order.
fn check_tables(source: &Source<'_>, top: &DeTable<'_>) -> Result<(), ConfigError> {
    for (key, value) in top {
        let name = key.get_ref().as_ref();
        match (name, value.get_ref()) {
            ("limits" | "retention" | "password", DeValue::Table(_)) => {}
            ("limits" | "retention" | "password", other) => {
                let found = article(other.type_str());
                let message = format!("must be a table, `[{name}]`, not {found}");
                return Err(source.error(&value.span(), name, message));
            }
            ("node", DeValue::Array(nodes)) => {
                if let Some(other) = nodes.iter().find(|node| !node.get_ref().is_table()) {
                    let message = "must be a table that begins with `[[node]]`";
                    return Err(source.error(&other.span(), name, message));
                }
            }
            ("node", _) => {
                let mut error = source.error(&key.span(), name, "must be a list of tables");
                error.hint =
                    Some("each node begins with a line `[[node]]`, with two brackets".into());
                return Err(error);
            }
            _ => {}
        }
    }
    Ok(())
}

/// An entry of a table.
struct Entry<'t> {
    /// What its key is prefixed with in errors, e.g. `limits.`.
    prefix: String,
    table: &'t DeTable<'t>,
    name: &'t str,
    value: &'t DeValue<'t>,
}

/// The entry whose key or value stands at `span`.
fn find<'t>(prefix: &str, table: &'t DeTable<'t>, span: &Range<usize>) -> Option<Entry<'t>> {
    table.iter().find_map(|(key, value)| {
        let name = key.get_ref().as_ref();
        if key.span() == *span || value.span() == *span {
            return Some(Entry {
                prefix: prefix.to_owned(),
                table,
                name,
                value: value.get_ref(),
            });
        }
        let below = format!("{prefix}{name}.");
        match value.get_ref() {
            DeValue::Table(table) => find(&below, table, span),
            DeValue::Array(list) => list
                .iter()
                .filter_map(|element| element.get_ref().as_table())
                .find_map(|table| find(&below, table, span)),
            _ => None,
        }
    })
}

/// serde's errors know the place, but neither the key nor what was probably meant.
fn explain(source: &Source<'_>, table: &DeTable<'_>, error: &toml::de::Error) -> ConfigError {
    let span = error.span().unwrap_or_default();
    let Some(entry) = find("", table, &span) else {
        return source.error(&span, "", error.message());
    };
    if error.message().starts_with("unknown field") {
        return unknown_key(source, &entry, error.message());
    }
    let wanted = match error.message().ends_with("expected a string") {
        true => "a string in quotes",
        false => "a whole number",
    };
    let message = match entry.value {
        DeValue::Integer(_) if wanted == "a whole number" => "is too large a number".into(),
        other => format!("must be {wanted}, not {}", article(other.type_str())),
    };
    source.error(&span, &format!("{}{}", entry.prefix, entry.name), message)
}

/// Names the first unknown key of the table in the file. serde's `message` has the known ones in backquotes, behind the
/// one that it met.
fn unknown_key(source: &Source<'_>, entry: &Entry<'_>, message: &str) -> ConfigError {
    let known: Vec<&str> = message.split('`').skip(3).step_by(2).collect();
    let unknown = entry
        .table
        .keys()
        .filter(|key| !known.contains(&key.get_ref().as_ref()));
    let first = unknown.min_by_key(|key| key.span().start);
    let (name, span) = first.map_or((entry.name, 0..0), |key| {
        (key.get_ref().as_ref(), key.span())
    });
    let prefix = &entry.prefix;
    let mut error = source.error(&span, &format!("{prefix}{name}"), "no such key");
    error.hint = Some(match nearest(name, &known) {
        Some(meant) => format!("did you mean `{prefix}{meant}`?"),
        None => format!("keys here are: {}", known.join(", ")),
    });
    error
}

fn article(noun: &str) -> String {
    let an = noun.starts_with(['a', 'e', 'i', 'o', 'u']);
    format!("{} {noun}", if an { "an" } else { "a" })
}

/// Edits beyond which a guess would be noise.
const NEAREST_MAX_EDITS: usize = 3;

/// The known key that `name` was probably meant to be.
fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    let allowed = NEAREST_MAX_EDITS.min(name.chars().count().div_ceil(2));
    let distances = known
        .iter()
        .map(|key| (strsim::levenshtein(name, key), *key));
    distances
        .min()
        .filter(|(edits, _)| *edits <= allowed)
        .map(|(_, key)| key)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn error(text: &str) -> ConfigError {
        let path = Path::new("x.toml");
        parse(&Source { path, text }).expect_err("must be refused")
    }

    #[test]
    fn a_misspelt_key_is_named_with_its_line_and_what_was_meant() {
        let e = error("cluster = \"a\"\n\n[limits]\nconections = 5\n");
        assert_eq!(
            (e.line, e.key.as_deref()),
            (Some(4), Some("limits.conections"))
        );
        assert_eq!(
            e.hint.as_deref(),
            Some("did you mean `limits.connections`?")
        );
        assert_eq!(
            e.to_string(),
            "x.toml:4: `limits.conections`: no such key\nHint: did you mean `limits.connections`?"
        );
    }

    #[test]
    fn of_several_misspelt_keys_the_first_in_the_file_is_named() {
        let e = error("zebra = 1\naardvark = 2\n");
        assert_eq!((e.line, e.key.as_deref()), (Some(1), Some("zebra")));
        assert!(
            e.hint
                .is_some_and(|hint| hint.starts_with("keys here are: cluster,"))
        );
    }

    #[test]
    fn a_node_key_and_a_missing_bracket_are_told() {
        let e = error("[[node]]\nid = 1\n[[node]]\nid = 2\nclent = \"a:1\"\n");
        assert_eq!((e.line, e.key.as_deref()), (Some(5), Some("node.clent")));
        let e = error("[node]\nid = 1\n");
        assert_eq!((e.line, e.key.as_deref()), (Some(1), Some("node")));
        assert!(e.hint.is_some_and(|hint| hint.contains("[[node]]")));
        assert_eq!(
            error("[[nodes]]\nid = 1\n").hint.as_deref(),
            Some("did you mean `node`?")
        );
    }

    #[test]
    fn a_list_is_not_taken_for_a_table() {
        for text in ["limits = []\n", "limits = [20000]\n"] {
            let e = error(text);
            assert_eq!(e.message, "must be a table, `[limits]`, not an array");
        }
        let e = error("node = [[1]]\n");
        assert_eq!(e.message, "must be a table that begins with `[[node]]`");
    }

    #[test]
    fn a_wrong_type_and_broken_toml_name_the_line() {
        let e = error("\nsession_days = \"30\"\n");
        assert_eq!((e.line, e.key.as_deref()), (Some(2), Some("session_days")));
        assert_eq!(e.message, "must be a whole number, not a string");
        assert_eq!(
            error("a = 1\nb = [\n").line.map(|line| line >= 2),
            Some(true)
        );
        assert_eq!(error("session_days = 99999999999999999999\n").line, Some(1));
        assert!(error("cluster = \"a\"\ncluster = \"b\"\n").line.is_some());
    }

    #[test]
    fn a_key_that_is_like_none_is_not_guessed() {
        assert_eq!(nearest("pki", &["pki_dir", "data_dir"]), None);
    }
}
