//! What passes the lab's switch, seen on the bridge itself: the first segments of connections and their resets (or all
//! segments), and the commits of maps, with the kernel's time stamps. Who answers is told by source MACs, not by what
//! hosts say of themselves. Called by the parts survival and commit; blackout waits for the moment to strike.
//! docs/benchmarks.md.
#![allow(unsafe_code)] // packet sockets need options and time stamps that have no safe form

use crate::lab::{Lab, VIP};
use crate::netns;
use covey_proto::ids::HostId;
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CString, c_int};
use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;
/// Any of these is set in every segment.
const ALL: u8 = SYN | RST | ACK;
const IPV4: u16 = 0x0800;
const HEARTBEAT: u16 = 0x886F;
/// Where a commit frame has its record, and the record's type.
const COMMIT: (usize, u8) = (50, covey_filter::COMMIT_RECORD);
/// Room for frames that wait to be read, bytes.
const ROOM: c_int = 64 << 20;
/// How long a host may have something to say out of turn.
const PATIENCE: Duration = Duration::from_secs(60);
/// VRRP and CARP, as IP's protocol.
const VRRP: u32 = 112;
/// `SIOCGSTAMPNS`, which libc does not name.
const LAST_TIME_STAMP: libc::c_ulong = 0x8907;

/// The time since 1970, as frames have it.
pub(crate) fn now() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("it is after 1970")
}

/// What to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// SYNs, their answers, and resets.
    Beginnings,
    /// All segments.
    Everything,
    /// Heartbeats, and what VRRP and CARP have in their place.
    Voices,
}

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A client wants a connection.
    Syn,
    /// A host accepts it.
    Accepted,
    /// A host resets it.
    Reset,
    /// Any other segment of a client.
    FromClient,
    /// Any other segment of a host.
    FromHost,
}

/// A TCP segment between a client and the virtual IP.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    /// When the switch had it: time since 1970.
    pub(crate) at: Duration,
    /// The client's end, which names the connection.
    pub(crate) client: SocketAddrV4,
    /// What it is.
    pub(crate) kind: Kind,
    /// The host whose NIC has sent it, if it is not the client's.
    pub(crate) host: u8,
}

/// All that was seen.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// In the order in which the switch handled them.
    pub(crate) segments: Vec<Segment>,
    /// When commits passed.
    pub(crate) commits: Vec<Duration>,
    /// Frames that the sniffer was too slow for.
    pub(crate) missed: u32,
}

/// How a connection began.
#[derive(Clone, Debug, Default)]
pub(crate) struct Beginning {
    /// When its first SYN passed.
    pub(crate) at: Duration,
    /// How many SYNs passed.
    pub(crate) syns: usize,
    /// The hosts that accepted it.
    pub(crate) hosts: BTreeSet<u8>,
}

impl Seen {
    /// How each connection began.
    pub(crate) fn beginnings(&self) -> BTreeMap<SocketAddrV4, Beginning> {
        let mut all: BTreeMap<SocketAddrV4, Beginning> = BTreeMap::new();
        for segment in &self.segments {
            match segment.kind {
                Kind::Syn => {
                    let beginning = all.entry(segment.client).or_default();
                    if beginning.syns == 0 {
                        beginning.at = segment.at;
                    }
                    beginning.syns += 1;
                }
                Kind::Accepted => {
                    let beginning = all.entry(segment.client).or_default();
                    beginning.hosts.insert(segment.host);
                }
                Kind::Reset | Kind::FromClient | Kind::FromHost => (),
            }
        }
        all
    }

    /// In words, connections that did not begin with one SYN and one answer at most, and when that was.
    pub(crate) fn oddities(&self) -> Vec<String> {
        let beginnings = self.beginnings().into_iter();
        let odd = beginnings.filter(|(_, one)| one.syns > 1 || one.hosts.len() > 1);
        let words = |(client, one): (SocketAddrV4, Beginning)| {
            format!(
                "{client}: {} SYNs, answered by {:?}, first SYN {:.3} ms from the nearest commit",
                one.syns,
                one.hosts,
                self.to_commit(one.at) * 1e3
            )
        };
        odd.map(words).collect()
    }

