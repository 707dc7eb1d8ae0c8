//! Integers between Rust (`u64`) and SQLite (`i64`). Knows no table.

use rusqlite::types::FromSqlError;
use rusqlite::{Result, Row};

/// For a parameter. Ids, times and sizes that we made fit; a number that a client made up and that does not fit is
/// greater than every stored one, and so is `i64::MAX`.
pub(crate) fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// From a column.
pub(crate) fn uint(row: &Row<'_>, column: usize) -> Result<u64> {
    let value: i64 = row.get(column)?;
    u64::try_from(value).map_err(|_| out_of_range(column, value))
}

/// From a column that may be NULL.
pub(crate) fn opt_uint(row: &Row<'_>, column: usize) -> Result<Option<u64>> {
    row.get::<_, Option<i64>>(column)?
        .map(|value| u64::try_from(value).map_err(|_| out_of_range(column, value)))
        .transpose()
}

fn out_of_range(column: usize, value: i64) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(
        column,
        rusqlite::types::Type::Integer,
        Box::new(FromSqlError::OutOfRange(value)),
    )
}
