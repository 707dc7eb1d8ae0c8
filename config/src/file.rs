//! The TOML as written: every key optional, every value with its line, types checked but not yet meanings
//! ([`crate::validate`] does that). The table is walked by hand because serde's errors know neither the path of a key
//! nor what was probably meant.

use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::{Config, ConfigError, validate};

/// A value and the line it stands on.
#[derive(Debug, Clone)]
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) line: usize,
}

/// The whole file.
#[derive(Debug, Default)]
pub(crate) struct Raw {
    pub(crate) cluster: Option<At<String>>,
    pub(crate) data_dir: Option<At<String>>,
    pub(crate) pki_dir: Option<At<String>>,
    pub(crate) registration: Option<At<String>>,
    pub(crate) session_days: Option<At<i64>>,
    pub(crate) nodes: Vec<RawNode>,
    pub(crate) limits: RawLimits,
    pub(crate) delivered_days: Option<At<i64>>,
    pub(crate) password: RawPassword,
}

/// One `[[node]]`.
#[derive(Debug)]
pub(crate) struct RawNode {
    /// Where its table begins.
    pub(crate) line: usize,
    pub(crate) id: Option<At<i64>>,
    pub(crate) client: Option<At<String>>,
    pub(crate) peer: Option<At<String>>,
    pub(crate) http: Option<At<String>>,
    pub(crate) plain: Option<At<String>>,
    pub(crate) client_bind: Option<At<String>>,
    pub(crate) peer_bind: Option<At<String>>,
    pub(crate) http_bind: Option<At<String>>,
}

/// `[limits]`.
#[derive(Debug, Default)]
pub(crate) struct RawLimits {
    pub(crate) connections: Option<At<i64>>,
    pub(crate) sessions_per_user: Option<At<i64>>,
    pub(crate) failed_logins_per_name: Option<At<i64>>,
    pub(crate) failed_logins_per_address: Option<At<i64>>,
    pub(crate) queued_messages_per_user: Option<At<i64>>,
    pub(crate) queued_bytes_per_user: Option<At<i64>>,
    pub(crate) change_log_bytes: Option<At<i64>>,
}

/// `[password]`.
#[derive(Debug, Default)]
pub(crate) struct RawPassword {
    pub(crate) memory_kib: Option<At<i64>>,
    pub(crate) passes: Option<At<i64>>,
    pub(crate) lanes: Option<At<i64>>,
}

pub(crate) fn load(path: &Path) -> Result<Config, ConfigError> {
    let path = std::path::absolute(path).map_err(|e| unreadable(path, &e))?;
    let text = std::fs::read_to_string(&path).map_err(|e| unreadable(&path, &e))?;
    let raw = parse(&path, &text)?;
    validate::resolve(&path, raw)
}

fn unreadable(path: &Path, error: &std::io::Error) -> ConfigError {
    let hint = match error.kind() {
        std::io::ErrorKind::NotFound => {
            "`mbctl init` writes a configuration here; `--config FILE` or $MESSAGEBASE_CONFIG names another one"
        }
        std::io::ErrorKind::InvalidData => {
            "the file must be UTF-8 text in TOML form; `mbctl init` writes an example"
        }
        _ => "make the file readable for this user, or name another one with `--config FILE`",
    };
    let file = path.to_owned();
    ConfigError {
        file,
        line: None,
        key: None,
        message: format!("cannot be read: {error}"),
        hint: Some(hint.into()),
    }
}

