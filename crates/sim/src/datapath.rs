//! What a host's filter holds: two generations of tables, of which one is in force, as in the kernel's maps
//! (`ebpf/src/maps.rs`), and which map of the cluster each is, for the invariants.
//!
//! Filled as the core asks by `daemons.rs`; a commit frame that passes flips it, whatever the daemon does
//! (`kernel.rs`). The rule for that is the kernel's own, [`covey_filter::Control`].

use covey_filter::{Control, Token};
use covey_proto::Staging;
use covey_proto::datapath::Image;
use covey_proto::ids::{Digest, Epoch, HostSet};
use covey_proto::time::Time;

/// A map of the cluster, by name, and its members.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct MapInForce {
    pub(crate) epoch: Epoch,
    pub(crate) digest: Digest,
    pub(crate) view: HostSet,
}

/// One filter, attached or not.
#[derive(Debug)]
pub(crate) struct DataPath {
    /// Without tables the filter is not attached, and the NIC does not take frames to the cluster MAC.
    images: [Option<Image>; 2],
    maps: [MapInForce; 2],
    control: Control,
}

impl DataPath {
    pub(crate) fn detached() -> Self {
        let control = Control::default();
        control.withdraw();
        Self {
            images: [None, None],
            maps: Default::default(),
            control,
        }
    }

    /// Attaches it with these tables and no lease.
    pub(crate) fn attach(&mut self, image: Image) {
        *self = Self::detached();
        self.images[0] = Some(image);
    }

    pub(crate) fn stage(&mut self, staging: Staging) {
        self.control.withdraw();
        let next = self.control.current() ^ 1;
        self.images[next] = Some(staging.image);
        self.maps[next] = MapInForce {
            epoch: staging.map.epoch,
            digest: staging.map.digest,
            view: staging.view,
        };
        self.control.set_lease(next, staging.lease.as_micros());
        self.control.stage(staging.token);
    }

    pub(crate) fn set_staged_lease(&self, until: Time) {
        let next = self.control.current() ^ 1;
        self.control.set_lease(next, until.as_micros());
    }

    pub(crate) fn withdraw(&self) {
        self.control.withdraw();
    }

    pub(crate) fn commit(&self) {
        self.control.commit();
    }

    pub(crate) fn amend(&mut self, image: Image) {
        self.images[self.control.current()] = Some(image);
    }

    pub(crate) fn fence(&mut self) {
        self.control.withdraw();
        self.set_lease(Time::ZERO);
        if let Some(image) = &mut self.images[self.control.current()] {
            image.settings.serving = 0;
        }
    }

    pub(crate) fn set_lease(&self, until: Time) {
        let current = self.control.current();
        self.control.set_lease(current, until.as_micros());
    }

    /// A frame shows a token.
    pub(crate) fn reveal(&self, token: Token) {
        self.control.reveal(token);
    }

    /// Whether a token has put the staged tables into force.
    pub(crate) fn has_flipped(&self) -> bool {
        self.control.has_flipped()
    }

    /// The tables in force.
    pub(crate) fn image(&self) -> Option<&Image> {
        self.images[self.control.in_force()].as_ref()
    }

    /// The map that they are.
    pub(crate) fn map(&self) -> MapInForce {
        self.maps[self.control.in_force()]
    }

    /// Until when the filter may accept by them, by this host's clock.
    pub(crate) fn lease(&self) -> Time {
        Time::from_micros(self.control.lease(self.control.in_force()))
    }
}
