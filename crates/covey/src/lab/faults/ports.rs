//! The faults that lose frames: one table, port by port, and one program where frames leave the switch (`ebpf/src/lab.rs`).
//!
//! The program is attached to all ports when the first such fault begins, and detached by `heal`; a lab without such faults is
//! a plain bridge. It is attached without a link and without a pin, so it lives as long as the ports: a lab that is taken down
//! leaves nothing behind, whoever has died meanwhile. The table is found by asking a port for its program.
//! docs/design.md, "The lab".
#![allow(unsafe_code)] // Attaching a program without a link, and the layout of a map's values.

#[path = "../../../../../ebpf/src/port.rs"]
#[cfg_attr(not(test), allow(dead_code))] // Half of it is for the program in the kernel.
mod port;

use crate::lab::bridge::{self, Bridge};
use crate::lab::netns::run_in;
use crate::lab::topology::{LabName, Place};
use anyhow::{Context, Result};
use aya::maps::{HashMap, Map, MapData, MapInfo};
use aya::programs::{ProgramFd, SchedClassifier, TcAttachType};
use aya::{Ebpf, EbpfLoader, Pod};
use aya_obj::generated::{bpf_attach_type, bpf_cmd};
use covey_proto::ids::{HostSet, Mac};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

pub(super) use port::{DEAF, MUTE, NO_BROADCAST, Port};

/// The object that build.rs made of `ebpf/src/lab.rs`.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("COVEY_LAB"));
const PROGRAM: &str = "lab_port";
const TABLE: &str = "PORTS";

// SAFETY: `repr(C)`, made of u64 only, and without padding.
unsafe impl Pod for Port {}

/// The table of the faults of a lab's ports, in the kernel.
pub(super) struct Ports {
    table: HashMap<MapData, u32, Port>,
    indexes: BTreeMap<Place, u32>,
}

impl Ports {
    /// The table of a switch whose ports have one; `None` if no frame is lost on purpose.
    ///
    /// # Errors
    /// If the kernel does not say.
    pub(super) fn find(lab: &LabName, bridge: &Bridge) -> Result<Option<Self>> {
        let Some(map) = run_in(&lab.namespace(Place::Switch), || {
            let Some(program) = attached(&bridge::port_name(Place::Client))? else {
                return Ok(None);
            };
            let ids = program.maps.first().context("its program has no table")?;
            let map = MapInfo::from_id(*ids).and_then(|_| MapData::from_id(*ids));
            Ok(Some(map.context(
                "cannot get hold of the table of the switch's ports",
            )?))
        })?
        else {
            return Ok(None);
        };
        let map = Map::from_map_data(map)
            .context("the table of the switch's ports is of no known kind")?;
        Self::new(map, bridge).map(Some)
    }

    /// The table of a switch; its ports get one if they have none.
    ///
    /// # Errors
    /// If the kernel does not take the program.
    pub(super) fn attach(lab: &LabName, bridge: &Bridge) -> Result<Self> {
        if let Some(ports) = Self::find(lab, bridge)? {
            return Ok(ports);
        }
        let mut object = EbpfLoader::new()
            .load(OBJECT)
            .context("cannot load the program for the switch's ports")?;
        let map = object
            .take_map(TABLE)
            .context("the program for the switch's ports has no table")?;
        let mut ports = Self::new(map, bridge)?;
        for place in ports.indexes.clone().into_keys() {
            let host = match place {
                Place::Host(id) => HostSet::only(id).bits(),
                Place::Client | Place::Switch => 0,
            };
            ports.write(
                place,
                Port {
                    host,
                    ..Port::default()
                },
            )?;
        }
        let program = load(&mut object)?;
        run_in(&lab.namespace(Place::Switch), || {
            for index in ports.indexes.values() {
                tcx(bpf_cmd::BPF_PROG_ATTACH, &program, *index).context(
                    "cannot attach the program for the switch's ports; it needs Linux 6.6 or later",
                )?;
            }
            Ok(())
        })?;
        Ok(ports)
    }

    fn new(map: Map, bridge: &Bridge) -> Result<Self> {
        Ok(Self {
            table: HashMap::try_from(map)
                .context("the table of the switch's ports has another shape")?,
            indexes: bridge
                .ports()
                .map(|(place, port)| (place, port.ifindex))
                .collect(),
        })
    }

