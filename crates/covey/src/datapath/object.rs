//! The programs and maps that build.rs made of `ebpf/`, in the kernel: loaded by this process, or left there by the one
//! whose place it takes. Used by [`Programs`](super::Programs) alone. Specification: docs/design.md, "Data path", "Upgrade".
//!
//! Loading takes the kernel and the library about a tenth of a second, most of it the verifier's. A daemon that takes the
//! place of another has it done before: [`Object::leave`] pins everything, [`Object::find`] has it at once.

use super::DataPathError;
use super::btf::Btf;
use super::counters::Row;
use super::programs::{missing, unpin};
use aya::maps::{Map, MapData, MapInfo, ProgramArray};
use aya::programs::{Program, ProgramError, SchedClassifier, Xdp};
use aya::{Ebpf, EbpfLoader};
use aya_obj::programs::XdpAttachType;
use covey_filter::{BUCKETS, NO_RULE, RULE_SLOTS};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The object that build.rs made of `ebpf/`.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("COVEY_EBPF"));

const INGRESS: &str = "covey_ingress";
const THOROUGH: &str = "covey_thorough";
const PROMOTE: &str = "covey_promote";
const GUARD: &str = "covey_guard";

/// A map that no verdict depends on, so that other programs may go on with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tally {
    /// [`super::Programs::counters`].
    Counters,
    /// [`super::Programs::seen`].
    Seen,
}

impl Tally {
    const fn name(self) -> &'static str {
        match self {
            Self::Counters => "COUNTERS",
            Self::Seen => "SEEN",
        }
    }

    /// Bytes of a value, and the number of values.
    const fn shape(self) -> (usize, usize) {
        match self {
            Self::Counters => (size_of::<Row>(), NO_RULE as usize + 1),
            Self::Seen => (size_of::<[u32; BUCKETS]>(), RULE_SLOTS),
        }
    }

    /// Where it is pinned, if one of this shape is.
    fn pinned(self, dir: &Path) -> Option<PathBuf> {
        let pin = dir.join(self.name());
        let map = MapInfo::from_pin(&pin).ok()?;
        let shape = (map.value_size() as usize, map.max_entries() as usize);
        (shape == self.shape()).then_some(pin)
    }
}

/// All of it.
pub(super) enum Object {
    /// By this process.
    Loaded(Ebpf),
    /// By another.
    Found(Box<Found>),
}

/// What another process has loaded.
pub(super) struct Found {
    ingress: Xdp,
    promote: SchedClassifier,
    guard: SchedClassifier,
    maps: BTreeMap<String, Map>,
}

impl Object {
    /// Loads it, going on with these maps of an earlier daemon as far as they are pinned in this directory and have
    /// the same shape.
    pub(super) fn load(pins: &Path, go_on: &[Tally]) -> Result<Self, DataPathError> {
        let kernel = Btf::of_kernel();
        let offset = |structure, member| kernel.offset_of(structure, member).unwrap_or(0);
        let mut loader = EbpfLoader::new();
        for tally in go_on {
            if let Some(pin) = tally.pinned(pins) {
                loader.map_pin_path(tally.name(), pin);
            }
        }
        let mut ebpf = loader
            .override_global(
                "SENT_NUMBER_AT",
                &offset("tcp_request_sock", "snt_isn"),
                true,
            )
            .override_global(
                "SUBSTATE_AT",
                &offset("inet_timewait_sock", "tw_substate"),
                true,
            )
            .load(OBJECT)
            .map_err(|error| DataPathError::object(&error))?;
        for (name, program) in ebpf.programs_mut() {
            let (name, result) = match program {
                Program::Xdp(xdp) if name == THOROUGH => (THOROUGH, xdp.load()),
                Program::Xdp(xdp) => (INGRESS, xdp.load()),
                Program::SchedClassifier(tc) if name == GUARD => (GUARD, tc.load()),
                Program::SchedClassifier(tc) => (PROMOTE, tc.load()),
                _ => return Err(DataPathError::Object(format!("{name} is of no known kind"))),
            };
            result.map_err(|error| DataPathError::program(name, &error))?;
        }
        join(&mut ebpf)?;
        Ok(Self::Loaded(ebpf))
    }

    /// Pins everything in a directory of its own, for the process that [finds](Self::find) it there.
    pub(super) fn leave(mut self, dir: &Path) -> Result<(), DataPathError> {
        let failed = |path: &Path, error: &(dyn std::error::Error + 'static)| {
            DataPathError::pin(path, "made", error)
        };
        fs::create_dir(dir).map_err(|error| failed(dir, &error))?;
        for (name, map) in self.maps() {
            let path = dir.join(name);
            map.pin(&path).map_err(|error| failed(&path, &error))?;
        }
        let [ingress, promote, guard] = [INGRESS, PROMOTE, GUARD].map(|name| dir.join(name));
        let pinned = self.ingress().pin(&ingress);
        pinned.map_err(|error| failed(&ingress, &error))?;
        let pinned = self.promote().pin(&promote);
        pinned.map_err(|error| failed(&promote, &error))?;
        let pinned = self.guard().pin(&guard);
        pinned.map_err(|error| failed(&guard, &error))
    }

