//! What the filter has counted: frames by the rule that covers them and the reason for their verdict.
//!
//! Read by the daemon for the read model. Specification: docs/design.md, "Data path".

use covey_filter::{NO_RULE, Reason};

/// Frames under one rule, by reason.
pub(super) type Row = [u64; Reason::ALL.len()];

/// All counters, summed over the CPUs: one [`Row`] per rule, and one for frames that meet none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counters(Vec<Row>);

/// What became of a rule's packets on this host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packets {
    /// Taken.
    pub accepted: u64,
    /// Dropped; nearly all of them are another host's.
    pub dropped: u64,
}

impl FromIterator<Row> for Counters {
    fn from_iter<T: IntoIterator<Item = Row>>(rows: T) -> Self {
        Self(rows.into_iter().collect())
    }
}

impl Default for Counters {
    /// Nothing has been counted.
    fn default() -> Self {
        (0..=NO_RULE).map(|_| Row::default()).collect()
    }
}

impl Counters {
    /// Frames by reason, whatever the rule; every reason is listed.
    pub fn by_reason(&self) -> impl Iterator<Item = (Reason, u64)> {
        let of = |reason: Reason| self.0.iter().map(|row| row[reason as usize]).sum();
        Reason::ALL
            .into_iter()
            .map(move |reason| (reason, of(reason)))
    }

    /// What became of the packets of a rule, [`covey_filter::DEFAULT_RULE`] and [`covey_filter::NEIGHBOUR_RULE`]
    /// included.
    ///
    /// # Panics
    /// If there can be no rule with that index (from [`covey_filter::RULE_SLOTS`] on).
    pub fn of_rule(&self, rule: u8) -> Packets {
        assert!(rule < NO_RULE, "rule {rule}");
        let mut packets = Packets::default();
        for (reason, count) in Reason::ALL.into_iter().zip(self.0[usize::from(rule)]) {
            if is_accepted(reason) {
                packets.accepted += count;
            } else {
                packets.dropped += count;
            }
        }
        packets
    }

    /// The numbers alone, for a program that may count other things: a row per rule, by reason.
    pub fn rows(&self) -> Vec<Vec<u64>> {
        self.0.iter().map(|row| row.to_vec()).collect()
    }

    /// The counters with these [rows](Self::rows); `None` if there can be no such rows.
    pub fn of_rows(rows: &[Vec<u64>]) -> Option<Self> {
        let rows = rows.iter().map(|row| Row::try_from(&row[..]).ok());
        let counters = Self(rows.collect::<Option<_>>()?);
        (counters.0.len() == usize::from(NO_RULE) + 1).then_some(counters)
    }

    /// What has been counted since.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let pairs = self.0.iter().zip(&earlier.0);
        pairs
            .map(|(now, then)| std::array::from_fn(|at| now[at].saturating_sub(then[at])))
            .collect()
    }
}

/// Whether a frame with this reason reaches the network stack.
const fn is_accepted(reason: Reason) -> bool {
    match reason {
        Reason::OwnMac
        | Reason::OtherMac
        | Reason::Group
        | Reason::Heartbeat
        | Reason::Mine
        | Reason::Lingering
        | Reason::QuestionMine
        | Reason::Answer
        | Reason::IcmpError
        | Reason::Fragment
        | Reason::FragmentMine
        | Reason::Icmp
        | Reason::Probe
        | Reason::LeakSeen
        | Reason::Advertised => true,
        Reason::NotMine
        | Reason::Unclaimed
        | Reason::QuestionNotMine
        | Reason::FragmentNotMine
        | Reason::BadQuote
        | Reason::OtherMember
        | Reason::Disabled
        | Reason::Fenced
        | Reason::LeaseLapsed
        | Reason::Foreign
        | Reason::NotIp
        | Reason::Malformed
        | Reason::BrokenTables
        | Reason::SourceMac => false,
    }
}