/// Reads the text. `path` is for the errors alone.
pub(crate) fn parse(path: &Path, text: &str) -> Result<Raw, ConfigError> {
    let doc = Doc { path, text };
    let table = DeTable::parse(text).map_err(|e| ConfigError {
        file: path.to_owned(),
        line: e.span().map(|span| doc.line(&span)),
        key: None,
        message: format!("is not valid TOML: {}", e.message()),
        hint: Some(crate::error::LOOK_UP.into()),
    })?;
    let top = Section {
        doc: &doc,
        prefix: "",
        table: table.get_ref(),
    };
    top.only(&[
        "cluster",
        "data_dir",
        "pki_dir",
        "registration",
        "session_days",
        "node",
        "limits",
        "retention",
        "password",
    ])?;
    let mut raw = Raw {
        cluster: top.string("cluster")?,
        data_dir: top.string("data_dir")?,
        pki_dir: top.string("pki_dir")?,
        registration: top.string("registration")?,
        session_days: top.integer("session_days")?,
        nodes: nodes(&top)?,
        ..Raw::default()
    };
    if let Some(section) = top.section("limits")? {
        raw.limits = limits(&section)?;
    }
    if let Some(section) = top.section("retention")? {
        section.only(&["delivered_days"])?;
        raw.delivered_days = section.integer("delivered_days")?;
    }
    if let Some(section) = top.section("password")? {
        section.only(&["memory_kib", "passes", "lanes"])?;
        raw.password = RawPassword {
            memory_kib: section.integer("memory_kib")?,
            passes: section.integer("passes")?,
            lanes: section.integer("lanes")?,
        };
    }
    Ok(raw)
}

fn limits(section: &Section<'_, '_>) -> Result<RawLimits, ConfigError> {
    section.only(&[
        "connections",
        "sessions_per_user",
        "failed_logins_per_name",
        "failed_logins_per_address",
        "queued_messages_per_user",
        "queued_bytes_per_user",
        "change_log_bytes",
    ])?;
    Ok(RawLimits {
        connections: section.integer("connections")?,
        sessions_per_user: section.integer("sessions_per_user")?,
        failed_logins_per_name: section.integer("failed_logins_per_name")?,
        failed_logins_per_address: section.integer("failed_logins_per_address")?,
        queued_messages_per_user: section.integer("queued_messages_per_user")?,
        queued_bytes_per_user: section.integer("queued_bytes_per_user")?,
        change_log_bytes: section.integer("change_log_bytes")?,
    })
}

fn nodes(top: &Section<'_, '_>) -> Result<Vec<RawNode>, ConfigError> {
    let Some((key, value)) = top.table.get_key_value("node") else {
        return Ok(Vec::new());
    };
    let tables = value.get_ref().as_array().ok_or_else(|| {
        let mut error = top
            .doc
            .error(&key.span(), "node", "must be a list of tables".into());
        error.hint = Some("each node begins with a line `[[node]]`, with two brackets".into());
        error
    })?;
    tables.iter().map(|table| node(top.doc, table)).collect()
}

fn node(doc: &Doc<'_>, value: &Spanned<DeValue<'_>>) -> Result<RawNode, ConfigError> {
    let table = value.get_ref().as_table().ok_or_else(|| {
        doc.error(
            &value.span(),
            "node",
            "must be a table that begins with `[[node]]`".into(),
        )
    })?;
    let section = Section {
        doc,
        prefix: "node.",
        table,
    };
    section.only(&[
        "id",
        "client",
        "peer",
        "http",
        "plain",
        "client_bind",
        "peer_bind",
        "http_bind",
    ])?;
    Ok(RawNode {
        line: doc.line(&value.span()),
        id: section.integer("id")?,
        client: section.string("client")?,
        peer: section.string("peer")?,
        http: section.string("http")?,
        plain: section.string("plain")?,
        client_bind: section.string("client_bind")?,
        peer_bind: section.string("peer_bind")?,
        http_bind: section.string("http_bind")?,
    })
}

struct Doc<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Doc<'_> {
    fn line(&self, span: &Range<usize>) -> usize {
        let before = self
            .text
            .as_bytes()
            .get(..span.start)
            .unwrap_or(self.text.as_bytes());
        before.iter().filter(|byte| **byte == b'\n').count() + 1
    }

    fn error(&self, span: &Range<usize>, key: &str, message: String) -> ConfigError {
        let line = Some(self.line(span));
        ConfigError {
            file: self.path.to_owned(),
            line,
            key: Some(key.to_owned()),
            message,
            hint: Some(crate::error::LOOK_UP.into()),
        }
    }
}