    /// What another process has left there.
    pub(super) fn find(dir: &Path) -> Result<Self, DataPathError> {
        let unusable = |path: &Path, error: &(dyn std::error::Error + 'static)| {
            DataPathError::pin(path, "used", error)
        };
        let mut maps = BTreeMap::new();
        for name in names(dir)? {
            if [INGRESS, PROMOTE, GUARD].contains(&&name[..]) {
                continue;
            }
            let path = dir.join(&name);
            let map = MapData::from_pin(&path).and_then(Map::from_map_data);
            maps.insert(name, map.map_err(|error| unusable(&path, &error))?);
        }
        let [ingress, promote, guard] = [INGRESS, PROMOTE, GUARD].map(|name| dir.join(name));
        Ok(Self::Found(Box::new(Found {
            ingress: Xdp::from_pin(&ingress, XdpAttachType::Interface)
                .map_err(|error| unusable(&ingress, &error))?,
            promote: SchedClassifier::from_pin(&promote)
                .map_err(|error| unusable(&promote, &error))?,
            guard: SchedClassifier::from_pin(&guard).map_err(|error| unusable(&guard, &error))?,
            maps,
        })))
    }

    /// The XDP filter.
    pub(super) fn ingress(&mut self) -> &mut Xdp {
        match self {
            Self::Loaded(ebpf) => program(ebpf, INGRESS),
            Self::Found(found) => &mut found.ingress,
        }
    }

    /// The tc ingress program.
    pub(super) fn promote(&mut self) -> &mut SchedClassifier {
        match self {
            Self::Loaded(ebpf) => program(ebpf, PROMOTE),
            Self::Found(found) => &mut found.promote,
        }
    }

    /// The tc egress program.
    pub(super) fn guard(&mut self) -> &mut SchedClassifier {
        match self {
            Self::Loaded(ebpf) => program(ebpf, GUARD),
            Self::Found(found) => &mut found.guard,
        }
    }

    pub(super) fn map(&self, name: &str) -> Option<&Map> {
        match self {
            Self::Loaded(ebpf) => ebpf.map(name),
            Self::Found(found) => found.maps.get(name),
        }
    }

    pub(super) fn map_mut(&mut self, name: &str) -> Option<&mut Map> {
        match self {
            Self::Loaded(ebpf) => ebpf.map_mut(name),
            Self::Found(found) => found.maps.get_mut(name),
        }
    }

    pub(super) fn take_map(&mut self, name: &str) -> Option<Map> {
        match self {
            Self::Loaded(ebpf) => ebpf.take_map(name),
            Self::Found(found) => found.maps.remove(name),
        }
    }

    /// The maps, without `.rodata`: the BPF file system reserves names with a dot.
    pub(super) fn maps(&self) -> Vec<(&str, &Map)> {
        match self {
            Self::Loaded(ebpf) => ebpf
                .maps()
                .filter(|(name, _)| !name.starts_with('.'))
                .collect(),
            Self::Found(found) => found
                .maps
                .iter()
                .map(|(name, map)| (&name[..], map))
                .collect(),
        }
    }
}

fn program<'a, P>(ebpf: &'a mut Ebpf, name: &str) -> &'a mut P
where
    &'a mut P: TryFrom<&'a mut Program, Error = ProgramError>,
{
    ebpf.program_mut(name)
        .and_then(|program| program.try_into().ok())
        .expect("`load` has met this program with this kind")
}

/// Lets `covey_ingress` go on as `covey_thorough`. The kernel forgets it when nobody holds the map any more, which is
/// why the map is pinned with the others.
fn join(ebpf: &mut Ebpf) -> Result<(), DataPathError> {
    let refused = |error: &dyn std::error::Error| DataPathError::Load {
        what: "THOROUGH",
        source: io::Error::other(error.to_string()),
    };
    let Some(Program::Xdp(thorough)) = ebpf.program(THOROUGH) else {
        return Err(DataPathError::Object(format!(
            "it has no program {THOROUGH}"
        )));
    };
    let thorough = thorough
        .fd()
        .map_err(|error| refused(&error))?
        .try_clone()
        .map_err(|error| refused(&error))?;
    let map = ebpf
        .map_mut("THOROUGH")
        .ok_or_else(|| missing("THOROUGH"))?;
    ProgramArray::try_from(map)
        .and_then(|mut programs| programs.set(0, &thorough, 0))
        .map_err(|error| refused(&error))
}

/// Removes what has been left in a directory, and the directory, if it is there.
pub(super) fn discard(dir: &Path) -> Result<(), DataPathError> {
    for name in names(dir)? {
        unpin(&dir.join(name))?;
    }
    match fs::remove_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(DataPathError::pin(dir, "removed", &error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The names of what is pinned in a directory; none if there is no such directory.
fn names(dir: &Path) -> Result<Vec<String>, DataPathError> {
    let listed = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed,
    };
    let names = listed.and_then(|entries| {
        entries
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect()
    });
    names.map_err(|error: io::Error| DataPathError::pin(dir, "read", &error))
}
