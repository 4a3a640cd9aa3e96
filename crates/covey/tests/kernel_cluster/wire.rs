//! What passes through the lab's switch, each frame once, in the order in which the switch handles it and with the
//! kernel's time stamp: tcpdump on the bridge itself. Verdicts on who answered what rest on source MACs here,
//! not on what hosts say of themselves. docs/design.md, "Tests".

use crate::lab::{Lab, VIP, VIP6, succeed};
use crate::netns;
use covey::config::{Config, Machine};
use covey_proto::config::Auth;
use covey_proto::ids::Mac;
use covey_proto::wire::arp::Arp;
use covey_proto::wire::ethernet::{self, Ethernet};
use covey_proto::wire::heartbeat::{Body, Message};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86DD;
/// ICMPv6, and two of its types.
pub(crate) const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 135;
pub(crate) const ADVERTISEMENT: u8 = 136;
/// How long a commit takes to reach all hosts, a busy machine included.
const HAND_OVER: Duration = Duration::from_millis(10);
/// What is sent last, so that one knows when everything before it has been written down.
const LAST_WORD: &[u8] = b"this is the end of the capture";

/// A host's NIC in the lab.
pub(crate) fn nic(host: u8) -> Mac {
    Mac([0x0A, 0, 10, 77, 0, host])
}

/// A capture under way.
pub(crate) struct Capture {
    tcpdump: Child,
    says: BufReader<ChildStderr>,
    file: PathBuf,
    client: String,
}

impl Capture {
    /// Starts to capture all frames; returns when no frame is missed any more.
    pub(crate) fn start(lab: &Lab) -> Self {
        Self::at(lab, "switch", "br0")
    }

    /// As [`Self::start`], at one interface of `h1`, `client` or `switch`: what arrives there and what leaves.
    pub(crate) fn at(lab: &Lab, place: &str, interface: &str) -> Self {
        let file = lab.directory().join(format!("{place}-{interface}.pcap"));
        let name = file.to_str().unwrap();
        let mut tcpdump = lab
            .command(&[
                "exec",
                place,
                "--",
                "tcpdump",
                "-i",
                interface,
                "-Z",
                "root",
                "-B",
                "16384",
                "-s",
                "2048",
                "--immediate-mode",
                "-U",
                "-w",
                name,
            ])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut says = BufReader::new(tcpdump.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("listening on") {
            line.clear();
            let length = says.read_line(&mut line).unwrap();
            assert!(length > 0, "tcpdump has ended; is it installed?");
        }
        let client = lab.namespace("client");
        Self {
            tcpdump,
            says,
            file,
            client,
        }
    }

    /// Ends the capture, once all that was sent up to now is in it.
    pub(crate) fn finish(self) -> PathBuf {
        netns::inside(&self.client, || {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
            socket.set_broadcast(true).unwrap();
            socket
                .send_to(LAST_WORD, (Ipv4Addr::new(10, 77, 0, 255), 9))
                .unwrap();
        });
        let start = Instant::now();
        while !has_last_word(&self.file) {
            assert!(
                start.elapsed() < Duration::from_secs(30),
                "the capture is stuck"
            );
            std::thread::yield_now();
        }
        self.end()
    }

    /// Ends the capture where no broadcast of the client gets to, and hands back what has been written down.
    pub(crate) fn stop(self) -> Vec<Frame> {
        read(&self.end())
    }

    fn end(mut self) -> PathBuf {
        let pid = self.tcpdump.id().to_string();
        let mut kill = Command::new("kill");
        kill.args(["-INT", &pid]);
        succeed("kill", kill);
        let mut said = String::new();
        self.says.read_to_string(&mut said).unwrap();
        self.tcpdump.wait().unwrap();
        assert!(said.contains("\n0 packets dropped by kernel"), "{said}");
        self.file.clone()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        // Ended already, unless the test has panicked.
        let _ = self.tcpdump.kill();
        let _ = self.tcpdump.wait();
    }
}

fn has_last_word(file: &Path) -> bool {
    std::fs::read(file)
        .is_ok_and(|bytes| bytes.windows(LAST_WORD.len()).any(|word| word == LAST_WORD))
}

/// A captured frame.
pub(crate) struct Frame {
    /// When the switch had it: time since 1970.
    pub(crate) at: Duration,
    bytes: Vec<u8>,
}

/// A TCP segment between the client and a virtual IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    /// The client's port, which names the connection.
    pub(crate) client: u16,
    /// Whether it comes from the cluster.
    pub(crate) is_answer: bool,
    /// Whether it has SYN set.
    pub(crate) syn: bool,
}

