//! Installs what a plain Rust installation lacks: the source of core (the programs in `ebpf/` are built with
//! their own), bpf-linker, and the Debian packages that the lab and the tests use. What is there is left alone,
//! so that a second run takes no time. Specification: docs/design.md, "Layout".

use crate::step;
use anyhow::{Context, Result, bail};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const BPF_LINKER: &str = "0.10.4";

/// A program, and the Debian package that it is in.
pub(crate) type Tool = (&'static str, &'static str);

/// What the tests run.
const TOOLS: [Tool; 4] = [
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("tcpdump", "tcpdump"),
    ("tshark", "tshark"),
];

/// Installs what is missing, and says so.
pub(crate) fn run() -> Result<()> {
    if !core_source()?.exists() {
        step::run("install the rustup component rust-src", rust_src)?;
    }
    if output("bpf-linker", &["--version"]).is_none_or(|said| !said.ends_with(BPF_LINKER)) {
        step::run("install bpf-linker (takes some minutes)", bpf_linker)?;
    }
    install_missing(&TOOLS)
}

/// Installs those of the programs that are missing.
pub(crate) fn install_missing(tools: &[Tool]) -> Result<()> {
    let missing: Vec<&str> = tools
        .iter()
        .filter(|(program, _)| !in_path(program))
        .map(|(_, package)| *package)
        .collect();
    if !missing.is_empty() {
        let packages = missing.join(" ");
        step::run(&format!("install {packages}"), || debian(&missing))?;
    }
    Ok(())
}

/// Whether this process is root's.
pub(crate) fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

fn core_source() -> Result<PathBuf> {
    let sysroot = output("rustc", &["--print", "sysroot"])
        .context("rustc cannot be run; install Rust from https://rustup.rs")?;
    Ok(Path::new(&sysroot).join("lib/rustlib/src/rust/library/Cargo.lock"))
}

fn rust_src() -> Result<()> {
    quietly(Command::new("rustup").args(["component", "add", "rust-src"])).context(
        "rust-src cannot be installed; without rustup, install the source of Rust's core library where \
         `rustc --print sysroot` says",
    )
}

fn bpf_linker() -> Result<()> {
    // It brings rustc's own LLVM, so none has to be on the system.
    let mut cargo = crate::cargo::command();
    cargo
        .args(["install", "bpf-linker"])
        .args(["--version", BPF_LINKER, "--locked", "--force"])
        .args(["--no-default-features", "--features", "rust-llvm-22"]);
    quietly(&mut cargo)
}

fn debian(packages: &[&str]) -> Result<()> {
    let packages = packages.join(" ");
    if !in_path("apt-get") {
        bail!("this is not Debian; install what is in its packages {packages}");
    }
    let by_hand = format!("apt-get update && apt-get install -y {packages}");
    let sudo = if is_root() {
        ""
    } else if in_path("sudo") {
        "sudo "
    } else {
        bail!("only root can install packages; run as root: {by_hand}");
    };
    let script = format!(
        "{sudo}apt-get update && {sudo}env DEBIAN_FRONTEND=noninteractive apt-get install -y {packages}"
    );
    quietly(Command::new("sh").args(["-c", &script]))
        .with_context(|| format!("run as root: {by_hand}"))
}

/// Runs a program; what it says is seen only if it fails.
fn quietly(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::inherit())
        .output()
        .with_context(|| format!("{name} cannot be run"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{name} failed:\n{}", said.trim_end());
    }
    Ok(())
}

/// What a program prints, trimmed; none if it is not there or fails.
fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let said = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| said.trim().to_owned())
}

/// Whether a program is installed; administrators' directories count, though they are not in everyone's path.
fn in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .any(|dir| dir.join(program).is_file())
}
