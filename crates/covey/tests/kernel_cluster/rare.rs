//! What is no whole TCP or UDP packet, through whole clusters: errors of routers reach the host that has the flow,
//! fragments the host that has the packet, and an echo request is answered once. Over IPv4 and IPv6.
//! docs/design.md, "What is not a whole TCP or UDP packet".

use crate::frames::{self, UDP};
use crate::ipv6::restart_with;
use crate::lab::{Lab, Timing, VIP, VIP6, succeed};
use crate::netns;
use crate::web::{self, FIRST_PORT};
use crate::wire::{self, Capture, ICMPV6};
use covey::why::Explanation;
use covey_proto::ids::Mac;
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{
    IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket,
};
use std::process::Command;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const TIMING: Timing = Timing {
    period_ms: 100,
    tolerance: 5,
};
/// Longer than any answer takes that comes.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a cluster without connections may linger after a change.
const SETTLES: Duration = Duration::from_secs(20);
/// Clients of each kind: enough that each of three hosts has some.
const CLIENTS: u16 = 20;
/// Echo requests, one after the other.
const PINGS: u16 = 50;
/// What the way to the far network lets through, bytes of IP; IPv6 promises 1280.
const NARROW: usize = 1300;
/// A payload that does not fit through, but into one packet on the cluster's segment.
const LARGE: usize = 1400;
/// A payload of three fragments on the cluster's segment.
const HUGE: usize = 4000;
/// Where the tests serve TCP themselves, and how much they say.
const SERVICE: u16 = 8080;
const SAYS: usize = 20_000;

/// A network behind the client, which is the router to it. The way there is narrow, and who sends too much hears of
/// it; the way back is not.
struct Far {
    namespace: String,
}

impl Far {
    fn behind_client(lab: &Lab) -> Self {
        let (far, client) = (lab.namespace("far"), lab.namespace("client"));
        let network = Self {
            namespace: far.clone(),
        };
        ip(&format!("netns add {far}"));
        ip(&format!(
            "-n {client} link add far0 type veth peer name eth0 netns {far}"
        ));
        ip(&format!("-n {client} addr add 10.78.0.1/24 dev far0"));
        ip(&format!("-n {client} addr add fd78::1/64 dev far0 nodad"));
        ip(&format!("-n {client} link set far0 up"));
        for host in [2, 3] {
            ip(&format!("-n {far} addr add 10.78.0.{host}/24 dev eth0"));
            ip(&format!("-n {far} addr add fd78::{host}/64 dev eth0 nodad"));
            for address in [format!("10.78.0.{host}/32"), format!("fd78::{host}/128")] {
                ip(&format!(
                    "-n {client} route add {address} dev far0 mtu {NARROW}"
                ));
            }
        }
        ip(&format!("-n {far} link set eth0 up"));
        ip(&format!("-n {far} route add default via 10.78.0.1"));
        ip(&format!("-n {far} -6 route add default via fd78::1"));
        for setting in ["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"] {
            lab.exec("client", &["sysctl", "-q", "-w", setting]);
        }
        for host in lab.hosts() {
            let host = lab.namespace(&format!("h{host}"));
            ip(&format!("-n {host} route add 10.78.0.0/24 via 10.77.0.200"));
            ip(&format!("-n {host} -6 route add fd78::/64 via fd77::c8"));
        }
        network
    }

    /// One of its two addresses, of the same family as the virtual IP.
    fn address(vip: IpAddr, number: u8) -> IpAddr {
        match vip {
            IpAddr::V4(_) => Ipv4Addr::new(10, 78, 0, number).into(),
            IpAddr::V6(_) => Ipv6Addr::new(0xFD78, 0, 0, 0, 0, 0, 0, number.into()).into(),
        }
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        // After a failed set-up it may not be there.
        let _ = Command::new("ip")
            .args(["netns", "del", &self.namespace])
            .status();
    }
}

fn ip(arguments: &str) {
    let mut command = Command::new("ip");
    command.args(arguments.split(' '));
    succeed(&format!("ip {arguments}"), command);
}

