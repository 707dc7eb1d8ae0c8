//! Which cluster `mbctl demo` uses, and the record by which it and `mbclient` find that cluster again tomorrow.

use std::net::TcpListener;
use std::path::{Path, PathBuf};

use messagebase_config::{CONFIG_ENV, CONFIG_FILE, Config, demo_record, pki, recorded_demo};

use crate::atomic_file;
use crate::cluster::Cluster;
use crate::command::demo::say;
use crate::command::init::{self, BASE_PORT, NODES, Shape};
use crate::error::CtlError;
use crate::output::Output;

/// Where a new demo cluster goes.
const DIRECTORY: &str = "messagebase-demo";
/// Base ports that are tried when the usual ones are taken.
const BASE_PORTS: std::ops::Range<u16> = BASE_PORT..60_000;
/// From one base port to the next: the four kinds of a cluster's ports lie within 400.
const BASE_PORT_STEP: usize = 500;

/// What the command line, the environment and the file system say of the place.
pub struct Sources<'a> {
    /// `--config`.
    pub flag: Option<&'a Path>,
    /// `--dir`.
    pub dir: Option<&'a Path>,
    /// `$MESSAGEBASE_CONFIG`.
    pub named: Option<PathBuf>,
    /// The current directory.
    pub here: PathBuf,
    /// The configuration that an earlier demo recorded.
    pub recorded: Option<PathBuf>,
}

/// The place of the demo's configuration.
#[derive(Debug, PartialEq, Eq)]
pub struct Place {
    /// The configuration, absolute; it may not exist yet.
    pub file: PathBuf,
    /// Why the file was chosen.
    origin: Origin,
}

#[derive(Debug, PartialEq, Eq)]
enum Origin {
    /// An operator's configuration: named by `--config` or the environment, or in the current directory. It is recorded
    /// only if the demo makes it, so that a demo on somebody's own cluster does not become everybody's default.
    Operator,
    /// `--dir`, or `messagebase-demo/` in the current directory.
    Demo,
    /// An earlier demo, elsewhere.
    Recorded,
    /// An earlier demo's directory is gone; its configuration was this one.
    Gone(PathBuf),
}

impl<'a> Sources<'a> {
    /// Looks at the environment, the current directory and the record.
    ///
    /// # Errors
    /// There is no current directory (exit 1).
    pub fn look(flag: Option<&'a Path>, dir: Option<&'a Path>) -> Result<Self, CtlError> {
        let here = std::env::current_dir().map_err(|e| {
            CtlError::failed("io", "failed to find the current directory").because(e)
        })?;
        Ok(Sources {
            flag,
            dir,
            named: std::env::var_os(CONFIG_ENV)
                .filter(|named| !named.is_empty())
                .map(PathBuf::from),
            here,
            recorded: demo_record().and_then(|record| recorded_demo(&record)),
        })
    }

    /// The configuration that was named, the one in the current directory, the demo's here, the demo's elsewhere, or a
    /// new one here.
    ///
    /// # Errors
    /// `--config` and `--dir` are both given, or the path is not usable (exit 2).
    pub fn place(self) -> Result<Place, CtlError> {
        let place = |file: PathBuf, origin| {
            // Without the `.` of `--dir .`: the path is shown, recorded and compared.
            let file = std::path::absolute(&file).map_err(|e| {
                CtlError::usage(format!("`{}` is not a usable path", file.display())).because(e)
            })?;
            Ok(Place { file, origin })
        };
        match (self.flag, self.dir, &self.named) {
            (Some(_), Some(_), _) => {
                return Err(CtlError::usage("--config and --dir exclude each other"));
            }
            (Some(flag), None, _) => return place(self.here.join(flag), Origin::Operator),
            (None, Some(dir), _) => {
                return place(self.here.join(dir).join(CONFIG_FILE), Origin::Demo);
            }
            (None, None, Some(named)) => return place(self.here.join(named), Origin::Operator),
            (None, None, None) => {}
        }
        let operators = self.here.join(CONFIG_FILE);
        let demos = self.here.join(DIRECTORY).join(CONFIG_FILE);
        if operators.exists() {
            let own_record = self.recorded.as_ref() == Some(&operators);
            let origin = if own_record {
                Origin::Demo
            } else {
                Origin::Operator
            };
            return place(operators, origin);
        }
        match self.recorded {
            _ if demos.exists() => place(demos, Origin::Demo),
            Some(recorded) if recorded.exists() => place(recorded, Origin::Recorded),
            Some(gone) if gone != demos => place(demos, Origin::Gone(gone)),
            _ => place(demos, Origin::Demo),
        }
    }
}

