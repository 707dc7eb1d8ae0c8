//! Against nodes that are played here: real sockets and certificates, scripted answers.

use std::path::Path;

use std::time::{Duration, Instant};

use messagebase_config::{Address, Config, ExampleNode, example_toml, pki};
use messagebase_protocol::peer::{
    AdminCode, AdminError, AdminErrorKind, AdminOk, AdminReply, AdminRequest, Answer, Call,
    HelloReply, Incarnation, PeerHello, PeerReply, PeerRequest, Purpose,
};
use messagebase_protocol::role::NodeRole;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::{CALL_DEADLINE, Cluster};
use crate::exit::Exit;
use crate::output::Output;
use crate::peer_client::PeerClientError;
use crate::testing::report;
use crate::{command, keys};

/// What a played node does with a request; `None`: it dies.
type Script = fn(node: u16, request: &AdminRequest) -> Option<AdminReply>;

const ALL: [u16; 3] = [1, 2, 3];

/// Three nodes on ports of the system's choice, their keys made.
struct Stage {
    cluster: Cluster,
    listeners: Vec<TcpListener>,
    _dir: tempfile::TempDir,
}

async fn stage() -> Stage {
    let dir = tempfile::tempdir().expect("dir");
    let mut listeners = Vec::new();
    let mut nodes = Vec::new();
    for id in ALL {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let peer = Address {
            host: "127.0.0.1".into(),
            port: listener.local_addr().expect("bound").port(),
        };
        // The other ports are never dialed here; they only have to differ.
        let unused = |step: u16| Address {
            host: "127.0.0.1".into(),
            port: step + id,
        };
        nodes.push(ExampleNode {
            id,
            client: unused(10),
            peer,
            http: unused(20),
            plain: unused(30),
        });
        listeners.push(listener);
    }
    let cluster = cluster(dir.path(), &nodes);
    Stage {
        cluster,
        listeners,
        _dir: dir,
    }
}

fn cluster(dir: &Path, nodes: &[ExampleNode]) -> Cluster {
    let file = dir.join("messagebase.toml");
    std::fs::write(&file, example_toml("messagebase", nodes)).expect("written");
    let config = Config::load(&file).expect("valid");
    keys::complete(&config).expect("made");
    Cluster::of(config).expect("usable")
}

impl Stage {
    /// Lets node `node` answer by the script from now on.
    fn play(&mut self, node: u16, script: Script) {
        let listener = self.listeners.remove(0);
        let tls = pki::node_tls(&self.cluster.config.pki_dir, node).expect("usable");
        let acceptor = TlsAcceptor::from(tls.peer_listen);
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                if let Ok(stream) = acceptor.accept(tcp).await {
                    tokio::spawn(serve(stream, node, script));
                }
            }
        });
    }
}

async fn serve(
    mut stream: TlsStream<tokio::net::TcpStream>,
    node: u16,
    script: Script,
) -> std::io::Result<()> {
    let hello: PeerHello = read(&mut stream).await?;
    assert_eq!((hello.purpose, hello.to_raft_id), (Purpose::Admin, 0));
    let incarnation = Incarnation {
        starts: 1,
        id: 1,
        last_log_at_start: 0,
    };
    write(
        &mut stream,
        &HelloReply::Welcome {
            node,
            cluster_id: Some("c".into()),
            raft_id: 1,
            incarnation,
        },
    )
    .await?;
    loop {
        let call: Call = read(&mut stream).await?;
        let PeerRequest::Admin(request) = call.body else {
            panic!("an admin asks admin requests")
        };
        let Some(reply) = script(node, &request) else {
            return Ok(());
        };
        write(
            &mut stream,
            &Answer {
                id: call.id,
                last: true,
                body: PeerReply::Admin(reply),
            },
        )
        .await?;
    }
}

async fn read<T: serde::de::DeserializeOwned>(
    stream: &mut TlsStream<tokio::net::TcpStream>,
) -> std::io::Result<T> {
    let length = stream.read_u32().await?;
    let mut frame = vec![0; usize::try_from(length).expect("small")];
    stream.read_exact(&mut frame).await?;
    postcard::from_bytes(&frame).map_err(std::io::Error::other)
}

async fn write<T: serde::Serialize>(
    stream: &mut TlsStream<tokio::net::TcpStream>,
    value: &T,
) -> std::io::Result<()> {
    let body = postcard::to_stdvec(value).expect("plain data");
    stream
        .write_u32(u32::try_from(body.len()).expect("small"))
        .await?;
    stream.write_all(&body).await?;
    stream.flush().await
}

