//! Builds the programs in `ebpf/` for the kernel, so that the one binary carries them. They are compiled with
//! the same rustc, core included (`-Z build-std`), and linked by bpf-linker; `cargo xtask setup` installs what
//! that needs. Specification: docs/design.md, "Layout".

use std::path::{Path, PathBuf};
use std::process::Command;

/// What this build's cargo tells its children, and the other one must not hear: flags for another target,
/// clippy in place of rustc, a target directory that is locked until this build ends.
const NOT_FOR_THE_OTHER_CARGO: [&str; 9] = [
    "CARGO_BUILD_TARGET",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_MAKEFLAGS",
    "MAKEFLAGS",
    "RUSTC",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTC_WRAPPER",
    "RUSTFLAGS",
    "TARGET",
];

fn main() {
    let root = PathBuf::from(variable("CARGO_MANIFEST_DIR")).join("../..");
    for path in ["ebpf", "crates/filter", "rust-toolchain.toml"] {
        watch(&root.join(path));
    }
    match object(&root) {
        Ok(object) => println!("cargo::rustc-env=COVEY_EBPF_OBJECT={}", object.display()),
        Err(reason) => println!("cargo::error={reason}"),
    }
}

/// Cargo looks at everything in a directory, but the other cargo must be free to write its own.
fn watch(path: &Path) {
    println!("cargo::rerun-if-changed={}", path.display());
}

fn object(root: &Path) -> Result<PathBuf, String> {
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
        .arg(&target_dir)
        .env("RUSTC_BOOTSTRAP", "1");
    for name in NOT_FOR_THE_OTHER_CARGO {
        cargo.env_remove(name);
    }
    let status = cargo
        .status()
        .map_err(|error| format!("cargo cannot be run: {error}"))?;
    if !status.success() {
        return Err("the programs in ebpf/ do not build; the messages above say why".to_owned());
    }
    Ok(target_dir.join(triple).join("release/covey-ebpf"))
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
