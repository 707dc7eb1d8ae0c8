//! Stands in for the crate `display-more` 0.2.6, with which openraft writes options, results and lists into its log.
//!
//! That crate also formats times, with `chrono-tz`, whose build script compiles the time zones of the world with a
//! parser, regular expressions and hash tables: sixteen crates of the first build, for a function that openraft does
//! not call. So here is what openraft calls.
//!
//! To go as soon as a `display-more` makes its time zones optional.

use std::collections::BTreeSet;
use std::fmt::{Display, Formatter, Result as FmtResult};

/// How many elements of a list are shown when the caller names no limit.
const SHOWN_ELEMENTS: usize = 5;

/// The value, or `None`.
pub struct DisplayOption<'a, T>(&'a Option<T>);

impl<T: Display> Display for DisplayOption<'_, T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> FmtResult {
        match self.0 {
            Some(value) => value.fmt(f),
            None => f.write_str("None"),
        }
    }
}

/// `display` for `Option`.
pub trait DisplayOptionExt<T> {
    /// Shows the value, or `None`.
    fn display(&self) -> DisplayOption<'_, T>;
}

impl<T: Display> DisplayOptionExt<T> for Option<T> {
    fn display(&self) -> DisplayOption<'_, T> {
        DisplayOption(self)
    }
}

/// `Ok(value)` or `Err(error)`.
pub struct DisplayResult<'a, T, E>(&'a Result<T, E>);

impl<T: Display, E: Display> Display for DisplayResult<'_, T, E> {
    fn fmt(&self, f: &mut Formatter<'_>) -> FmtResult {
        match self.0 {
            Ok(value) => write!(f, "Ok({value})"),
            Err(error) => write!(f, "Err({error})"),
        }
    }
}

/// `display` for `Result`.
pub trait DisplayResultExt<T, E> {
    /// Shows `Ok(value)` or `Err(error)`.
    fn display(&self) -> DisplayResult<'_, T, E>;
}

impl<T: Display, E: Display> DisplayResultExt<T, E> for Result<T, E> {
    fn display(&self) -> DisplayResult<'_, T, E> {
        DisplayResult(self)
    }
}

/// The elements between brackets; of a list that is over its limit the first ones and the last one.
pub struct DisplaySlice<'a, T> {
    elements: Vec<&'a T>,
    limit: usize,
}

impl<T: Display> Display for DisplaySlice<'_, T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> FmtResult {
        let all = self.elements.len() <= self.limit;
        let first = if all {
            self.elements.len()
        } else {
            self.limit.saturating_sub(1)
        };
        f.write_str("[")?;
        for (place, element) in self.elements[..first].iter().enumerate() {
            let separator = if place == 0 { "" } else { "," };
            write!(f, "{separator}{element}")?;
        }
        if !all {
            f.write_str(if first == 0 { ".." } else { ",.." })?;
            if self.limit > 0
                && let Some(last) = self.elements.last()
            {
                write!(f, ",{last}")?;
            }
        }
        f.write_str("]")
    }
}

/// `display` for slices.
pub trait DisplaySliceExt<T> {
    /// Shows at most five elements.
    fn display(&self) -> DisplaySlice<'_, T> {
        self.display_n(SHOWN_ELEMENTS)
    }

    /// Shows at most `limit` elements.
    fn display_n(&self, limit: usize) -> DisplaySlice<'_, T>;
}

impl<T: Display> DisplaySliceExt<T> for [T] {
    fn display_n(&self, limit: usize) -> DisplaySlice<'_, T> {
        DisplaySlice {
            elements: self.iter().collect(),
            limit,
        }
    }
}

/// `display` for ordered sets.
pub trait DisplayBTreeSetExt<T> {
    /// Shows at most five elements.
    fn display(&self) -> DisplaySlice<'_, T>;
}

impl<T: Display> DisplayBTreeSetExt<T> for BTreeSet<T> {
    fn display(&self) -> DisplaySlice<'_, T> {
        DisplaySlice {
            elements: self.iter().collect(),
            limit: SHOWN_ELEMENTS,
        }
    }
}
