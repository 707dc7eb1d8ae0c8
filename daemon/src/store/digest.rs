//! Digests of the replicated tables, for `mbctl verify`.

use data_encoding::HEXLOWER;
use rusqlite::Connection;
use rusqlite::types::ValueRef;
use sha2::{Digest, Sha256};

use super::schema::{Table, replicated};

/// The digest of one replicated table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableDigest {
    /// Its name.
    pub table: String,
    /// SHA-256 over its rows in the order of the primary key, lower-case hex.
    pub sha256: String,
    /// How many rows.
    pub rows: u64,
}

/// Digests every replicated table. To be called in a read transaction: otherwise the tables may be of different states.
pub fn digest(conn: &Connection) -> rusqlite::Result<Vec<TableDigest>> {
    replicated()
        .map(|table| digest_table(conn, table))
        .collect()
}

fn digest_table(conn: &Connection, table: &Table) -> rusqlite::Result<TableDigest> {
    let mut statement = conn.prepare(&format!(
        "SELECT * FROM {} ORDER BY {}",
        table.name, table.key
    ))?;
    let columns = statement.column_count();
    let mut hash = Sha256::new();
    let mut count = 0;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        count += 1;
        for column in 0..columns {
            add(&mut hash, row.get_ref(column)?);
        }
    }
    Ok(TableDigest {
        table: table.name.to_owned(),
        sha256: HEXLOWER.encode(&hash.finalize()),
        rows: count,
    })
}

/// Hashes type and length with each value, so that the boundaries between values count.
fn add(hash: &mut Sha256, value: ValueRef<'_>) {
    let number;
    let (kind, bytes): (u8, &[u8]) = match value {
        ValueRef::Null => (0, &[]),
        ValueRef::Integer(value) => {
            number = value.to_be_bytes();
            (1, &number)
        }
        ValueRef::Real(value) => {
            number = value.to_be_bytes();
            (2, &number)
        }
        ValueRef::Text(text) => (3, text),
        ValueRef::Blob(blob) => (4, blob),
    };
    hash.update([kind]);
    hash.update((bytes.len() as u64).to_be_bytes());
    hash.update(bytes);
}
