//! Counts the host's connections, and ends some, beside the daemon's loop: with very many of them it takes longer
//! than a heartbeat may wait. Used by the daemon for what the core asks in [`covey_proto::Output::CountConnections`]
//! and [`covey_proto::Output::Cut`]. Specification: docs/design.md, "Connections".

use crate::sockets;
use covey_proto::Connection;
use std::net::IpAddr;
use tokio::sync::mpsc;

/// Whoever counts.
pub(super) struct Census {
    counted: mpsc::Sender<Option<Vec<Connection>>>,
    results: mpsc::Receiver<Option<Vec<Connection>>>,
    running: bool,
}

impl Census {
    pub(super) fn new() -> Self {
        let (counted, results) = mpsc::channel(1);
        Self {
            counted,
            results,
            running: false,
        }
    }

    /// Begins to count connections to these addresses.
    pub(super) fn count(&mut self, vips: &[IpAddr]) {
        self.running = true;
        let (vips, counted) = (vips.to_vec(), self.counted.clone());
        tokio::task::spawn_blocking(move || {
            let found = sockets::connections(&vips);
            let found = found.inspect_err(|error| tracing::error!("{error}")).ok();
            // If nobody listens any more, nobody wants to know.
            let _ = counted.blocking_send(found);
        });
    }

    /// Whether a count is under way.
    pub(super) const fn is_running(&self) -> bool {
        self.running
    }

    /// Waits for the count. `None` if the kernel would not say: then everything that may linger is taken to linger.
    pub(super) async fn finished(&mut self) -> Option<Vec<Connection>> {
        let result = self.results.recv().await;
        self.running = false;
        result.flatten()
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
