//! The commit in the data path: a frame that reveals a secret puts the map that is held ready into force, on every
//! host in the moment in which it passes, whatever the daemons are doing.
//!
//! All hosts have agreed on the map before, and each has worked out the token by itself; the coordinator alone decides
//! when it is shown. Called by the XDP program for heartbeats that arrive, by the tc egress program for those that
//! leave, and by the simulator. Specification: docs/design.md, "Membership".
//!
//! ```text
//!   user space: write tables and token of the other generation, choose (sequence odd: it waits for its token)
//!   programs:   the frame shows the token --> committed = sequence        set, never toggled: a frame may come twice
//!   user space: learns of it, and chooses (the next, even sequence)       changes nothing any more
//! ```

use crate::flow::{Packet, ether_type};
use core::sync::atomic::{AtomicU64, Ordering};

/// What a commit frame reveals, two little-endian words.
pub type Token = [u64; 2];

/// Where the first record of a message begins whose sender gives no name: behind the Ethernet header, the common
/// header (20 bytes) and an empty name record (16 bytes).
const FIRST_RECORD: usize = 14 + 20 + 16;
/// NLB's signature of an extended heartbeat, as it lies in the frame.
const EXTENDED: [u8; 4] = [0xC0, 0x01, 0xDE, 0xC0];

/// The type of the record that holds the token, and the token first.
pub const COMMIT_RECORD: u8 = 0xCC;

/// The token that a frame reveals, if it is a commit frame. It stands in the first record of a message without a name,
/// so its place is fixed: programs in the kernel cannot search.
#[inline(always)]
pub fn token<P: Packet + ?Sized>(packet: &P) -> Option<Token> {
    let kind = packet.read(12).map(u16::from_be_bytes)?;
    if kind != ether_type::HEARTBEAT && kind != ether_type::OLD_HEARTBEAT {
        return None;
    }
    let unnamed = packet.read::<2>(FIRST_RECORD - 8) == Some([0, 0]);
    let [record, _, _, _] = packet.read::<4>(FIRST_RECORD)?;
    if packet.read(14) != Some(EXTENDED) || !unnamed || record != COMMIT_RECORD {
        return None;
    }
    let first = packet.read(FIRST_RECORD + 4).map(u64::from_le_bytes)?;
    let second = packet.read(FIRST_RECORD + 12).map(u64::from_le_bytes)?;
    Some([first, second])
}

/// A word in memory that user space and the programs share.
pub trait Word {
    /// Reads it whole.
    fn get(&self) -> u64;
    /// Writes it whole, after all that was written before.
    fn set(&self, value: u64);
}

/// For user space. The programs bring their own: their compiler cannot load an atomic.
impl Word for AtomicU64 {
    fn get(&self) -> u64 {
        self.load(Ordering::Acquire)
    }

    fn set(&self, value: u64) {
        self.store(value, Ordering::Release);
    }
}

/// Which of the two generations of tables is in force, and until when: one value that user space and the programs
/// share. Each word has one writer and is stored whole. In fresh memory, all zero, [`Self::withdraw`] comes first.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Control<W = AtomicU64> {
    /// Written by user space. Bit 0: the generation in force as far as it knows. The rest: a sequence that grows with
    /// each choice; odd while the other generation waits for its token.
    chosen: W,
    /// Written by the programs: the sequence at which the token was seen.
    committed: W,
    /// Written by user space, before it chooses.
    token: [W; 2],
    /// Written by user space: until when this host may serve by each generation, nanoseconds of CLOCK_MONOTONIC.
    leases: [W; 2],
}

impl<W: Word> Control<W> {
    /// The generation in force, 0 or 1.
    #[inline(always)]
    pub fn in_force(&self) -> usize {
        let chosen = self.chosen.get();
        let flipped = self.committed.get() == chosen >> 1;
        (chosen as usize & 1) ^ usize::from(flipped)
    }

    /// Until when this host may serve by a generation.
    #[inline(always)]
    pub fn lease(&self, generation: usize) -> u64 {
        self.leases[generation & 1].get()
    }

