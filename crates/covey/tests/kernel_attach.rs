//! The data path on a real interface: a client speaks TCP to a virtual IP of a host whose filter accepts it.
//! What must hold is that the filter outlives its daemon, fences itself, is taken over and is removed without
//! a trace. Specification: docs/design.md, "Data path".

#[path = "cluster/mod.rs"]
mod cluster;
#[path = "../../filter/tests/frames/mod.rs"]
mod frames;
#[path = "segment/mod.rs"]
mod segment;

use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::{SchedClassifier, TcAttachType};
use cluster::*;
use covey::datapath::{Attach, DataPath, DataPathError, Tally};
use covey_filter::{Reason, Row};
use frames::{BROADCAST, CLIENT_MAC, Mac, arp, ethernet};
use segment::*;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

/// Long enough for a handshake on a busy machine, short enough for a test that wants none.
const PATIENCE: Duration = Duration::from_millis(900);

fn open(segment: &Segment, prefer: Attach) -> Result<DataPath, DataPathError> {
    let image = image(1, HOST_MAC, |_| 1);
    segment.on_host(|| DataPath::open(INTERFACE, &segment.pins, prefer, &image))
}

/// A host with its filter attached and no end to its lease.
fn serving(prefer: Attach) -> (Segment, DataPath) {
    let segment = Segment::new();
    let path = open(&segment, prefer).expect("the data path opens");
    path.set_lease(u64::MAX);
    (segment, path)
}

/// Whether a client reaches port 80 of a virtual IP.
fn reachable(segment: &Segment, vip: impl Into<IpAddr>) -> bool {
    let vip = SocketAddr::new(vip.into(), 80);
    let listener = segment.on_host(|| TcpListener::bind(vip).expect("the virtual IP is local"));
    let connected = segment.on_client(|| TcpStream::connect_timeout(&vip, PATIENCE));
    let Ok(mut client) = connected else {
        return false;
    };
    let (mut server, _) = listener.accept().expect("the client has connected");
    client.write_all(b"ping").expect("the connection stands");
    let mut said = [0; 4];
    server.read_exact(&mut said).expect("the bytes arrive");
    said == *b"ping"
}

fn count(path: &DataPath, reason: Reason) -> u64 {
    let counters = path.counters().expect("counters can be read");
    let found = counters.by_reason().find(|(of, _)| *of == reason);
    found.map_or(0, |(_, count)| count)
}

/// Link and program behind a pin.
fn link(segment: &Segment, pin: &str) -> Option<(u32, u32)> {
    let link = PinnedLink::from_pin(segment.pins.join(pin)).ok()?;
    let info = FdLink::from(link)
        .info()
        .expect("a link tells about itself");
    Some((info.id(), info.program_id()))
}

fn traffic_programs(segment: &Segment) -> [usize; 2] {
    [TcAttachType::Ingress, TcAttachType::Egress].map(|side| {
        let query = segment.on_host(|| SchedClassifier::query_tcx(INTERFACE, side));
        query.expect("the interface is there").1.len()
    })
}

