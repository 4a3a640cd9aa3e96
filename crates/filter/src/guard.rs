//! What may leave a host: the rule behind the tc egress program.
//!
//! Two things must never leave. A frame with the cluster MAC as its *source* (or one that the cluster had before) would teach that MAC to a switch,
//! which then stops flooding cluster traffic to the other hosts. And an ARP or neighbour discovery message
//! that ties a virtual IP to the NIC's own MAC would send that client's traffic to one host. The first is
//! dropped; in the second the cluster MAC is written over the advertised one.
//!
//! The Ethernet source of what leaves for a virtual IP is [`Settings::source_mac`]. If that is not the NIC's own MAC (as
//! NLB masks it, or the cluster MAC where all hosts hang on one hub), it is written into the frame here. Frames of
//! the host's own addresses, and heartbeats, keep theirs.
//!
//! Called by `covey_guard` in `ebpf/` for every frame that leaves, and by the simulator. Specification:
//! docs/design.md, "Data path".

use crate::decide::vip;
use crate::flow::{
    Ipv4, Ipv6, Malformed, Packet, UpperLayer, discovery, ether_type, icmp_kind, payload, protocol,
    read, upper_layer,
};
use crate::{Address, MacBytes, Settings, Tables};

/// Extension headers of what this host sends: the kernel puts none before neighbour discovery.
const MAX_EXTENSIONS: usize = 2;
/// Options of neighbour discovery that are looked at: the kernel sends one or two.
const MAX_OPTIONS: usize = 3;

/// What becomes of a frame that wants to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Egress {
    /// It leaves as it is.
    Pass,
    /// It does not leave.
    Drop,
    /// It leaves after this has been written into it.
    Change(Changes),
}

/// What is written into a frame that leaves; one of the two differs from what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Changes {
    /// The Ethernet source.
    pub source: MacBytes,
    /// The cluster MAC, where another one is advertised for a virtual IP.
    pub advertised: Option<Correction>,
}

/// Where a frame advertises a virtual IP with another MAC than the cluster's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Correction {
    /// Offset of the advertised MAC in the frame.
    pub at: usize,
    /// The MAC that is there.
    pub old: MacBytes,
    /// The cluster MAC.
    pub new: MacBytes,
    /// Offset of the ICMPv6 checksum that covers it; none for ARP.
    pub checksum: Option<usize>,
}

/// Decides about one frame that is about to leave.
#[inline(always)]
pub fn guard<P: Packet + ?Sized, T: Tables>(packet: &P, tables: &T) -> Egress {
    let Some(settings) = tables.settings() else {
        return Egress::Pass;
    };
    let Some(source) = packet.read::<6>(6) else {
        return Egress::Pass;
    };
    let shared = source == settings.cluster_mac || settings.is_alias(source);
    if shared && source != settings.source_mac {
        return Egress::Drop;
    }
    // What this host cannot parse, it did not build; it says nothing about a virtual IP that any machine
    // would believe.
    let Ok(Some(speech)) = Speech::parse(packet, settings) else {
        return Egress::Pass;
    };
    if vip(tables, settings, speech.speaker).is_none() {
        return Egress::Pass;
    }
    let changes = Changes {
        source: if masks(settings) {
            settings.source_mac
        } else {
            source
        },
        advertised: speech.mac.correction(settings.cluster_mac),
    };
    if changes.source == source && changes.advertised.is_none() {
        Egress::Pass
    } else {
        Egress::Change(changes)
    }
}

/// Whether frames of a virtual IP leave under another MAC than the NIC's own.
#[inline(always)]
fn masks(settings: &Settings) -> bool {
    settings.source_mac != settings.host_mac
}

/// For which address a frame speaks, and which MAC it gives to it.
struct Speech {
    speaker: Address,
    mac: Place,
}

/// Where a MAC is advertised. (No `Option`: the verifier wants every part of a value to be set.)
struct Place {
    /// 0: nowhere.
    at: usize,
    old: MacBytes,
    /// 0: there is none.
    checksum: usize,
}

impl Place {
    const NOWHERE: Self = Self {
        at: 0,
        old: [0; 6],
        checksum: 0,
    };

    #[inline(always)]
    fn correction(self, new: MacBytes) -> Option<Correction> {
        (self.at != 0 && self.old != new).then_some(Correction {
            at: self.at,
            old: self.old,
            new,
            checksum: (self.checksum != 0).then_some(self.checksum),
        })
    }
}

impl Speech {
    #[inline(always)]
    fn parse<P: Packet + ?Sized>(
        packet: &P,
        settings: &Settings,
    ) -> Result<Option<Self>, Malformed> {
        let (kind, at) = payload(packet)?;
        match kind {
            // Requests and replies alike: receivers learn the sender from both.
            ether_type::ARP => Ok(Some(Self {
                speaker: Address::v4(read(packet, at + 14)?),
                mac: Place {
                    at: at + 8,
                    old: read(packet, at + 8)?,
                    checksum: 0,
                },
            })),
            ether_type::IPV6 => ipv6(packet, at).map(Some),
            ether_type::IPV4 if masks(settings) => Ok(Some(Self {
                speaker: Ipv4::read(packet, at)?.source,
                mac: Place::NOWHERE,
            })),
            _ => Ok(None),
        }
    }
}

/// A packet speaks for its source, an advertisement for its target. (In fragments, neighbour discovery is
/// ignored by everyone: RFC 6980.)
#[inline(always)]
fn ipv6<P: Packet + ?Sized>(packet: &P, at: usize) -> Result<Speech, Malformed> {
    const SOURCE_LINK_ADDRESS: u8 = 1;
    const TARGET_LINK_ADDRESS: u8 = 2;
    let header = Ipv6::read(packet, at)?;
    let plain = Speech {
        speaker: header.source,
        mac: Place::NOWHERE,
    };
    let UpperLayer::At(protocol::ICMPV6, body) =
        upper_layer(packet, header.next, header.body, MAX_EXTENSIONS)?
    else {
        return Ok(plain);
    };
    let (speaker, options, wanted) = match icmp_kind(packet, body)? {
        discovery::ROUTER_SOLICITATION => (header.source, body + 8, SOURCE_LINK_ADDRESS),
        discovery::SOLICITATION => (header.source, body + 24, SOURCE_LINK_ADDRESS),
        discovery::ADVERTISEMENT => (
            Address::v6(read(packet, body + 8)?),
            body + 24,
            TARGET_LINK_ADDRESS,
        ),
        _ => return Ok(plain),
    };
    match link_address(packet, options, wanted) {
        Some((at, old)) => Ok(Speech {
            speaker,
            mac: Place {
                at,
                old,
                checksum: body + 2,
            },
        }),
        // Without the option, as for duplicate address detection, it advertises nothing.
        None => Ok(plain),
    }
}

/// Where the link-layer address option is, and what it says. The kernel puts it first; others may put a nonce or a
/// timestamp before it.
#[inline(always)]
fn link_address<P: Packet + ?Sized>(
    packet: &P,
    mut at: usize,
    wanted: u8,
) -> Option<(usize, MacBytes)> {
    for _ in 0..MAX_OPTIONS {
        let [kind, length] = packet.read(at)?;
        if kind == wanted && length == 1 {
            return Some((at + 2, packet.read(at + 2)?));
        }
        at += 8 * usize::from(length);
    }
    None
}
