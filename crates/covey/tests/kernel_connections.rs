//! The list of a host's connections, and ending them, against real sockets. Specification: docs/design.md, "Data
//! path".
#![allow(unsafe_code)] // Raising the limit of open files has no safe form.

#[path = "cluster/mod.rs"]
mod cluster;
#[path = "connections/mod.rs"]
mod connections;
#[path = "../../filter/tests/frames/mod.rs"]
mod frames;
#[path = "segment/mod.rs"]
mod segment;

use cluster::*;
use connections::Stage;
use covey::sockets::{self, Idle};
use covey_filter::Socket;
use covey_proto::Connection;
use segment::Segment;
use socket2::{Domain, Type};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

const VIPS: [IpAddr; 2] = [IpAddr::V4(VIP4), IpAddr::V6(VIP6)];
/// The host's own address.
const DEDICATED: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 1));

/// A connection between the client and the host, in this order.
fn pair(segment: &Segment, listener: &TcpListener, to: SocketAddr) -> (TcpStream, TcpStream) {
    let client = segment.on_client(|| TcpStream::connect(to));
    let (server, _) = listener.accept().expect("the client has connected");
    (client.expect("the host listens"), server)
}

fn listed(segment: &Segment) -> Vec<Connection> {
    segment
        .on_host(|| sockets::connections(&VIPS, Idle::Skip))
        .expect("the kernel lists them")
}

