//! HTTP requests to the lab's service, each on a connection of its own and from a source port of its own, so that
//! a captured frame names its request. Called by the tests of single changes and faults.
//! docs/design.md, "Tests".

use crate::lab::Lab;
use crate::netns;
use socket2::{Domain, Socket, Type};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::ops::RangeFrom;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Source ports are counted up from here.
pub(crate) const FIRST_PORT: u16 = 10_000;
/// When a request is given up, and counts as failed: after a repeated SYN has had its chance.
const GIVE_UP: Duration = Duration::from_secs(8);

/// What became of a request.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// The client's port.
    pub(crate) port: u16,
    /// How long it took until the connection was there.
    pub(crate) connected: Option<Duration>,
    /// The one host that answered, or what went wrong.
    pub(crate) outcome: Result<u8, String>,
}

/// Makes one request from the calling thread's network namespace.
pub(crate) fn get(server: IpAddr, port: u16) -> Request {
    get_as(SocketAddr::new(any(server), port), server)
}

/// As [`get`], as this client.
pub(crate) fn get_as(client: SocketAddr, server: IpAddr) -> Request {
    let began = Instant::now();
    let mut connected = None;
    let outcome = connect(client, server).and_then(|mut stream| {
        connected = Some(began.elapsed());
        stream.write_all(b"GET / HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    });
    Request {
        port: client.port(),
        connected,
        outcome: outcome
            .map_err(|error| error.to_string())
            .and_then(|answer| answering_host(&answer).ok_or(format!("no answer: {answer:?}"))),
    }
}

/// Any address of the same kind.
pub(crate) fn any(server: IpAddr) -> IpAddr {
    match server {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

fn connect(client: SocketAddr, server: IpAddr) -> std::io::Result<TcpStream> {
    let server = SocketAddr::from((server, 80));
    let socket = Socket::new(Domain::for_address(server), Type::STREAM, None)?;
    socket.bind(&client.into())?;
    socket.set_read_timeout(Some(GIVE_UP))?;
    socket.connect_timeout(&server.into(), GIVE_UP)?;
    Ok(socket.into())
}

/// Who has answered, if all that came is one answer with the host's name as its whole body.
fn answering_host(answer: &str) -> Option<u8> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let length = format!("content-length: {}", body.len());
    let whole = head.starts_with("HTTP/1.1 200 ") && head.lines().any(|line| line == length);
    whole.then_some(body)?.strip_prefix('h')?.parse().ok()
}

/// Makes requests one after the other from the client, one from each port.
pub(crate) fn in_a_row(
    lab: &Lab,
    server: impl Into<IpAddr>,
    ports: std::ops::Range<u16>,
) -> Vec<Request> {
    let server = server.into();
    netns::inside(&lab.namespace("client"), move || {
        ports.map(|port| get(server, port)).collect()
    })
}

/// Requests to the virtual IP at a steady rate, whatever becomes of them, until told to stop.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Request>>,
}

impl Load {
    /// Starts a request every so often, from the client, with source ports counting up from the first of `ports`.
    pub(crate) fn start(lab: &Lab, every: Duration, ports: RangeFrom<u16>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let vip = lab.vip();
        let thread = netns::spawn_in(&lab.namespace("client"), move || {
            let (tell, told) = mpsc::channel();
            let mut next = Instant::now();
            for port in ports {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let tell = tell.clone();
                // Its own thread, because it may hang; nobody has to wait for it, because the channel does.
                thread::spawn(move || tell.send(get(vip, port)));
                next += every;
                thread::sleep(next.saturating_duration_since(Instant::now()));
            }
            drop(tell);
            let mut requests: Vec<Request> = told.iter().collect();
            requests.sort_by_key(|request| request.port);
            requests
        });
        Self { stop, thread }
    }

    /// Stops, and hands back what became of all requests, in the order in which they began.
    pub(crate) fn finish(self) -> Vec<Request> {
        self.stop.store(true, Ordering::Relaxed);
        netns::join(self.thread)
    }
}

/// The requests that failed.
pub(crate) fn failures(requests: &[Request]) -> Vec<&Request> {
    let failed = |request: &&Request| request.outcome.is_err();
    requests.iter().filter(failed).collect()
}

/// Tells in full what failed, if anything did.
pub(crate) fn assert_none_failed(requests: &[Request]) {
    let failures = failures(requests);
    assert!(failures.is_empty(), "{failures:#?}");
}
