//! The keys that are made fit what the configuration crate makes of them: whole handshakes, in memory.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use messagebase_config::{Address, Config, ExampleNode, example_toml, pki};
use messagebase_protocol::peer::node_san;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::complete;

/// A cluster of two nodes in a directory, its keys made.
fn cluster(dir: &Path) -> Config {
    let address = |port| Address {
        host: "127.0.0.1".into(),
        port,
    };
    let nodes: Vec<ExampleNode> = (1..=2)
        .map(|id| ExampleNode {
            id,
            client: address(7100 + id),
            peer: address(7200 + id),
            http: address(7300 + id),
            plain: address(7400 + id),
        })
        .collect();
    let file = dir.join("messagebase.toml");
    std::fs::write(&file, example_toml("messagebase", &nodes)).expect("written");
    Config::load(&file).expect("valid")
}

/// Whether a handshake succeeds, as both ends see it.
async fn shake(server: &Arc<ServerConfig>, client: &Arc<ClientConfig>, name: &str) -> bool {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let (accepted, connected) = tokio::join!(
        TlsAcceptor::from(Arc::clone(server)).accept(far),
        TlsConnector::from(Arc::clone(client)).connect(name, near)
    );
    accepted.is_ok() && connected.is_ok()
}

#[tokio::test]
async fn the_keys_serve_every_door_and_a_foreign_ca_opens_none() {
    let (dir, other) = (
        tempfile::tempdir().expect("dir"),
        tempfile::tempdir().expect("dir"),
    );
    let config = cluster(dir.path());
    let made = complete(&config).expect("made");
    assert_eq!(
        made.created.len(),
        8,
        "a pair each for the CA, two nodes and the admin: {made:?}"
    );
    let node = pki::node_tls(&config.pki_dir, 1).expect("usable");
    let peer = pki::node_tls(&config.pki_dir, 2).expect("usable");
    let admin = pki::admin_tls(&config.pki_dir).expect("usable");
    let client = pki::client_tls(&config.pki_dir).expect("usable");
    for host in ["127.0.0.1", "localhost", "::1"] {
        assert!(
            shake(&node.door, &client, host).await,
            "a client reaches {host}"
        );
    }
    assert!(
        shake(&node.peer_listen, &admin, &node_san(1)).await,
        "the admin reaches node 1"
    );
    assert!(
        shake(&node.peer_listen, &peer.peer_dial, &node_san(1)).await,
        "node 2 reaches node 1"
    );
    assert!(
        !shake(&node.peer_listen, &admin, &node_san(2)).await,
        "node 1 is not node 2"
    );
    assert!(
        !shake(&node.peer_listen, &client, &node_san(1)).await,
        "a client has no certificate"
    );
    let foreign = cluster(other.path());
    complete(&foreign).expect("made");
    let foreign_admin = pki::admin_tls(&foreign.pki_dir).expect("usable");
    assert!(
        !shake(&node.peer_listen, &foreign_admin, &node_san(1)).await,
        "another CA's admin"
    );
    let foreign_client = pki::client_tls(&foreign.pki_dir).expect("usable");
    assert!(
        !shake(&node.door, &foreign_client, "127.0.0.1").await,
        "another CA's client"
    );
}

#[test]
fn nothing_is_overwritten_and_only_what_is_missing_is_made() {
    let dir = tempfile::tempdir().expect("dir");
    let config = cluster(dir.path());
    complete(&config).expect("made");
    let key = pki::node_key(&config.pki_dir, 1);
    let before = std::fs::read(&key).expect("there");
    let mode = |path: &Path| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(
        (
            mode(&config.pki_dir),
            mode(&key),
            mode(&pki::ca_key(&config.pki_dir))
        ),
        (0o700, 0o600, 0o600)
    );
    assert_eq!(
        complete(&config).expect("nothing to do"),
        super::Made::default()
    );
    std::fs::remove_file(pki::node_pem(&config.pki_dir, 1)).expect("removed");
    let made = complete(&config).expect("made");
    assert_eq!(made.created, [pki::node_pem(&config.pki_dir, 1)]);
    assert_eq!(std::fs::read(&key).expect("there"), before);
    pki::node_tls(&config.pki_dir, 1).expect("the new certificate fits the old key");
    std::fs::remove_file(pki::node_key(&config.pki_dir, 2)).expect("moved to node 2's machine");
    assert_eq!(
        complete(&config).expect("nothing to do"),
        super::Made::default()
    );
}

#[test]
fn a_new_host_renews_the_certificate_and_keeps_the_old_one() {
    let dir = tempfile::tempdir().expect("dir");
    let config = cluster(dir.path());
    complete(&config).expect("made");
    let text = std::fs::read_to_string(&config.path).expect("there");
    std::fs::write(
        &config.path,
        text.replace("127.0.0.1:7102", "chat.example:7102"),
    )
    .expect("written");
    let config = Config::load(&config.path).expect("valid");
    let made = complete(&config).expect("made");
    assert_eq!(made.renewed, [pki::node_pem(&config.pki_dir, 2)]);
    assert!(config.pki_dir.join("node-2.pem.old-1").exists());
    assert_eq!(
        complete(&config).expect("nothing to do"),
        super::Made::default()
    );
}

#[test]
fn without_the_cas_key_nothing_new_is_made_and_a_foreign_key_is_noticed() {
    let (dir, other) = (
        tempfile::tempdir().expect("dir"),
        tempfile::tempdir().expect("dir"),
    );
    let (config, foreign) = (cluster(dir.path()), cluster(other.path()));
    complete(&config).expect("made");
    complete(&foreign).expect("made");
    let ca_key = pki::ca_key(&config.pki_dir);
    std::fs::remove_file(&ca_key).expect("kept elsewhere");
    assert_eq!(
        complete(&config).expect("nothing to do"),
        super::Made::default()
    );
    std::fs::remove_file(pki::node_pem(&config.pki_dir, 1)).expect("removed");
    assert!(
        complete(&config)
            .expect_err("no key")
            .to_string()
            .contains("ca.key")
    );
    std::fs::copy(pki::ca_key(&foreign.pki_dir), &ca_key).expect("copied");
    assert!(
        complete(&config)
            .expect_err("wrong key")
            .to_string()
            .contains("is not the key of")
    );
}