impl Place {
    /// Opens the cluster; makes it, on ports that are free, if it is not there.
    ///
    /// # Errors
    /// The configuration or a key is not usable, or there are no free ports.
    pub fn open(&self, output: &Output) -> Result<Cluster, CtlError> {
        let directory = self.file.parent().unwrap_or(&self.file).display();
        let stood = self.file.exists();
        match &self.origin {
            Origin::Recorded => say(
                output,
                &format!("The demo's cluster is in {directory} (--dir DIR makes another)."),
            ),
            Origin::Gone(file) => say(
                output,
                &format!(
                    "The last demo's cluster is gone: {}. A new one begins.",
                    file.display()
                ),
            ),
            Origin::Operator | Origin::Demo => {}
        }
        let (config, made) = self.config()?;
        if made {
            let nodes = config.nodes.len();
            say(
                output,
                &format!("Made a cluster of {nodes} nodes in {directory}."),
            );
        }
        if !(stood && self.origin == Origin::Operator) {
            record(&self.file, output);
        }
        Cluster::of(config)
    }

    /// The configuration, and whether any of it or its keys had to be made.
    fn config(&self) -> Result<(Config, bool), CtlError> {
        let file = &self.file;
        let shape = |base_port| Shape {
            cluster: "messagebase",
            nodes: NODES,
            base_port,
            limits: &[],
        };
        let base_port = if file.exists() {
            let config = Config::load(file)?;
            if pki::admin_pem(&config.pki_dir).exists() {
                return Ok((config, false));
            }
            BASE_PORT
        } else {
            let free = |base: &u16| init::ports(&shape(*base)).into_iter().all(is_free);
            BASE_PORTS.step_by(BASE_PORT_STEP).find(free).ok_or_else(|| {
                CtlError::failed("no_ports", "found no free ports for a demo cluster").hint(
                    "`mbctl init --base-port P` takes ports of your choice, `mbctl demo` then uses that configuration",
                )
            })?
        };
        let (config, made) = init::make(file, &shape(base_port))?;
        Ok((config, !made.created.is_empty()))
    }
}

fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}

/// Records the demo's configuration. A demo without a record still works: clients then need `--config`.
fn record(config: &Path, output: &Output) {
    let Some(record) = demo_record() else {
        return;
    };
    if let Err(e) = write_record(&record, config) {
        output.note(format!(
            "failed to write {}, so that mbclient needs --config: {e}",
            record.display()
        ));
    }
}

fn write_record(record: &Path, config: &Path) -> std::io::Result<()> {
    if recorded_demo(record).as_deref() == Some(config) {
        return Ok(());
    }
    let path = config
        .to_str()
        .filter(|path| !path.contains('\n'))
        .ok_or_else(|| std::io::Error::other("the path is not one line of UTF-8"))?;
    if let Some(directory) = record.parent() {
        atomic_file::directory(directory)?;
    }
    // `publish` never replaces a file. A reader in between finds no record, as before the first demo.
    match std::fs::remove_file(record) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    atomic_file::publish(record, format!("{path}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(here: &Path, recorded: Option<&Path>) -> Sources<'static> {
        Sources {
            flag: None,
            dir: None,
            named: None,
            here: here.to_owned(),
            recorded: recorded.map(Path::to_owned),
        }
    }

    fn touch(file: &Path) {
        atomic_file::directory(file.parent().expect("a parent")).expect("made");
        std::fs::write(file, "").expect("written");
    }

    #[test]
    fn the_recorded_cluster_is_used_unless_one_is_named_or_here() {
        let dir = tempfile::tempdir().expect("dir");
        let (here, elsewhere) = (dir.path().join("here"), dir.path().join("elsewhere"));
        let recorded = elsewhere.join("messagebase-demo/messagebase.toml");
        let new = here.join("messagebase-demo/messagebase.toml");
        let place = |sources: Sources<'_>| {
            let place = sources.place().expect("a place");
            (place.file, place.origin)
        };
        assert_eq!(
            place(sources(&here, None)),
            (new.clone(), Origin::Demo),
            "the first demo"
        );
        assert_eq!(
            place(sources(&here, Some(&recorded))),
            (new.clone(), Origin::Gone(recorded.clone())),
            "its directory is gone"
        );
        touch(&recorded);
        let found = place(sources(&here, Some(&recorded)));
        assert_eq!(found, (recorded.clone(), Origin::Recorded));

        touch(&new);
        let found = place(sources(&here, Some(&recorded)));
        assert_eq!(found, (new, Origin::Demo), "the demo's here");

        let own = here.join("messagebase.toml");
        touch(&own);
        let found = place(sources(&here, Some(&recorded)));
        assert_eq!(found, (own.clone(), Origin::Operator));
        let found = place(sources(&here, Some(&own)));
        assert_eq!(found, (own, Origin::Demo), "inside the demo's directory");

        let named = Sources {
            dir: Some(Path::new("other")),
            ..sources(&here, Some(&recorded))
        };
        let wanted = here.join("other/messagebase.toml");
        assert_eq!(place(named), (wanted, Origin::Demo));
    }

    #[test]
    fn a_record_is_written_anew_for_another_cluster() {
        let dir = tempfile::tempdir().expect("dir");
        let record = dir.path().join("state/demo-config");
        for file in ["/a/messagebase.toml", "/b/messagebase.toml"] {
            write_record(&record, Path::new(file)).expect("written");
            assert_eq!(recorded_demo(&record), Some(file.into()));
        }
    }

    #[test]
    fn a_taken_port_is_not_free() {
        let taken = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        assert!(!is_free(taken.local_addr().expect("bound").port()));
    }
}
