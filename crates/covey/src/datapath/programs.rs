//! The programs in the kernel and their maps: loading, filling, reading. Nothing is attached here
//! (hooks.rs does that), so that tests and benchmarks can run the programs on packets of their own.
//! Specification: docs/design.md, "Data path".
//!
//! The tables exist twice. Another map is written where no program looks and then put in force by one store, here or in
//! the programs (`covey_filter::Control`), so each packet is judged by one generation as a whole. Within a map
//! single rows change in place.

use super::DataPathError;
use super::counters::{Counters, Row};
use super::object::Object;
use super::sys::{Mapped, Plain, wait_for_packets_in_flight};
use aya::maps::{HashMap, Map, MapData, PerCpuArray, RingBuf};
use aya::programs::{SchedClassifier, Xdp};
use covey_filter::{
    BUCKETS, Control, Datagram, Disowned, Ends, Generation, NO_RULE, RULE_SLOTS, Token,
};
use covey_proto::datapath::Image;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};

/// How often another image came into force, and by whom.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Commits {
    /// As the commit frame passed.
    pub by_programs: u64,
    /// Later: the frame was lost, or there was none.
    pub by_daemon: u64,
}

/// The programs, loaded, and their maps.
pub struct Programs {
    object: Object,
    tables: Mapped<[Generation; 2]>,
    control: Mapped<Control>,
    seen: Mapped<[[AtomicU32; BUCKETS]; RULE_SLOTS]>,
    pinned: Vec<PathBuf>,
    settling: Option<JoinHandle<()>>,
    commits: Commits,
}

impl Programs {
    /// Loads the programs, with `image` in force and no lease.
    ///
    /// # Errors
    /// If the kernel refuses them.
    pub fn load(image: &Image) -> Result<Self, DataPathError> {
        Self::begin(Object::load(Path::new(""), &[])?, image)
    }

    /// Begins with programs that are not attached yet, with `image` in force and no lease.
    pub(super) fn begin(object: Object, image: &Image) -> Result<Self, DataPathError> {
        let mut tables: Mapped<[Generation; 2]> = mapped(&object, "TABLES")?;
        write(&mut tables.get_mut()[0], image);
        let control: Mapped<Control> = mapped(&object, "CONTROL")?;
        control.get().withdraw();
        Ok(Self {
            tables,
            control,
            seen: mapped(&object, "SEEN")?,
            object,
            pinned: Vec::new(),
            settling: None,
            commits: Commits::default(),
        })
    }

    /// Holds an image ready: it comes into force when the programs see the token pass, or by [`Self::commit`], and lets
    /// this host serve until `lease_ns` (CLOCK_MONOTONIC). Replaces what was held ready before.
    pub fn stage(&mut self, image: &Image, token: Token, lease_ns: u64) {
        let control = self.control.get();
        control.withdraw();
        let next = control.current() ^ 1;
        if let Some(settling) = self.settling.take() {
            settling.join().expect("waiting does not panic");
        }
        write(&mut self.tables.get_mut()[next], image);
        control.set_lease(next, lease_ns);
        control.stage(token);
    }

    /// Lets this host serve until then by the image that is held ready, once that is in force.
    pub fn set_staged_lease(&self, until_ns: u64) {
        let control = self.control.get();
        control.set_lease(control.current() ^ 1, until_ns);
    }

    /// Holds nothing ready any more.
    pub fn withdraw(&self) {
        self.control.get().withdraw();
    }

    /// Whether the programs have put what was held ready into force. [`Self::commit`] is the answer to that.
    pub fn has_flipped(&self) -> bool {
        self.control.get().has_flipped()
    }

    /// Puts what is held ready into force, if the programs have not.
    pub fn commit(&mut self) {
        let by_programs = self.control.get().commit();
        self.commits.by_programs += u64::from(by_programs);
        self.commits.by_daemon += u64::from(!by_programs);
        self.settling = settle();
    }

    /// How often another image came into force.
    pub const fn commits(&self) -> Commits {
        self.commits
    }

