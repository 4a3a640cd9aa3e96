//! What reading a configuration looks at on the machine besides the file itself, behind one trait, so that the
//! tests of the configuration need no machine.
//!
//! Specification: docs/design.md, "Command line".

use crate::control::default_socket;
use crate::host::{Interface, interface_names};
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A file that was read.
#[derive(Clone, Debug)]
pub struct TextFile {
    /// Its permission bits.
    pub mode: u32,
    /// What stands in it.
    pub text: String,
}

/// A machine, as far as the configuration asks.
pub trait System {
    /// Reads a file.
    ///
    /// # Errors
    /// If it cannot be read, or is not text.
    fn read(&self, path: &Path) -> io::Result<TextFile>;

    /// The machine's host name.
    ///
    /// # Errors
    /// If /proc is not mounted.
    fn host_name(&self) -> io::Result<String>;

    /// The network interface with this name, or `None`.
    ///
    /// # Errors
    /// If the kernel does not answer over netlink.
    fn interface(&self, name: &str) -> io::Result<Option<Interface>>;

    /// The names of all network interfaces.
    ///
    /// # Errors
    /// If the kernel does not answer over netlink.
    fn interface_names(&self) -> io::Result<Vec<String>>;

    /// Where the control socket lies if the configuration does not say.
    ///
    /// # Errors
    /// If /proc is not mounted.
    fn default_socket(&self) -> io::Result<PathBuf>;
}

/// The machine that this program runs on.
#[derive(Clone, Copy, Debug)]
pub struct Machine;

impl System for Machine {
    fn read(&self, path: &Path) -> io::Result<TextFile> {
        // Mode and text come from one open file, so that a key file cannot be exchanged in between.
        let mut file = fs::File::open(path)?;
        let mode = file.metadata()?.permissions().mode() & 0o7777;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        Ok(TextFile { mode, text })
    }

    fn host_name(&self) -> io::Result<String> {
        Ok(fs::read_to_string("/proc/sys/kernel/hostname")?
            .trim()
            .to_owned())
    }

    fn interface(&self, name: &str) -> io::Result<Option<Interface>> {
        Interface::find(name)
    }

    fn interface_names(&self) -> io::Result<Vec<String>> {
        interface_names()
    }

    fn default_socket(&self) -> io::Result<PathBuf> {
        default_socket()
    }
}
