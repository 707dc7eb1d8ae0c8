//! `mbctl init` makes what is missing and never overwrites.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use messagebase_harness::{Place, programs};

fn contents(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut pending = vec![directory.to_owned()];
    while let Some(directory) = pending.pop() {
        for path in std::fs::read_dir(&directory)
            .expect("a directory")
            .flatten()
            .map(|entry| entry.path())
        {
            if path.is_dir() {
                pending.push(path);
            } else {
                found.insert(
                    path.display().to_string(),
                    std::fs::read(&path).expect("readable"),
                );
            }
        }
    }
    found
}

#[test]
fn a_fresh_directory_gets_a_commented_configuration_and_every_key() {
    let place = Place::with(programs!(), 1).without_keys();
    let fresh = place.path().join("fresh");
    let directory = fresh.to_str().expect("UTF-8");
    let ran = place
        .bare_mbctl(&["init", "--nodes", "5", "--dir", directory])
        .run()
        .expect_code(0);
    assert!(
        ran.stdout.contains("node-5"),
        "it says what to copy where: {ran}"
    );
    let config =
        std::fs::read_to_string(fresh.join("messagebase.toml")).expect("the configuration");
    assert_eq!(config.matches("[[node]]").count(), 5, "{config}");
    for key in [
        "registration",
        "session_days",
        "[limits]",
        "[retention]",
        "[password]",
        "client_bind",
    ] {
        assert!(config.contains(key), "{key} is not in\n{config}");
    }
    let mut expected: Vec<String> = ["ca.pem", "ca.key", "admin.pem", "admin.key"]
        .map(str::to_owned)
        .to_vec();
    expected.extend((1..=5).flat_map(|n| [format!("node-{n}.pem"), format!("node-{n}.key")]));
    for name in expected {
        let path = fresh.join("pki").join(&name);
        let mode = std::fs::metadata(&path)
            .unwrap_or_else(|e| panic!("{name}: {e}"))
            .permissions()
            .mode()
            & 0o777;
        assert_eq!(mode, 0o600, "{name}");
    }
    // The programs can read what it wrote.
    place
        .bare_mbctl(&["status", "--config"])
        .arg(fresh.join("messagebase.toml"))
        .run()
        .expect_code(3);
}

#[test]
fn a_second_init_overwrites_nothing_and_makes_what_is_missing() {
    let place = crate::place(3);
    let directory = place.path().to_str().expect("UTF-8").to_owned();
    let before = contents(place.path());
    place
        .bare_mbctl(&["init", "--dir", &directory])
        .run()
        .expect_code(0);
    assert_eq!(contents(place.path()), before);
    for name in ["node-2.pem", "node-2.key"] {
        std::fs::remove_file(place.pki().join(name)).expect("it was there");
    }
    place
        .bare_mbctl(&["init", "--dir", &directory])
        .run()
        .expect_code(0);
    let after = contents(place.path());
    assert_eq!(
        after.keys().collect::<Vec<_>>(),
        before.keys().collect::<Vec<_>>()
    );
    let changed: Vec<&String> = before
        .iter()
        .filter(|(name, bytes)| after[*name] != **bytes)
        .map(|(n, _)| n)
        .collect();
    assert!(
        changed.iter().all(|name| name.contains("node-2.")),
        "{changed:?}"
    );
}

#[test]
fn without_the_authoritys_key_nothing_new_is_signed() {
    let place = crate::place(3);
    let directory = place.path().to_str().expect("UTF-8").to_owned();
    std::fs::remove_file(place.pki().join("ca.key")).expect("it was there");
    let before = contents(place.path());
    std::fs::remove_file(place.pki().join("node-2.pem")).expect("it was there");
    let ran = place.bare_mbctl(&["init", "--dir", &directory]).run();
    assert!(ran.code == 1 || ran.code == 2, "{ran}");
    assert!(
        ran.stderr.contains("ca.key") && ran.stderr.contains("Hint:"),
        "{ran}"
    );
    let after = contents(place.path());
    assert!(
        after
            .iter()
            .all(|(name, bytes)| before.get(name) == Some(bytes)),
        "nothing was changed"
    );
}
