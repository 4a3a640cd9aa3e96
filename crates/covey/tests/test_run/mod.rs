//! The programs in the kernel against the rule they are compiled from: [`Bench::compare`] runs frames through
//! BPF_PROG_TEST_RUN and through `covey_filter`, over the same image and the same sockets. No interface is touched.
//! Used by the tests of the filter and of the socket table. Specification: docs/design.md, "Tests".
#![allow(dead_code, unreachable_pub)] // Each test binary uses its share.

use crate::frames::Mac;
use aya::programs::{SchedClassifier, TestRun, TestRunOptions, Xdp};
use covey::datapath::{Packets, Programs};
use covey_filter::{
    Decision, Egress, Flow, NO_RULE, RULE_SLOTS, Reason, Segment, Socket, TO_DAEMON, Verdict,
    decide, guard,
};
use covey_proto::datapath::{Image, View, no_sockets};
use covey_proto::fragments::Fragments;
use std::time::{Duration, Instant};

pub const HOST_MAC: Mac = [0x02, 0, 0, 0, 1, 2];
pub const XDP_DROP: u32 = 1;
pub const XDP_PASS: u32 = 2;
pub const TC_ACT_UNSPEC: u32 = u32::MAX;
pub const TC_ACT_SHOT: u32 = 2;

/// What a program returns and makes of a frame, in this thread's network namespace.
pub fn run<P>(program: &P, frame: &[u8]) -> (u32, Vec<u8>)
where
    P: for<'a> TestRun<Opts<'a> = TestRunOptions<'a>, Result = aya::programs::TestRunResult>,
{
    let mut out = vec![0; 16384];
    let mut options = TestRunOptions::new();
    options.data_in = Some(frame);
    options.data_out = Some(&mut out);
    let result = program
        .test_run(options)
        .unwrap_or_else(|error| panic!("{error} for {frame:02x?}"));
    out.truncate(result.data_size_out as usize);
    (result.return_value, out)
}

/// What the programs must do, according to covey-filter.
struct Expected {
    ingress: (u32, Vec<u8>),
    egress: (u32, Vec<u8>),
    ingress_reason: Reason,
    /// The rule that the frame met, and whether this host takes it.
    met: Option<(u8, bool)>,
    egress_reason: Option<Reason>,
}

fn expected(frame: &[u8], view: &View) -> Expected {
    let decision = decide(frame, view);
    let ingress = match decision.verdict {
        Verdict::Pass => (XDP_PASS, frame.to_vec()),
        Verdict::Drop => (XDP_DROP, frame.to_vec()),
        Verdict::Accept => (XDP_PASS, [&HOST_MAC, &frame[6..]].concat()),
        Verdict::Daemon => {
            let kind = TO_DAEMON.to_be_bytes();
            (XDP_PASS, [&frame[..12], &kind, &frame[14..]].concat())
        }
    };
    let (egress, egress_reason) = match guard(frame, view) {
        Egress::Pass => ((TC_ACT_UNSPEC, frame.to_vec()), None),
        Egress::Drop => ((TC_ACT_SHOT, frame.to_vec()), Some(Reason::SourceMac)),
        Egress::Change(changes) => {
            let mut changed = frame.to_vec();
            changed[6..12].copy_from_slice(&changes.source);
            if let Some(correction) = changes.advertised {
                changed[correction.at..correction.at + 6].copy_from_slice(&correction.new);
                if let Some(at) = correction.checksum {
                    update_checksum(&mut changed[at..at + 2], correction.old, correction.new);
                }
            }
            let reason = changes.advertised.map(|_| Reason::Advertised);
            ((TC_ACT_UNSPEC, changed), reason)
        }
    };
    Expected {
        ingress,
        egress,
        ingress_reason: decision.reason,
        met: decision
            .rule
            .map(|rule| (rule, decision.verdict != Verdict::Drop)),
        egress_reason,
    }
}

/// Whether BPF_PROG_TEST_RUN makes an skb of the frame: it refuses half an IP header, and more than a page.
fn makes_an_skb(frame: &[u8]) -> bool {
    const LARGEST: usize = 3000;
    let header = match frame[12..14] {
        [0x08, 0x00] => 20,
        [0x86, 0xDD] => 40,
        _ => 1,
    };
    (14 + header..=LARGEST).contains(&frame.len())
}

