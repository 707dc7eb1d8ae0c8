//! Names of a page's users, each looked up once: in a large state every look reads a page of the file.

use rusqlite::{Connection, OptionalExtension, Result};

use crate::state::hash::HashMap;
use crate::state::integers::int;

/// The names that were asked for in one read transaction.
pub(super) struct Names<'a> {
    conn: &'a Connection,
    known: HashMap<u64, String>,
}

impl<'a> Names<'a> {
    pub fn of(conn: &'a Connection) -> Names<'a> {
        Names {
            conn,
            known: HashMap::default(),
        }
    }

    /// The name of a live or deleted account, as registered; where a hand has removed both, what stands for it.
    pub fn name(&mut self, user: u64) -> Result<String> {
        if let Some(name) = self.known.get(&user) {
            return Ok(name.clone());
        }
        let name = match self.look_up("SELECT name FROM users WHERE id = ?1", user)? {
            Some(name) => name,
            None => self
                .look_up("SELECT name FROM retired_users WHERE id = ?1", user)?
                .unwrap_or_else(|| format!("user {user}")),
        };
        self.known.insert(user, name.clone());
        Ok(name)
    }

    fn look_up(&self, sql: &str, user: u64) -> Result<Option<String>> {
        self.conn
            .prepare_cached(sql)?
            .query_row([int(user)], |row| row.get(0))
            .optional()
    }
}
