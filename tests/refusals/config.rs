//! A bad configuration: exit 2 before any data is touched, naming file, line and key, with a hint.

use messagebase_harness::{Place, Ran, programs};

fn place() -> Place {
    Place::with(programs!(), 3).make()
}

/// The 1-based line of the configuration in which `text` first stands.
fn line_of(place: &Place, text: &str) -> usize {
    let config = place.read("messagebase.toml");
    config
        .lines()
        .position(|line| line.contains(text))
        .unwrap_or_else(|| panic!("{text:?} in\n{config}"))
        + 1
}

fn refused(place: &Place, ran: Ran) -> Ran {
    let ran = ran
        .expect_code(2)
        .expect_err("Hint:")
        .expect_err("messagebase.toml");
    assert!(
        !place.data(1).exists(),
        "data was touched before the configuration was valid: {ran}"
    );
    ran
}

/// Every program refuses, and names the line and the key.
fn all_refuse(place: &Place, at: &str, key: &str) {
    let line = format!("messagebase.toml:{}", line_of(place, at));
    let config = place.config();
    let config = config.to_str().expect("UTF-8");
    refused(place, place.mbd(&["--node", "1", "--config", config]).run())
        .expect_err(&line)
        .expect_err(key);
    refused(place, place.mbctl(&["status"]))
        .expect_err(&line)
        .expect_err(key);
    refused(place, place.mbclient("anna", &["inbox"]).run())
        .expect_err(&line)
        .expect_err(key);
}

#[test]
fn a_misspelt_key_is_named_with_its_line() {
    let place = place();
    place.edit_config("data_dir = ", "data_dri = ");
    all_refuse(&place, "data_dri", "data_dri");
}

#[test]
fn a_misspelt_key_in_a_table_is_named_with_its_line() {
    let place = Place::with(programs!(), 1).limit("connections", 100).make();
    place.edit_config("connections = ", "conections = ");
    all_refuse(&place, "conections", "conections");
}

#[test]
fn duplicate_ids_and_addresses_are_refused() {
    let place = place();
    place.edit_config("id = 3", "id = 2");
    let ran = place.mbctl(&["status"]);
    refused(&place, ran).expect_err("id").expect_err("2");

    let place = self::place();
    let (one, two) = (place.ports(1).client, place.ports(2).client);
    place.edit_config(&format!("127.0.0.1:{two}"), &format!("127.0.0.1:{one}"));
    refused(&place, place.mbctl(&["status"])).expect_err(&format!("127.0.0.1:{one}"));
}

#[test]
fn values_out_of_range_are_refused() {
    let cases = [
        ("registration = \"sometimes\"", "registration"),
        ("session_days = 0", "session_days"),
        ("session_days = \"thirty\"", "session_days"),
        ("[password]\nmemory_kib = 64", "memory_kib"),
        (
            "[[node]]\nid = 9\nclient = \"nowhere\"\npeer = \"127.0.0.1:9\"",
            "client",
        ),
        (
            "[[node]]\nid = 9\nclient = \"127.0.0.1:8\"\npeer = \"127.0.0.1:9\"\nplain = \"192.0.2.1:10\"",
            "plain",
        ),
        ("this is not TOML", "TOML"),
    ];
    for (text, says) in cases {
        let place = Place::with(programs!(), 1).make();
        // Tables go last, keys first, as TOML wants it.
        let config = place.read("messagebase.toml");
        let config = if text.starts_with('[') {
            format!("{config}\n{text}\n")
        } else {
            format!("{text}\n{config}")
        };
        place.write("messagebase.toml", &config);
        let ran = place
            .mbctl(&["status"])
            .expect_code(2)
            .expect_err("Hint:")
            .expect_err("messagebase.toml");
        let named = ran.stderr.contains(says) || says == "TOML";
        assert!(named, "{says:?} is not named: {ran}");
    }
}

#[test]
fn a_missing_file_and_an_unknown_node_are_refused() {
    let place = place();
    let config = place.config();
    let config = config.to_str().expect("UTF-8");
    place
        .mbd(&["--node", "7", "--config", config])
        .run()
        .expect_code(2)
        .expect_err("7")
        .expect_err("Hint:");
    let missing = place
        .mbd(&["--node", "1", "--config", "nowhere.toml"])
        .run();
    missing
        .expect_code(2)
        .expect_err("nowhere.toml")
        .expect_err("Hint:");
    place
        .mbd(&["--node", "one", "--config", config])
        .run()
        .expect_code(2);
    place.mbd(&["--config", config]).run().expect_code(2);
}

#[test]
fn the_file_is_found_by_flag_then_environment_then_directory() {
    let place = place();
    let elsewhere = tempfile_directory(&place);
    // In its own directory, without anything said.
    place.bare_mbctl(&["status"]).run().expect_code(3);
    let lost = place.bare_mbctl(&["status"]).current_dir(&elsewhere).run();
    lost.expect_code(2)
        .expect_err("messagebase.toml")
        .expect_err("Hint:");
    let named = place
        .bare_mbctl(&["status"])
        .current_dir(&elsewhere)
        .env("MESSAGEBASE_CONFIG", place.config())
        .run();
    named.expect_code(3);
    let flag = place
        .bare_mbctl(&["status", "--config"])
        .arg(place.config())
        .current_dir(&elsewhere);
    flag.env("MESSAGEBASE_CONFIG", "/nowhere.toml")
        .run()
        .expect_code(3);
}

fn tempfile_directory(place: &Place) -> std::path::PathBuf {
    let path = place.path().join("elsewhere");
    std::fs::create_dir(&path).expect("a directory");
    path
}

#[test]
fn a_missing_or_damaged_key_file_is_named() {
    let place = place();
    let config = place.config();
    let config = config.to_str().expect("UTF-8");
    place.write("pki/node-1.key", "not a key");
    let ran = place.mbd(&["--node", "1", "--config", config]).run();
    ran.expect_code(2)
        .expect_err("node-1.key")
        .expect_err("Hint:");
    std::fs::remove_file(place.pki().join("node-2.pem")).expect("it was there");
    let ran = place.mbd(&["--node", "2", "--config", config]).run();
    ran.expect_code(2)
        .expect_err("node-2.pem")
        .expect_err("Hint:");
    std::fs::remove_file(place.pki().join("admin.key")).expect("it was there");
    place
        .mbctl(&["status"])
        .expect_code(2)
        .expect_err("admin.key")
        .expect_err("Hint:");
    std::fs::remove_file(place.pki().join("ca.pem")).expect("it was there");
    place
        .mbclient("anna", &["inbox"])
        .run()
        .expect_code(2)
        .expect_err("ca.pem")
        .expect_err("Hint:");
}
