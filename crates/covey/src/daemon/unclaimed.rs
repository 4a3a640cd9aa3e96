//! What the filter was silent to: segments in shared buckets that belong to no socket of this host. The core asks the
//! other hosts about them, and what nobody has is disowned (`covey_proto::Output::Disown`).
//! Used by the daemon's loop. Specification: docs/design.md, "Connections".

use super::sys;
use crate::datapath::DataPath;
use anyhow::Context;
use aya::maps::{MapData, RingBuf};
use covey_filter::{Address, Ports};
use covey_proto::wire::heartbeat::Ends;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep_until};

/// Gathers what comes within this time, so that a flood of forged segments does not keep the daemon busy.
const GATHER: Duration = Duration::from_millis(2);
/// For how long segments of a connection that nobody has get to the kernel.
pub(super) const DISOWNED: Duration = Duration::from_secs(3);

/// The filter's reports.
pub(super) struct Unclaimed {
    ring: AsyncFd<RingBuf<MapData>>,
    read_at: Option<Instant>,
}

impl Unclaimed {
    /// Must be called in a tokio runtime, once per data path.
    pub(super) fn open(data_path: &mut DataPath) -> anyhow::Result<Self> {
        let ring = data_path.take_unclaimed()?;
        let ring = ring.context("the filter's reports are read by somebody else")?;
        Ok(Self {
            ring: sys::watch(ring).context("the filter's reports cannot be watched")?,
            read_at: None,
        })
    }

    /// Waits for reports. Safe to cancel.
    pub(super) async fn told(&mut self) -> std::io::Result<Vec<Ends>> {
        if self.read_at.is_none() {
            self.ring.readable().await?.retain_ready();
            self.read_at = Some(Instant::now() + GATHER);
        }
        if let Some(at) = self.read_at {
            sleep_until(at).await;
        }
        self.read_at = None;
        let mut guard = self.ring.readable_mut().await?;
        let mut told = Vec::new();
        while let Some(report) = guard.get_inner_mut().next() {
            told.extend(parse(&report));
        }
        guard.clear_ready();
        Ok(told)
    }
}

fn parse(report: &[u8]) -> Option<Ends> {
    let (words, []) = report.as_chunks() else {
        return None;
    };
    let words: [[u8; 8]; 5] = words.try_into().ok()?;
    let ends = covey_filter::Ends(words.map(u64::from_ne_bytes));
    let (client, service) = ends.addresses();
    let ports = ends.ports();
    Some(Ends {
        client: SocketAddr::new(client.into(), ports.source),
        service: SocketAddr::new(service.into(), ports.destination),
    })
}

/// The connection as the filter names it.
pub(super) fn for_filter(ends: &Ends) -> covey_filter::Ends {
    let ports = Ports {
        source: ends.client.port(),
        destination: ends.service.port(),
    };
    let [client, service] = [ends.client, ends.service].map(|end| Address::from(end.ip()));
    covey_filter::Ends::new(client, service, ports)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_has_one_name() {
        for (client, service) in [
            ("10.77.0.200:40000", "10.77.0.100:80"),
            ("[fd77::c8]:1", "[fd77::100]:65535"),
        ] {
            let ends = Ends {
                client: client.parse().unwrap(),
                service: service.parse().unwrap(),
            };
            let bytes: Vec<u8> = for_filter(&ends)
                .0
                .iter()
                .flat_map(|word| word.to_ne_bytes())
                .collect();
            assert_eq!(parse(&bytes), Some(ends));
            assert_eq!(parse(&bytes[1..]), None);
            assert_eq!(parse(&bytes[8..]), None);
        }
    }
}