impl Frame {
    /// Its Ethernet header and what is inside.
    pub(crate) fn ethernet(&self) -> Ethernet<'_> {
        Ethernet::parse(&self.bytes).expect("a switch passes on whole frames")
    }

    /// Its source, destination, protocol and what is inside, if it is IP; hosts and clients here send no options and
    /// no extension headers.
    pub(crate) fn ip(&self) -> Option<(IpAddr, IpAddr, u8, &[u8])> {
        let Ethernet {
            ethertype, payload, ..
        } = self.ethernet();
        match ethertype {
            IPV4 => {
                let address = |at: usize| <[u8; 4]>::try_from(&payload[at..at + 4]).unwrap().into();
                Some((address(12), address(16), payload[9], &payload[20..]))
            }
            IPV6 => {
                let address =
                    |at: usize| <[u8; 16]>::try_from(&payload[at..at + 16]).unwrap().into();
                Some((address(8), address(24), payload[6], &payload[40..]))
            }
            _ => None,
        }
    }

    /// What it says, if it is TCP to or from a virtual IP's port 80.
    pub(crate) fn segment(&self) -> Option<Segment> {
        const TCP: u8 = 6;
        let (source, destination, _, tcp) = self.ip().filter(|ip| ip.2 == TCP)?;
        let is_service = |address: IpAddr, port| (address == VIP || address == VIP6) && port == 80;
        let port = |at: usize| u16::from_be_bytes([tcp[at], tcp[at + 1]]);
        let syn = tcp[13] & 0x02 != 0;
        if is_service(source, port(0)) {
            Some(Segment {
                client: port(2),
                is_answer: true,
                syn,
            })
        } else if is_service(destination, port(2)) {
            Some(Segment {
                client: port(0),
                is_answer: false,
                syn,
            })
        } else {
            None
        }
    }

    /// What it says of where a virtual IP is: ARP, whether it asks or answers, and neighbour discovery, which speaks of
    /// the source when it asks and of the target when it answers.
    pub(crate) fn vip_is_at(&self, vip: IpAddr) -> Option<Mac> {
        let frame = self.ethernet();
        if frame.ethertype == ethernet::ARP {
            let arp = Arp::parse(frame.payload).ok()?;
            return (vip == arp.sender_ip).then_some(arp.sender_mac);
        }
        let (source, _, _, message) = self.ip().filter(|ip| ip.2 == ICMPV6)?;
        let of = match message[0] {
            SOLICITATION => source,
            ADVERTISEMENT => <[u8; 16]>::try_from(&message[8..24]).unwrap().into(),
            _ => return None,
        };
        let mac = message.get(26..32)?.try_into().ok()?;
        (vip == of).then_some(Mac(mac))
    }
}

/// A heartbeat that passed the switch.
#[derive(Clone, Copy)]
pub(crate) struct Beat {
    /// When.
    pub(crate) at: Duration,
    /// Who sent it.
    pub(crate) host: u8,
    /// The epoch of the map that it has in force.
    pub(crate) epoch: Option<u64>,
    /// For how long it may serve, once the others echo this: tolerance times period. A host that has been late asks
    /// for a longer tolerance.
    pub(crate) budget: Duration,
}

/// When the lease of a host ends that has sent these heartbeats and no more, at the latest.
pub(crate) fn lapse<'a>(beats: impl IntoIterator<Item = &'a Beat>) -> Duration {
    let ends = beats.into_iter().map(|beat| beat.at + beat.budget);
    ends.max().expect("it has sent some")
}

/// The heartbeats of a capture.
pub(crate) fn heartbeats(frames: &[Frame], auth: &Auth) -> Vec<Beat> {
    let beats = frames.iter().filter_map(|frame| {
        let ethernet = frame.ethernet();
        if ethernet.ethertype != ethernet::HEARTBEAT {
            return None;
        }
        let message =
            Message::parse(ethernet.payload, VIP.octets(), auth).expect("a sound heartbeat");
        match message.body {
            Body::Heartbeat(heartbeat) => Some(Beat {
                at: frame.at,
                host: message.sender.host.get(),
                epoch: heartbeat.committed.map(|map| map.ballot.epoch.0),
                budget: heartbeat.timing.budget(),
            }),
            Body::Chunk(_) | Body::Commit(_) | Body::Inquiry { .. } | Body::Probe => None,
        }
    });
    beats.collect()
}

/// The frames of a capture: a classic pcap file with Ethernet frames and microseconds, in this machine's byte
/// order, as tcpdump writes it.
pub(crate) fn read(file: &Path) -> Vec<Frame> {
    let bytes = std::fs::read(file).unwrap();
    let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
    assert_eq!(
        (word(0), word(20)),
        (0xA1B2_C3D4, 1),
        "tcpdump writes another format"
    );
    let mut frames = Vec::new();
    let mut at = 24;
    while at < bytes.len() {
        let time = Duration::new(word(at).into(), word(at + 4) * 1000);
        let end = at + 16 + word(at + 8) as usize;
        frames.push(Frame {
            at: time,
            bytes: bytes[at + 16..end].to_vec(),
        });
        at = end;
    }
    frames
}

/// The NICs that have accepted each connection to the virtual IP, that is, sent a SYN with ACK: by client port.
pub(crate) fn accepted_by(frames: &[Frame]) -> BTreeMap<u16, BTreeSet<Mac>> {
    let mut accepted: BTreeMap<u16, BTreeSet<Mac>> = BTreeMap::new();
    for frame in frames {
        if let Some(segment) = frame
            .segment()
            .filter(|segment| segment.syn && segment.is_answer)
        {
            accepted
                .entry(segment.client)
                .or_default()
                .insert(frame.ethernet().source);
        }
    }
    accepted
}

/// When the first and the last frame of each connection to the virtual IP passed: by client port.
pub(crate) fn spans(frames: &[Frame]) -> BTreeMap<u16, (Duration, Duration)> {
    let mut spans = BTreeMap::new();
    for frame in frames {
        if let Some(segment) = frame.segment() {
            spans
                .entry(segment.client)
                .or_insert((frame.at, frame.at))
                .1 = frame.at;
        }
    }
    spans
}

/// Whether a connection with this first and last frame was under way when a map was put in force that the first host
/// told of at this moment. Until all hosts have heard of it, two may take one packet, or none.
pub(crate) fn under_way((first, last): (Duration, Duration), change: Duration) -> bool {
    first < change + HAND_OVER && change < last + HAND_OVER
}

/// How a lab's heartbeats are signed.
pub(crate) fn auth(lab: &Lab) -> Auth {
    let path = lab.directory().join("h1/covey.toml");
    netns::inside(&lab.namespace("h1"), move || {
        Config::load(&path, &Machine).unwrap().cluster.auth
    })
}
