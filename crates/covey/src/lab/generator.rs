//! Steady client traffic, as a client sees it: from inside the client's network namespace, over real sockets.
//!
//! Three kinds at once: a new TCP connection for each of many HTTP requests, single datagrams to the echo
//! service, each from a source port of its own (so both sample all buckets), and a few kept connections. The
//! datagrams are the sharper instrument: nobody repeats them, and if two hosts take one, two answers come
//! back. What happened to each goes to the owner of the [`Generator`] as a [`Sample`]. Used by the demo.

use super::netns;
use super::topology::host_name;
use anyhow::{Context, Result};
use covey_proto::ids::HostId;
use std::iter::Cycle;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::slice::Iter;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout, timeout_at};

/// Requests and datagrams that may be under way at once. Beyond it the generator skips a beat, so that a dead
/// cluster does not cost it its file descriptors.
const MAX_UNDER_WAY: u32 = 700;
/// How long to wait for answers to a datagram.
const ECHO_WAIT: Duration = Duration::from_millis(500);
/// Time between two requests on a kept connection.
const KEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long [`Generator::finish`] waits for what is under way.
const FINISH_WAIT: Duration = Duration::from_secs(3);

/// How much traffic to send.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    /// Time between two new connections.
    pub(super) connection_every: Duration,
    /// Time between two datagrams.
    pub(super) datagram_every: Duration,
    /// Number of kept connections.
    pub(super) kept: usize,
    /// When to give up on a request.
    pub(super) give_up: Duration,
}

/// What happened.
#[derive(Clone, Debug)]
pub(super) enum Sample {
    /// A new connection was asked for.
    Began {
        /// Counts up.
        number: u64,
        /// When.
        at: Instant,
    },
    /// It came to an end.
    Ended(Request),
    /// A datagram was sent and its answers awaited.
    Datagram(Datagram),
    /// Something happened to a kept connection.
    Kept {
        /// Its number.
        connection: usize,
        /// What.
        news: KeptNews,
    },
}

/// A request on a connection of its own.
#[derive(Clone, Debug)]
pub(super) struct Request {
    /// The number under which it began.
    pub(super) number: u64,
    /// When the connection was asked for.
    pub(super) began: Instant,
    /// When the connection was there, if it ever was.
    pub(super) connected: Option<Instant>,
    /// When all was over.
    pub(super) ended: Instant,
    /// Who answered, or what went wrong.
    pub(super) outcome: Result<HostId, String>,
}

/// A datagram and its answers.
#[derive(Clone, Debug)]
pub(super) struct Datagram {
    /// When it was sent.
    pub(super) sent: Instant,
    /// Who answered, in order; or why an answer or the sending was wrong.
    pub(super) answers: Result<Vec<HostId>, String>,
}

/// News of a kept connection.
#[derive(Clone, Debug)]
pub(super) enum KeptNews {
    /// It was opened, and this host answers.
    Opened(HostId),
    /// It broke.
    Broke {
        /// Who had answered on it.
        host: HostId,
        /// When that was noticed.
        at: Instant,
    },
}

/// A thread in the client's network namespace that makes traffic until it is told to finish.
#[derive(Debug)]
pub(super) struct Generator {
    samples: Receiver<Sample>,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<Result<()>>,
}

impl Generator {
    /// Starts the traffic, to each of these virtual IPs in turn.
    ///
    /// # Errors
    /// If the thread's runtime cannot be set up. A namespace that cannot be entered shows in [`Self::finish`].
    pub(super) fn start(namespace: String, vips: Vec<IpAddr>, load: Load) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start the generator's runtime")?;
        let (sender, samples) = mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let thread = thread::spawn(move || {
            netns::enter(&namespace)?;
            runtime.block_on(generate(load, &vips, sender, stopped));
            Ok(())
        });
        Ok(Self {
            samples,
            stop,
            thread,
        })
    }

    /// What happened since the last call.
    pub(super) fn samples(&self) -> impl Iterator<Item = Sample> {
        self.samples.try_iter()
    }

    /// Ends the traffic, waits for what is under way (3 s at most), and hands back the last samples.
    ///
    /// # Errors
    /// If the traffic never began.
    pub(super) fn finish(self) -> Result<Vec<Sample>> {
        // It fails only if the thread has ended, which is what it asks for.
        let _ = self.stop.send(());
        self.thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok(self.samples.try_iter().collect())
    }
}