    /// Changes rows and rules of the image in force, which must be of the same map, one by one.
    pub fn amend(&mut self, image: &Image) {
        let current = self.control.get().current();
        write_rows(&mut self.tables.get_mut()[current], image);
    }

    /// Takes nothing from now on, by either image.
    pub fn fence(&mut self) {
        let control = self.control.get();
        control.withdraw();
        control.set_lease(0, 0);
        control.set_lease(1, 0);
        let current = control.current();
        self.tables.get_mut()[current].settings.serving = 0;
    }

    /// Begins with another image in force and this lease, before the programs are attached: nothing reads it yet.
    pub(super) fn fill(&mut self, image: &Image, lease_ns: u64) {
        write(&mut self.tables.get_mut()[0], image);
        self.control.get().set_lease(0, lease_ns);
    }

    /// Puts another image in force, under the lease that is running.
    pub fn program(&mut self, image: &Image) {
        let control = self.control.get();
        let lease = control.lease(control.current());
        // Nobody shows a token that has not been told.
        self.stage(image, Token::default(), lease);
        self.commit();
    }

    /// Lets this host serve until then: nanoseconds of CLOCK_MONOTONIC.
    pub fn set_lease(&self, until_ns: u64) {
        let control = self.control.get();
        control.set_lease(control.current(), until_ns);
    }

    /// For each bucket of a sticky rule the second of CLOCK_MONOTONIC in which it last had traffic that this host took;
    /// 0 if it has had none since the programs were loaded, or since [`Self::forget`].
    ///
    /// # Panics
    /// If there can be no rule with that index (from [`RULE_SLOTS`] on).
    pub fn seen(&self, rule: u8) -> [u32; BUCKETS] {
        let seen = &self.seen.get()[usize::from(rule)];
        std::array::from_fn(|bucket| seen[bucket].load(Ordering::Relaxed))
    }

    /// Forgets when buckets of a rule had traffic: its index means another rule from now on.
    ///
    /// # Panics
    /// As [`Self::seen`].
    pub fn forget(&self, rule: u8) {
        for bucket in &self.seen.get()[usize::from(rule)] {
            bucket.store(0, Ordering::Relaxed);
        }
    }

    /// Forgets which first fragments the filter has met, so that each fragment that follows is one whose first is
    /// unknown. For tests; in service the kernel forgets them by itself.
    ///
    /// # Errors
    /// If the kernel does not let the map be read.
    pub fn forget_fragments(&mut self) -> Result<(), DataPathError> {
        let unreadable = |error| DataPathError::Counters(io::Error::other(error));
        let map = self
            .object
            .map_mut("FIRSTS")
            .ok_or_else(|| missing("FIRSTS"))?;
        let mut firsts: HashMap<_, [u8; size_of::<Datagram>()], u64> =
            HashMap::try_from(map).map_err(unreadable)?;
        let known: Vec<_> = firsts
            .keys()
            .collect::<Result<_, _>>()
            .map_err(unreadable)?;
        for datagram in known {
            firsts.remove(&datagram).map_err(unreadable)?;
        }
        Ok(())
    }

    /// What has been counted since the programs were loaded, over all CPUs.
    ///
    /// # Errors
    /// If the kernel does not let it be read.
    pub fn counters(&self) -> Result<Counters, DataPathError> {
        let unreadable = |error| DataPathError::Counters(io::Error::other(error));
        let map = self
            .object
            .map("COUNTERS")
            .ok_or_else(|| missing("COUNTERS"))?;
        let counters: PerCpuArray<_, Row> = PerCpuArray::try_from(map).map_err(unreadable)?;
        (0..=u32::from(NO_RULE))
            .map(|rule| {
                let per_cpu = counters.get(&rule, 0).map_err(unreadable)?;
                Ok(std::array::from_fn(|reason| {
                    per_cpu.iter().map(|counted| counted[reason]).sum()
                }))
            })
            .collect()
    }