    /// How long before (negative) or after the nearest commit this was, seconds.
    pub(crate) fn to_commit(&self, at: Duration) -> f64 {
        let offsets = self
            .commits
            .iter()
            .map(|commit| at.as_secs_f64() - commit.as_secs_f64());
        offsets
            .min_by(|one, other| one.abs().total_cmp(&other.abs()))
            .unwrap_or(f64::INFINITY)
    }
}

/// A sniffer at work.
pub(crate) struct Sniffer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<io::Result<Seen>>,
}

impl Sniffer {
    /// Starts to look; returns when nothing is missed any more.
    pub(crate) fn start(lab: &Lab, look: Look) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let socket = netns::inside(&lab.namespace("switch"), move || open(look)).unwrap();
        let thread = std::thread::spawn(move || watch(socket, &stopped));
        Self { stop, thread }
    }

    /// Stops, and hands over what was seen.
    pub(crate) fn finish(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        netns::join(self.thread).unwrap()
    }
}

/// Waits until a host speaks in its interval, without anything to tell out of turn, and then for this part of the
/// interval. Of VRRP and CARP only the master speaks.
pub(crate) fn await_moment(lab: &Lab, host: u8, interval: Duration, part: f64) {
    let wait = move || -> io::Result<()> {
        let mut socket = open(Look::Voices)?;
        let (start, mut last, mut frame) = (now(), None, [0; 256]);
        loop {
            let at = match socket.read(&mut frame) {
                Ok(_) => time_stamp(&socket),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    assert!(
                        now() < start + PATIENCE,
                        "host {host} does not speak regularly"
                    );
                    continue;
                }
                Err(error) => return Err(error),
            };
            let heartbeat = frame[12..14] == HEARTBEAT.to_be_bytes();
            if heartbeat && frame[11] != host {
                continue;
            }
            if last.is_some_and(|last| at.saturating_sub(last) > interval.mul_f64(0.9)) {
                let moment = at + interval.mul_f64(part);
                std::thread::sleep(moment.saturating_sub(now()));
                return Ok(());
            }
            last = Some(at);
        }
    };
    netns::inside(&lab.namespace("switch"), wait).unwrap();
}

fn open(look: Look) -> io::Result<Socket> {
    let every_protocol = c_int::from((libc::ETH_P_ALL as u16).to_be());
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
    socket.attach_filter(&program(look))?;
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &ROOM)?;
    option(&socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, &1)?;
    let bridge = CString::new("br0")?;
    // SAFETY: the name ends with zero.
    let index = unsafe { libc::if_nametoindex(bridge.as_ptr()) } as c_int;
    let everything = libc::packet_mreq {
        mr_ifindex: index,
        mr_type: libc::PACKET_MR_PROMISC as u16,
        mr_alen: 0,
        mr_address: [0; 8],
    };
    option(
        &socket,
        libc::SOL_PACKET,
        libc::PACKET_ADD_MEMBERSHIP,
        &everything,
    )?;
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: every_protocol as u16,
        sll_ifindex: index,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: `address` is a whole sockaddr_ll, and its length is said.
    let result = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of_val(&address) as libc::socklen_t,
        )
    };
    match result {
        0 => Ok(socket),
        _ => Err(io::Error::last_os_error()),
    }
}

