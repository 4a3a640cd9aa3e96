//! The kernel's socket table, asked for the connection of a segment. It *is* the connection table of shared and
//! lingering buckets, so only their packets come here. Specification: docs/design.md, "Data path".
//!
//! Two facts lie in fields that the kernel shows to BPF programs by address only, and the addresses differ between
//! kernels: user space (`crates/covey/src/datapath/btf.rs`) takes the offsets from the running kernel's own
//! description of its types. Where there is none they are 0, and the filter does without.

use crate::maps::Kept;
use crate::orphans;
use crate::packet::Bytes;
use aya_ebpf::bindings::{bpf_sock, bpf_sock_tuple, xdp_md};
use aya_ebpf::helpers::generated::{
    bpf_sk_release, bpf_skc_lookup_tcp, bpf_skc_to_tcp_request_sock, bpf_skc_to_tcp_timewait_sock,
    bpf_tcp_check_syncookie,
};
use aya_ebpf::programs::XdpContext;
use aya_ebpf::{EbpfContext, Global};
use covey_filter::{Address, Ends, Flow, Fragment, Frame, Ports, Segment, Socket, Transport};

/// Offset of `snt_isn`, the number of this host's SYN, in `tcp_request_sock`.
#[unsafe(no_mangle)]
static SENT_NUMBER_AT: Global<u32> = Global::new(0);

/// Offset of `tw_substate` in `tcp_timewait_sock`.
#[unsafe(no_mangle)]
static SUBSTATE_AT: Global<u32> = Global::new(0);

/// States of a socket, as include/net/tcp_states.h numbers them.
mod state {
    pub(super) const ESTABLISHED: u32 = 1;
    pub(super) const SYN_SENT: u32 = 2;
    pub(super) const SYN_RECV: u32 = 3;
    pub(super) const FIN_WAIT1: u32 = 4;
    pub(super) const FIN_WAIT2: u32 = 5;
    pub(super) const TIME_WAIT: u32 = 6;
    pub(super) const CLOSE_WAIT: u32 = 8;
    pub(super) const LAST_ACK: u32 = 9;
    pub(super) const LISTEN: u32 = 10;
    pub(super) const CLOSING: u32 = 11;
    pub(super) const NEW_SYN_RECV: u32 = 12;
}

/// Whether the socket table of this interface's network namespace has a socket that takes the TCP segment in a frame, or
/// nobody has.
///
/// A function of its own that parses the frame once more, so that the many packets that never come here need not carry
/// what is asked for. It returns no more than a bit, because the verifier wants every part of a value to be set.
#[inline(never)]
pub(crate) fn take(ctx: *mut xdp_md, map: u64) -> bool {
    let ctx = XdpContext::new(ctx);
    TcpPacket::whole(&Bytes::of_xdp(&ctx)).is_some_and(|packet| takes(&ctx, &packet, map))
}

/// As [`take`], for a TCP segment that came in fragments: the frame is the first.
#[inline(never)]
pub(crate) fn take_first(ctx: *mut xdp_md, map: u64) -> bool {
    let ctx = XdpContext::new(ctx);
    TcpPacket::first(&Bytes::of_xdp(&ctx)).is_some_and(|packet| takes(&ctx, &packet, map))
}

/// Tells user space of the TCP segment in a frame: this host has dropped it though its bucket is this host's.
#[inline(never)]
pub(crate) fn report(ctx: *mut xdp_md) {
    if let Some(packet) = TcpPacket::whole(&bytes(ctx)) {
        orphans::report(packet.ends());
    }
}

/// As [`report`], for a TCP segment that came in fragments: the frame is the first.
#[inline(never)]
pub(crate) fn report_first(ctx: *mut xdp_md) {
    if let Some(packet) = TcpPacket::first(&bytes(ctx)) {
        orphans::report(packet.ends());
    }
}