/// A counter of a host's kernel, as /proc/net/snmp and snmp6 name it, without the protocol's name.
fn counted(lab: &Lab, host: u8, vip: IpAddr, protocol: &str, name: &str) -> u64 {
    let read = |file: &str| lab.exec(&format!("h{host}"), &["cat", file]);
    let found = match vip {
        IpAddr::V4(_) => {
            let (text, start) = (read("/proc/net/snmp"), format!("{protocol}: "));
            let mut rows = text.lines().filter_map(|line| line.strip_prefix(&start));
            let (names, values) = (rows.next().unwrap(), rows.next().unwrap());
            let mut pairs = names.split(' ').zip(values.split(' '));
            pairs.find(|pair| pair.0 == name).unwrap().1.to_owned()
        }
        IpAddr::V6(_) => {
            let (text, start) = (read("/proc/net/snmp6"), format!("{protocol}6{name} "));
            let value = text.lines().find_map(|line| line.strip_prefix(&start));
            value.unwrap().trim().to_owned()
        }
    };
    found.parse().unwrap()
}

/// How often each host's kernel was told by a router that a packet was too large for it.
fn told_too_large(lab: &Lab, vip: IpAddr) -> Vec<u64> {
    let name = match vip {
        IpAddr::V4(_) => "InDestUnreachs",
        IpAddr::V6(_) => "InPktTooBigs",
    };
    let of = |host| counted(lab, host, vip, "Icmp", name);
    lab.hosts().into_iter().map(of).collect()
}

/// Waits until no host lingers in the buckets of these clients, as it does after a change until it has counted: it would
/// take errors about the owner's flows too.
fn await_counted(lab: &Lab, vip: IpAddr) {
    let lingers = |host: u8, port: u16| {
        let ends = [
            SocketAddr::new(Far::address(vip, 2), port).to_string(),
            format!("{}/udp", SocketAddr::new(vip, 7)),
        ];
        let said = lab.covey(host, &["why", &ends[0], &ends[1], "--json"]);
        let said: Explanation = serde_json::from_str(&said).unwrap();
        said.place.unwrap().row.lingering
    };
    let begun = Instant::now();
    for host in lab.hosts() {
        for port in (FIRST_PORT..).take(CLIENTS.into()) {
            while lingers(host, port) {
                assert!(begun.elapsed() < SETTLES, "host {host} still lingers");
            }
        }
    }
}

/// How often since then.
fn told_since(lab: &Lab, vip: IpAddr, before: &[u64]) -> Vec<u64> {
    let after = told_too_large(lab, vip);
    let pairs = after.iter().zip(before);
    pairs.map(|(now, then)| now - then).collect()
}