/// RFC 1624, equation 3: HC' = ~(~HC + ~m + m').
fn update_checksum(sum: &mut [u8], old: Mac, new: Mac) {
    let word = |bytes: &[u8]| u32::from(u16::from_be_bytes([bytes[0], bytes[1]]));
    let mut total = u32::from(!(word(sum) as u16));
    for (old, new) in old.chunks(2).zip(new.chunks(2)) {
        total += u32::from(!(word(old) as u16)) + word(new);
    }
    while total > 0xFFFF {
        total = (total & 0xFFFF) + (total >> 16);
    }
    sum.copy_from_slice(&(!(total as u16)).to_be_bytes());
}

pub type SocketTable = Box<dyn Fn(&Flow, &Segment) -> Socket>;

/// The programs and the image that is in force in them.
pub struct Bench {
    pub programs: Programs,
    image: Image,
    lease_holds: bool,
    /// What the socket table of this thread's network namespace has.
    pub sockets: SocketTable,
    /// The first fragments that it has met.
    pub fragments: Fragments,
}

impl Bench {
    pub fn new(image: Image) -> Self {
        let programs = Programs::load(&image).expect("the kernel loads the programs");
        let mut bench = Self {
            programs,
            image,
            lease_holds: true,
            sockets: Box::new(no_sockets),
            fragments: Fragments::default(),
        };
        bench.lease(true);
        bench
    }

    pub fn lease(&mut self, holds: bool) {
        self.lease_holds = holds;
        self.programs.set_lease(if holds { u64::MAX } else { 1 });
    }

    pub fn program(&mut self, image: Image) {
        self.programs.program(&image);
        self.image = image;
    }

    /// What covey-filter says of a frame that leaves under the image in force.
    pub fn guard(&self, frame: &[u8]) -> Egress {
        guard(frame, &self.view(&self.image))
    }

    /// What covey-filter says of a frame under an image.
    pub fn decide(&self, image: &Image, frame: &[u8]) -> Decision {
        decide(frame, &self.view(image))
    }

    fn view<'a>(&'a self, image: &'a Image) -> View<'a> {
        View {
            image,
            lease_holds: self.lease_holds,
            sockets: &self.sockets,
            fragments: Some(&self.fragments),
        }
    }

    /// Runs frames through both programs and compares with covey-filter; counters are compared over all of them.
    pub fn compare(&mut self, frames: &[Vec<u8>]) {
        let view = View {
            image: &self.image,
            lease_holds: self.lease_holds,
            sockets: &self.sockets,
            fragments: Some(&self.fragments),
        };
        // The kernel forgets first fragments in time, `Fragments` does not: here both do so together, and before time.
        const FORGET: Duration = Duration::from_millis(250);
        forget(&mut self.programs, &self.fragments);
        let mut remembered = Instant::now();
        let before = self.programs.counters().expect("counters can be read");
        let mut reasons = vec![0; Reason::ALL.len()];
        let mut by_rule = vec![Packets::default(); RULE_SLOTS];
        for frame in frames {
            if remembered.elapsed() > FORGET {
                forget(&mut self.programs, &self.fragments);
                remembered = Instant::now();
            }
            let expected = expected(frame, &view);
            let ingress: &Xdp = self.programs.ingress();
            assert_eq!(run(ingress, frame), expected.ingress, "{frame:02x?}");
            reasons[expected.ingress_reason as usize] += 1;
            match expected.met {
                Some((rule, true)) => by_rule[usize::from(rule)].accepted += 1,
                Some((rule, false)) => by_rule[usize::from(rule)].dropped += 1,
                None => {}
            }
            if makes_an_skb(frame) {
                let egress: &SchedClassifier = self.programs.guard();
                assert_eq!(run(egress, frame), expected.egress, "{frame:02x?}");
                if let Some(reason) = expected.egress_reason {
                    reasons[reason as usize] += 1;
                }
            }
        }
        let after = self.programs.counters().expect("counters can be read");
        let since = after.since(&before);
        let counted: Vec<u64> = since.by_reason().map(|(_, count)| count).collect();
        let counted_by_rule: Vec<Packets> = (0..NO_RULE).map(|rule| since.of_rule(rule)).collect();
        if counted != reasons {
            if let [frame] = frames {
                panic!("reasons {reasons:?}, but counted {counted:?}, for {frame:02x?}");
            }
            frames.chunks(1).for_each(|frame| self.compare(frame));
            panic!("the counters differ only when many frames are run");
        }
        assert_eq!(counted_by_rule, by_rule);
    }
}

fn forget(programs: &mut Programs, fragments: &Fragments) {
    programs.forget_fragments().expect("the map can be emptied");
    fragments.clear();
}

/// The counters, in the order of the reasons.
pub fn counts(programs: &Programs) -> Vec<u64> {
    let counters = programs.counters().expect("counters can be read");
    counters.by_reason().map(|(_, count)| count).collect()
}