/// The frame of a context, for a function that wants no more of it: the compiler would have the caller load the
/// addresses of its bytes, which are for the verifier just numbers then.
#[inline(always)]
fn bytes(ctx: *mut xdp_md) -> Bytes {
    Bytes::of_xdp(&XdpContext::new(Kept::new(ctx).get()))
}

/// A TCP segment on its way from a client to the service. (A [`Flow`] could be of any protocol; the compiler would mix
/// registers that are set for one only.)
pub(crate) struct TcpPacket {
    client: Address,
    service: Address,
    segment: Segment,
}

impl TcpPacket {
    /// From a frame that holds all of it.
    #[inline(always)]
    pub(crate) fn whole(frame: &Bytes) -> Option<Self> {
        match Frame::parse(frame) {
            Ok(Frame::Ip(Flow {
                source,
                destination,
                transport: Transport::Tcp(segment),
            })) => Some(Self {
                client: source,
                service: destination,
                segment,
            }),
            Ok(_) | Err(_) => None,
        }
    }

    /// From a frame that holds its first fragment.
    #[inline(always)]
    pub(crate) fn first(frame: &Bytes) -> Option<Self> {
        match Frame::parse(frame) {
            Ok(Frame::Fragment(Fragment {
                datagram,
                first: Some(Transport::Tcp(segment)),
            })) => Some(Self {
                client: datagram.source,
                service: datagram.destination,
                segment,
            }),
            Ok(_) | Err(_) => None,
        }
    }

    /// The connection that it is part of.
    #[inline(always)]
    pub(crate) const fn ends(&self) -> Ends {
        Ends::new(self.client, self.service, self.segment.ports)
    }
}

#[inline(always)]
fn takes(ctx: &XdpContext, packet: &TcpPacket, map: u64) -> bool {
    look_up(ctx, packet)
        .or_orphan(|| orphans::is_known(packet.ends(), map))
        .takes(&packet.segment)
}

#[inline(always)]
fn look_up(ctx: &XdpContext, packet: &TcpPacket) -> Socket {
    const SAME_NAMESPACE: u64 = u64::MAX;
    let (mut tuple, size) = tuple(packet);
    // SAFETY: the context is the running program's, and the tuple is at least as long as is said.
    let socket = unsafe {
        bpf_skc_lookup_tcp(
            ctx.as_ptr(),
            tuple.as_mut_ptr().cast::<bpf_sock_tuple>(),
            size,
            SAME_NAMESPACE,
            0,
        )
    };
    if socket.is_null() {
        return Socket::None;
    }
    // SAFETY: not null, and this program holds a reference until the release, which follows on every path.
    unsafe {
        let found = describe(socket, packet);
        bpf_sk_release(socket.cast());
        found
    }
}

/// # Safety
/// The socket must be one that the program holds a reference to.
#[inline(always)]
unsafe fn describe(socket: *mut bpf_sock, packet: &TcpPacket) -> Socket {
    // SAFETY: the caller's, for all that follows.
    unsafe {
        match (*socket).state {
            state::ESTABLISHED
            | state::SYN_SENT
            | state::FIN_WAIT1
            | state::FIN_WAIT2
            | state::CLOSE_WAIT
            | state::LAST_ACK
            | state::CLOSING => Socket::Connected,
            state::SYN_RECV => Socket::HalfOpen { awaits: None },
            state::NEW_SYN_RECV => Socket::HalfOpen {
                awaits: awaits(socket),
            },
            state::TIME_WAIT if waits_for_client(socket) => Socket::Connected,
            state::TIME_WAIT => Socket::TimeWait,
            state::LISTEN if is_cookie(socket, packet) => Socket::Connected,
            _ => Socket::None,
        }
    }
}

/// The number that acknowledges the SYN that this host has answered a request with.
#[inline(always)]
unsafe fn awaits(socket: *mut bpf_sock) -> Option<u32> {
    let at = SENT_NUMBER_AT.load();
    if at == 0 {
        return None;
    }
    // SAFETY: the helper checks what kind of socket it is; the offset is that of a u32 in this very type.
    unsafe {
        let request = bpf_skc_to_tcp_request_sock(socket.cast());
        if request.is_null() {
            return None;
        }
        let sent = request.byte_add(at as usize).cast::<u32>().read_volatile();
        Some(sent.wrapping_add(1))
    }
}

