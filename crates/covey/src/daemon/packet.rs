//! Heartbeats, ARP and probes in, frames out: four AF_PACKET sockets on the cluster's NIC, because heartbeats come
//! with two EtherTypes.
//!
//! Each is bound to one EtherType and carries a small filter, so the daemon is woken for frames that may
//! concern it and for nothing else. Used by the daemon's loop. Specification: docs/design.md, "On the wire".

use super::sys;
use anyhow::Context;
use covey_filter::{PROBE_HOPS, PROBE_PROTOCOL};
use covey_proto::wire::ethernet;
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use std::io::{self, Read};
use std::net::IpAddr;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Longer than any frame on a segment with ordinary frames; heartbeats are far shorter.
const FRAME_SIZE: usize = 2048;
/// Frames of a burst of all hosts that may wait while the daemon does something else.
const RECEIVE_BUFFER: usize = 1 << 20;
/// Likewise for probes. They are worth less than heartbeats: a flood of forged ones ends here.
const PROBE_BUFFER: usize = 1 << 16;
/// Frames read in a row before timers and commands get their turn.
const BATCH: usize = 256;

/// The daemon's end of the segment.
pub(super) struct Segment {
    heartbeats: AsyncFd<Socket>,
    legacy_heartbeats: AsyncFd<Socket>,
    arp: AsyncFd<Socket>,
    probes: AsyncFd<Socket>,
}

impl Segment {
    /// Listens on an interface, for probes to this virtual IP. Must be called in a tokio runtime.
    pub(super) fn open(interface: u32, primary: IpAddr) -> anyhow::Result<Self> {
        // The upper half of all of NLB's signatures, and of Covey's: DE C0 (NLB facts §1.2).
        let signature = half_word_at(16, 0xDEC0);
        let listen =
            |ethertype, filter: &[SockFilter], buffer| listen(interface, ethertype, filter, buffer);
        let heartbeats = listen(ethernet::HEARTBEAT, &signature, RECEIVE_BUFFER);
        let legacy_heartbeats = listen(ethernet::LEGACY_HEARTBEAT, &signature, RECEIVE_BUFFER);
        let arp = listen(ethernet::ARP, &arp_that_tells(), RECEIVE_BUFFER);
        // As the filter tells them by: time to live and protocol, or next header and hop limit.
        let probe = match primary {
            IpAddr::V4(_) => half_word_at(22, u16::from_be_bytes([PROBE_HOPS, PROBE_PROTOCOL])),
            IpAddr::V6(_) => half_word_at(20, u16::from_be_bytes([PROBE_PROTOCOL, PROBE_HOPS])),
        };
        let probes = listen(ethernet::PROBE, &probe, PROBE_BUFFER);
        let advice = "cannot listen for heartbeats; Covey needs root or CAP_NET_RAW";
        Ok(Self {
            heartbeats: heartbeats.context(advice)?,
            legacy_heartbeats: legacy_heartbeats.context(advice)?,
            arp: arp.context(advice)?,
            probes: probes.context(advice)?,
        })
    }

    /// Waits until a frame has arrived.
    pub(super) async fn readable(&self) -> io::Result<()> {
        tokio::select! {
            ready = self.heartbeats.readable() => ready.map(|mut guard| guard.retain_ready()),
            ready = self.legacy_heartbeats.readable() => ready.map(|mut guard| guard.retain_ready()),
            ready = self.arp.readable() => ready.map(|mut guard| guard.retain_ready()),
            ready = self.probes.readable() => ready.map(|mut guard| guard.retain_ready()),
        }
    }

    /// Hands out the frames that have arrived, without waiting for more.
    pub(super) fn drain(&self, mut take: impl FnMut(&[u8])) {
        let mut buffer = [0; FRAME_SIZE];
        let sockets = [
            &self.heartbeats,
            &self.legacy_heartbeats,
            &self.arp,
            &self.probes,
        ];
        for socket in sockets {
            for _ in 0..BATCH {
                let read = socket.try_io(Interest::READABLE, |mut socket| socket.read(&mut buffer));
                match read {
                    Ok(length) => take(&buffer[..length]),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => {
                        // The link went down: told once by the socket, and seen by the link watch.
                        tracing::debug!("reading frames: {error}");
                        break;
                    }
                }
            }
        }
    }

    /// Sends a frame. One that cannot be sent is a lost heartbeat, which the protocol expects.
    pub(super) fn send(&self, frame: &[u8]) {
        if let Err(error) = self.heartbeats.get_ref().send(frame) {
            tracing::debug!("a frame could not be sent: {error}");
        }
    }
}

fn listen(
    interface: u32,
    ethertype: u16,
    filter: &[SockFilter],
    buffer: usize,
) -> io::Result<AsyncFd<Socket>> {
    // No protocol yet: nothing arrives before the filter is in place.
    let socket = Socket::new(
        Domain::PACKET,
        Type::RAW.nonblocking().cloexec(),
        None::<Protocol>,
    )?;
    socket.attach_filter(filter)?;
    sys::ignore_outgoing(&socket)?;
    socket.set_recv_buffer_size(buffer)?;
    socket.bind(&sys::packet_address(interface, ethertype))?;
    sys::watch(socket)
}

/// Classic BPF: takes frames whose 16-bit word at `offset`, network order, has this value.
fn half_word_at(offset: u32, value: u16) -> [SockFilter; 4] {
    [
        SockFilter::new(LOAD_HALF, 0, 0, offset),
        SockFilter::new(JUMP_IF_EQUAL, 0, 1, value.into()),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}

/// Classic BPF: takes ARP answers (operation 2), and gratuitous ARP of any kind: the sender's address is the one in
/// question.
fn arp_that_tells() -> [SockFilter; 8] {
    [
        SockFilter::new(LOAD_HALF, 0, 0, 20),
        SockFilter::new(JUMP_IF_EQUAL, 4, 0, 2),
        SockFilter::new(LOAD_WORD, 0, 0, 28),
        SockFilter::new(MOVE_TO_X, 0, 0, 0),
        SockFilter::new(LOAD_WORD, 0, 0, 38),
        SockFilter::new(JUMP_IF_EQUAL_TO_X, 0, 1, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}

const LOAD_HALF: u16 = (libc::BPF_LD | libc::BPF_H | libc::BPF_ABS) as u16;
const LOAD_WORD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const MOVE_TO_X: u16 = (libc::BPF_MISC | libc::BPF_TAX) as u16;
const JUMP_IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const JUMP_IF_EQUAL_TO_X: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_X) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
