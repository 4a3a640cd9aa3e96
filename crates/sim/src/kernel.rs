//! A host's kernel and its data path: what answers clients, whether the daemon lives or not.
//!
//! The filter is `covey_filter::decide` over the latest image, the lease and the sockets of this host, as in XDP;
//! what leaves goes through `covey_filter::guard`, as in tc. Behind them: ARP, UDP that answers, `tcp.rs`. (An answer
//! goes to the MAC that the question came from; hosts do not ask for the MACs of clients.)
//! Called by `machine.rs` with frames that are not heartbeats.

use crate::datapath::DataPath;
use crate::packet::{IPV4, Packet, Transport, arp_reply};
use crate::segment::Frame;
use crate::site;
use crate::tcp::{Effects, Stack, Tuple};
use covey_filter::{
    self as filter, Decision, Disowned, Egress, Flow, Reason, Segment, Socket, Verdict, decide,
    guard,
};
use covey_proto::datapath::{View, no_sockets};
use covey_proto::fragments::Fragments;
use covey_proto::ids::{Digest, Mac};
use covey_proto::time::Time;
use covey_proto::wire::arp::{Arp, Operation};
use covey_proto::wire::ethernet::{self, Ethernet};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

/// For how long segments of a connection that nobody has get to the stack.
const DISOWNED: Duration = Duration::from_secs(3);
/// Connections that the daemon may be told of at a time.
const REPORTS: usize = 1024;

/// The second of this host's clock in which a bucket of a sticky rule last had traffic that the host took, by rule
/// and bucket.
pub(crate) type Seen = BTreeMap<(u8, usize), u64>;

/// One machine below its daemon.
#[derive(Debug)]
pub(crate) struct Kernel {
    mac: Mac,
    dip: Ipv4Addr,
    pub(crate) data_path: DataPath,
    /// False plants a bug: the filter goes on without a lease.
    pub(crate) heeds_lease: bool,
    pub(crate) stack: Stack,
    /// The first fragments that the filter has met.
    fragments: Fragments,
    pub(crate) seen: Seen,
    /// What the filter was silent to, until the daemon reads it.
    unclaimed: BTreeSet<Tuple>,
    /// Connections that nobody has, by the coarse clock.
    orphans: BTreeMap<Tuple, Disowned>,
}

impl Kernel {
    pub(crate) fn new(mac: Mac, dip: Ipv4Addr) -> Self {
        Self {
            mac,
            dip,
            data_path: DataPath::detached(),
            heeds_lease: true,
            stack: Stack::new(mac),
            fragments: Fragments::default(),
            seen: Seen::new(),
            unclaimed: BTreeSet::new(),
            orphans: BTreeMap::new(),
        }
    }

    /// Whether the lease holds, by the coarse clock that the filter reads.
    pub(crate) fn lease_holds(&self, coarse: Time) -> bool {
        coarse < self.data_path.lease() || !self.heeds_lease
    }

    /// What the filter says to a frame; nothing if it is not attached.
    fn decide(&self, coarse: Time, frame: &[u8]) -> Option<Decision> {
        let sockets = |flow: &Flow, segment: &Segment| self.socket(coarse, flow, segment);
        let image = self.data_path.image()?;
        let view = View {
            image,
            lease_holds: self.lease_holds(coarse),
            sockets: &sockets,
            fragments: Some(&self.fragments),
        };
        Some(decide(frame, &view))
    }

    /// Whether the filter would take this frame if the lease held, by its tables alone.
    pub(crate) fn takes(&self, frame: &[u8]) -> bool {
        self.data_path.image().is_some_and(|image| {
            let view = View {
                image,
                lease_holds: true,
                sockets: &no_sockets,
                fragments: None,
            };
            decide(frame, &view).verdict == Verdict::Accept
        })
    }

    fn socket(&self, coarse: Time, flow: &Flow, segment: &Segment) -> Socket {
        let Some(tuple) = tuple(flow, segment) else {
            return Socket::None;
        };
        let settings = self.data_path.image().map(|image| &image.settings);
        let map = settings.map_or(0, |settings| settings.map);
        let holds = |known: &Disowned| known.holds(coarse.as_nanos(), map);
        self.stack
            .kind(&tuple)
            .or_orphan(|| self.orphans.get(&tuple).is_some_and(holds))
    }

    /// The connections that the filter was silent to since this was asked.
    pub(crate) fn take_unclaimed(&mut self) -> BTreeSet<Tuple> {
        std::mem::take(&mut self.unclaimed)
    }

    /// Nobody has this connection: for a while its segments get to the stack, which resets them.
    pub(crate) fn disown(&mut self, coarse: Time, under: Digest, tuple: Tuple) {
        let now = coarse.as_nanos();
        self.orphans.retain(|_, known| now < known.until_ns);
        let known = Disowned {
            until_ns: (coarse + DISOWNED).as_nanos(),
            map: under.0,
        };
        self.orphans.insert(tuple, known);
    }

    /// Notes a segment that the filter was silent to, if it was, for the daemon.
    fn note_unclaimed(&mut self, decision: &Decision, frame: &[u8], effects: &mut Effects) {
        if decision.reason != Reason::Unclaimed || self.unclaimed.len() >= REPORTS {
            return;
        }
        if let Ok(filter::Frame::Ip(flow)) = filter::Frame::parse(frame)
            && let filter::Transport::Tcp(segment) = flow.transport
            && let Some(tuple) = tuple(&flow, &segment)
        {
            effects.unclaimed |= self.unclaimed.is_empty();
            self.unclaimed.insert(tuple);
        }
    }

