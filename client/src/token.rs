//! What a client keeps between two runs, in `$XDG_STATE_HOME/messagebase/NAME/` (default `~/.local/state`): the line
//! editor's history, and for each cluster of that name a directory, called by its `cluster_id`, with one token a user
//! and the name of the user that logged in last. Many clusters have the same name: filed by the name alone, the token
//! of one would be shown to another. Directories have mode 0700, files 0600. Passwords are never kept.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use messagebase_protocol::name::{check_name, fold_name};
use serde::{Deserialize, Serialize};

use crate::error::{ClientError, io_error};
use crate::random;

const DIR_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
/// A token file is a few hundred bytes; a larger one is not ours.
const TOKEN_FILE_MAX_BYTES: u64 = 4 * 1024;

/// A session to be resumed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// The name as registered.
    pub user: String,
    /// Secret.
    pub token: String,
    /// The cluster it is good for: a restored cluster has another one and never sees it.
    pub cluster_id: Option<String>,
}

impl std::fmt::Debug for Token {
    /// Without the secret: a debug line may reach a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// The directory of all clusters of one name, and in it that of one cluster.
#[derive(Debug, Clone)]
pub struct Store {
    base: PathBuf,
    dir: PathBuf,
}

impl Store {
    /// The directory for a cluster's name under the user's state directory. Until [`Store::select`] says which cluster
    /// of that name it is, the one that was used last.
    ///
    /// # Errors
    /// Neither `XDG_STATE_HOME` nor `HOME` names an absolute path.
    pub fn for_cluster(cluster: &str) -> Result<Store, ClientError> {
        let state = messagebase_config::state_dir().ok_or_else(|| {
            ClientError::Usage("neither XDG_STATE_HOME nor HOME names a directory".into())
        })?;
        Ok(Store::at(state.join(file_name(cluster))))
    }

    /// As [`Store::for_cluster`], in a directory of the caller's choice.
    pub fn at(base: PathBuf) -> Store {
        let mut store = Store {
            dir: base.clone(),
            base,
        };
        if let Some(last) = read_small(&store.last_cluster_file()) {
            store.select(last.trim());
        }
        store
    }

    /// From here on the files of this cluster are meant.
    pub fn select(&mut self, cluster_id: &str) {
        self.dir = self.base.join(file_name(cluster_id));
    }

    /// The line editor's history.
    pub fn history(&self) -> PathBuf {
        self.base.join("history")
    }

    /// Makes the directories that are missing.
    ///
    /// # Errors
    /// `Io`.
    pub fn create(&self) -> Result<(), ClientError> {
        for dir in [&self.base, &self.dir] {
            let made = fs::DirBuilder::new()
                .recursive(true)
                .mode(DIR_MODE)
                .create(dir);
            // It may have been there with other permissions.
            made.and_then(|()| fs::set_permissions(dir, fs::Permissions::from_mode(DIR_MODE)))
                .map_err(|e| io_error(dir, &e))?;
        }
        Ok(())
    }

    /// Keeps a token and remembers that this user and this cluster were the last.
    ///
    /// # Errors
    /// `Io`.
    pub fn save(&self, token: &Token) -> Result<(), ClientError> {
        self.create()?;
        let file = self.token_file(&token.user)?;
        let text = serde_json::to_string(token).map_err(|e| io_error(&file, &e.into()))?;
        self.publish(&file, text.as_bytes())?;
        self.publish(&self.last_file(), fold_name(&token.user).as_bytes())?;
        match &token.cluster_id {
            Some(id) => self.publish(&self.last_cluster_file(), id.as_bytes()),
            None => Ok(()),
        }
    }

    /// The token of a user, or of the last one. A file that can't be read as one counts as none.
    pub fn load(&self, user: Option<&str>) -> Option<Token> {
        let user = match user {
            Some(user) => user.to_owned(),
            None => read_small(&self.last_file())?.trim().to_owned(),
        };
        let text = read_small(&self.token_file(&user).ok()?)?;
        serde_json::from_str::<Token>(&text)
            .ok()
            .filter(|token| fold_name(&token.user) == fold_name(&user))
    }