async fn generate(
    load: Load,
    vips: &[IpAddr],
    samples: Sender<Sample>,
    mut stopped: oneshot::Receiver<()>,
) {
    let mut kept = vips.iter().cycle();
    let mut connected = vips.iter().cycle();
    let mut echoed = vips.iter().cycle();
    for (connection, vip) in (0..load.kept).zip(&mut kept) {
        tokio::spawn(keep(*vip, connection, load.give_up, samples.clone()));
    }
    let slots = Arc::new(Semaphore::new(MAX_UNDER_WAY as usize));
    let mut connections = interval(load.connection_every);
    let mut datagrams = interval(load.datagram_every);
    connections.set_missed_tick_behavior(MissedTickBehavior::Skip);
    datagrams.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut number = 0;
    loop {
        tokio::select! {
            _ = &mut stopped => break,
            _ = connections.tick() => if let Ok(slot) = slots.clone().try_acquire_owned() {
                number += 1;
                let vip = *next(&mut connected);
                tokio::spawn(request(vip, number, load.give_up, samples.clone(), slot));
            },
            _ = datagrams.tick() => if let Ok(slot) = slots.clone().try_acquire_owned() {
                tokio::spawn(datagram(*next(&mut echoed), samples.clone(), slot));
            },
        }
    }
    // All slots are free when nothing is under way; if that takes too long, its outcome is not known.
    let _ = timeout(FINISH_WAIT, slots.acquire_many(MAX_UNDER_WAY)).await;
}

/// The next virtual IP, of one at least, in turn.
fn next<'a>(turns: &mut Cycle<Iter<'a, IpAddr>>) -> &'a IpAddr {
    turns.next().expect("a lab has a virtual IP")
}

/// Hands a sample over. The receiver is gone only when nobody wants to know any more.
fn tell(samples: &Sender<Sample>, sample: Sample) {
    let _ = samples.send(sample);
}

async fn request(
    vip: IpAddr,
    number: u64,
    give_up: Duration,
    samples: Sender<Sample>,
    _slot: OwnedSemaphorePermit,
) {
    let began = Instant::now();
    tell(&samples, Sample::Began { number, at: began });
    let mut connected = None;
    let outcome = timeout(give_up, async {
        let stream = TcpStream::connect((vip, 80))
            .await
            .map_err(|error| format!("no connection: {error}"))?;
        connected = Some(Instant::now());
        let mut stream = BufReader::new(stream);
        let host = ask(&mut stream, "close").await?;
        match stream.read_u8().await {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(host),
            Err(error) => Err(format!("the connection broke after the answer: {error}")),
            Ok(_) => Err("something followed the answer".to_owned()),
        }
    })
    .await
    .unwrap_or_else(|_| Err(format!("no answer within {} s", give_up.as_secs_f64())));
    let ended = Instant::now();
    tell(
        &samples,
        Sample::Ended(Request {
            number,
            began,
            connected,
            ended,
            outcome,
        }),
    );
}

/// One HTTP request and its answer, which must name a host and nothing else.
async fn ask(stream: &mut BufReader<TcpStream>, connection: &str) -> Result<HostId, String> {
    let broken = |error: std::io::Error| format!("the connection broke: {error}");
    let question = format!("GET / HTTP/1.1\r\nHost: lab\r\nConnection: {connection}\r\n\r\n");
    stream
        .write_all(question.as_bytes())
        .await
        .map_err(broken)?;

    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read_until(b'\n', &mut head).await.map_err(broken)? == 0 {
            return Err("the connection was closed without an answer".to_owned());
        }
    }
    let mut body = vec![0; body_length(&String::from_utf8_lossy(&head))?];
    stream.read_exact(&mut body).await.map_err(broken)?;
    answering_host(&body)
}

