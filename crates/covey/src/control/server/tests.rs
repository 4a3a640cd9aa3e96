//! The server against clients that behave and clients that do not.
//!
//! Time is virtual where a limit is tested (`start_paused`): it jumps ahead when nothing else can happen.

use super::*;
use crate::control::client::{Client, ClientError};
use crate::control::{COMMAND_TIME, FOLLOW_TIME, Outcome, Ports};
use covey_proto::Answer;
use proptest::prelude::*;
use serde_json::{Value, json};

/// A directory that goes with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("covey-server-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        Self(path)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("run/control.sock")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A daemon that answers at once, each kind of request in its own way.
fn spawn_daemon(socket: &Path) {
    let server = Server::bind(socket).unwrap();
    let (calls, mut inbox) = mpsc::channel(4);
    tokio::spawn(server.serve(calls));
    tokio::spawn(async move {
        while let Some((request, reply)) = inbox.recv().await {
            let response = match request {
                Request::Status {} => Response::ok("fine"),
                Request::Why(question) => Response::ok(question),
                Request::Events { after, .. } => Response::ok([after]),
                Request::Start {} => Response::ok(Outcome::new(Answer::Already, "already started")),
                Request::Stop {} => Response::error(Code::Failed, "it would not stop"),
                Request::Drainstop { .. }
                | Request::Suspend {}
                | Request::Resume {}
                | Request::Enable(_)
                | Request::Disable(_)
                | Request::Drain(_)
                | Request::Upgrade { .. } => Response::ok(Outcome::ok(format!("{request:?}"))),
                // Never answers, but does not hang up either.
                Request::Reload {} => {
                    std::mem::forget(reply);
                    continue;
                }
            };
            let _ = reply.send(response);
        }
    });
}

fn ports(vip: &str, port: Option<u16>) -> Ports {
    let vip = Some(vip.parse().unwrap());
    Ports { vip, port }
}

/// Sends bytes, and returns the lines that come back until the server hangs up or `lines` have come.
async fn exchange(socket: &Path, bytes: &[u8], lines: usize) -> Vec<Value> {
    let stream = UnixStream::connect(socket).await.unwrap();
    let mut stream = BufReader::new(stream);
    stream.get_mut().write_all(bytes).await.unwrap();
    let mut answers = Vec::new();
    while answers.len() < lines {
        let mut line = String::new();
        match stream.read_line(&mut line).await {
            Ok(0) | Err(_) => break,
            Ok(_) => answers.push(serde_json::from_str(&line).unwrap()),
        }
    }
    answers
}

#[tokio::test]
async fn requests_are_answered_in_order_on_one_connection() {
    let scratch = Scratch::new("order");
    spawn_daemon(&scratch.socket());
    let lines = b"{\"command\":\"status\"}\n{\"command\":\"events\",\"after\":7}\n{\"command\":\"start\"}\n{\"command\":\"stop\"}\n";
    assert_eq!(
        exchange(&scratch.socket(), lines, 4).await,
        [
            json!({"ok": "fine"}),
            json!({"ok": [7]}),
            json!({"ok": {"answer": "WLBS_ALREADY", "code": 1001, "text": "already started"}}),
            json!({"error": "it would not stop", "code": "failed"}),
        ]
    );
}