    /// Forgets a user's token; one that is not there is no error.
    ///
    /// # Errors
    /// `Io`.
    pub fn remove(&self, user: &str) -> Result<(), ClientError> {
        let file = self.token_file(user)?;
        match fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(io_error(file, &error))
            }
            _ => Ok(()),
        }
    }

    fn token_file(&self, user: &str) -> Result<PathBuf, ClientError> {
        // Names are checked, so none can lead out of the directory.
        check_name(user).map_err(ClientError::Refused)?;
        Ok(self.dir.join(format!("{}.token", fold_name(user))))
    }

    fn last_file(&self) -> PathBuf {
        self.dir.join("last-user")
    }

    fn last_cluster_file(&self) -> PathBuf {
        self.base.join("last-cluster")
    }

    /// Temp file, fsync, rename, fsync of the directory: a reader sees the old content or the new.
    fn publish(&self, file: &Path, content: &[u8]) -> Result<(), ClientError> {
        let dir = file.parent().unwrap_or(&self.base);
        let temp = dir.join(format!(".{}.tmp", random::key()));
        let written = (|| {
            let mut open = fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(FILE_MODE)
                .open(&temp)?;
            open.write_all(content)?;
            open.sync_all()?;
            fs::rename(&temp, file)?;
            fs::File::open(dir)?.sync_all()
        })();
        written.map_err(|e| {
            let _ = fs::remove_file(&temp);
            io_error(file, &e)
        })
    }
}

fn read_small(file: &Path) -> Option<String> {
    let size = fs::metadata(file).ok()?.len();
    if size > TOKEN_FILE_MAX_BYTES {
        None
    } else {
        fs::read_to_string(file).ok()
    }
}

/// A cluster's name or identity as one path component.
fn file_name(cluster: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let name: String = cluster
        .chars()
        .map(|c| if plain(c) { c } else { '_' })
        .collect();
    if name.trim_matches('.').is_empty() {
        format!("_{name}")
    } else {
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory that is removed with the test.
    struct Dir(PathBuf);

    impl Dir {
        fn new() -> Dir {
            Dir(std::env::temp_dir().join(format!("messagebase-token-test-{}", random::key())))
        }
        fn store(&self) -> Store {
            Store::at(self.0.join("messagebase"))
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn token(user: &str) -> Token {
        Token {
            user: user.into(),
            token: format!("secret of {user}"),
            cluster_id: Some("c1".into()),
        }
    }

    #[test]
    fn the_last_user_is_found_without_a_name_and_names_have_no_case() {
        let dir = Dir::new();
        let store = dir.store();
        assert_eq!(store.load(None), None);
        store.save(&token("Alice")).unwrap();
        store.save(&token("bob")).unwrap();
        assert_eq!(store.load(None), Some(token("bob")));
        assert_eq!(store.load(Some("ALICE")), Some(token("Alice")));
        store.remove("bob").unwrap();
        store.remove("bob").unwrap();
        assert_eq!(store.load(None), None);
        assert_eq!(store.load(Some("alice")), Some(token("Alice")));
    }

    #[test]
    fn files_are_for_their_owner_alone_and_nothing_is_left_behind() {
        let dir = Dir::new();
        let store = dir.store();
        store.save(&token("alice")).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&store.dir), DIR_MODE);
        let mut names: Vec<String> = Vec::new();
        for entry in fs::read_dir(&store.dir).unwrap() {
            let entry = entry.unwrap();
            assert_eq!(mode(&entry.path()), FILE_MODE, "{:?}", entry.path());
            names.push(entry.file_name().into_string().unwrap());
        }
        names.sort();
        assert_eq!(names, ["alice.token", "last-cluster", "last-user"]);
    }

    #[test]
    fn clusters_of_one_name_do_not_share_their_tokens() {
        let dir = Dir::new();
        let mut first = dir.store();
        first.select("c1");
        first.save(&token("alice")).unwrap();
        let mut second = dir.store();
        assert_eq!(second.load(None), Some(token("alice")), "the last cluster");
        second.select("c2");
        assert_eq!(
            (second.load(None), second.load(Some("alice"))),
            (None, None)
        );
        second
            .save(&Token {
                cluster_id: Some("c2".into()),
                ..token("bob")
            })
            .unwrap();
        assert_eq!(first.load(None), Some(token("alice")));
        assert_eq!(dir.store().load(None).unwrap().user, "bob");
        assert_eq!(second.history(), first.history());
    }

    #[test]
    fn a_broken_file_is_no_token() {
        let dir = Dir::new();
        let store = dir.store();
        store.save(&token("alice")).unwrap();
        fs::write(store.dir.join("alice.token"), "{").unwrap();
        assert_eq!(store.load(Some("alice")), None);
    }

    #[test]
    fn no_name_leads_out_of_the_directory() {
        let store = Store::at("/nonexistent".into());
        assert!(store.save(&token("../x")).is_err());
        assert_eq!(store.load(Some("../x")), None);
        assert_eq!(file_name("../../etc"), ".._.._etc");
        assert_eq!(file_name(".."), "_..");
        assert_eq!(file_name(""), "_");
    }

    #[test]
    fn the_secret_is_not_in_debug_output() {
        assert!(!format!("{:?}", token("alice")).contains("secret"));
    }
}
