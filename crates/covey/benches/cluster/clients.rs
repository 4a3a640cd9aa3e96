//! Clients of the lab's service: connections that are held and asked something now and then, and new ones at a
//! steady rate, whatever becomes of the earlier ones. All from one thread in the client's namespace, each from an address
//! and port of its own that is not used again, so that a frame on the switch names its connection and no TIME_WAIT
//! is in the way. Called by the parts survival, commit and steady. docs/benchmarks.md.

use crate::lab::{Lab, VIP, succeed};
use crate::netns;
use crate::web::answering_host;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

/// An answer that takes longer is slow.
pub(crate) const SLOW: Duration = Duration::from_millis(100);
/// An answer that takes longer is none: several repeated segments have had their chance.
const GIVE_UP: Duration = Duration::from_secs(20);
/// Time between two requests on a held connection.
const HELD_PAUSE: Duration = Duration::from_secs(10);
/// Held connections that are opened in a tick, a millisecond.
const OPEN_AT_ONCE: usize = 2;
/// New connections that begin in a tick at most, so that a thread that was late does not make a burst.
const BEGIN_AT_ONCE: u32 = 50;
/// The client's addresses: its own, and those that are added to it.
const ADDRESSES: std::ops::RangeInclusive<u8> = 200..=212;
/// Ports of each.
const PORTS: std::ops::RangeInclusive<u16> = 2_000..=65_000;
/// How long `hold` may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// What went wrong, with whom.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    /// The client's end.
    pub(crate) client: SocketAddrV4,
    /// The host that it was with, if it ever was.
    pub(crate) host: Option<u8>,
    /// In words.
    pub(crate) what: String,
}

/// What clients have noticed since they were last asked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    /// New connections that were answered.
    pub(crate) connects: usize,
    /// Answers on held connections.
    pub(crate) requests: usize,
    /// Answers to either that took longer than [`SLOW`], connecting included.
    pub(crate) slow: usize,
    /// The longest that one took.
    pub(crate) slowest: Duration,
    /// New connections that were refused.
    pub(crate) refused: Vec<Failure>,
    /// New connections that failed otherwise.
    pub(crate) failed: Vec<Failure>,
    /// Held connections that broke.
    pub(crate) broken: Vec<Failure>,
}

impl Tally {
    fn answered(&mut self, time: Duration) {
        self.slow += usize::from(time > SLOW);
        self.slowest = self.slowest.max(time);
    }

    /// Adds what was noticed later.
    pub(crate) fn add(&mut self, later: &Self) {
        self.connects += later.connects;
        self.requests += later.requests;
        self.slow += later.slow;
        self.slowest = self.slowest.max(later.slowest);
        self.refused.extend_from_slice(&later.refused);
        self.failed.extend_from_slice(&later.failed);
        self.broken.extend_from_slice(&later.broken);
    }

    /// All failures.
    pub(crate) fn failures(&self) -> impl Iterator<Item = &Failure> {
        self.refused.iter().chain(&self.failed).chain(&self.broken)
    }

    /// The client's ends of all that failed.
    pub(crate) fn failed_clients(&self) -> BTreeSet<SocketAddrV4> {
        self.failures().map(|failure| failure.client).collect()
    }
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// New connections per second.
    rate: AtomicU32,
    /// How many to hold.
    wanted: AtomicUsize,
    /// How many are held and have been answered, by host.
    held: Mutex<BTreeMap<u8, usize>>,
    /// How many of those and of the ones that are being opened there are.
    begun: AtomicUsize,
    /// New connections that have not come to their end.
    under_way: AtomicUsize,
    tally: Mutex<Tally>,
}

impl Shared {
    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<u8, usize>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The clients, at work until they are told to finish.
pub(crate) struct Clients {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

impl Clients {
    /// Gives the client its addresses; nobody connects yet.
    pub(crate) fn start(lab: &Lab) -> Self {
        allow_open_files();
        for last in ADDRESSES.skip(1) {
            let address = format!("10.77.0.{last}/24");
            lab.exec("client", &["ip", "address", "add", &address, "dev", "eth0"]);
        }
        let shared = Arc::new(Shared::default());
        let theirs = shared.clone();
        let thread = netns::spawn_in(&lab.namespace("client"), move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.unwrap().block_on(work(theirs));
        });
        Self { shared, thread }
    }

