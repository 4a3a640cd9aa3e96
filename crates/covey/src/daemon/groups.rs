//! The daemon's part in the cluster's IP multicast groups: it is a member in IGMP mode, announces itself as a router if that
//! is wanted, and tells what [`Multicast`] has noticed. Called by the daemon's loop, and by delivery.rs when the mode or
//! the MAC may have changed. Specification: docs/design.md, "IP multicast groups".

use super::{Daemon, sys};
use crate::multicast::{Inheritance, Multicast, Notice, Querier, Settings};
use crate::status::{MulticastStatus, QuerierStatus};
use covey_proto::config::ClusterMode;
use covey_proto::event::Severity;
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

/// "This host is not in its group".
const NOT_A_MEMBER: u16 = 1108;

/// What a daemon leaves to the next of its membership.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(super) struct Membership {
    /// The socket that holds it, which stays open until the next daemon has one of its own: nothing is left in between.
    socket: RawFd,
    watch: Inheritance,
}

impl Daemon {
    /// Is in the groups of the mode in force and of the one that is offered, so that a new one is joined before anybody
    /// sends to it.
    pub(super) fn join_groups(&mut self) {
        let settings = self.wanted_groups();
        let done = match &mut self.multicast {
            Some(multicast) if *multicast.settings() == settings => return,
            Some(multicast) => multicast.follow(settings),
            None if settings.groups.is_empty() && !settings.announce => return,
            None => {
                let (name, index) = (&self.config.host.interface, self.interface);
                Multicast::open(name, index, settings).map(|opened| self.multicast = Some(opened))
            }
        };
        if let Err(error) = done {
            self.note_no_member(&error);
        }
    }

    fn wanted_groups(&self) -> Settings {
        let cluster = &self.config.cluster;
        let deliveries = [self.cluster.delivery(), cluster.delivery];
        let mut groups: Vec<_> = deliveries.iter().filter_map(|by| by.group()).collect();
        groups.dedup();
        let multicast = deliveries
            .iter()
            .any(|by| by.mode() != ClusterMode::Unicast);
        Settings {
            groups,
            report_interval: cluster.igmp_report_interval,
            querier_timeout: cluster.querier_timeout,
            announce: cluster.announce_mrouter && multicast,
            ipv6: cluster.vips.iter().any(|vip| vip.address.is_ipv6()),
        }
    }

    /// Takes note of what has been noticed.
    pub(super) fn note_groups(&mut self, told: io::Result<Vec<Notice>>) {
        match told {
            Ok(notices) => {
                let settings = self.wanted_groups();
                for notice in notices {
                    let text = notice.tell(&settings);
                    self.journal.record(notice.id(), notice.severity(), text);
                }
            }
            Err(error) => {
                self.multicast = None;
                self.note_no_member(&error.into());
            }
        }
    }

    fn note_no_member(&mut self, error: &anyhow::Error) {
        let text = format!(
            "{error:#}: a switch that snoops brings this host nothing that is sent to the cluster; the daemon tries again \
             when the link or the configuration changes"
        );
        self.journal.record(NOT_A_MEMBER, Severity::Error, text);
    }

    /// The link has changed.
    pub(super) fn renew_groups(&mut self, up: bool) {
        match &mut self.multicast {
            Some(multicast) => multicast.link(up),
            None if up => self.join_groups(),
            None => {}
        }
    }

    /// Nothing is heard: has the switch forgotten that this host is a member?
    pub(super) fn show_groups(&mut self) {
        if let Some(multicast) = &mut self.multicast {
            multicast.show();
        }
    }

    /// Leaves the membership to the next daemon, or keeps it after all.
    pub(super) fn hand_on_groups(&self, hand_on: bool) -> io::Result<()> {
        match &self.multicast {
            Some(multicast) => sys::leave_to_the_next(multicast.membership(), hand_on),
            None => Ok(()),
        }
    }

    /// What the next daemon is to know.
    pub(super) fn membership(&self) -> Option<Membership> {
        let multicast = self.multicast.as_ref()?;
        Some(Membership {
            socket: multicast.membership().as_raw_fd(),
            watch: multicast.inheritance(),
        })
    }

    /// Goes on where the daemon before was: joins, and only then gives its socket up.
    pub(super) fn take_over_groups(&mut self, before: Option<Membership>) {
        self.join_groups();
        let Some(before) = before else { return };
        if let Some(multicast) = &mut self.multicast {
            multicast.resume(before.watch);
        }
        match sys::file_of_the_one_before(before.socket) {
            Ok(socket) => drop(socket),
            Err(error) => tracing::debug!("the membership was not handed on: {error}"),
        }
    }

    /// What is told of it.
    pub(super) fn multicast_status(&self) -> Option<MulticastStatus> {
        let multicast = self.multicast.as_ref()?;
        let settings = multicast.settings();
        let millis = |time: Duration| time.as_millis() as u64;
        let querier = |heard: Option<(Duration, Querier)>| {
            heard.map(|(ago, querier)| QuerierStatus {
                address: querier.from,
                version: querier.query.version.number(),
                heard_ms_ago: millis(ago),
                answer_within_ms: millis(querier.query.within),
                asks_every_ms: querier.query.every.map(millis),
            })
        };
        let [igmp, mld] = multicast.queriers();
        Some(MulticastStatus {
            groups: settings.groups.clone(),
            igmp_querier: querier(igmp),
            mld_querier: querier(mld),
            silent_ms: multicast.silent().map(millis),
            querier_timeout_ms: millis(settings.querier_timeout),
            report_interval_ms: settings.report_interval.map(millis),
            announces_mrouter: settings.announce,
        })
    }
}

/// Waits for something to tell; for ever if there are no groups. Safe to cancel.
pub(super) async fn told(multicast: Option<&mut Multicast>) -> io::Result<Vec<Notice>> {
    match multicast {
        Some(multicast) => multicast.told().await,
        None => std::future::pending().await,
    }
}
