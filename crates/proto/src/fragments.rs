//! Which first fragments a host has met lately: in ordinary memory what the filter keeps in a BPF map, for the
//! simulator and the tests. Specification: docs/design.md, "Data path".

use covey_filter::Datagram;
use std::cell::RefCell;
use std::collections::VecDeque;

/// As many packets as are remembered; then the oldest is forgotten.
const MOST: usize = 1024;

/// The first fragments that a host has met, and whether it took them. It has no clock: unlike the map in the kernel, it
/// forgets only for want of room.
#[derive(Clone, Debug, Default)]
pub struct Fragments(RefCell<VecDeque<(Datagram, bool)>>);

impl Fragments {
    /// Whether the first fragment of a packet was taken; `None` if it is not known.
    pub fn took_first(&self, datagram: &Datagram) -> Option<bool> {
        let known = self.0.borrow();
        let found = known.iter().find(|(other, _)| other == datagram);
        found.map(|(_, taken)| *taken)
    }

    /// Notes what became of the first fragment of a packet.
    pub fn note_first(&self, datagram: &Datagram, taken: bool) {
        let mut known = self.0.borrow_mut();
        known.retain(|(other, _)| other != datagram);
        known.truncate(MOST - 1);
        known.push_front((*datagram, taken));
    }

    /// Forgets all.
    pub fn clear(&self) {
        self.0.borrow_mut().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use covey_filter::Address;

    fn datagram(identification: u32) -> Datagram {
        Datagram {
            source: Address::v4([10, 77, 0, 200]),
            destination: Address::v4([10, 77, 0, 100]),
            identification,
            protocol: 17,
        }
    }

    #[test]
    fn the_newest_word_counts_and_the_oldest_packet_is_forgotten() {
        let fragments = Fragments::default();
        assert_eq!(fragments.took_first(&datagram(0)), None);
        fragments.note_first(&datagram(0), true);
        fragments.note_first(&datagram(0), false);
        assert_eq!(fragments.took_first(&datagram(0)), Some(false));
        for number in 1..=MOST as u32 {
            fragments.note_first(&datagram(number), true);
        }
        assert_eq!(fragments.took_first(&datagram(0)), None);
        assert_eq!(fragments.took_first(&datagram(1)), Some(true));
        fragments.clear();
        assert_eq!(fragments.took_first(&datagram(1)), None);
    }
}
