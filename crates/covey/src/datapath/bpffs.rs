//! Where the data path is pinned: a directory on a BPF file system, one per network namespace and interface.
//!
//! Pins are what keeps the filter attached when the daemon dies, and what the next daemon finds it by. The file
//! system must therefore outlive the daemon: a mount namespace of its own (`ip netns exec` makes one, and so
//! does `PrivateMounts=` of systemd) would take the pins away with it. Specification: docs/design.md, "Data path".

use super::DataPathError;
use super::sys;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const ROOT: &str = "/sys/fs/bpf";

/// The pin directory of an interface of this thread's network namespace.
///
/// # Errors
/// If /proc is not mounted.
pub fn pin_dir(interface: &str) -> io::Result<PathBuf> {
    let namespace = std::fs::metadata("/proc/thread-self/ns/net")?.ino();
    // The BPF file system reserves names with a dot; interface names may have one (eth0.5).
    let interface = interface.replace('.', ":");
    Ok(Path::new(ROOT).join(format!("covey/{namespace}-{interface}")))
}

/// Makes sure that the directory exists and lies on a BPF file system; mounts one on /sys/fs/bpf if it is to
/// lie there and none is mounted.
///
/// # Errors
/// [`DataPathError::Bpffs`] if that cannot be done.
pub fn ensure_bpffs(path: &Path) -> Result<(), DataPathError> {
    prepare(path).map_err(|source| DataPathError::Bpffs {
        path: path.to_owned(),
        source,
    })
}

fn prepare(path: &Path) -> io::Result<()> {
    let root = Path::new(ROOT);
    if path.starts_with(root) && !sys::is_bpffs(root)? {
        sys::mount_bpffs(root)?;
        tracing::info!("mounted a BPF file system on {ROOT}");
    }
    let existing = path
        .ancestors()
        .find(|ancestor| ancestor.exists())
        .unwrap_or(root);
    if !sys::is_bpffs(existing)? {
        return Err(io::Error::other(format!(
            "{} is on another file system",
            existing.display()
        )));
    }
    std::fs::create_dir_all(path)
}