    /// Lets all frames through again: takes the program off the ports.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(super) fn detach(lab: &LabName, bridge: &Bridge) -> Result<()> {
        run_in(&lab.namespace(Place::Switch), || {
            for (_, port) in bridge.ports() {
                if let Some(program) = attached(&port.ifname)? {
                    tcx(bpf_cmd::BPF_PROG_DETACH, &program.fd, port.ifindex)
                        .context("cannot take the program off the switch's ports")?;
                }
            }
            Ok(())
        })
    }

    /// What is wrong with a port.
    ///
    /// # Errors
    /// If the kernel does not say.
    pub(super) fn read(&self, place: Place) -> Result<Port> {
        self.table
            .get(&self.index(place)?, 0)
            .with_context(|| format!("cannot read the faults of the port of {place}"))
    }

    /// Changes what is wrong with a port.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(super) fn change(&mut self, place: Place, change: impl FnOnce(&mut Port)) -> Result<()> {
        let mut port = self.read(place)?;
        change(&mut port);
        self.write(place, port)
    }

    /// Changes what is wrong with all ports.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(super) fn change_all(&mut self, change: impl Fn(&mut Port)) -> Result<()> {
        let places: Vec<Place> = self.indexes.keys().copied().collect();
        places
            .into_iter()
            .try_for_each(|place| self.change(place, &change))
    }

    fn write(&mut self, place: Place, port: Port) -> Result<()> {
        let index = self.index(place)?;
        self.table
            .insert(index, port, 0)
            .with_context(|| format!("cannot set the faults of the port of {place}"))
    }

    fn index(&self, place: Place) -> Result<u32> {
        self.indexes
            .get(&place)
            .copied()
            .with_context(|| format!("the switch has no port {}", bridge::port_name(place)))
    }
}

impl Port {
    /// The hosts that are cut off from it.
    pub(super) const fn cut_off(&self) -> HostSet {
        HostSet::from_bits(self.cut)
    }

    /// Lets its NIC refuse a MAC.
    pub(super) const fn refuse(&mut self, mac: Mac) {
        self.refused = port::number(mac.0);
    }

    /// Whether one of these flags is set.
    pub(super) const fn has(&self, flag: u64) -> bool {
        self.flags & flag != 0
    }
}

/// Our program at a port.
struct Attached {
    fd: ProgramFd,
    maps: Vec<u32>,
}

/// Our program at a port of this thread's namespace, if it is there.
fn attached(port: &str) -> Result<Option<Attached>> {
    let (_, programs) = SchedClassifier::query_tcx(port, TcAttachType::Egress)
        .with_context(|| format!("cannot ask which programs are at {port}"))?;
    let Some(program) = programs
        .iter()
        .find(|program| program.name() == PROGRAM.as_bytes())
    else {
        return Ok(None);
    };
    let known = "the kernel says everything of a program that it has just named";
    Ok(Some(Attached {
        fd: program.fd().context(known)?,
        maps: program.map_ids().context(known)?.unwrap_or_default(),
    }))
}

fn load(object: &mut Ebpf) -> Result<ProgramFd> {
    let program: &mut SchedClassifier = object
        .program_mut(PROGRAM)
        .context("the lab's object has no program")?
        .try_into()
        .context("the lab's program is of another kind")?;
    program
        .load()
        .context("the kernel does not take the program for the switch's ports")?;
    let fd = program
        .fd()
        .context("a program that is loaded has a descriptor")?;
    fd.try_clone()
        .context("cannot duplicate a program's descriptor")
}

