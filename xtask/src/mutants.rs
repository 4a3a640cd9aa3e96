//! Breaks the safety rules of the core one at a time and sees whether the simulator notices. A rule that can be
//! broken unnoticed is not tested.
//!
//! Each mutant is one textual change to a copy of the sources; the copy is built and simulated, seed after seed,
//! until an invariant fails. Run by `cargo xtask mutants`; docs/reliability.md has the results.

use crate::step;
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// How long the simulator may look for a seed.
const PATIENCE: Duration = Duration::from_secs(60);

/// A rule, broken.
struct Mutant {
    name: &'static str,
    file: &'static str,
    /// What stands there, once.
    old: &'static str,
    new: &'static str,
}

const MUTANTS: [Mutant; 11] = [
    Mutant {
        name: "renew the lease on sending alone",
        file: "crates/proto/src/cluster/lease.rs",
        old: "confirmed.map(|peer| peer.renews_until - margin).min()",
        new: "confirmed.map(|_| self.last_heartbeat_at + self.config.timing.budget() - margin).min()",
    },
    Mutant {
        name: "serve after a lapsed lease",
        file: "crates/filter/src/decide.rs",
        old: "    if tables.lease_holds() {\n        (verdict, reason)",
        new: "    if tables.lease_holds() || true {\n        (verdict, reason)",
    },
    Mutant {
        name: "acknowledge without comparing digests",
        file: "crates/proto/src/cluster/convergence.rs",
        old: "if prepared.placement.digest() != proposal.result {",
        new: "if false {",
    },
    Mutant {
        name: "commit before all acknowledgements",
        file: "crates/proto/src/cluster/convergence.rs",
        old: "let all = own && proposal.view.without(self.me()).iter().all(ready);",
        new: "let all = own && { let mut others = proposal.view.without(self.me()).iter().peekable(); \
              others.peek().is_none() || others.any(ready) };",
    },
    Mutant {
        name: "acknowledge the exclusion of a host that is still echoed",
        file: "crates/proto/src/cluster/convergence.rs",
        old: "&& !self.peers.iter().any(may_still_serve)",
        new: "&& { let _ = may_still_serve; true }",
    },
    Mutant {
        name: "converge alone while hearing others",
        file: "crates/proto/src/cluster/isolation.rs",
        old: "&& self.outlook.alive.without(self.unfit()) == self.me()\n            && !self.someone",
        new: "&& { let _ = self.unfit(); true }\n            && !self.someone",
    },
    Mutant {
        name: "clear a bucket after the first of two lingerers",
        file: "crates/proto/src/cluster/lingering.rs",
        old: "shared.union(&self.told_by(host).unwrap_or(BucketSet::ALL))",
        new: "let _ = shared;\n            self.told_by(host).unwrap_or(BucketSet::ALL)",
    },
    Mutant {
        name: "count TIME_WAIT as a connection",
        file: "crates/filter/src/table.rs",
        old: "            Self::None | Self::TimeWait => false,",
        new: "            Self::TimeWait => true,\n            Self::None => false,",
    },
    Mutant {
        name: "reset under the next map what nobody had under the last",
        file: "crates/filter/src/ends.rs",
        old: "self.map == map && now_ns < self.until_ns",
        new: "(self.map != 0 || map != 0) && now_ns < self.until_ns",
    },
    Mutant {
        name: "the sender flips before the others hear of the commit",
        file: "crates/proto/src/cluster/convergence.rs",
        old: "            self.reveal(now, proposed.name(), self.token_of(&proposed));\n            \
              self.put_in_force(now, proposed);\n            \
              // At once, for hosts to which that did not get through.\n            \
              self.repeats = REPEATS;\n            self.send_heartbeat(now);",
        new: "            self.put_in_force(now, proposed);\n            \
              self.repeats = REPEATS;\n            self.hurry(now);",
    },
    Mutant {
        name: "go over to a map without a lease of its own",
        file: "crates/proto/src/cluster/convergence.rs",
        old: "lease: self.staged_until,",
        new: "lease: Time::NEVER,",
    },
];

