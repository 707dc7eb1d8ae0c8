//! How SQLite was compiled. `.cargo/config.toml` sets `LIBSQLITE3_FLAGS`, which cargo reads only when it is run inside
//! the repository: a package that is built elsewhere has a database that is as correct and slower. The log then says
//! so. `HAVE_FDATASYNC`, which is set there too, cannot be checked: SQLite does not list it.

use rusqlite::{Connection, Result};

/// One of `PRAGMA compile_options`.
struct Expected {
    option: &'static str,
    /// Whether it is to be in the list, or must not be.
    listed: bool,
    /// What it costs if it is otherwise.
    cost: &'static str,
}

const EXPECTED: [Expected; 4] = [
    Expected {
        option: "DEFAULT_MEMSTATUS=0",
        listed: true,
        cost: "all threads count their allocations under one lock",
    },
    Expected {
        option: "ENABLE_MEMORY_MANAGEMENT",
        listed: false,
        cost: "all connections share the lock of one page cache",
    },
    Expected {
        option: "THREADSAFE=2",
        listed: true,
        cost: "connections are guarded against threads that never share them",
    },
    Expected {
        option: "ENABLE_API_ARMOR",
        listed: false,
        cost: "every call checks its arguments",
    },
];

/// Logs one warning if SQLite was not compiled as it is meant to be.
pub(super) fn warn_of_differences(conn: &Connection) -> Result<()> {
    let found = differences(&listed(conn)?);
    if !found.is_empty() {
        tracing::warn!(
            differences = found.join("; "),
            "SQLite was compiled with other options than .cargo/config.toml sets: this node is slower than it could be. \
             Hint: build inside the repository, or with that file's LIBSQLITE3_FLAGS"
        );
    }
    Ok(())
}

fn listed(conn: &Connection) -> Result<Vec<String>> {
    conn.prepare("PRAGMA compile_options")?
        .query_map([], |row| row.get(0))?
        .collect()
}

/// What differs from [`EXPECTED`], each with its cost.
fn differences(listed: &[String]) -> Vec<String> {
    EXPECTED
        .iter()
        .filter(|expected| listed.iter().any(|it| it == expected.option) != expected.listed)
        .map(
            |Expected {
                 option,
                 listed,
                 cost,
             }| {
                let how = if *listed { "missing" } else { "set" };
                format!("{option} is {how}: {cost}")
            },
        )
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn what_is_missing_and_what_is_set_is_named_with_its_cost() {
        let meant = ["DEFAULT_MEMSTATUS=0", "ENABLE_FTS5", "THREADSAFE=2"];
        assert!(differences(&options(&meant)).is_empty());
        let usual = ["DEFAULT_MEMSTATUS=0", "ENABLE_API_ARMOR", "THREADSAFE=1"];
        assert_eq!(
            differences(&options(&usual)),
            [
                "THREADSAFE=2 is missing: connections are guarded against threads that never share them",
                "ENABLE_API_ARMOR is set: every call checks its arguments",
            ]
        );
    }

    /// Features that the flags leave out because no node uses them. They make the build longer, not the node slower, so that
    /// a package that has them needs no warning.
    const UNUSED_FEATURES: [&str; 4] = [
        "ENABLE_FTS3",
        "ENABLE_FTS3_PARENTHESIS",
        "ENABLE_FTS5",
        "ENABLE_RTREE",
    ];

    /// Keeps [`EXPECTED`] equal to the flags. A build without them has nothing to compare.
    #[test]
    fn this_build_has_what_its_flags_say() {
        let Some(flags) = option_env!("LIBSQLITE3_FLAGS") else {
            return;
        };
        let conn = Connection::open_in_memory().unwrap();
        assert!(differences(&listed(&conn).unwrap()).is_empty());
        let set: Vec<&str> = flags
            .split_whitespace()
            .filter_map(|flag| flag.strip_prefix("-DSQLITE_"))
            .collect();
        let unset = flags
            .split_whitespace()
            .filter_map(|flag| flag.strip_prefix("-USQLITE_"))
            .filter(|name| !UNUSED_FEATURES.contains(name))
            .filter(|name| !set.iter().any(|set| set.starts_with(&format!("{name}="))));
        let expected = |listed: bool| {
            let mut names: Vec<&str> = EXPECTED
                .iter()
                .filter(|expected| expected.listed == listed)
                .map(|expected| expected.option)
                .collect();
            names.sort_unstable();
            names
        };
        let sorted = |mut names: Vec<&'static str>| {
            names.sort_unstable();
            names
        };
        assert_eq!(expected(false), sorted(unset.collect()));
        assert_eq!(expected(true), sorted(set));
    }
}
