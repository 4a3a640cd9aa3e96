//! The system calls that aya does not wrap: maps as memory, the file system for pins, detaching a link at
//! once, waiting for packets in flight. All of the data path's unsafe code in user space is here; the modules
//! beside it use it. Specification: docs/design.md, "Data path".
#![allow(unsafe_code)] // System calls and memory shared with the kernel.

use covey_filter::{BUCKETS, Control, Generation, RULE_SLOTS};
use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::{self, NonNull};
use std::sync::atomic::AtomicU32;

/// Types that may lie in memory shared with BPF programs.
///
/// # Safety
/// Every bit pattern must be a value, and the layout must be that of the map's values.
pub(super) unsafe trait Plain {}
// SAFETY: `repr(C)`, and made of words of which any eight bytes are one.
unsafe impl Plain for Control {}
// SAFETY: any four bytes are a number, and four bytes more are the next.
unsafe impl Plain for [[AtomicU32; BUCKETS]; RULE_SLOTS] {}
// SAFETY: `repr(C)`, and made of integers only.
unsafe impl Plain for [Generation; 2] {}

/// The values of a BPF array map (created with BPF_F_MMAPABLE), as memory of this process. Stores need no system
/// call, and an aligned word is stored whole, which a map update does not promise.
pub(super) struct Mapped<T: Plain>(NonNull<T>);

// SAFETY: the mapping belongs to the process, not to a thread.
unsafe impl<T: Plain + Send> Send for Mapped<T> {}

impl<T: Plain> Mapped<T> {
    pub(super) fn new(map: BorrowedFd<'_>) -> io::Result<Self> {
        // SAFETY: a new mapping, wherever the kernel likes; the kernel checks its length against the map's.
        let address = unsafe {
            libc::mmap(
                ptr::null_mut(),
                size_of::<T>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let address = NonNull::new(address.cast()).expect("mmap never maps address zero");
        Ok(Self(address))
    }

    pub(super) fn get(&self) -> &T {
        // SAFETY: mapped for as long as `self` lives, page-aligned, and any bytes are a `T`.
        unsafe { self.0.as_ref() }
    }

    /// The kernel's programs may read the memory meanwhile; the caller changes only what they do not look at.
    pub(super) fn get_mut(&mut self) -> &mut T {
        // SAFETY: as in `get`; no other reference of this process exists, because `self` is borrowed mutably.
        unsafe { self.0.as_mut() }
    }
}

impl<T: Plain> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: this is the mapping that `new` made, and nobody refers to it any more. It cannot fail.
        unsafe { libc::munmap(self.0.as_ptr().cast(), size_of::<T>()) };
    }
}

/// Whether this thread's network namespace has an interface of that name.
pub(super) fn interface_exists(name: &str) -> bool {
    // SAFETY: the name is terminated.
    CString::new(name).is_ok_and(|name| unsafe { libc::if_nametoindex(name.as_ptr()) } != 0)
}

/// Whether a path lies on a BPF file system.
pub(super) fn is_bpffs(path: &Path) -> io::Result<bool> {
    let path = c_path(path)?;
    let mut stat = MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: the path is terminated, and the buffer is as large as the call expects.
    if unsafe { libc::statfs(path.as_ptr(), stat.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has succeeded, so it has filled the buffer.
    let stat = unsafe { stat.assume_init() };
    Ok(stat.f_type as u64 == libc::BPF_FS_MAGIC as u64)
}

/// Mounts a BPF file system.
pub(super) fn mount_bpffs(on: &Path) -> io::Result<()> {
    let on = c_path(on)?;
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    // SAFETY: all strings are terminated; no data are passed.
    let result = unsafe {
        libc::mount(
            c"bpf".as_ptr(),
            on.as_ptr(),
            c"bpf".as_ptr(),
            flags,
            ptr::null(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Detaches the link pinned at `path` before it returns. (Removing the last reference to a link detaches it too,
/// but some time later, and until then its place is taken.)
pub(super) fn detach_link(path: &Path) -> io::Result<()> {
    const BPF_OBJ_GET: libc::c_long = 7;
    const BPF_LINK_DETACH: libc::c_long = 34;
    #[repr(C)]
    #[derive(Default)]
    struct ObjGet {
        pathname: u64,
        bpf_fd: u32,
        file_flags: u32,
    }
    let path = c_path(path)?;
    let mut get = ObjGet {
        pathname: path.as_ptr() as u64,
        ..ObjGet::default()
    };
    let fd = bpf(BPF_OBJ_GET, &mut get)?;
    // SAFETY: the kernel has just given us this descriptor, so it is ours alone.
    let link = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut link_fd = link.as_raw_fd();
    bpf(BPF_LINK_DETACH, &mut link_fd).map(drop)
}

fn bpf<A>(command: libc::c_long, attributes: &mut A) -> io::Result<i32> {
    // SAFETY: the attributes are the start of `union bpf_attr` as this command reads it, with their size.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            ptr::from_mut(attributes),
            size_of::<A>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result as i32)
    }
}

/// Waits until every packet that a program is looking at now has been dealt with. Takes some milliseconds.
pub(super) fn wait_for_packets_in_flight() {
    const MEMBARRIER_CMD_GLOBAL: libc::c_long = 1;
    // The kernel implements it by waiting for an RCU grace period, which is what BPF programs run under.
    // SAFETY: the call takes numbers only. If it is not there, the caller's pause has to do.
    unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}