    /// Lets so many new connections begin each second.
    pub(crate) fn connect(&self, per_second: u32) {
        self.shared.rate.store(per_second, Ordering::Relaxed);
    }

    /// Opens held connections until there are so many that live.
    pub(crate) fn hold(&self, count: usize) {
        self.shared.wanted.store(count, Ordering::Relaxed);
        let start = Instant::now();
        while self.shared.held().values().sum::<usize>() < count {
            assert!(
                start.elapsed() < PATIENCE,
                "{count} connections cannot be opened: {:?}",
                self.shared.tally()
            );
            thread::sleep(Duration::from_millis(10));
        }
        // What breaks from now on is not opened again.
        self.shared.wanted.store(0, Ordering::Relaxed);
    }

    /// How many of the held connections this host has.
    pub(crate) fn held_by(&self, host: u8) -> usize {
        self.shared.held().get(&host).copied().unwrap_or_default()
    }

    /// What was noticed since the last call.
    pub(crate) fn take(&self) -> Tally {
        std::mem::take(&mut self.shared.tally())
    }

    /// New connections that were answered since then.
    pub(crate) fn connects(&self) -> usize {
        self.shared.tally().connects
    }

    /// Begins no more new connections, and waits for the end of those that are under way.
    pub(crate) fn pause(&self) {
        self.connect(0);
        // The tick that is under way may still begin some.
        thread::sleep(Duration::from_millis(20));
        while self.shared.under_way.load(Ordering::Relaxed) > 0 {
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Ends all, and hands over what was noticed since the last call of [`Self::take`].
    pub(crate) fn finish(self) -> Tally {
        self.pause();
        self.shared.stop.store(true, Ordering::Relaxed);
        netns::join(self.thread);
        std::mem::take(&mut self.shared.tally())
    }
}

/// As many as this process may have at all.
fn allow_open_files() {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let files = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let most = files.unwrap().split_whitespace().nth(4).unwrap();
    let mut raise = Command::new("prlimit");
    let pid = std::process::id().to_string();
    raise.args(["--pid", &pid, &format!("--nofile={most}:{most}")]);
    succeed("prlimit", raise);
}

async fn work(shared: Arc<Shared>) {
    let mut fresh = ADDRESSES.flat_map(|last| {
        PORTS.map(move |port| SocketAddrV4::new(Ipv4Addr::new(10, 77, 0, last), port))
    });
    let mut fresh = move || fresh.next().expect("there are more ports than a run takes");
    let mut tick = interval(Duration::from_millis(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut due = 0.0;
    let mut last = Instant::now();
    while !shared.stop.load(Ordering::Relaxed) {
        tick.tick().await;
        let rate = shared.rate.load(Ordering::Relaxed);
        due += last.elapsed().as_secs_f64() * f64::from(rate);
        last = Instant::now();
        let begin = BEGIN_AT_ONCE.min(due as u32);
        due = (due - f64::from(begin)).min(f64::from(BEGIN_AT_ONCE));
        for _ in 0..begin {
            shared.under_way.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(once(fresh(), shared.clone()));
        }
        for _ in 0..OPEN_AT_ONCE {
            if shared.begun.load(Ordering::Relaxed) < shared.wanted.load(Ordering::Relaxed) {
                shared.begun.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(held(fresh(), shared.clone()));
            }
        }
    }
}

/// A new connection, one request, and its end, which the server begins.
async fn once(client: SocketAddrV4, shared: Arc<Shared>) {
    let start = Instant::now();
    let mut connected = None;
    let attempt = async {
        let mut stream = connect(client).await?;
        connected = Some(start.elapsed());
        let host = ask(&mut stream, "close").await?;
        match stream.read(&mut [0; 1]).await? {
            0 => Ok(host),
            _ => Err(io::Error::other("something followed the answer")),
        }
    };
    let outcome = timeout(GIVE_UP, attempt).await;
    shared.under_way.fetch_sub(1, Ordering::Relaxed);
    let mut tally = shared.tally();
    let failure = |what: String| Failure {
        client,
        host: None,
        what,
    };
    match outcome {
        Ok(Ok(_)) => {
            tally.connects += 1;
            tally.answered(start.elapsed());
        }
        Ok(Err(error)) if connected.is_none() => tally.refused.push(failure(error.to_string())),
        Ok(Err(error)) => tally.failed.push(failure(error.to_string())),
        Err(_) => tally.failed.push(failure("no answer".to_owned())),
    }
}

/// A connection that is held and asked something now and then, until it breaks.
async fn held(client: SocketAddrV4, shared: Arc<Shared>) {
    let mut host = None;
    let result = hold(client, &mut host, &shared).await;
    let Err(error) = result;
    let mut tally = shared.tally();
    shared.begun.fetch_sub(1, Ordering::Relaxed);
    if let Some(host) = host {
        *shared.held().entry(host).or_default() -= 1;
    }
    tally.broken.push(Failure {
        client,
        host,
        what: error.to_string(),
    });
}

async fn hold(
    client: SocketAddrV4,
    host: &mut Option<u8>,
    shared: &Shared,
) -> io::Result<std::convert::Infallible> {
    let mut stream = patiently(connect(client)).await?;
    // Spread over the pause, so that there is no beat in them.
    let mut pause = HELD_PAUSE.mul_f64(f64::from(client.port() % 1000) / 1000.0);
    loop {
        let start = Instant::now();
        let answered = patiently(ask(&mut stream, "keep-alive")).await?;
        match host.replace(answered) {
            None => {
                *shared.held().entry(answered).or_default() += 1;
            }
            Some(before) if before == answered => {
                let mut tally = shared.tally();
                tally.requests += 1;
                tally.answered(start.elapsed());
            }
            Some(before) => {
                *host = Some(before);
                return Err(io::Error::other(format!("host {answered} answers")));
            }
        }
        tokio::select! {
            () = sleep(pause) => (),
            // Nothing was asked: only its end can have come.
            ended = stream.read_u8() => {
                ended?;
                return Err(io::Error::other("something came unasked"));
            }
        }
        pause = HELD_PAUSE;
    }
}

async fn patiently<T>(what: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(GIVE_UP, what)
        .await
        .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "no answer")))
}

async fn connect(client: SocketAddrV4) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(client.into())?;
    let stream = socket.connect((VIP, 80).into()).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// One request, and the host that answers it.
async fn ask(stream: &mut TcpStream, connection: &str) -> io::Result<u8> {
    let request = format!("GET / HTTP/1.1\r\nHost: lab\r\nConnection: {connection}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = [0; 512];
    let mut length = 0;
    loop {
        let more = stream.read(&mut answer[length..]).await?;
        if more == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        length += more;
        let text = String::from_utf8_lossy(&answer[..length]);
        if let Some(host) = answering_host(&text) {
            return Ok(host);
        }
    }
}

/// Segments that the client's kernel has sent again since it was set up.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Repeated {
    /// SYNs: `nstat -a TcpExtTCPSynRetrans`.
    pub(crate) syns: u64,
    /// All: `nstat -a TcpRetransSegs`.
    pub(crate) segments: u64,
}

impl Repeated {
    /// As the client's namespace counts them.
    pub(crate) fn by_now(lab: &Lab) -> Self {
        netns::inside(&lab.namespace("client"), || {
            let counter = |file: &str, group: &str, name: &str| {
                let text =
                    std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap();
                let mut lines = text.lines().filter(|line| line.starts_with(group));
                let mut words = || lines.next().unwrap().split_whitespace();
                let (names, values) = (words(), words());
                let found = names.zip(values).find(|(key, _)| *key == name);
                found.unwrap().1.parse().unwrap()
            };
            Self {
                syns: counter("netstat", "TcpExt:", "TCPSynRetrans"),
                segments: counter("snmp", "Tcp:", "RetransSegs"),
            }
        })
    }

    /// What was sent again since then.
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            syns: self.syns - before.syns,
            segments: self.segments - before.segments,
        }
    }
}