/// Tries every mutant. Returns whether all were noticed.
pub(crate) fn run(only: Option<&str>) -> Result<bool> {
    let tree = PathBuf::from("target/mutants/tree");
    let mut noticed = true;
    // All of them at once, before anything takes long.
    for mutant in &MUTANTS {
        mutant.changed(Path::new("."))?;
    }
    for mutant in MUTANTS
        .iter()
        .filter(|mutant| only.is_none_or(|part| mutant.name.contains(part)))
    {
        copy_sources(&tree)?;
        fs::write(tree.join(mutant.file), mutant.changed(&tree)?)?;
        step::run(&format!("build: {}", mutant.name), || build(&tree))?;
        let began = Instant::now();
        match hunt()? {
            Some(broken) => println!(
                "noticed   {:58} after {:4.1} s, seed {broken}",
                mutant.name,
                began.elapsed().as_secs_f64()
            ),
            None => match tell_stories()? {
                Some(broken) => println!("noticed   {:58} by {broken}", mutant.name),
                None => {
                    noticed = false;
                    println!("UNNOTICED {:58} for {} s", mutant.name, PATIENCE.as_secs());
                }
            },
        }
    }
    Ok(noticed)
}

impl Mutant {
    /// Its file's text, changed.
    fn changed(&self, tree: &Path) -> Result<String> {
        let path = tree.join(self.file);
        let source = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        ensure!(
            source.matches(self.old).count() == 1,
            "the mutant \"{}\" does not fit {} any more: look at MUTANTS in xtask/src/mutants.rs",
            self.name,
            self.file
        );
        Ok(source.replace(self.old, self.new))
    }
}

/// Copies what git has into `tree`, anew; what has not changed keeps its time, so that little is built again.
fn copy_sources(tree: &Path) -> Result<()> {
    let listed = Command::new("git").args(["ls-files", "-z"]).output();
    let listed = listed.context("git cannot be run")?.stdout;
    let files = String::from_utf8(listed).context("a file name is not UTF-8")?;
    for file in files.split_terminator('\0') {
        let (from, to) = (Path::new(file), tree.join(file));
        let source = fs::read(from).with_context(|| file.to_owned())?;
        if fs::read(&to).is_ok_and(|there| there == source) {
            continue;
        }
        let dir = to.parent().expect("a file in the tree has a directory");
        fs::create_dir_all(dir)?;
        fs::write(&to, source)?;
    }
    Ok(())
}

fn build(tree: &Path) -> Result<()> {
    let status = crate::cargo::command()
        .args(["build", "--quiet", "--release", "--package", "covey-sim"])
        .args(["--target-dir", "../build"])
        .current_dir(tree)
        .env("RUSTFLAGS", "--cap-lints allow")
        .status()
        .context("cargo cannot be run")?;
    if !status.success() {
        bail!("the mutant does not compile");
    }
    Ok(())
}

/// The first seed that breaks a promise, if one is found in time.
fn hunt() -> Result<Option<String>> {
    let seconds = PATIENCE.as_secs().to_string();
    let text = simulate(&["soak", "--first", "--seconds", &seconds])?;
    Ok(text.as_deref().and_then(|text| {
        let (seed, what) = text.lines().find_map(broken)?;
        Some(format!("{seed:>6}: {what}"))
    }))
}

/// The first named scenario that breaks a promise.
fn tell_stories() -> Result<Option<String>> {
    let text = simulate(&["all", "--seeds", "1"])?;
    Ok(text.as_deref().and_then(|text| {
        let mut lines = text.lines();
        let name = lines.find_map(|line| line.strip_suffix("BROKEN"))?.trim();
        let (_, what) = lines.find_map(broken)?;
        Some(format!("the scenario {name}: {what}"))
    }))
}

/// The seed and what happened, of a line that says so.
fn broken(line: &str) -> Option<(&str, &str)> {
    let (seed, what) = line.strip_prefix("broken, with seed ")?.split_once(':')?;
    Some((seed, what.trim()))
}

/// What the mutant's simulator prints, if it has found a broken promise.
fn simulate(arguments: &[&str]) -> Result<Option<String>> {
    let output = Command::new("target/mutants/build/release/covey-sim")
        .args(arguments)
        .output()
        .context("the simulator cannot be run")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let found = text.lines().any(|line| broken(line).is_some());
    ensure!(
        output.status.success() != found,
        "the simulator failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(found.then_some(text))
}