/// Attaches a program where frames leave an interface of this thread's namespace, or detaches it.
fn tcx(command: bpf_cmd, program: &ProgramFd, interface: u32) -> io::Result<()> {
    /// The start of `union bpf_attr` for these commands.
    #[repr(C)]
    #[derive(Default)]
    struct Attributes {
        target_ifindex: u32,
        attach_bpf_fd: u32,
        attach_type: u32,
        attach_flags: u32,
        replace_bpf_fd: u32,
        relative_fd: u32,
        expected_revision: u64,
    }
    let attributes = Attributes {
        target_ifindex: interface,
        attach_bpf_fd: program.as_fd().as_raw_fd() as u32,
        attach_type: bpf_attach_type::BPF_TCX_EGRESS as u32,
        ..Attributes::default()
    };
    // SAFETY: the kernel reads the attributes, whose size it is told, and keeps no reference to them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as libc::c_long,
            &raw const attributes,
            size_of::<Attributes>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::port::{Frame, is_lost};
    use super::*;
    use covey_proto::ids::HostId;
    use covey_proto::wire::ethernet::{ARP, HEARTBEAT, LEGACY_HEARTBEAT};

    const CLUSTER: [u8; 6] = [0x02, 0xBF, 10, 77, 0, 100];
    const SOMEBODY: [u8; 6] = [0x0A, 0, 10, 77, 0, 2];
    const EVERYBODY: [u8; 6] = [0xFF; 6];
    const IPV4: u16 = 0x0800;

    fn host(id: u8) -> Port {
        let host = HostSet::only(HostId::new(id).unwrap()).bits();
        Port {
            host,
            ..Port::default()
        }
    }

    fn lost(from: &Port, to: &Port, destination: [u8; 6], ethertype: u16) -> bool {
        let frame = Frame {
            destination,
            ethertype,
        };
        is_lost(from, to, &frame, || {
            panic!("nothing here is left to chance")
        })
    }

    #[test]
    fn without_a_fault_nothing_is_lost() {
        for ethertype in [HEARTBEAT, LEGACY_HEARTBEAT, ARP, IPV4] {
            for destination in [CLUSTER, SOMEBODY, EVERYBODY] {
                assert!(!lost(&host(1), &host(2), destination, ethertype));
                assert!(!lost(&Port::default(), &host(2), destination, ethertype));
            }
        }
    }

    #[test]
    fn the_mute_and_the_deaf_lose_heartbeats_alone() {
        let (mute, deaf) = (
            Port {
                flags: MUTE,
                ..host(1)
            },
            Port {
                flags: DEAF,
                ..host(2)
            },
        );
        for destination in [CLUSTER, SOMEBODY, EVERYBODY] {
            for ethertype in [HEARTBEAT, LEGACY_HEARTBEAT] {
                assert!(lost(&mute, &host(2), destination, ethertype));
                assert!(!lost(&host(2), &mute, destination, ethertype));
                assert!(lost(&host(1), &deaf, destination, ethertype));
                assert!(!lost(&deaf, &host(1), destination, ethertype));
            }
            assert!(!lost(&mute, &deaf, destination, IPV4));
            assert!(!lost(&mute, &deaf, destination, ARP));
        }
    }

    #[test]
    fn a_cut_is_between_two() {
        let [mut first, mut second, third] = [host(1), host(2), host(3)];
        first.cut = second.host;
        second.cut = first.host;
        for ethertype in [HEARTBEAT, ARP, IPV4] {
            assert!(lost(&first, &second, EVERYBODY, ethertype));
            assert!(lost(&second, &first, SOMEBODY, ethertype));
            assert!(!lost(&first, &third, EVERYBODY, ethertype));
            assert!(!lost(&Port::default(), &first, EVERYBODY, ethertype));
            assert!(!lost(&first, &Port::default(), EVERYBODY, ethertype));
        }
    }

    #[test]
    fn without_broadcast_clients_still_find_the_cluster() {
        let blocked = |port: Port| Port {
            flags: NO_BROADCAST,
            ..port
        };
        let (first, second, client) =
            (blocked(host(1)), blocked(host(2)), blocked(Port::default()));
        assert!(lost(&first, &second, EVERYBODY, HEARTBEAT));
        assert!(lost(&first, &second, EVERYBODY, ARP));
        assert!(!lost(&first, &second, SOMEBODY, HEARTBEAT));
        assert!(!lost(&client, &second, EVERYBODY, ARP));
        assert!(!lost(&first, &client, EVERYBODY, ARP));
    }

    #[test]
    fn a_nic_that_refuses_the_cluster_mac_hears_everything_else() {
        let mut refusing = host(2);
        refusing.refuse(Mac(CLUSTER));
        assert!(lost(&Port::default(), &refusing, CLUSTER, IPV4));
        assert!(!lost(&Port::default(), &refusing, SOMEBODY, IPV4));
        assert!(!lost(&host(1), &refusing, EVERYBODY, HEARTBEAT));
        assert!(!lost(&Port::default(), &host(1), CLUSTER, IPV4));
    }

    #[test]
    fn loss_strikes_both_ways_and_as_often_as_is_said() {
        let half = Port {
            loss: 1 << 31,
            ..host(1)
        };
        let all = Port {
            loss: 1 << 32,
            ..host(1)
        };
        let frame = Frame {
            destination: SOMEBODY,
            ethertype: IPV4,
        };
        for (from, to) in [(&half, &host(2)), (&host(2), &half)] {
            assert!(is_lost(from, to, &frame, || (1 << 31) - 1));
            assert!(!is_lost(from, to, &frame, || 1 << 31));
        }
        assert!(is_lost(&all, &host(2), &frame, || u32::MAX));
    }
}