    /// A token was seen on the wire: if it is the one that the staged generation waits for, that comes into force.
    #[inline(always)]
    pub fn reveal(&self, token: Token) {
        let sequence = self.chosen.get() >> 1;
        let expected = [self.token[0].get(), self.token[1].get()];
        if sequence & 1 == 1 && expected == token {
            self.committed.set(sequence);
        }
    }

    /// User space: the generation that it last put into force. The other one is free to be written once packets that
    /// still look at it have been dealt with.
    pub fn current(&self) -> usize {
        self.chosen.get() as usize & 1
    }

    /// User space: the other generation has been written; it waits for its token.
    pub fn stage(&self, token: Token) {
        self.withdraw();
        for (place, word) in self.token.iter().zip(token) {
            place.set(word);
        }
        self.choose(self.current(), true);
    }

    /// User space: nothing waits any more.
    pub fn withdraw(&self) {
        self.choose(self.current(), false);
    }

    /// User space: puts the other generation into force, if a token has not done so already. Whether one has.
    pub fn commit(&self) -> bool {
        let already = self.has_flipped();
        self.choose(self.current() ^ 1, false);
        already
    }

    /// User space: whether a token has put the staged generation into force.
    pub fn has_flipped(&self) -> bool {
        self.committed.get() == self.chosen.get() >> 1
    }

    /// User space: lets this host serve by a generation until then.
    pub fn set_lease(&self, generation: usize, until_ns: u64) {
        self.leases[generation & 1].set(until_ns);
    }

    fn choose(&self, generation: usize, waits: bool) {
        let sequence = self.chosen.get() >> 1;
        let next = if (sequence + 1) & 1 == u64::from(waits) {
            sequence + 1
        } else {
            sequence + 2
        };
        // What was written before is in memory before the programs are sent there.
        self.chosen.set(next << 1 | generation as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: Token = [7, 8];

    fn fresh() -> Control<AtomicU64> {
        let control = Control::<AtomicU64>::default();
        control.withdraw();
        control
    }

    #[test]
    fn the_token_flips_once_and_user_space_confirms_it() {
        let control = fresh();
        control.stage(TOKEN);
        assert_eq!((control.in_force(), control.has_flipped()), (0, false));
        control.reveal([7, 9]);
        assert_eq!(control.in_force(), 0, "another token");
        control.reveal(TOKEN);
        assert_eq!((control.in_force(), control.has_flipped()), (1, true));
        control.reveal(TOKEN);
        assert_eq!(control.in_force(), 1, "a frame that comes twice");
        assert!(control.commit());
        assert_eq!((control.in_force(), control.current()), (1, 1));
        control.reveal(TOKEN);
        assert_eq!((control.in_force(), control.has_flipped()), (1, false));
    }

    #[test]
    fn user_space_commits_by_itself_if_no_token_comes() {
        let control = fresh();
        for generation in [1, 0, 1] {
            control.stage(TOKEN);
            assert!(!control.commit());
            assert_eq!(control.in_force(), generation);
            control.reveal(TOKEN);
            assert_eq!(control.in_force(), generation, "too late");
        }
    }

    #[test]
    fn what_was_withdrawn_or_replaced_does_not_come_into_force() {
        let control = fresh();
        control.stage(TOKEN);
        control.withdraw();
        control.reveal(TOKEN);
        assert_eq!(control.in_force(), 0);
        control.stage(TOKEN);
        control.stage([1, 2]);
        control.reveal(TOKEN);
        assert_eq!(control.in_force(), 0);
        control.reveal([1, 2]);
        assert_eq!(control.in_force(), 1);
        // A flip that user space has not noticed before it withdraws is taken back.
        control.withdraw();
        assert_eq!((control.in_force(), control.has_flipped()), (0, false));
    }

    #[test]
    fn in_the_beginning_nothing_waits() {
        let control = fresh();
        assert_eq!((control.in_force(), control.has_flipped()), (0, false));
        control.reveal([0, 0]);
        assert_eq!(control.in_force(), 0);
    }
}
