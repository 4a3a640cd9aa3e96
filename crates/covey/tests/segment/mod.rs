//! The smallest network for tests with a real kernel: a host and a client, each in a network namespace of its
//! own, joined by a veth pair. Gone when dropped, also after a failed test.
#![allow(dead_code, unreachable_pub)] // Each test binary uses its share.
#![allow(unsafe_code)] // setns and the addresses of packet sockets have no safe form.

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

pub const HOST_MAC: [u8; 6] = [0x02, 0, 0, 0, 1, 1];
pub const INTERFACE: &str = "eth0";

pub struct Segment {
    host: String,
    client: String,
    /// Where the host's data path is pinned.
    pub pins: PathBuf,
}

impl Segment {
    /// Host 10.77.0.1 with the virtual IPs, client 10.77.0.200 and fd77::200. The IPv6 address is on the NIC,
    /// so that the kernel joins its solicited-node group, as the daemon would make it.
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "covey-t{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let segment = Self {
            host: format!("{name}h"),
            client: format!("{name}c"),
            pins: PathBuf::from(format!("/sys/fs/bpf/{name}")),
        };
        let (host, client) = (&segment.host, &segment.client);
        ip(&format!("netns add {host}"));
        ip(&format!("netns add {client}"));
        ip(&format!(
            "link add {INTERFACE} netns {host} address 02:00:00:00:01:01 type veth \
             peer name {INTERFACE} netns {client}"
        ));
        for (namespace, command) in [
            (host, "addr add 10.77.0.1/24 dev eth0"),
            (host, "addr add 10.77.0.100/32 dev lo"),
            (host, "addr add fd77::100/64 dev eth0 nodad"),
            (client, "addr add 10.77.0.200/24 dev eth0"),
            (client, "addr add fd77::200/64 dev eth0 nodad"),
        ] {
            ip(&format!("-n {namespace} {command}"));
        }
        for namespace in [host, client] {
            ip(&format!("-n {namespace} link set lo up"));
            ip(&format!("-n {namespace} link set {INTERFACE} up"));
        }
        segment
    }

    /// Runs something in the host's namespace.
    pub fn on_host<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        inside(&self.host, act)
    }

    /// Runs something in the client's namespace.
    pub fn on_client<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        inside(&self.client, act)
    }

    /// What `ip` says in the host's namespace.
    pub fn host_ip(&self, arguments: &str) -> String {
        ip(&format!("-n {} {arguments}", self.host))
    }

    /// What `ip` says in the client's namespace.
    pub fn client_ip(&self, arguments: &str) -> String {
        ip(&format!("-n {} {arguments}", self.client))
    }

    /// What `tc` says in the host's namespace.
    pub fn host_tc(&self, arguments: &str) -> String {
        run("tc", &format!("-n {} {arguments}", self.host))
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        // After a failed test some of it is not there; the rest must go all the same.
        for namespace in [&self.host, &self.client] {
            let _ = Command::new("ip")
                .args(["netns", "del", namespace])
                .status();
        }
        let _ = std::fs::remove_dir_all(&self.pins);
    }
}

/// A namespace belongs to a thread, so this takes one of its own.
fn inside<T: Send>(namespace: &str, act: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let file =
                File::open(format!("/run/netns/{namespace}")).expect("the namespace is there");
            // SAFETY: the descriptor is open, and nothing else runs in this thread.
            let result = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
            assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
            act()
        });
        match thread.join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

fn ip(arguments: &str) -> String {
    run("ip", arguments)
}

fn run(program: &str, arguments: &str) -> String {
    let output = Command::new(program)
        .args(arguments.split_whitespace())
        .output()
        .unwrap_or_else(|error| panic!("{program} cannot be run: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A packet socket on the interface of the namespace in which this is called: it sends whole frames, and hears all.
pub fn packet_socket() -> Socket {
    let all = (libc::ETH_P_ALL as u16).to_be();
    let socket = Socket::new(
        Domain::PACKET,
        Type::RAW,
        Some(Protocol::from(i32::from(all))),
    )
    .expect("root may open packet sockets");
    // SAFETY: the name ends with a zero.
    let index = unsafe { libc::if_nametoindex(c"eth0".as_ptr()) };
    assert_ne!(index, 0, "{INTERFACE} is there");
    // SAFETY: the storage is larger than the structure and aligned for it; the length is the structure's.
    let (_, address) = unsafe {
        SockAddr::try_init(|storage, length| {
            storage
                .cast::<libc::sockaddr_ll>()
                .write(libc::sockaddr_ll {
                    sll_family: libc::AF_PACKET as u16,
                    sll_protocol: all,
                    sll_ifindex: index as i32,
                    ..std::mem::zeroed()
                });
            *length = size_of::<libc::sockaddr_ll>() as u32;
            Ok(())
        })
    }
    .expect("it is written");
    socket.bind(&address).expect("the interface is there");
    socket
}

/// Nanoseconds of CLOCK_MONOTONIC.
pub fn monotonic_ns() -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the kernel fills the structure that it is given.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    assert_eq!(result, 0);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