    /// Where the filter tells of segments in shared buckets that belong to no socket of this host; `None` if it has
    /// been given away.
    ///
    /// # Errors
    /// If the kernel does not let it be mapped.
    pub fn take_unclaimed(&mut self) -> Result<Option<RingBuf<MapData>>, DataPathError> {
        let ring = self.object.take_map("UNCLAIMED").map(RingBuf::try_from);
        ring.transpose().map_err(|error| DataPathError::Load {
            what: "UNCLAIMED",
            source: io::Error::other(error),
        })
    }

    /// Lets segments of these connections, which nobody has, through to the kernel while that holds.
    ///
    /// # Errors
    /// If the kernel does not take them.
    pub fn disown(&mut self, connections: &[Ends], known: Disowned) -> io::Result<()> {
        let Some(map) = self.object.map_mut("ORPHANS") else {
            return Ok(());
        };
        let mut orphans: HashMap<_, [u64; 5], [u64; 2]> =
            HashMap::try_from(map).map_err(io::Error::other)?;
        connections.iter().try_for_each(|ends| {
            orphans
                .insert(ends.0, [known.until_ns, known.map], 0)
                .map_err(io::Error::other)
        })
    }

    /// The XDP filter.
    pub fn ingress(&mut self) -> &mut Xdp {
        self.object.ingress()
    }

    /// The tc ingress program.
    pub fn promote(&mut self) -> &mut SchedClassifier {
        self.object.promote()
    }

    /// The tc egress program.
    pub fn guard(&mut self) -> &mut SchedClassifier {
        self.object.guard()
    }

    /// Pins the maps, for `bpftool map` and for whoever looks after a daemon that died; pins of an earlier
    /// daemon give way.
    pub(super) fn pin_maps(&mut self, dir: &Path) -> Result<(), DataPathError> {
        for (name, map) in self.object.maps() {
            let path = dir.join(name);
            unpin(&path)?;
            map.pin(&path)
                .map_err(|error| DataPathError::pin(&path, "made", &error))?;
            self.pinned.push(path);
        }
        Ok(())
    }

    /// Removes the pins of the maps, also of one that has been given away since.
    pub(super) fn unpin_maps(&self) -> Result<(), DataPathError> {
        self.pinned.iter().try_for_each(|path| unpin(path))
    }
}

/// After a flip, packets already being judged look at the old generation for some nanoseconds more, or for as
/// long as a hypervisor keeps their CPU away from them. Waiting for them takes 10 to 20 ms, so it begins at once
/// and aside: a change that had to wait first would leave buckets without an owner for that long.
fn settle() -> Option<JoinHandle<()>> {
    let aside = thread::Builder::new()
        .name("settle".to_owned())
        .spawn(wait_for_packets_in_flight);
    if aside.is_err() {
        wait_for_packets_in_flight();
    }
    aside.ok()
}

/// Removes a pin if it is there.
pub(super) fn unpin(path: &Path) -> Result<(), DataPathError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(DataPathError::pin(path, "removed", &error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Lays an image out as the programs read it.
fn write(generation: &mut Generation, image: &Image) {
    generation.settings = image.settings;
    generation.vips.copy_from_slice(&image.vips);
    generation.port_classes.copy_from_slice(&image.port_classes);
    generation.port_tables[..image.port_tables.len()].copy_from_slice(&image.port_tables);
    write_rows(generation, image);
}

/// What of an image changes while its map stays the same: who lingers, what is shared, which rules have been given up.
fn write_rows(generation: &mut Generation, image: &Image) {
    generation.rules.copy_from_slice(&image.rules);
    for (rows, image) in generation.rows[..image.rows.len()]
        .iter_mut()
        .zip(&image.rows)
    {
        rows.copy_from_slice(image);
    }
}

fn mapped<T: Plain>(object: &Object, name: &'static str) -> Result<Mapped<T>, DataPathError> {
    let Some(Map::Array(map)) = object.map(name) else {
        return Err(missing(name));
    };
    Mapped::new(map.fd().as_fd()).map_err(|source| DataPathError::Load { what: name, source })
}

pub(super) fn missing(name: &str) -> DataPathError {
    DataPathError::Object(format!("it has no map {name}"))
}