/// Whether a socket in TIME_WAIT is one that the service has closed and the client has not: the kernel keeps those
/// in the same small form, but the client has still to be heard.
#[inline(always)]
unsafe fn waits_for_client(socket: *mut bpf_sock) -> bool {
    let at = SUBSTATE_AT.load();
    if at == 0 {
        return false;
    }
    // SAFETY: the helper checks what kind of socket it is; the offset is that of a u8 in this very type.
    unsafe {
        let waiting = bpf_skc_to_tcp_timewait_sock(socket.cast());
        !waiting.is_null()
            && waiting.byte_add(at as usize).cast::<u8>().read_volatile() == state::FIN_WAIT2 as u8
    }
}

/// Whether a segment acknowledges a SYN cookie of this listener: a request that was answered without being written
/// down. The kernel wants the headers; only what the cookie is made of has to be in them.
#[inline(always)]
unsafe fn is_cookie(listener: *mut bpf_sock, packet: &TcpPacket) -> bool {
    let TcpPacket {
        client,
        service,
        segment,
    } = packet;
    const LENGTH_AND_ACK: [u8; 4] = [0x50, 0x10, 0, 0];
    let mut tcp = [
        ports(segment.ports),
        segment.sequence.to_be(),
        segment.acknowledgement.to_be(),
        u32::from_ne_bytes(LENGTH_AND_ACK),
        0,
    ];
    // SAFETY: the headers are as long as is said.
    let result = unsafe {
        match (client.as_v4(), service.as_v4()) {
            (Some(client), Some(service)) => {
                let mut ip = [
                    u32::from_ne_bytes([0x45, 0, 0, 0]),
                    0,
                    0,
                    u32::from_ne_bytes(client),
                    u32::from_ne_bytes(service),
                ];
                let ip: *mut [u32; 5] = &raw mut ip;
                bpf_tcp_check_syncookie(listener.cast(), ip.cast(), 20, tcp.as_mut_ptr().cast(), 20)
            }
            _ => {
                let [a, b] = client.words();
                let [c, d] = service.words();
                let mut ip = [u64::from_ne_bytes([0x60, 0, 0, 0, 0, 0, 0, 0]), a, b, c, d];
                let ip: *mut [u64; 5] = &raw mut ip;
                bpf_tcp_check_syncookie(listener.cast(), ip.cast(), 40, tcp.as_mut_ptr().cast(), 20)
            }
        }
    };
    result == 0
}

/// The key of the socket table, a `bpf_sock_tuple`, and its length, which tells the family: addresses, then ports.
#[inline(always)]
fn tuple(packet: &TcpPacket) -> ([u64; 5], u32) {
    let ports = u64::from_ne_bytes(halves(ports(packet.segment.ports), 0));
    match (packet.client.as_v4(), packet.service.as_v4()) {
        (Some(client), Some(service)) => {
            let addresses = u64::from_ne_bytes(halves(
                u32::from_ne_bytes(client),
                u32::from_ne_bytes(service),
            ));
            ([addresses, ports, 0, 0, 0], 12)
        }
        _ => {
            let [a, b] = packet.client.words();
            let [c, d] = packet.service.words();
            ([a, b, c, d, ports], 36)
        }
    }
}

/// Both ports, as they lie in a TCP header.
#[inline(always)]
fn ports(ports: Ports) -> u32 {
    let [a, b] = ports.source.to_be_bytes();
    let [c, d] = ports.destination.to_be_bytes();
    u32::from_ne_bytes([a, b, c, d])
}

#[inline(always)]
fn halves(first: u32, second: u32) -> [u8; 8] {
    let [a, b, c, d] = first.to_ne_bytes();
    let [e, f, g, h] = second.to_ne_bytes();
    [a, b, c, d, e, f, g, h]
}
