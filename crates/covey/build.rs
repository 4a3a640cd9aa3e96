//! Builds the programs in `ebpf/` for the kernel, so that the one binary carries them. They are compiled with
//! the same rustc, core included (`-Z build-std`), and linked by bpf-linker; `cargo xtask setup` installs what
//! that needs. Specification: docs/design.md, "Layout".

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    let root = PathBuf::from(variable("CARGO_MANIFEST_DIR")).join("../..");
    // Not the whole of `ebpf`: a cargo that runs there by hand writes into it.
    for path in [
        "ebpf/.cargo",
        "ebpf/Cargo.lock",
        "ebpf/Cargo.toml",
        "ebpf/src",
        "crates/filter/Cargo.toml",
        "crates/filter/src",
        "rust-toolchain.toml",
    ] {
        println!("cargo::rerun-if-changed={}", root.join(path).display());
    }
    match build(&root) {
        Ok(built) => {
            for (variable, program) in [
                ("COVEY_EBPF", "covey-ebpf"),
                ("COVEY_BENCH", "bench"),
                ("COVEY_LAB", "lab"),
                ("COVEY_SNOOPING", "snooping"),
            ] {
                println!(
                    "cargo::rustc-env={variable}={}",
                    built.join(program).display()
                );
            }
        }
        Err(reason) => println!("cargo::error={reason}"),
    }
}

/// Returns the directory that the objects are in.
fn build(root: &Path) -> Result<PathBuf, String> {
    let triple = match variable("CARGO_CFG_TARGET_ENDIAN").as_str() {
        "big" => "bpfeb-unknown-none",
        _ => "bpfel-unknown-none",
    };
    installed()?;
    let target_dir = PathBuf::from(variable("OUT_DIR")).join("ebpf");
    let mut cargo = Command::new(variable("CARGO"));
    cargo
        .current_dir(root.join("ebpf"))
        .args(["build", "--quiet", "--release", "--locked"])
        .args(["-Z", "build-std=core", "--target", triple, "--target-dir"])
        .arg(&target_dir);
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_none_or(|name| !for_the_other_cargo(name)) {
            cargo.env_remove(name);
        }
    }
    let status = cargo
        .env("RUSTC_BOOTSTRAP", "1")
        .status()
        .map_err(|error| format!("cargo cannot be run: {error}"))?;
    if !status.success() {
        // Cargo shows what its child said only if this script fails too.
        std::process::exit(1);
    }
    Ok(target_dir.join(triple).join("release"))
}

/// What this build's cargo tells its children, the other one must not hear: flags for another target, clippy in
/// place of rustc, jobs and directories that are taken until this build ends. Where its home and the network
/// are, it must.
fn for_the_other_cargo(variable: &str) -> bool {
    let ours = ["CARGO", "RUST", "DEP_", "MAKEFLAGS", "TARGET"];
    let everyones = [
        "CARGO_HOME",
        "CARGO_HTTP_",
        "CARGO_NET_",
        "CARGO_REGISTR",
        "RUSTUP_",
    ];
    let starts_with =
        |prefixes: &[&str]| prefixes.iter().any(|prefix| variable.starts_with(prefix));
    !starts_with(&ours) || starts_with(&everyones)
}

/// Looks for the parts of the toolchain that a plain installation of Rust lacks.
fn installed() -> Result<(), String> {
    let missing = |what| Err(format!("{what} is not installed; run `cargo xtask setup`"));
    if Command::new("bpf-linker")
        .arg("--version")
        .output()
        .is_err()
    {
        return missing("bpf-linker");
    }
    let sysroot = Command::new(variable("RUSTC"))
        .args(["--print", "sysroot"])
        .output()
        .map_err(|error| format!("rustc cannot be run: {error}"))?;
    let sysroot = String::from_utf8_lossy(&sysroot.stdout);
    let source = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/Cargo.lock");
    if !source.exists() {
        return missing("the rustup component rust-src");
    }
    Ok(())
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("cargo sets {name} for build scripts"))
}