fn xdp_attached(segment: &Segment) -> bool {
    segment.host_ip("link show eth0").contains("xdp")
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn clients_reach_the_host_through_the_cluster_mac_in_both_modes() {
    for mode in [Attach::Native, Attach::Generic] {
        let (segment, path) = serving(mode);
        assert_eq!(path.attach(), mode);
        let generic = segment.host_ip("link show eth0").contains("xdpgeneric");
        assert_eq!(generic, mode == Attach::Generic);
        for (vip, lookup) in [
            (IpAddr::from(VIP4), "neigh show 10.77.0.100"),
            (IpAddr::from(VIP6), "neigh show fd77::100"),
        ] {
            let before = count(&path, Reason::Mine);
            assert!(reachable(&segment, vip), "{vip} in {mode:?} mode");
            assert!(count(&path, Reason::Mine) > before);
            // The kernel answered with the NIC's MAC; the guard told the client the cluster's.
            let learnt = segment.client_ip(lookup);
            assert!(learnt.contains("02:bf:0a:4d:00:64"), "{learnt}");
        }
        assert!(count(&path, Reason::QuestionMine) >= 2);
        assert!(count(&path, Reason::Advertised) >= 2);
        path.close().expect("the data path closes");
    }
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_connection_goes_on_after_its_bucket_has_moved_and_a_new_one_does_not_begin() {
    for mode in [Attach::Native, Attach::Generic] {
        let (segment, mut path) = serving(mode);
        for vip in [IpAddr::from(VIP4), VIP6.into()] {
            let image = |owner| image(1, HOST_MAC, move |_| owner);
            path.program(&image(1));
            let service = SocketAddr::new(vip, 80);
            let listener = segment.on_host(|| TcpListener::bind(service).expect("it is local"));
            let client = segment.on_client(|| TcpStream::connect_timeout(&service, PATIENCE));
            let mut client = client.expect("the bucket is this host's");
            let (mut server, _) = listener.accept().expect("the client has connected");

            let mut moved = image(2);
            moved.rows[1].fill(Row::LINGERING | Row::ANSWERS);
            path.program(&moved);
            client.write_all(b"ping").expect("the connection stands");
            server
                .set_read_timeout(Some(PATIENCE))
                .expect("a time is a time");
            let mut said = [0; 4];
            let heard = server.read_exact(&mut said);
            assert!(heard.is_ok(), "{vip} in {mode:?} mode: {heard:?}");
            assert!(count(&path, Reason::Lingering) > 0);
            let second = segment.on_client(|| TcpStream::connect_timeout(&service, PATIENCE));
            let error = second.expect_err("the bucket is another host's").kind();
            assert_eq!(error, ErrorKind::TimedOut, "{vip} in {mode:?} mode");
        }
        path.close().expect("the data path closes");
    }
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_filter_without_a_daemon_stays_and_fences_itself() {
    let (segment, path) = serving(Attach::Native);
    assert!(reachable(&segment, VIP4));
    // All that a SIGKILL does to the data path: the descriptors close, nothing is detached.
    drop(path);
    assert!(xdp_attached(&segment));
    assert!(reachable(&segment, VIP4), "the lease still runs");

    let path = open(&segment, Attach::Native).expect("the data path opens");
    let lapses = monotonic_ns() + 50_000_000;
    path.set_lease(lapses);
    drop(path);
    while monotonic_ns() < lapses + 10_000_000 {
        std::thread::yield_now();
    }
    assert!(xdp_attached(&segment));
    assert!(!reachable(&segment, VIP4), "the lease has lapsed");
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn the_next_daemon_takes_over_and_close_removes_everything() {
    let (segment, first) = serving(Attach::Native);
    let pins = ["ingress-native", "promote", "guard"];
    let before = pins.map(|pin| link(&segment, pin).expect("it is pinned"));
    drop(first);
    let second = open(&segment, Attach::Native).expect("the data path opens");
    let after = pins.map(|pin| link(&segment, pin).expect("it is pinned"));
    for (before, after) in std::iter::zip(before, after) {
        assert_eq!(before.0, after.0, "the link stays");
        assert_ne!(before.1, after.1, "the program is the second daemon's");
    }
    assert_eq!(traffic_programs(&segment), [1, 1]);
    assert!(!reachable(&segment, VIP4), "a new daemon has no lease");
    assert!(count(&second, Reason::LeaseLapsed) > 0);
    second.set_lease(u64::MAX);
    assert!(reachable(&segment, VIP4));

    second.close().expect("the data path closes");
    assert!(!xdp_attached(&segment));
    assert_eq!(traffic_programs(&segment), [0, 0]);
    assert!(!segment.pins.exists());
    assert!(
        !reachable(&segment, VIP4),
        "the kernel alone ignores the cluster MAC"
    );
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_prepared_filter_goes_on_where_the_first_one_was() {
    let (segment, first) = serving(Attach::Native);
    assert!(reachable(&segment, VIP4));
    let prepare = || {
        let go_on = [Tally::Counters, Tally::Seen];
        let prepared = segment.on_host(|| DataPath::prepare(&segment.pins, &go_on));
        prepared.expect("the kernel takes the filter");
    };
    prepare();
    assert!(reachable(&segment, VIP4), "the first one is still there");
    let counted = count(&first, Reason::Mine);
    assert!(counted > 0);
    drop(first);

    let image = image(1, HOST_MAC, |_| 1);
    let prepared = || segment.on_host(|| DataPath::prepared(INTERFACE, &segment.pins, &image));
    let mut second = prepared().expect("it has been prepared");
    assert!(prepared().is_err(), "it is there once");
    second.fill(&image, u64::MAX);
    let second = segment.on_host(|| second.attach(Attach::Native));
    let mut second = second.expect("it takes the first one's place");
    assert_eq!(count(&second, Reason::Mine), counted);
    assert!(reachable(&segment, VIP4));
    assert!(count(&second, Reason::Mine) > counted);

    // What has been given away, and what nobody came for, is removed too.
    let _given_away = second.take_unclaimed().expect("it can be mapped");
    prepare();
    second.close().expect("the data path closes");
    assert!(!xdp_attached(&segment));
    assert!(!segment.pins.exists());
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_change_of_mode_leaves_one_program() {
    let (segment, native) = serving(Attach::Native);
    drop(native);
    let generic = open(&segment, Attach::Generic).expect("the data path opens");
    assert_eq!(link(&segment, "ingress-native"), None);
    assert_eq!(traffic_programs(&segment), [0, 1]);
    generic.set_lease(u64::MAX);
    assert!(reachable(&segment, VIP4));
    drop(generic);
    let native = open(&segment, Attach::Native).expect("the data path opens");
    assert_eq!(link(&segment, "ingress-generic"), None);
    assert_eq!(traffic_programs(&segment), [1, 1]);
    native.close().expect("the data path closes");
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn pins_of_an_interface_that_came_back_are_replaced() {
    let (segment, path) = serving(Attach::Native);
    drop(path);
    segment.host_ip("link del eth0");
    let error = open(&segment, Attach::Native).err();
    assert!(
        matches!(error, Some(DataPathError::NoInterface(_))),
        "{error:?}"
    );
    segment.host_ip("link add eth0 type veth peer name peer");
    let path = open(&segment, Attach::Native).expect("the data path opens");
    assert!(xdp_attached(&segment));
    path.close().expect("the data path closes");
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_program_of_somebody_else_is_left_alone() {
    let (segment, theirs) = serving(Attach::Native);
    let image = image(1, HOST_MAC, |_| 1);
    let elsewhere = segment.pins.join("second");
    let error = segment
        .on_host(|| DataPath::open(INTERFACE, &elsewhere, Attach::Native, &image))
        .err();
    assert!(
        matches!(error, Some(DataPathError::Occupied { .. })),
        "{error:?}"
    );
    assert_eq!(
        traffic_programs(&segment),
        [1, 1],
        "the attempt leaves nothing"
    );
    assert!(reachable(&segment, VIP4));
    drop(theirs);
}

/// A datagram of this size from a client to a virtual IP, as it arrives at the host.
fn datagram(segment: &Segment, vip: IpAddr, size: usize) -> Vec<u8> {
    let service = SocketAddr::new(vip, 7);
    let server = segment.on_host(|| UdpSocket::bind(service).expect("the virtual IP is local"));
    server
        .set_read_timeout(Some(PATIENCE))
        .expect("a time is a time");
    segment.on_client(|| {
        let own: IpAddr = match vip {
            IpAddr::V4(_) => CLIENT4.into(),
            IpAddr::V6(_) => CLIENT6.into(),
        };
        let client = UdpSocket::bind((own, 0)).expect("the address is the client's");
        let sent = client.send_to(&pattern(size), service);
        assert_eq!(sent.expect("it goes out"), size);
    });
    let mut heard = vec![0; 65536];
    let length = server.recv(&mut heard).expect("the datagram arrives");
    heard.truncate(length);
    heard
}

fn pattern(size: usize) -> Vec<u8> {
    (0..size).map(|at| (at % 251) as u8).collect()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn large_frames_in_several_buffers_are_judged_as_small_ones() {
    let segment = Segment::new();
    segment.host_ip("link set eth0 mtu 9000");
    segment.client_ip("link set eth0 mtu 9000");
    let path = open(&segment, Attach::Native).expect("the data path opens");
    path.set_lease(u64::MAX);
    assert_eq!(path.attach(), Attach::Native);
    for vip in [IpAddr::from(VIP4), VIP6.into()] {
        assert!(reachable(&segment, vip), "{vip}");
        // One large frame, or three, of which the first is taken as a whole packet would be.
        for (size, reason, frames) in [(8930, Reason::Mine, 1), (20_000, Reason::FragmentMine, 2)] {
            let before = count(&path, reason);
            assert_eq!(datagram(&segment, vip, size), pattern(size), "{vip}");
            let counted = count(&path, reason) - before;
            assert_eq!(counted, frames, "{size} bytes to {vip}");
        }
    }
    path.close().expect("the data path closes");
}

/// A frame as spanning tree speaks: a length where others have their EtherType, then LLC.
fn llc(source: Mac) -> Vec<u8> {
    const LENGTH: u16 = 46;
    let mut payload = [0; LENGTH as usize];
    payload[..3].copy_from_slice(&[0x42, 0x42, 0x03]);
    ethernet(BROADCAST, source, LENGTH, &payload)
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn what_a_packet_socket_sends_does_not_escape_the_guard() {
    const ELSEWHERE: Mac = [0x02, 0, 0, 0, 0x99, 0x99];
    let (segment, path) = serving(Attach::Native);
    let client = segment.on_client(packet_socket);
    client
        .set_read_timeout(Some(PATIENCE))
        .expect("a time is a time");
    let reply = |mac| arp(2, (mac, VIP4), (CLIENT_MAC, CLIENT4));
    let announcement = |mac| arp(1, (mac, VIP4), ([0; 6], VIP4));
    let own = arp(
        2,
        (HOST_MAC, "10.77.0.1".parse().expect("it is an address")),
        (CLIENT_MAC, CLIENT4),
    );
    let answer = |payload: &[u8]| ethernet(CLIENT_MAC, HOST_MAC, 0x0806, payload);
    let to_all = |payload: &[u8]| ethernet(BROADCAST, HOST_MAC, 0x0806, payload);
    segment.on_host(|| {
        let host = packet_socket();
        for frame in [
            llc(CLUSTER_MAC),
            to_all(&announcement(ELSEWHERE)),
            answer(&reply(ELSEWHERE)),
            ethernet(CLIENT_MAC, CLUSTER_MAC, 0x0806, &reply(CLUSTER_MAC)),
            answer(&own),
            llc(HOST_MAC),
        ] {
            let sent = host.send(&frame).map_err(|error| error.raw_os_error());
            // The sender hears of it, if only in these words.
            let expected = if frame[6..12] == CLUSTER_MAC {
                Err(Some(libc::ENOBUFS))
            } else {
                Ok(frame.len())
            };
            assert_eq!(sent, expected);
        }
    });
    // The last one that was sent is one that arrives, so what has not come before has been dropped.
    let mut heard = Vec::new();
    while heard.last() != Some(&llc(HOST_MAC)) {
        let mut frame = [0; 2048];
        let length = (&client).read(&mut frame).expect("the last frame arrives");
        let kind = u16::from_be_bytes([frame[12], frame[13]]);
        // The kernels have a word of their own to say about IPv6.
        if kind != 0x86DD {
            heard.push(frame[..length].to_vec());
        }
    }
    let expected = [
        to_all(&announcement(CLUSTER_MAC)),
        answer(&reply(CLUSTER_MAC)),
        answer(&own),
        llc(HOST_MAC),
    ];
    assert_eq!(heard, expected);
    assert_eq!(count(&path, Reason::SourceMac), 2);
    assert_eq!(count(&path, Reason::Advertised), 2);
    path.close().expect("the data path closes");
}