fn sorted(mut connections: Vec<Connection>) -> Vec<Connection> {
    connections.sort_by_key(|it| (it.service, it.client));
    connections
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn every_connection_to_a_virtual_ip_is_listed_and_nothing_else() {
    let segment = Segment::new();
    let made = connections::in_every_stage(&segment);
    let any = (Ipv6Addr::UNSPECIFIED, 81);
    let listener = segment.on_host(|| TcpListener::bind(any).expect("the port is free"));
    let _other = pair(&segment, &listener, (DEDICATED, 81).into());
    let mapped = SocketAddr::new(VIP4.into(), 81);
    let (client, _server) = pair(&segment, &listener, mapped);

    let mut expected = vec![Connection {
        client: client.local_addr().expect("it is connected"),
        service: mapped,
        socket: Socket::Connected,
        idle: Duration::ZERO,
    }];
    expected.extend(made.iter().filter_map(|it| {
        let socket = match it.stage {
            Stage::Listener | Stage::Nothing | Stage::Cookie => return None,
            Stage::HalfOpen => Socket::HalfOpen { awaits: None },
            Stage::TimeWait => Socket::TimeWait,
            Stage::Established
            | Stage::CloseWait
            | Stage::FinWait1
            | Stage::FinWait2
            | Stage::Orphan
            | Stage::Closing
            | Stage::LastAck => Socket::Connected,
        };
        Some(Connection {
            client: it.client,
            service: it.service,
            socket,
            idle: Duration::ZERO,
        })
    }));
    assert_eq!(sorted(listed(&segment)), sorted(expected));
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn the_kernel_tells_for_how_long_a_connection_has_been_idle() {
    const A_WHILE: Duration = Duration::from_millis(200);
    // The kernel counts in ticks of up to 10 ms.
    const TICKS: Duration = Duration::from_millis(20);
    let segment = Segment::new();
    let any = (Ipv6Addr::UNSPECIFIED, 81);
    let listener = segment.on_host(|| TcpListener::bind(any).expect("the port is free"));
    for vip in VIPS {
        let (client, server) = pair(&segment, &listener, SocketAddr::new(vip, 81));
        let ours = client.local_addr().expect("it is connected");
        let idle = || {
            let all = segment.on_host(|| sockets::connections(&VIPS, Idle::Tell));
            let mut all = all.expect("the kernel lists them").into_iter();
            all.find(|it| it.client == ours).expect("it is there").idle
        };
        for mut end in [&client, &server] {
            let began = Instant::now();
            while idle() < A_WHILE {
                assert!(began.elapsed() < Duration::from_secs(5), "{:?}", idle());
                std::thread::yield_now();
            }
            let spoke = Instant::now();
            end.write_all(b"x").expect("it is connected");
            let told = idle();
            assert!(told <= spoke.elapsed() + TICKS, "{vip}: {told:?}");
        }
        let skipped = listed(&segment);
        assert!(skipped.iter().all(|it| it.idle == Duration::ZERO));
    }
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn syn_cookies_that_were_sent_are_counted() {
    let segment = Segment::new();
    let sent = || segment.on_host(|| sockets::cookies_sent().expect("the kernel shows it"));
    assert_eq!(sent(), 0);
    let made = connections::in_every_stage(&segment);
    let cookies = made.iter().filter(|it| it.stage == Stage::Cookie).count();
    assert!(cookies > 0);
    assert!(sent() >= cookies as u64, "{} of {cookies}", sent());
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_client_hears_at_once_that_its_connection_has_been_ended() {
    let segment = Segment::new();
    let any = (Ipv6Addr::UNSPECIFIED, 81);
    let listener = segment.on_host(|| TcpListener::bind(any).expect("the port is free"));
    for vip in VIPS {
        let service = SocketAddr::new(vip, 81);
        let (mut client, _server) = pair(&segment, &listener, service);
        let (kept, _kept) = pair(&segment, &listener, service);
        let ours = client.local_addr().expect("it is connected");
        let all = listed(&segment);
        let (doomed, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|it| it.client == ours);
        assert_eq!(doomed.len(), 1);
        let destroy = || segment.on_host(|| sockets::destroy(&doomed));
        assert_eq!(destroy().expect("the kernel can"), 1);
        client
            .set_read_timeout(Some(Duration::from_secs(5)))
            .expect("a time is a time");
        let error = client.read(&mut [0]).expect_err("it is reset");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{vip}");
        assert_eq!(sorted(listed(&segment)), sorted(others));
        // What is gone is not taken for the listener.
        assert_eq!(destroy().expect("the kernel can"), 0);
        pair(&segment, &listener, service);
        drop(kept);
    }
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn every_stage_can_be_ended() {
    let segment = Segment::new();
    let _made = connections::in_every_stage(&segment);
    let all = listed(&segment);
    segment
        .on_host(|| sockets::destroy(&all))
        .expect("the kernel can");
    let left = listed(&segment);
    assert!(
        left.iter().all(|it| it.socket == Socket::TimeWait),
        "{left:?}"
    );
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn ten_thousand_connections_are_listed_and_ended() {
    const LISTENERS: u16 = 10;
    const EACH: usize = 1000;
    const MANY: usize = EACH * LISTENERS as usize;
    as_many_files_as_allowed();
    let segment = Segment::new();
    let services: Vec<SocketAddr> = (81..81 + LISTENERS)
        .map(|port| SocketAddr::new(VIP4.into(), port))
        .collect();
    let _listeners: Vec<_> = segment.on_host(|| {
        let listen = |service: &SocketAddr| {
            let listener = socket2::Socket::new(Domain::IPV4, Type::STREAM, None)?;
            listener.bind(&(*service).into())?;
            listener.listen(2 * EACH as i32)?;
            io::Result::Ok(listener)
        };
        let listen = |service| listen(service).expect("the port is free");
        services.iter().map(listen).collect()
    });
    // Nobody accepts them, which saves half of the files; to the kernel they are established all the same.
    let clients: Vec<_> = segment.on_client(|| {
        let connect = |service| TcpStream::connect(service).expect("the host listens");
        services.iter().cycle().take(MANY).map(connect).collect()
    });
    let begin = Instant::now();
    let all = listed(&segment);
    println!("{MANY} connections listed in {:?}", begin.elapsed());
    assert_eq!(all.len(), MANY);
    let begin = Instant::now();
    let ended = segment.on_host(|| sockets::destroy(&all));
    println!("{MANY} connections ended in {:?}", begin.elapsed());
    assert_eq!(ended.expect("the kernel can"), MANY);
    assert!(listed(&segment).is_empty());
    drop(clients);
}

fn as_many_files_as_allowed() {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the kernel reads and writes the structure that it is given.
    let raised = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit)
    };
    assert_eq!(raised, 0, "{}", io::Error::last_os_error());
}
