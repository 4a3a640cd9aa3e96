//! Counts the host's connections, and ends some, beside the daemon's loop: with very many of them it takes longer
//! than a heartbeat may wait. Used by the daemon for what the core asks in [`covey_proto::Output::CountConnections`]
//! and [`covey_proto::Output::Cut`]. Specification: docs/design.md, "Connections".

use crate::host;
use crate::sockets::{self, Idle};
use covey_proto::Connection;
use covey_proto::ids::Mac;
use covey_proto::wire::heartbeat::Ends;
use std::net::IpAddr;
use tokio::sync::mpsc;

/// Results that may wait for the loop.
const RESULTS: usize = 64;

/// What has been found out.
pub(super) enum Finding {
    /// The host's connections. `None` if the kernel would not say: then everything that may linger is taken to linger.
    Connections(Option<Count>),
    /// What of a search is not there.
    Missing(Vec<Ends>),
    /// Machines on the segment that this one has talked to.
    Neighbours(Vec<(IpAddr, Mac)>),
}

/// What a count has found.
pub(super) struct Count {
    pub(super) connections: Vec<Connection>,
    /// SYN cookies that the host has sent since it was started.
    cookies_sent: u64,
}

/// Whoever counts.
pub(super) struct Census {
    found_out: mpsc::Sender<Finding>,
    findings: mpsc::Receiver<Finding>,
    running: bool,
    /// As of the last count.
    cookies_sent: u64,
}

impl Census {
    pub(super) fn new() -> Self {
        let (found_out, findings) = mpsc::channel(RESULTS);
        Self {
            found_out,
            findings,
            running: false,
            cookies_sent: 0,
        }
    }

    /// Begins to count connections to these addresses; also how long each has been idle, if that is wanted.
    pub(super) fn count(&mut self, vips: &[IpAddr], idle: Idle) {
        self.running = true;
        let (vips, found_out) = (vips.to_vec(), self.found_out.clone());
        tokio::task::spawn_blocking(move || {
            let found = sockets::connections(&vips, idle).map(|connections| Count {
                connections,
                // Where this cannot be read there are none: a kernel without IPv4 or without /proc.
                cookies_sent: sockets::cookies_sent().unwrap_or_default(),
            });
            let found = found.inspect_err(|error| tracing::error!("{error}")).ok();
            // If nobody listens any more, nobody wants to know.
            let _ = found_out.blocking_send(Finding::Connections(found));
        });
    }

    /// Begins to look whom this machine has talked to on an interface.
    pub(super) fn look_for_neighbours(&self, interface: u32) {
        let found_out = self.found_out.clone();
        tokio::task::spawn_blocking(move || match host::neighbours(interface) {
            // If nobody listens any more, nobody wants to know.
            Ok(neighbours) => drop(found_out.blocking_send(Finding::Neighbours(neighbours))),
            Err(error) => tracing::debug!("the neighbours cannot be read: {error}"),
        });
    }

    /// Whether a count is under way.
    pub(super) const fn is_running(&self) -> bool {
        self.running
    }

    /// Waits for the end of a count or a search. Safe to cancel.
    pub(super) async fn finished(&mut self) -> Finding {
        let Some(finding) = self.findings.recv().await else {
            unreachable!("the sender beside it is still there");
        };
        if let Finding::Connections(_) = finding {
            self.running = false;
        }
        finding
    }

    /// Whether the host has sent SYN cookies since the count before this one.
    pub(super) const fn sends_cookies(&mut self, count: &Count) -> bool {
        let before = std::mem::replace(&mut self.cookies_sent, count.cookies_sent);
        before != count.cookies_sent
    }

    /// Begins to look which of these connections this host does not have.
    pub(super) fn search(&self, connections: Vec<Ends>) {
        let found_out = self.found_out.clone();
        tokio::task::spawn_blocking(move || {
            let found = sockets::missing(&connections);
            // Rather no answer than a wrong one.
            let found = found.inspect_err(|error| tracing::error!("{error}"));
            let _ = found_out.blocking_send(Finding::Missing(found.unwrap_or_default()));
        });
    }

    /// Resets connections. The runtime does not end before it is done.
    pub(super) fn cut(connections: Vec<Connection>) {
        tokio::task::spawn_blocking(move || match sockets::destroy(&connections) {
            Ok(0) => {}
            Ok(count) => tracing::info!("{count} connections reset"),
            Err(error) => tracing::error!("{error}"),
        });
    }
}
