//! Whether a NIC merges received packets before anybody sees them: large receive offload, and coalescing in hardware.
//! What `ethtool -k` shows as `large-receive-offload` and `rx-gro-hw`.
//!
//! Asked by the ioctl SIOCETHTOOL, in the network namespace of the calling thread. Features have names and, per kernel,
//! numbers: first the names are listed, then the bits are read. Used by `crate::doctor`.
//! Specification: docs/design.md, "Doctor".
#![allow(unsafe_code)] // ioctl(2) with structures whose length it is told.

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

const GET_NAMES: u32 = 0x1B; // ETHTOOL_GSTRINGS
const GET_NAMES_COUNT: u32 = 0x37; // ETHTOOL_GSSET_INFO
const GET_FEATURES: u32 = 0x3A; // ETHTOOL_GFEATURES
const FEATURES: u32 = 4; // ETH_SS_FEATURES
/// Length of a name.
const NAME: usize = 32;
/// Features of one word of bits.
const WORD: usize = 32;

/// The features that change what is received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Large receive offload is on.
    pub lro: bool,
    /// Coalescing in hardware is on.
    pub gro_hw: bool,
}

/// `struct ifreq`, as far as it goes here: a name, and where the request is.
#[repr(C)]
struct Request {
    name: [u8; libc::IFNAMSIZ],
    data: *mut u8,
    /// The union behind the name is 24 bytes long.
    rest: [u8; 16],
}

impl Features {
    /// Those of the interface with this name.
    ///
    /// # Errors
    /// If there is none, or its driver has no ethtool.
    pub fn of(interface: &str) -> io::Result<Self> {
        let on = active_features(interface)?;
        let is_on = |wanted: &str| on.iter().any(|name| name == wanted);
        Ok(Self {
            lro: is_on("rx-lro"),
            gro_hw: is_on("rx-gro-hw"),
        })
    }
}

/// The names of all features of an interface that are on, as the kernel calls them.
///
/// # Errors
/// If there is no such interface, or its driver has no ethtool.
pub fn active_features(interface: &str) -> io::Result<Vec<String>> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    let names = names(&socket, interface)?;
    let active = active(&socket, interface, names.len())?;
    let is_on = |index: usize| active[index / WORD] & 1 << (index % WORD) != 0;
    let on = names
        .into_iter()
        .enumerate()
        .filter(|(index, _)| is_on(*index));
    Ok(on.map(|(_, name)| name).collect())
}

/// The names of all features, in the order of their bits.
fn names(socket: &UdpSocket, interface: &str) -> io::Result<Vec<String>> {
    // ethtool_sset_info: command u32, reserved u32, mask u64, then a u32 for each bit of the mask.
    let mut count = bytes(&[GET_NAMES_COUNT, 0, 1 << FEATURES, 0, 0]);
    ask(socket, interface, &mut count)?;
    let count = word(&count, 4) as usize;
    // ethtool_gstrings: command u32, set u32, length u32, then the names.
    let mut table = bytes(&[GET_NAMES, FEATURES, count as u32]);
    table.resize(12 + count * NAME, 0);
    ask(socket, interface, &mut table)?;
    let names = table[12..].chunks(NAME).map(|name| {
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        String::from_utf8_lossy(name).into_owned()
    });
    Ok(names.collect())
}

/// The bits of the features that are on.
fn active(socket: &UdpSocket, interface: &str, count: usize) -> io::Result<Vec<u32>> {
    // ethtool_gfeatures: command u32, size u32, then per word of bits: available, requested, active, never changed.
    let words = count.div_ceil(WORD);
    let mut features = bytes(&[GET_FEATURES, words as u32]);
    features.resize(8 + words * 16, 0);
    ask(socket, interface, &mut features)?;
    Ok((0..words)
        .map(|at| word(&features, 2 + at * 4 + 2))
        .collect())
}

fn bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// The word with this number.
fn word(bytes: &[u8], number: usize) -> u32 {
    let at = number * 4;
    bytes
        .get(at..at + 4)
        .and_then(|bytes| bytes.try_into().ok())
        .map_or(0, u32::from_ne_bytes)
}

/// Has the driver answer a request in place.
fn ask(socket: &UdpSocket, interface: &str, request: &mut [u8]) -> io::Result<()> {
    let mut name = [0; libc::IFNAMSIZ];
    if interface.len() >= name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    name[..interface.len()].copy_from_slice(interface.as_bytes());
    let mut call = Request {
        name,
        data: request.as_mut_ptr(),
        rest: [0; 16],
    };
    // SAFETY: `call` is as large as a `struct ifreq`, and points to a request which says how much the kernel may write;
    // it has room for that much, and both outlive the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut call) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
