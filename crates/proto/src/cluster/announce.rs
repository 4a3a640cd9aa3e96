//! What this host tells the others: heartbeats every period and on every change, map chunks on demand.

use super::{Cluster, Output, Role, Trigger};
use crate::config::four_bytes;
use crate::ids::{HostSet, Mac};
use crate::time::{Time, Timer};
use crate::wire::heartbeat::{
    Acknowledgement, Announced, Body, CHUNK_LEN, Chunk, Commit, CommittedMap, Heartbeat, Message,
    Offer, Sender, Subject,
};
use covey_filter::Token;
use std::time::Duration;

/// How often a commit and a goodbye are said, because each may be lost.
pub(super) const REPEATS: u8 = 3;

/// The least time between two heartbeats out of turn, however short the period.
const MIN_GAP: Duration = Duration::from_millis(1);

impl Cluster {
    /// Has a heartbeat sent as soon as the spacing allows, because something changed.
    pub(super) fn hurry(&mut self, now: Time) {
        let gap = MIN_GAP.max(self.config.timing.period / 10);
        self.timers
            .advance(Timer::Urgent, now.max(self.last_heartbeat_at + gap));
    }

    /// Has a heartbeat sent at once, because another host waits for nothing else: it spaces its questions.
    pub(super) fn answer(&mut self, now: Time) {
        self.timers
            .advance(Timer::Urgent, now.max(self.last_heartbeat_at + MIN_GAP));
    }

    /// Says everything this host has to say.
    pub(super) fn send_heartbeat(&mut self, now: Time) {
        self.timers.stop(Timer::Urgent);
        self.tell_lingering(now);
        self.tell_held(now);
        let body = Body::Heartbeat(Box::new(self.heartbeat(now)));
        self.sequence += 1;
        self.last_heartbeat_at = now;
        self.sent.record(self.sequence, now, self.timing());
        let message = Message {
            sender: self.sender(),
            body,
        };
        self.transmit_to_all(now, &message);
        self.note_silence(now);
        self.ask_directly(now);
        self.show_rules(now);
        self.note_grants();
        self.renew_lease(now);
        if let Role::Parting { .. } = self.role {
            self.hurry(now);
            self.change_role(now, Trigger::GoodbyeSent);
        } else if self.repeats > 1 {
            self.repeats -= 1;
            self.hurry(now);
        }
    }

    /// Shows all hosts the token of a map. The frame may be lost as any other, and a repetition costs nothing.
    pub(super) fn reveal(&mut self, now: Time, map: CommittedMap, token: Token) {
        for _ in 0..REPEATS {
            self.sequence += 1;
            let message = Message {
                sender: self.sender(),
                body: Body::Commit(Commit { token, map }),
            };
            self.transmit_to_all(now, &message);
        }
    }

    /// Sends something large to all, in as many frames as it takes.
    pub(super) fn send_in_chunks(&mut self, now: Time, subject: Subject, encoded: &[u8]) {
        for (index, bytes) in encoded.chunks(CHUNK_LEN).enumerate() {
            self.sequence += 1;
            let chunk = Chunk {
                subject,
                total: encoded.len() as u32,
                offset: (index * CHUNK_LEN) as u32,
                bytes: bytes.to_vec(),
            };
            let message = Message {
                sender: self.sender(),
                body: Body::Chunk(chunk),
            };
            self.transmit_to_all(now, &message);
        }
    }

    pub(super) fn transmit(&mut self, message: &Message, destination: Mac) {
        let primary = four_bytes(self.config.rules.primary());
        let frame = message.emit(destination, self.ethertype(), primary, &self.config.auth);
        self.outputs.push_back(Output::Transmit(frame));
    }

    /// Sends a message to where heartbeats go, by broadcast too while there may be hosts that do not listen there, and
    /// directly to hosts that neither reaches.
    pub(super) fn transmit_to_all(&mut self, now: Time, message: &Message) {
        let everyone = self.delivery().heartbeats();
        self.transmit(message, everyone);
        if everyone != Mac::BROADCAST && self.others_may_listen_elsewhere() {
            self.transmit(message, Mac::BROADCAST);
        }
        for mac in self.hosts_in_need(now) {
            self.transmit(message, mac);
        }
    }

    pub(super) fn sender(&self) -> Sender {
        Sender {
            host: self.config.host,
            dip: self.config.dip,
            name: self.config.name.clone(),
            mac: self.config.mac,
            incarnation: self.config.incarnation,
            sequence: self.sequence,
            version: self.config.version,
        }
    }

    /// What this host says of its part; `None` when it takes none.
    pub(super) fn announced(&self, now: Time) -> Option<Announced> {
        match self.role {
            Role::Stopped | Role::Suspended | Role::Parting { .. } => None,
            Role::Leaving { .. } => Some(Announced::Leaving),
            Role::Draining { .. } => Some(Announced::Draining),
            Role::Active if self.is_converged() => Some(Announced::Converged),
            Role::Active if self.committed.is_none() && !self.has_listened(now) => {
                Some(Announced::Listening)
            }
            Role::Active => Some(Announced::Converging),
        }
    }

    fn heartbeat(&self, now: Time) -> Heartbeat {
        Heartbeat {
            announced: self.announced(now).unwrap_or(Announced::Goodbye),
            timing: self.timing(),
            mode: self.delivery().mode(),
            legacy: self.config.legacy,
            echoes: self
                .peers
                .echoes()
                .into_iter()
                .chain(self.rivals.echoes(self.config.host))
                .collect(),
            grants: self.grants(),
            offers: self.offers(),
            committed: self
                .committed
                .as_ref()
                .map(|map| map.name())
                .or(self.handed_over),
            staged: self.staged.as_ref().map(|map| Acknowledgement {
                ballot: map.proposal.ballot,
                result: map.proposal.result,
            }),
            proposal: self.proposed.as_ref().map(|map| map.proposal),
            wanted: self.wanted,
            report: self.report(),
            kept_out: self.kept_out(now),
            findings: self.findings.clone(),
            reach: Some(self.reach(now)),
        }
    }

    fn offers(&self) -> Vec<Offer> {
        let wish = Offer {
            rules: self.offered.digest(),
            claims: self.port_states.apply(&self.offered, &self.offered_claims),
        };
        let in_force = self
            .committed
            .as_ref()
            .filter(|map| map.rules.digest() != wish.rules)
            .map(|map| Offer {
                rules: map.rules.digest(),
                claims: self.port_states.apply(&map.rules, &map.own_claims),
            });
        [wish].into_iter().chain(in_force).collect()
    }

    /// Whose lease this host's echoes renew: its view.
    fn grants(&self) -> HostSet {
        self.outlook.view.without(self.me())
    }

    /// Remembers until when the echoes just sent may let the others serve.
    fn note_grants(&mut self) {
        let granted = self.grants();
        for (host, peer) in self.peers.iter_mut() {
            if peer.alive && granted.contains(host) {
                peer.granted_until = peer.granted_until.max(peer.alive_until);
            }
        }
    }

    /// The least time between two heartbeats out of turn. It grows with the cluster: when many hosts start
    /// together, every one has something new to say to every other again and again.
    pub(super) fn urgent_gap(&self) -> Duration {
        let crowd = 1 + self.outlook.alive.len() / 16;
        MIN_GAP.max(self.config.timing.period / 10) * crowd
    }
}