/// One table and where it stands.
struct Section<'d, 't> {
    doc: &'d Doc<'d>,
    /// What its keys are prefixed with in errors, e.g. `limits.`.
    prefix: &'static str,
    table: &'t DeTable<'t>,
}

impl<'d, 't> Section<'d, 't> {
    /// Refuses keys that are not `known`, the first in the file first.
    fn only(&self, known: &[&str]) -> Result<(), ConfigError> {
        let unknown = self
            .table
            .keys()
            .filter(|key| !known.contains(&key.get_ref().as_ref()));
        let Some(key) = unknown.min_by_key(|key| key.span().start) else {
            return Ok(());
        };
        let name = key.get_ref().as_ref();
        let mut error = self.doc.error(
            &key.span(),
            &format!("{}{name}", self.prefix),
            "no such key".into(),
        );
        error.hint = Some(match nearest(name, known) {
            Some(meant) => format!("did you mean `{}{meant}`?", self.prefix),
            None => format!("keys here are: {}", known.join(", ")),
        });
        Err(error)
    }

    fn wrong_type(&self, name: &str, value: &Spanned<DeValue<'_>>, wanted: &str) -> ConfigError {
        let message = format!(
            "must be {wanted}, not {}",
            article(value.get_ref().type_str())
        );
        self.doc
            .error(&value.span(), &format!("{}{name}", self.prefix), message)
    }

    fn string(&self, name: &str) -> Result<Option<At<String>>, ConfigError> {
        let Some(value) = self.table.get(name) else {
            return Ok(None);
        };
        let text = value
            .get_ref()
            .as_str()
            .ok_or_else(|| self.wrong_type(name, value, "a string in quotes"))?;
        Ok(Some(At {
            value: text.to_owned(),
            line: self.doc.line(&value.span()),
        }))
    }

    fn integer(&self, name: &str) -> Result<Option<At<i64>>, ConfigError> {
        let Some(value) = self.table.get(name) else {
            return Ok(None);
        };
        let number = value
            .get_ref()
            .as_integer()
            .ok_or_else(|| self.wrong_type(name, value, "a whole number"))?;
        let parsed = i64::from_str_radix(number.as_str(), number.radix()).map_err(|_| {
            self.doc.error(
                &value.span(),
                &format!("{}{name}", self.prefix),
                "is too large a number".into(),
            )
        })?;
        Ok(Some(At {
            value: parsed,
            line: self.doc.line(&value.span()),
        }))
    }

    fn section(&self, name: &'static str) -> Result<Option<Section<'d, 't>>, ConfigError> {
        let Some(value) = self.table.get(name) else {
            return Ok(None);
        };
        let table = value
            .get_ref()
            .as_table()
            .ok_or_else(|| self.wrong_type(name, value, &format!("a table, `[{name}]`")))?;
        let prefix = match name {
            "limits" => "limits.",
            "retention" => "retention.",
            _ => "password.",
        };
        Ok(Some(Section {
            doc: self.doc,
            prefix,
            table,
        }))
    }
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
    known
        .iter()
        .map(|key| (edits(name, key), *key))
        .min()
        .filter(|(edits, _)| *edits <= allowed)
        .map(|(_, key)| key)
}

/// Levenshtein distance.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> ConfigError {
        parse(Path::new("x.toml"), text).expect_err("must be refused")
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
    fn distance_counts_single_edits() {
        assert_eq!(edits("peer", "peer"), 0);
        assert_eq!(edits("per", "peer"), 1);
        assert_eq!(edits("", "abc"), 3);
        assert_eq!(nearest("pki", &["pki_dir", "data_dir"]), None);
    }
}
