//! What the daemon needs of the system that std does not offer: the monotonic clock that the kernel's filter
//! reads too, AF_PACKET addresses, locked memory, real-time scheduling, and becoming another program.
//!
//! Used by the other files of the daemon, and `packet_address` by the lab. Unsafe because these are C calls; each wrapper is safe.
#![allow(unsafe_code)]

use covey_proto::time::Time;
use socket2::{SockAddr, SockAddrStorage};
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, RawFd};
use std::ptr;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// CLOCK_MONOTONIC: the clock of the core and of `bpf_ktime_get_ns`.
pub(crate) fn now() -> Time {
    Time::from_micros(read_clock(libc::clock_gettime, libc::CLOCK_MONOTONIC).as_micros() as u64)
}

/// The tick of CLOCK_MONOTONIC_COARSE, which the filter reads: how late that clock may be.
pub(super) fn coarse_clock_tick() -> Duration {
    read_clock(libc::clock_getres, libc::CLOCK_MONOTONIC_COARSE)
}

type ClockCall = unsafe extern "C" fn(libc::clockid_t, *mut libc::timespec) -> libc::c_int;

fn read_clock(call: ClockCall, clock: libc::clockid_t) -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid place for the result, and the call keeps no reference to it.
    let result = unsafe { call(clock, &raw mut time) };
    assert_eq!(result, 0, "Linux has had both clocks since 2.6.32");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The address of all frames with this EtherType on this interface.
pub(crate) fn packet_address(interface: u32, ethertype: u16) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: sockaddr_ll is one of the address types that the storage is made for.
    let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    address.sll_family = libc::AF_PACKET as libc::sa_family_t;
    address.sll_protocol = ethertype.to_be();
    address.sll_ifindex = interface as libc::c_int;
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the storage holds a sockaddr_ll, whose length this is.
    unsafe { SockAddr::new(storage, length) }
}

/// Wakes the runtime when a socket or a ring of reports can be read. It must own its descriptor, as all that are given
/// here do, and nobody replaces or closes what is inside while it is watched.
pub(super) fn watch<T: AsRawFd>(source: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: see above.
    let watched = unsafe { AsyncFd::register_with_interest(source, Interest::READABLE) };
    watched.map_err(io::Error::from)
}

/// Has the kernel not hand a packet socket the frames that this host sends itself.
pub(super) fn ignore_outgoing(socket: &socket2::Socket) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the option takes an int, which `on` is, and the descriptor is open as long as `socket` lives.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_IGNORE_OUTGOING,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Keeps the daemon's memory from being swapped out, so that a busy disk cannot cost the lease.
pub(super) fn lock_memory() -> io::Result<()> {
    // SAFETY: takes flags only.
    let result =
        unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Lets the daemon run before ordinary processes, so that heartbeats go out under load.
pub(super) fn run_first() -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: 1 };
    // SAFETY: `parameters` is valid for the call; 0 is this process.
    let result = unsafe {
        libc::sched_setscheduler(
            0,
            libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK,
            &raw const parameters,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// A file in memory that the program which takes this one's place still has open.
pub(super) fn file_for_the_next() -> io::Result<File> {
    // SAFETY: the name is terminated. Without MFD_CLOEXEC the descriptor outlives `execv`.
    let fd = unsafe { libc::memfd_create(c"covey-upgrade".as_ptr(), 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor, so it is ours alone.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// The file that the program before this one has left open under this number.
pub(super) fn file_of_the_one_before(fd: RawFd) -> io::Result<File> {
    if fd <= libc::STDERR_FILENO {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: it takes integers alone, and fails if there is no such descriptor.
    if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and the number comes from the command line that the program before wrote, right after it had
    // opened the file with it; nothing in this process has taken it.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// Whether the program that takes this one's place still has this descriptor open.
pub(super) fn leave_to_the_next(fd: BorrowedFd<'_>, leave: bool) -> io::Result<()> {
    let flags = if leave { 0 } else { libc::FD_CLOEXEC };
    // SAFETY: it takes integers alone, and the descriptor is open.
    if unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, flags) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Signals that a daemon heeds wait from now on, also for the program that takes its place, until
/// [`heed_signals`]: the default action of all of them is to end a process.
pub(super) fn hold_signals() {
    mask_signals(libc::SIG_BLOCK);
}

/// Signals that have waited, and those to come, are delivered.
pub(super) fn heed_signals() {
    mask_signals(libc::SIG_UNBLOCK);
}

fn mask_signals(how: libc::c_int) {
    let mut signals = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the set is made by the first call before the others use it, and all are valid for the length of the calls.
    unsafe {
        libc::sigemptyset(signals.as_mut_ptr());
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
            libc::sigaddset(signals.as_mut_ptr(), signal);
        }
        libc::pthread_sigmask(how, signals.as_ptr(), ptr::null_mut());
    }
}

/// Puts a program in the place of this one, in the same process. Comes back only if that has failed. The signal mask
/// stays, which std's `exec` does not promise.
pub(super) fn become_program(program: &CStr, arguments: &[CString]) -> io::Error {
    let pointers = [program]
        .into_iter()
        .chain(arguments.iter().map(CString::as_c_str));
    let mut pointers: Vec<*const libc::c_char> = pointers.map(CStr::as_ptr).collect();
    pointers.push(ptr::null());
    // SAFETY: all strings are terminated, the list ends with a null, and both outlive the call.
    unsafe { libc::execv(program.as_ptr(), pointers.as_ptr()) };
    io::Error::last_os_error()
}
