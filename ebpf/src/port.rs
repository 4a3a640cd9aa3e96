//! What is wrong with a port of the lab's switch, and which frames therefore do not get from one port to another.
//! Compiled twice: into the program at the ports (`lab.rs`), which only carries out what [`is_lost`] says, and into the
//! lab (`crates/covey/src/lab/faults/ports.rs`), which writes the table of ports and reads it back. docs/design.md, "The lab".

/// A port of the switch and its faults. All zero: a port without a host (the client's) and without faults.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Port {
    /// The host behind it: bit ID-1. None for the client.
    pub(crate) host: u64,
    /// The hosts that are cut off from it: bit ID-1 of each.
    pub(crate) cut: u64,
    /// The destination MAC that the NIC behind it does not accept, as a number of 48 bits; 0 for none.
    pub(crate) refused: u64,
    /// Of 2^32 frames, either way, how many are lost.
    pub(crate) loss: u64,
    /// [`MUTE`], [`DEAF`] and [`NO_BROADCAST`].
    pub(crate) flags: u64,
}

/// No heartbeat comes from it.
pub(crate) const MUTE: u64 = 1;
/// No heartbeat gets to it.
pub(crate) const DEAF: u64 = 2;
/// No broadcast gets from its host to another host. In force at all ports or at none.
pub(crate) const NO_BROADCAST: u64 = 4;

/// What counts of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) destination: [u8; 6],
    pub(crate) ethertype: u16,
}

impl Frame {
    #[inline(always)]
    fn is_heartbeat(&self) -> bool {
        matches!(self.ethertype, 0x886F | 0xBF01)
    }

    #[inline(always)]
    fn is_broadcast(&self) -> bool {
        self.destination == [0xFF; 6]
    }

    /// The destination as [`Port::refused`] has it.
    #[inline(always)]
    fn number(&self) -> u64 {
        number(self.destination)
    }
}

/// A MAC as a number of 48 bits.
#[inline(always)]
pub(crate) const fn number(mac: [u8; 6]) -> u64 {
    let [a, b, c, d, e, f] = mac;
    u64::from_be_bytes([0, 0, a, b, c, d, e, f])
}

/// Whether a frame that came in at one port is lost on its way to another. `random` gives 32 random bits.
#[inline(always)]
pub(crate) fn is_lost(
    from: &Port,
    to: &Port,
    frame: &Frame,
    mut random: impl FnMut() -> u32,
) -> bool {
    let mut bad_luck = |loss: u64| loss != 0 && u64::from(random()) < loss;
    from.cut & to.host != 0
        || (from.flags & MUTE != 0 || to.flags & DEAF != 0) && frame.is_heartbeat()
        || from.flags & to.flags & NO_BROADCAST != 0
            && from.host != 0
            && to.host != 0
            && frame.is_broadcast()
        || to.refused != 0 && to.refused == frame.number()
        || bad_luck(from.loss)
        || bad_luck(to.loss)
}