#[tokio::test]
async fn the_client_and_the_server_understand_each_other() {
    let scratch = Scratch::new("client");
    spawn_daemon(&scratch.socket());
    let socket = scratch.socket();
    tokio::task::spawn_blocking(move || {
        let mut client = Client::connect(&socket).unwrap();
        let started = client.command(&Request::Start {}).unwrap();
        assert_eq!(
            (started.code, started.text.as_str()),
            (1001, "already started")
        );
        for command in [
            Request::Drainstop {
                within_ms: Some(5000),
            },
            Request::Suspend {},
            Request::Resume {},
            Request::Enable(ports("10.77.0.100", Some(80))),
            Request::Disable(ports("fd77::100", None)),
            Request::Drain(Ports {
                vip: None,
                port: None,
            }),
        ] {
            let outcome = client.command(&command).unwrap();
            assert_eq!(outcome.text, format!("{command:?}"));
        }
        let refused = client.command(&Request::Stop {}).unwrap_err();
        assert!(
            matches!(
                &refused,
                ClientError::Refused {
                    code: Code::Failed,
                    ..
                }
            ),
            "{refused:?}"
        );
        assert_eq!(refused.to_string(), "it would not stop");
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn what_is_no_request_is_refused_and_the_connection_goes_on() {
    let scratch = Scratch::new("garbage");
    spawn_daemon(&scratch.socket());
    for line in [
        "\n",
        "hello\n",
        "{\"command\":\"explode\"}\n",
        "{\"command\":\"stop\",\"hots\":3}\n",
        "{\"command\":\"events\",\"after\":-1}\n",
        "{\"command\":\"drain\",\"port\":65536}\n",
        "{\"command\":\"drain\",\"ports\":80}\n",
        "{\"command\":\"enable\",\"vip\":\"all\"}\n",
        "\0\0\0\n",
    ] {
        let mut bytes = line.as_bytes().to_vec();
        bytes.extend(b"{\"command\":\"status\"}\n");
        let answers = exchange(&scratch.socket(), &bytes, 2).await;
        assert_eq!(answers[0]["code"], "bad", "{line:?}: {answers:?}");
        assert_eq!(answers[1], json!({"ok": "fine"}), "{line:?}");
    }
}

#[tokio::test]
async fn a_line_without_end_is_cut_off() {
    let scratch = Scratch::new("long");
    spawn_daemon(&scratch.socket());
    let answers = exchange(&scratch.socket(), &[b' '; MAX_REQUEST], 2).await;
    assert_eq!(answers.len(), 1, "the server hangs up: {answers:?}");
    assert_eq!(answers[0]["code"], "bad");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_says_nothing_is_dropped() {
    let scratch = Scratch::new("idle");
    spawn_daemon(&scratch.socket());
    let before = tokio::time::Instant::now();
    assert_eq!(
        exchange(&scratch.socket(), b"{\"comm", 1).await,
        Vec::<Value>::new()
    );
    assert_eq!(before.elapsed().as_secs(), READ_TIME.as_secs());
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_does_not_answer_does_not_hold_its_client() {
    let scratch = Scratch::new("silent");
    spawn_daemon(&scratch.socket());
    let before = tokio::time::Instant::now();
    let answers = exchange(&scratch.socket(), b"{\"command\":\"reload\"}\n", 1).await;
    assert_eq!(answers[0]["code"], "timeout");
    assert_eq!(before.elapsed().as_secs(), COMMAND_TIME.as_secs());
}

#[tokio::test(start_paused = true)]
async fn waiting_for_events_ends_with_none() {
    let scratch = Scratch::new("follow");
    let server = Server::bind(&scratch.socket()).unwrap();
    let (calls, mut inbox) = mpsc::channel(1);
    tokio::spawn(server.serve(calls));
    let line = b"{\"command\":\"events\",\"follow\":true}\n";
    let before = tokio::time::Instant::now();
    let socket = scratch.socket();
    let asking = tokio::spawn(async move { exchange(&socket, line, 1).await });
    let (request, _reply) = inbox.recv().await.unwrap();
    assert_eq!(
        request,
        Request::Events {
            after: 0,
            follow: true
        }
    );
    assert_eq!(asking.await.unwrap(), [json!({"ok": []})]);
    assert_eq!(before.elapsed().as_secs(), FOLLOW_TIME.as_secs());
}

#[tokio::test]
async fn a_daemon_that_ends_says_so_and_takes_its_socket_along() {
    let scratch = Scratch::new("ending");
    let server = Server::bind(&scratch.socket()).unwrap();
    let (calls, mut inbox) = mpsc::channel(1);
    let serving = tokio::spawn(server.serve(calls));
    let socket = scratch.socket();
    let asking =
        tokio::spawn(async move { exchange(&socket, b"{\"command\":\"status\"}\n", 1).await });
    drop(inbox.recv().await.unwrap());
    assert_eq!(asking.await.unwrap()[0]["code"], "ending");
    drop(inbox);
    serving.await.unwrap();
    assert!(!scratch.socket().exists());
}

#[tokio::test]
async fn one_client_too_many_is_told_so_until_another_leaves() {
    let scratch = Scratch::new("crowd");
    spawn_daemon(&scratch.socket());
    // An answer proves that the connection has been given its place.
    let mut crowd = Vec::new();
    for _ in 0..MAX_CLIENTS {
        let mut stream = BufReader::new(UnixStream::connect(scratch.socket()).await.unwrap());
        stream
            .get_mut()
            .write_all(b"{\"command\":\"status\"}\n")
            .await
            .unwrap();
        let mut line = String::new();
        stream.read_line(&mut line).await.unwrap();
        assert_eq!(line, "{\"ok\":\"fine\"}\n");
        crowd.push(stream);
    }
    let socket = scratch.socket();
    let refused =
        tokio::task::spawn_blocking(move || Client::connect(&socket)?.command(&Request::Start {}))
            .await
            .unwrap();
    assert!(
        matches!(
            &refused,
            Err(ClientError::Refused {
                code: Code::Busy,
                ..
            })
        ),
        "{refused:?}"
    );
    crowd.pop();
    loop {
        let answers = exchange(&scratch.socket(), b"{\"command\":\"status\"}\n", 1).await;
        if answers.first() == Some(&json!({"ok": "fine"})) {
            break;
        }
        tokio::task::yield_now().await;
    }
}

#[test]
fn the_last_places_are_kept_for_those_who_command() {
    let places = Places::new();
    let reporting: Vec<_> = std::iter::from_fn(|| places.take(false)).collect();
    assert_eq!(reporting.len(), MAX_CLIENTS - RESERVED);
    let commanding: Vec<_> = std::iter::from_fn(|| places.take(true)).collect();
    assert_eq!(commanding.len(), RESERVED);
    drop(reporting);
    assert!(places.take(false).is_some());
}

#[tokio::test]
async fn only_those_who_may_command_command() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (calls, mut inbox) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut client = Connection {
            stream: BufReader::new(ours),
            may_command: false,
            calls,
        };
        client.converse().await;
    });
    tokio::spawn(async move {
        while let Some((request, reply)) = inbox.recv().await {
            assert!(!request.is_command(), "{request:?} came through");
            reply.send(Response::ok("fine")).unwrap();
        }
    });
    let mut theirs = BufReader::new(theirs);
    for (command, answer) in [
        ("start", json!("denied")),
        ("stop", json!("denied")),
        ("drainstop", json!("denied")),
        ("suspend", json!("denied")),
        ("resume", json!("denied")),
        ("enable", json!("denied")),
        ("disable", json!("denied")),
        ("drain", json!("denied")),
        ("reload", json!("denied")),
        ("status", json!(null)),
    ] {
        let line = format!("{{\"command\":\"{command}\"}}\n");
        theirs.get_mut().write_all(line.as_bytes()).await.unwrap();
        let mut line = String::new();
        theirs.read_line(&mut line).await.unwrap();
        let response: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(response["code"], answer, "{command}");
    }
}

#[tokio::test]
async fn the_place_of_a_dead_daemon_is_taken_and_that_of_a_live_one_is_not() {
    let scratch = Scratch::new("stale");
    let socket = scratch.socket();
    fs::create_dir_all(socket.parent().unwrap()).unwrap();
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    assert!(socket.exists(), "a dead daemon's socket stays");

    let server = Server::bind(&socket).unwrap();
    let mode = fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let second = Server::bind(&socket).unwrap_err();
    assert!(matches!(second, BindError::InUse(_)), "{second}");
    assert!(socket.exists(), "the second one leaves it alone");
    drop(server);
    assert!(!socket.exists());

    fs::write(&socket, "precious").unwrap();
    let file = Server::bind(&socket).unwrap_err();
    assert!(matches!(file, BindError::NotASocket(_)), "{file}");
    assert_eq!(fs::read_to_string(&socket).unwrap(), "precious");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_bytes_disturb_the_server(bytes in proptest::collection::vec(any::<u8>(), 0..6000)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let scratch = Scratch::new("fuzz");
            spawn_daemon(&scratch.socket());
            let mut stream = UnixStream::connect(scratch.socket()).await.unwrap();
            // The server may hang up before it has read everything.
            let _ = stream.write_all(&bytes).await;
            drop(stream);
            let answers = exchange(&scratch.socket(), b"{\"command\":\"status\"}\n", 1).await;
            assert_eq!(answers, [json!({"ok": "fine"})]);
        });
    }
}