/// Node 1 leads; it transfers, dies when told to, and sends others away.
#[allow(clippy::unnecessary_wraps, reason = "the shape of a script")]
fn led_by_1(node: u16, request: &AdminRequest) -> Option<AdminReply> {
    let role = if node == 1 {
        NodeRole::Leader
    } else {
        NodeRole::Follower
    };
    Some(match request {
        AdminRequest::Report => Ok(AdminOk::Report(Box::new(report(
            node,
            role,
            4,
            Some(1),
            &ALL,
        )))),
        AdminRequest::Kill => return None,
        AdminRequest::UserFree { .. } if node == 1 => Ok(AdminOk::Done),
        AdminRequest::UserFree { .. } => Err(AdminError {
            kind: AdminErrorKind::NotLeader,
            code: AdminCode::NotLeader,
            message: "I do not lead".into(),
            hint: None,
            leader: Some(1),
        }),
        _ => panic!("not in the script: {request:?}"),
    })
}

#[tokio::test]
async fn a_survey_has_dead_and_hung_nodes_too_and_takes_less_than_two_seconds() {
    let mut stage = stage().await;
    stage.play(1, led_by_1);
    // Node 2 hangs: the system accepts its connections, nobody answers. Node 3 is dead: nobody listens.
    drop(stage.listeners.pop());
    let start = Instant::now();
    let survey = stage.cluster.survey().await;
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "took {:?}",
        start.elapsed()
    );
    assert_eq!(
        survey.rows.iter().map(|row| row.node).collect::<Vec<_>>(),
        ALL
    );
    assert!(survey.rows[0].answer.is_ok());
    assert!(matches!(
        survey.rows[1].answer,
        Err(PeerClientError::Silent { node: 2, .. })
    ));
    assert!(matches!(
        survey.rows[2].answer,
        Err(PeerClientError::Unreachable { node: 3, .. })
    ));
    assert!(!survey.quorum_view().quorum, "one of three");
}

#[tokio::test]
async fn a_request_for_the_leader_goes_to_it_and_a_kill_is_a_broken_connection() {
    let mut stage = stage().await;
    stage.play(1, led_by_1);
    stage.play(2, led_by_1);
    let output = Output::new(false);
    let free = AdminRequest::UserFree { name: "a".into() };
    let done = stage
        .cluster
        .ask_leader(&output, &free, CALL_DEADLINE)
        .await
        .expect("the leader answers");
    assert_eq!(done, AdminOk::Done);
    let refused = stage
        .cluster
        .ask(2, free, CALL_DEADLINE)
        .await
        .expect_err("node 2 does not lead");
    assert_eq!(
        (refused.code(), refused.exit()),
        ("not_leader", Exit::NoQuorum)
    );
    command::kill::kill(&stage.cluster, 2, &output)
        .await
        .expect("it dies");
}

#[tokio::test]
async fn a_node_of_another_ca_is_not_trusted_and_a_wrong_number_is_noticed() {
    let mut stage = stage().await;
    let other = tempfile::tempdir().expect("dir");
    let address = stage.cluster.config.nodes[0].peer.clone();
    let node = |id, port| ExampleNode {
        id,
        client: Address {
            port,
            ..address.clone()
        },
        peer: address.clone(),
        http: Address {
            port: port + 1,
            ..address.clone()
        },
        plain: Address {
            port: port + 2,
            ..address.clone()
        },
    };
    stage.play(1, led_by_1);
    let foreign = cluster(other.path(), &[node(1, 10)]);
    let e = foreign.connect(1).await.err().expect("another CA");
    assert_eq!(e.exit(), Exit::NoQuorum);
    assert!(
        e.to_string()
            .starts_with("another cluster answers at 127.0.0.1:"),
        "{e}"
    );
    let e = command::down::take_down(&foreign, &[1], &Output::new(false)).await;
    let e = e.expect_err("another cluster is not stopped");
    assert!(e.to_string().starts_with("another cluster answers"), "{e}");
    let as_node_2 = stage
        .cluster
        .connect_to(2, &address.to_string())
        .await
        .err();
    assert!(
        matches!(as_node_2, Some(PeerClientError::Untrusted { node: 2, .. })),
        "its certificate says node 1"
    );
}
