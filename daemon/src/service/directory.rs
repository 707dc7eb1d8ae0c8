//! `users`: who has an account, and who is online.

use messagebase_protocol::code::{Code, Failure};
use messagebase_protocol::json::{Consistency, DirectoryEntry, Users};
use messagebase_protocol::limits::{NAME_MAX_BYTES, PAGE_DEFAULT, PAGE_MAX, PATTERN_MAX_BYTES};
use messagebase_protocol::name::fold_name;

use super::{Connection, Service};
use crate::state::read;

/// The page size asked for, or the default.
pub(super) fn page_limit(limit: Option<u32>) -> Result<u32, Failure> {
    match limit {
        None => Ok(PAGE_DEFAULT),
        Some(limit) if (1..=PAGE_MAX).contains(&limit) => Ok(limit),
        Some(_) => Err(Failure::not_done(
            Code::BadRequest,
            format!("`limit` must be from 1 to {PAGE_MAX}"),
        )),
    }
}

impl Service {
    /// Accounts by name; `pattern` is a glob with `*` and `?`, without regard to case.
    pub async fn users(
        &self,
        conn: &Connection,
        pattern: Option<String>,
        after: Option<String>,
        limit: Option<u32>,
        consistency: Consistency,
    ) -> Result<Users, Failure> {
        conn.session()?;
        let limit = page_limit(limit)?;
        if pattern
            .as_ref()
            .is_some_and(|pattern| pattern.len() > PATTERN_MAX_BYTES)
        {
            return Err(Failure::not_done(
                Code::BadRequest,
                "a pattern is at most 64 bytes long",
            ));
        }
        if after
            .as_ref()
            .is_some_and(|after| after.len() > NAME_MAX_BYTES)
        {
            return Err(Failure::not_done(
                Code::BadRequest,
                "`after` is a user name",
            ));
        }
        self.session_for_read(conn, consistency).await?;
        let (pattern, after) = (pattern.map(|p| fold_name(&p)), after.map(|a| fold_name(&a)));
        let page = self
            .read(move |db| read::users_page(db, pattern.as_deref(), after.as_deref(), limit))
            .await?;
        let entry = |row: read::DirectoryRow| DirectoryEntry {
            online: self.presence.is_online(row.id),
            name: row.name,
        };
        Ok(Users {
            users: page.items.into_iter().map(entry).collect(),
            more: page.more,
        })
    }
}