    /// Takes a frame from the wire. `coarse` is this host's coarse clock, `now` the time for its sockets.
    pub(crate) fn receive(&mut self, now: Time, coarse: Time, frame: &[u8], effects: &mut Effects) {
        let Ok(parsed) = Ethernet::parse(frame) else {
            return;
        };
        let decision = self.decide(coarse, frame);
        if let Some(decision) = &decision {
            self.note_seen(coarse, decision);
            self.note_unclaimed(decision, frame, effects);
        }
        let verdict = decision.map_or(Verdict::Pass, |decision| decision.verdict);
        let for_kernel = match verdict {
            Verdict::Drop => false,
            Verdict::Daemon => {
                effects.for_daemon = Some(handed_over(frame));
                false
            }
            Verdict::Accept => true,
            Verdict::Pass => parsed.destination == self.mac || parsed.destination == Mac::BROADCAST,
        };
        if !for_kernel {
            return;
        }
        if parsed.ethertype == ethernet::ARP {
            self.answer_arp(&parsed, effects);
        } else if parsed.ethertype == IPV4
            && let Some(packet) = Packet::parse(parsed.payload)
        {
            self.take(now, &packet, parsed.source, effects);
        }
    }

    /// Notes when a bucket of a sticky rule had traffic that this host took, as the XDP program does.
    fn note_seen(&mut self, coarse: Time, decision: &Decision) {
        let (Reason::Mine | Reason::Lingering, Some(rule), Some(bucket)) =
            (decision.reason, decision.rule, decision.bucket)
        else {
            return;
        };
        let image = self.data_path.image();
        let entry = image.and_then(|image| image.rules.get(usize::from(rule)));
        if entry.is_some_and(|entry| entry.sticky != 0) {
            let second = coarse.since(Time::ZERO).as_secs();
            self.seen.insert((rule, usize::from(bucket.get())), second);
        }
    }

    fn answer_arp(&self, parsed: &Ethernet<'_>, effects: &mut Effects) {
        let Ok(arp) = Arp::parse(parsed.payload) else {
            return;
        };
        let configured = arp.target_ip == self.dip
            || (arp.target_ip == site::VIP && self.data_path.image().is_some());
        if arp.operation == Operation::Request && configured {
            effects.frames.push(arp_reply(&arp, self.mac));
        }
    }

    fn take(&mut self, now: Time, packet: &Packet<'_>, source: Mac, effects: &mut Effects) {
        if *packet.to.ip() != site::VIP {
            return;
        }
        match &packet.transport {
            Transport::Tcp(segment) => {
                let tuple = Tuple {
                    client: packet.from,
                    service: packet.to,
                };
                self.stack.receive(now, tuple, source, segment, effects);
            }
            Transport::Udp(data) if packet.to.port() == site::NAMES => {
                effects
                    .frames
                    .push(answer(packet.to, packet.from, data).emit(self.mac, source));
            }
            Transport::Udp(_) => {}
        }
    }

    /// Both programs look at heartbeats: the map that is held ready may come into force. Whether it has.
    pub(crate) fn heed_commit(&self, frame: &[u8]) -> bool {
        if let Some(token) = covey_filter::token(frame) {
            let before = self.data_path.has_flipped();
            self.data_path.reveal(token);
            return self.data_path.has_flipped() && !before;
        }
        false
    }

    /// What really leaves when something wants to send a frame: nothing, it, or it with the cluster MAC written in.
    pub(crate) fn guard(&self, mut frame: Vec<u8>) -> Option<Vec<u8>> {
        let Some(image) = self.data_path.image() else {
            return Some(frame);
        };
        match guard(
            frame.as_slice(),
            &View {
                image,
                lease_holds: true,
                sockets: &no_sockets,
                fragments: None,
            },
        ) {
            Egress::Pass => Some(frame),
            Egress::Drop => None,
            Egress::Change(changes) => {
                frame[6..12].copy_from_slice(&changes.source);
                // What is simulated says its addresses by ARP, which has no checksum.
                if let Some(correction) = changes.advertised {
                    frame[correction.at..correction.at + 6].copy_from_slice(&correction.new);
                }
                Some(frame)
            }
        }
    }
}

/// The frame under the EtherType that the daemon listens to, as the XDP program rewrites it.
fn handed_over(frame: &[u8]) -> Frame {
    let mut frame = frame.to_vec();
    frame[12..14].copy_from_slice(&filter::TO_DAEMON.to_be_bytes());
    frame.into()
}

/// The ends of a connection, as the stack names them.
fn tuple(flow: &Flow, segment: &Segment) -> Option<Tuple> {
    let client = SocketAddr::new(IpAddr::from(flow.source), segment.ports.source);
    let service = SocketAddr::new(IpAddr::from(flow.destination), segment.ports.destination);
    Tuple::of(client, service)
}

const fn answer<'a>(from: SocketAddrV4, to: SocketAddrV4, data: &'a [u8]) -> Packet<'a> {
    Packet {
        from,
        to,
        transport: Transport::Udp(data),
    }
}