/// A socket that talks to the echo service of a virtual IP.
fn talker(from: IpAddr, port: u16, vip: IpAddr) -> UdpSocket {
    let socket = UdpSocket::bind((from, port)).unwrap();
    socket.connect((vip, 7)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn payload(size: usize) -> Vec<u8> {
    (0..size).map(|at| (at % 251) as u8).collect()
}

/// Which host has sent this back, if one does.
fn answer(socket: &UdpSocket, said: &[u8]) -> Option<u8> {
    let mut answer = [0; 65536];
    let length = socket.recv(&mut answer).ok()?;
    let head = answer[..length].strip_suffix(said).expect("an echo");
    let name = std::str::from_utf8(head).unwrap().trim_end();
    Some(name.strip_prefix('h').unwrap().parse().unwrap())
}

/// Sends this, and says which host has sent it back, if one does.
fn echo(socket: &UdpSocket, say: &[u8]) -> Option<u8> {
    socket.send(say).unwrap();
    answer(socket, say)
}

/// Answers that are too large for the way to the client: of each host the first is lost, and the router says why.
fn datagrams_shrink(lab: &Lab, far: &Far, vip: IpAddr) {
    await_counted(lab, vip);
    let before = told_too_large(lab, vip);
    let tries = netns::inside(&far.namespace, move || {
        let mut tries: BTreeMap<u8, Vec<usize>> = BTreeMap::new();
        for port in (FIRST_PORT..).take(CLIENTS.into()) {
            let socket = talker(Far::address(vip, 2), port, vip);
            let owner = echo(&socket, b"small").expect("a small one gets through");
            let by = (1..=3).find_map(|number| Some((number, echo(&socket, &payload(LARGE))?)));
            let (tried, by) = by.unwrap_or_else(|| panic!("host {owner} does not learn"));
            assert_eq!(by, owner);
            tries.entry(owner).or_default().push(tried);
        }
        tries
    });
    assert_eq!(tries.keys().copied().collect::<Vec<_>>(), lab.hosts());
    for tried in tries.values() {
        let later = tried[1..].iter().all(|tries| *tries == 1);
        assert!(tried[0] == 2 && later, "{tries:?}");
    }
    let told = told_since(lab, vip, &before);
    // Each about its own, and about no other's.
    assert_eq!(told, [1, 1, 1]);
    println!(
        "UDP to {vip}: answers of {LARGE} bytes come back through {NARROW}; each host was told once"
    );
}

/// Answers every connection with its name and more, until one says that it is enough.
fn serve(lab: &Lab, host: u8, vip: IpAddr) -> JoinHandle<()> {
    let namespace = lab.namespace(&format!("h{host}"));
    // It listens before anybody is sent there.
    let listener = netns::inside(&namespace, move || {
        TcpListener::bind((vip, SERVICE)).unwrap()
    });
    netns::spawn_in(&namespace, move || {
        loop {
            let (mut stream, _) = listener.accept().unwrap();
            let mut word = [0];
            stream.read_exact(&mut word).unwrap();
            if word == [b'q'] {
                return;
            }
            stream.write_all(&vec![host; SAYS]).unwrap();
        }
    })
}

/// Connections whose segments are too large for the way to the client.
fn segments_shrink(lab: &Lab, far: &Far, vip: IpAddr) {
    let before = told_too_large(lab, vip);
    let hosts = lab.hosts();
    let servers: Vec<_> = hosts.iter().map(|host| serve(lab, *host, vip)).collect();
    let answered = netns::inside(&far.namespace, move || {
        let mut answered: BTreeMap<u8, u16> = BTreeMap::new();
        for port in (FIRST_PORT..).take(CLIENTS.into()) {
            let socket = Socket::new(Domain::for_address((vip, 0).into()), Type::STREAM, None);
            let socket = socket.unwrap();
            socket
                .bind(&SocketAddr::from((Far::address(vip, 3), port)).into())
                .unwrap();
            let service = SocketAddr::from((vip, SERVICE));
            socket.connect_timeout(&service.into(), PATIENCE).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut stream = TcpStream::from(socket);
            stream.write_all(b"g").unwrap();
            let mut said = vec![0; SAYS];
            stream.read_exact(&mut said).expect("all of it comes");
            assert!(said.iter().all(|byte| *byte == said[0]));
            *answered.entry(said[0]).or_default() += 1;
        }
        answered
    });
    for (host, server) in hosts.iter().zip(servers) {
        netns::inside(&lab.namespace(&format!("h{host}")), move || {
            let mut stream = TcpStream::connect((vip, SERVICE)).unwrap();
            stream.write_all(b"q").unwrap();
            let _ = stream.shutdown(Shutdown::Both);
        });
        netns::join(server);
    }
    let told = told_since(lab, vip, &before);
    assert_eq!(answered.keys().copied().collect::<Vec<_>>(), hosts);
    assert!(told.iter().all(|times| *times > 0), "{told:?}");
    println!(
        "TCP to {vip}: {SAYS} bytes each to {CLIENTS} clients, by host {answered:?}; told {told:?} times"
    );
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn path_mtu_discovery_works_through_the_cluster() {
    let lab = Lab::up_with_ipv6("mtu", 3, TIMING);
    restart_with(&lab, |text, _| {
        format!("{text}[[rule]]\nports = {SERVICE}\nprotocol = \"tcp\"\naffinity = \"none\"\n")
    });
    lab.await_agreement(&[1, 2, 3]);
    let far = Far::behind_client(&lab);
    for vip in [VIP.into(), VIP6.into()] {
        datagrams_shrink(&lab, &far, vip);
        segments_shrink(&lab, &far, vip);
    }
}

/// The fragments that each host's kernel has met, the packets that it has put together, and those that it has given up.
fn fragments(lab: &Lab, vip: IpAddr) -> Vec<[u64; 3]> {
    let of = |host| {
        ["ReasmReqds", "ReasmOKs", "ReasmFails"].map(|name| counted(lab, host, vip, "Ip", name))
    };
    lab.hosts().into_iter().map(of).collect()
}

/// What [`fragments`] has grown by.
fn since(before: &[[u64; 3]], after: &[[u64; 3]]) -> Vec<[u64; 3]> {
    let pairs = before.iter().zip(after);
    pairs
        .map(|(then, now)| std::array::from_fn(|at| now[at] - then[at]))
        .collect()
}

/// The pieces of a datagram: where each lies in units of eight bytes, whether more follow, and its bytes.
fn pieces(datagram: &[u8]) -> impl Iterator<Item = (u16, bool, &[u8])> {
    const UNITS: u16 = 175;
    let size = 8 * usize::from(UNITS);
    let more = move |number: u16| (usize::from(number) + 1) * size < datagram.len();
    (0..)
        .zip(datagram.chunks(size))
        .map(move |(number, piece)| (number * UNITS, more(number), piece))
}

/// A datagram to the echo service in fragments, as whole IP packets in order. The client's port is their number.
fn cut(client: IpAddr, vip: IpAddr, port: u16, payload: &[u8]) -> Vec<Vec<u8>> {
    match (client, vip) {
        (IpAddr::V4(client), IpAddr::V4(vip)) => pieces(&frames::udp(port, 7, payload))
            .map(|(place, more, piece)| {
                let place = place | u16::from(more) << 13;
                let mut packet = frames::ipv4_with(client, vip, UDP, place, &[], piece);
                packet[4..6].copy_from_slice(&port.to_be_bytes());
                packet
            })
            .collect(),
        (IpAddr::V6(client), IpAddr::V6(vip)) => {
            let datagram = frames::udp_in_ipv6((client, port), (vip, 7), payload);
            pieces(&datagram)
                .map(|(place, more, piece)| {
                    let mut part = frames::fragment(UDP, place, more, piece);
                    part[6..8].copy_from_slice(&port.to_be_bytes());
                    frames::ipv6(client, vip, 44, &part)
                })
                .collect()
        }
        _ => unreachable!("one family at a time"),
    }
}

/// Sends whole IP packets, header and all.
fn send_raw(vip: IpAddr, packets: &[Vec<u8>]) {
    let domain = Domain::for_address((vip, 0).into());
    let protocol = Protocol::from(libc::IPPROTO_RAW);
    let socket = Socket::new(domain, Type::RAW, Some(protocol)).unwrap();
    for packet in packets {
        let to = SocketAddr::from((vip, 0)).into();
        assert_eq!(socket.send_to(packet, &to).unwrap(), packet.len());
    }
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn a_datagram_in_fragments_reaches_one_host_whole() {
    let lab = Lab::up_with_ipv6("parts", 3, TIMING);
    for (client, vip) in [
        ("10.77.0.200", IpAddr::from(VIP)),
        ("fd77::c8", VIP6.into()),
    ] {
        let client: IpAddr = client.parse().unwrap();
        let talk = move |say: fn(&UdpSocket, IpAddr, IpAddr) -> Option<u8>| {
            move || {
                let mut by = [0; 3];
                for port in (FIRST_PORT..).take(CLIENTS.into()) {
                    let socket = talker(client, port, vip);
                    let owner = echo(&socket, b"small").expect("a whole one is answered");
                    assert_eq!(say(&socket, client, vip), Some(owner), "port {port}");
                    by[usize::from(owner) - 1] += 1;
                    socket.set_nonblocking(true).unwrap();
                    assert!(socket.recv(&mut [0; 8]).is_err(), "one answer is enough");
                }
                by
            }
        };
        let in_client = lab.namespace("client");

        let before = fragments(&lab, vip);
        let by: [u64; 3] = netns::inside(
            &in_client,
            talk(|socket, _, _| echo(socket, &payload(HUGE))),
        );
        assert!(by.iter().all(|some| *some > 0), "{by:?}");
        // Three fragments each, which no other host's kernel has met.
        let met = since(&before, &fragments(&lab, vip));
        assert_eq!(met, by.map(|count| [3 * count, count, 0]));

        let before = fragments(&lab, vip);
        let by: [u64; 3] = netns::inside(
            &in_client,
            talk(|socket, client, vip| {
                let port = socket.local_addr().unwrap().port();
                let mut packets = cut(client, vip, port, &payload(HUGE));
                assert_eq!(packets.len(), 3);
                packets.reverse();
                send_raw(vip, &packets);
                answer(socket, &payload(HUGE))
            }),
        );
        // The first one comes last: all hosts have the others, and one can make a packet of them.
        let met = since(&before, &fragments(&lab, vip));
        let all: u64 = by.iter().sum();
        assert_eq!(met, by.map(|count| [2 * all + count, count, 0]));
        println!(
            "{vip}: {CLIENTS} datagrams in three fragments in order and {CLIENTS} in reverse, by host {by:?}"
        );
    }
}

/// `ping`, once: how many answers come before the next would be sent.
fn pings(lab: &Lab, vip: IpAddr) -> usize {
    const IDENTIFIER: [u8; 2] = [0, 0x77];
    // Request, reply, and the length of the header in front of what is read.
    let (protocol, request, reply, header) = match vip {
        IpAddr::V4(_) => (Protocol::ICMPV4, 8, 0, 20),
        IpAddr::V6(_) => (Protocol::ICMPV6, 128, 129, 0),
    };
    netns::inside(&lab.namespace("client"), move || {
        let address = SocketAddr::from((vip, 0));
        let socket = Socket::new(Domain::for_address(address), Type::RAW, Some(protocol)).unwrap();
        socket.connect(&address.into()).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(20)))
            .unwrap();
        let mut answers = 0;
        for number in 0..PINGS {
            let [a, b] = IDENTIFIER;
            let [high, low] = number.to_be_bytes();
            let mut message = [request, 0, 0, 0, a, b, high, low];
            // Over IPv6 the kernel writes it.
            let sum = frames::checksum(&message);
            message[2..4].copy_from_slice(&sum.to_be_bytes());
            socket.send(&message).unwrap();
            let mut answer = [0; 64];
            while let Ok(length) = (&socket).read(&mut answer) {
                let answer = &answer[header..length];
                answers += usize::from(answer[0] == reply && answer[4..] == [a, b, high, low]);
            }
        }
        answers
    })
}

#[test]
#[ignore = "needs root: network namespaces, eBPF and tcpdump"]
fn the_default_host_answers_echo_requests_alone() {
    let lab = Lab::up_with_ipv6("ping", 3, TIMING);
    let ping = |default: u8, vip: IpAddr| {
        web::assert_none_failed(&web::in_a_row(&lab, vip, FIRST_PORT..FIRST_PORT + 1));
        let capture = Capture::start(&lab);
        assert_eq!(pings(&lab, vip), usize::from(PINGS));
        let frames = wire::read(&capture.finish());
        let replies = frames.iter().filter(|frame| {
            let ip = frame.ip().filter(|ip| ip.0 == vip);
            ip.is_some_and(|(_, _, protocol, message)| {
                [(frames::ICMP, 0), (ICMPV6, 129)].contains(&(protocol, message[0]))
            })
        });
        let by: Vec<Mac> = replies.map(|frame| frame.ethernet().source).collect();
        println!(
            "{PINGS} echo requests to {vip}, {} replies, by host {default}",
            by.len()
        );
        assert_eq!(by, vec![wire::nic(default); usize::from(PINGS)]);
    };
    for vip in [VIP.into(), VIP6.into()] {
        ping(1, vip);
    }
    lab.fault(&["crash", "1"]);
    lab.await_agreement(&[2, 3]);
    for vip in [VIP.into(), VIP6.into()] {
        ping(2, vip);
    }
}