/// The length of the body after this head of an answer, which must be a success.
fn body_length(head: &str) -> Result<usize, String> {
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap_or_default();
    if !status.starts_with("HTTP/1.1 200") {
        return Err(format!("the answer is `{status}`"));
    }
    lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, length)| length.trim().parse().ok())
        // A lab's server has no more to say than a name; what is longer is not from one.
        .filter(|length| *length <= 64)
        .ok_or_else(|| "the answer has no proper length".to_owned())
}

fn answering_host(body: &[u8]) -> Result<HostId, String> {
    let body = String::from_utf8_lossy(body);
    host_name(&body).ok_or_else(|| format!("the answer is `{body}`, which is no host's name"))
}

async fn datagram(vip: IpAddr, samples: Sender<Sample>, _slot: OwnedSemaphorePermit) {
    let sent = Instant::now();
    let answers = echoes(vip).await;
    tell(&samples, Sample::Datagram(Datagram { sent, answers }));
}

/// Sends one datagram and collects all its answers.
async fn echoes(vip: IpAddr) -> Result<Vec<HostId>, String> {
    let payload = "covey";
    let send = async {
        let any: IpAddr = match vip {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0)).await?;
        socket.connect((vip, 7)).await?;
        socket.send(payload.as_bytes()).await?;
        Ok(socket)
    };
    let socket = send
        .await
        .map_err(|error: std::io::Error| format!("cannot send: {error}"))?;
    let until = tokio::time::Instant::now() + ECHO_WAIT;
    let mut hosts = Vec::new();
    let mut answer = [0; 64];
    while let Ok(received) = timeout_at(until, socket.recv(&mut answer)).await {
        let length = received.map_err(|error| format!("refused: {error}"))?;
        let text = String::from_utf8_lossy(&answer[..length]);
        let host = text
            .strip_suffix(payload)
            .and_then(|text| host_name(text.trim_end()))
            .ok_or_else(|| format!("the echo is `{text}`, which names no host"))?;
        hosts.push(host);
    }
    Ok(hosts)
}

/// A kept connection: opened, used until it breaks, opened again.
async fn keep(vip: IpAddr, connection: usize, give_up: Duration, samples: Sender<Sample>) {
    loop {
        if let Ok(Ok(stream)) = timeout(give_up, TcpStream::connect((vip, 80))).await {
            hold(connection, BufReader::new(stream), give_up, &samples).await;
        }
        sleep(KEPT_PAUSE).await;
    }
}

/// Makes a request now and then until one fails, or is answered by another host than the first.
async fn hold(
    connection: usize,
    mut stream: BufReader<TcpStream>,
    give_up: Duration,
    samples: &Sender<Sample>,
) {
    let Ok(Ok(host)) = timeout(give_up, ask(&mut stream, "keep-alive")).await else {
        return;
    };
    tell(
        samples,
        Sample::Kept {
            connection,
            news: KeptNews::Opened(host),
        },
    );
    loop {
        sleep(KEPT_PAUSE).await;
        match timeout(give_up, ask(&mut stream, "keep-alive")).await {
            Ok(Ok(again)) if again == host => (),
            Ok(_) | Err(_) => break,
        }
    }
    let at = Instant::now();
    let news = KeptNews::Broke { host, at };
    tell(samples, Sample::Kept { connection, news });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_success_with_a_short_body_is_an_answer() {
        assert_eq!(
            body_length("HTTP/1.1 200 OK\r\ncontent-Length: 2\r\ndate: x\r\n\r\n"),
            Ok(2)
        );
        assert_eq!(
            body_length("HTTP/1.1 503 Busy\r\n\r\n"),
            Err("the answer is `HTTP/1.1 503 Busy`".to_owned())
        );
        for head in [
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 65\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        ] {
            assert!(body_length(head).is_err(), "{head}");
        }
    }

    #[test]
    fn an_answer_names_one_host_exactly() {
        assert_eq!(answering_host(b"h12"), Ok(HostId::new(12).unwrap()));
        for body in [&b"h12\n"[..], b"h1h2", b"", b"hello"] {
            assert!(answering_host(body).is_err());
        }
    }
}