fn option<T>(socket: &Socket, level: c_int, name: c_int, value: &T) -> io::Result<()> {
    // SAFETY: `value` is valid for the call, and its length is said.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The kernel's part of the choice.
fn program(look: Look) -> Vec<SockFilter> {
    match look {
        Look::Beginnings => segments_with(SYN | RST).into(),
        Look::Everything => segments_with(ALL).into(),
        Look::Voices => voices().into(),
    }
}

fn step(code: u32, yes: u8, no: u8, k: u32) -> SockFilter {
    SockFilter::new(code as u16, yes, no, k)
}

const LOAD_HALF: u32 = libc::BPF_LD | libc::BPF_ABS | libc::BPF_H;
const LOAD_BYTE: u32 = libc::BPF_LD | libc::BPF_ABS | libc::BPF_B;
const EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ;

/// Heartbeats, and TCP segments with one of the flags.
fn segments_with(flags: u8) -> [SockFilter; 10] {
    [
        step(LOAD_HALF, 0, 0, 12),
        step(EQUAL, 6, 0, HEARTBEAT.into()),
        step(EQUAL, 0, 6, IPV4.into()),
        step(LOAD_BYTE, 0, 0, 14 + 9),
        step(EQUAL, 0, 4, 6),
        step(libc::BPF_LDX | libc::BPF_MSH | libc::BPF_B, 0, 0, 14),
        step(libc::BPF_LD | libc::BPF_IND | libc::BPF_B, 0, 0, 14 + 13),
        step(libc::BPF_JMP | libc::BPF_JSET, 0, 1, flags.into()),
        step(libc::BPF_RET, 0, 0, 256),
        step(libc::BPF_RET, 0, 0, 0),
    ]
}

/// Heartbeats, and the messages of VRRP and CARP.
fn voices() -> [SockFilter; 7] {
    [
        step(LOAD_HALF, 0, 0, 12),
        step(EQUAL, 3, 0, HEARTBEAT.into()),
        step(EQUAL, 0, 3, IPV4.into()),
        step(LOAD_BYTE, 0, 0, 14 + 9),
        step(EQUAL, 0, 1, VRRP),
        step(libc::BPF_RET, 0, 0, 256),
        step(libc::BPF_RET, 0, 0, 0),
    ]
}

fn watch(mut socket: Socket, stop: &AtomicBool) -> io::Result<Seen> {
    let mut seen = Seen::default();
    let mut frame = [0; 256];
    // What comes later was not asked for; traffic need not cease for the sniffer to come to its end.
    let mut end = None;
    loop {
        match socket.read(&mut frame) {
            Ok(length) => {
                let at = time_stamp(&socket);
                if end.is_some_and(|end| at > end) {
                    break;
                }
                note(&frame[..length], at, &mut seen);
            }
            // Nothing waits to be read any more.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if end.is_some() {
                    break;
                }
            }
            Err(error) => return Err(error),
        }
        if end.is_none() && stop.load(Ordering::Relaxed) {
            end = Some(now());
        }
    }
    seen.missed = missed(&socket)?;
    Ok(seen)
}

/// When the frame that was read last came.
fn time_stamp(socket: &Socket) -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the request writes one timespec.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), LAST_TIME_STAMP, &raw mut time) };
    match result {
        0 => Duration::new(time.tv_sec as u64, time.tv_nsec as u32),
        _ => now(),
    }
}

fn missed(socket: &Socket) -> io::Result<u32> {
    let mut statistics = libc::tpacket_stats {
        tp_packets: 0,
        tp_drops: 0,
    };
    let mut length = size_of_val(&statistics) as libc::socklen_t;
    // SAFETY: the option writes at most `length` bytes of one tpacket_stats.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut statistics).cast(),
            &raw mut length,
        )
    };
    match result {
        0 => Ok(statistics.tp_drops),
        _ => Err(io::Error::last_os_error()),
    }
}

fn note(frame: &[u8], at: Duration, seen: &mut Seen) {
    let half = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    if half(12) == HEARTBEAT {
        if frame.get(COMMIT.0) == Some(&COMMIT.1) {
            seen.commits.push(at);
        }
        return;
    }
    let address = |at: usize| Ipv4Addr::new(frame[at], frame[at + 1], frame[at + 2], frame[at + 3]);
    let tcp = 14 + usize::from(frame[14] & 0x0F) * 4;
    let flags = frame[tcp + 13];
    let (from, to) = ((address(26), half(tcp)), (address(30), half(tcp + 2)));
    let (client, kind, host) = if to == (VIP, 80) {
        let kind = if flags & SYN != 0 {
            Kind::Syn
        } else {
            Kind::FromClient
        };
        (from, kind, 0)
    } else if from == (VIP, 80) {
        let kind = if flags & RST != 0 {
            Kind::Reset
        } else if flags & SYN != 0 {
            Kind::Accepted
        } else {
            Kind::FromHost
        };
        // A lab's NICs have their host's ID last.
        (to, kind, frame[11])
    } else {
        return;
    };
    debug_assert!(host == 0 || HostId::new(host).is_some());
    seen.segments.push(Segment {
        at,
        client: SocketAddrV4::new(client.0, client.1),
        kind,
        host,
    });
}
