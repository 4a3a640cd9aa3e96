//! What a frame that has arrived changes: it is read, its sender is believed or not, and its content is noted.
//!
//! Called for every [`super::Input::Frame`]. What follows from all that is known is drawn in `Cluster::review`.
//! Specification: docs/design.md, "On the wire".

use super::Cluster;
use super::peer::Heard;
use crate::config::four_bytes;
use crate::event::Event;
use crate::ids::{Epoch, HostId};
use crate::time::Time;
use crate::wire::Reject;
use crate::wire::arp::{Arp, Operation};
use crate::wire::ethernet::{self, Ethernet};
use crate::wire::heartbeat::{Announced, Body, Chunk, Message, Subject};

impl Cluster {
    pub(super) fn on_frame(&mut self, now: Time, frame: &[u8]) -> Result<(), Reject> {
        let frame = Ethernet::parse(frame)?;
        match frame.ethertype {
            ethernet::HEARTBEAT | ethernet::LEGACY_HEARTBEAT => {
                let primary = four_bytes(self.config.rules.primary());
                let message = Message::parse(frame.payload, primary, &self.config.auth)
                    .inspect_err(|reason| self.note_stranger(now, frame.payload, *reason))?;
                self.on_message(now, frame.destination == self.config.mac, message)
            }
            ethernet::ARP => {
                let arp = Arp::parse(frame.payload)?;
                self.note_claim(now, &arp);
                if arp.operation == Operation::Reply {
                    self.on_arp_reply(now, arp);
                }
                Ok(())
            }
            ethernet::PROBE => self.on_probe(now, &frame),
            _ => Ok(()),
        }
    }

    fn on_message(&mut self, now: Time, direct: bool, message: Message) -> Result<(), Reject> {
        let Message { sender, body } = message;
        if !self.takes_part() {
            return Err(Reject::Stopped);
        }
        if sender.host == self.config.host {
            if sender.mac == self.config.mac {
                return Err(Reject::OwnFrame);
            }
            return Err(self.on_rival(now, sender, &body));
        }
        if direct && self.peers.has_just_spoken(&sender) {
            // What has come to all is repeated to this host alone.
            self.note_path(now, sender.host, true);
            return Ok(());
        }
        let heartbeat = match body {
            Body::Heartbeat(heartbeat) => *heartbeat,
            Body::Chunk(chunk) => {
                self.peers.hear_other(&sender)?;
                self.on_chunk(sender.host, &chunk);
                return Ok(());
            }
            Body::Inquiry {
                inquiry,
                epoch,
                connections,
            } => {
                self.peers.hear_other(&sender)?;
                if self
                    .committed
                    .as_ref()
                    .is_some_and(|map| map.base().epoch == epoch)
                {
                    self.on_inquiry(sender.host, inquiry, &connections);
                }
                return Ok(());
            }
            Body::Probe => return Err(Reject::BadRecord),
            // As its next heartbeat says too.
            Body::Commit(commit) => {
                self.peers.hear_other(&sender)?;
                if let Some(peer) = self.peers.get_mut(sender.host) {
                    peer.heartbeat.committed = Some(commit.map);
                }
                return Ok(());
            }
        };
        let (host, mac, name, mode) =
            (sender.host, sender.mac, sender.name.clone(), heartbeat.mode);
        // One that says goodbye speaks of what it would have wanted.
        let stays = heartbeat.announced != Announced::Goodbye;
        let echo = heartbeat.echo_of(self.config.host, self.config.incarnation);
        let echoed = echo.and_then(|echo| self.whole_sequence(echo.sequence));
        let heard = self
            .peers
            .hear(now, sender, heartbeat, echoed, self.sequence + 1);
        match heard {
            Ok(Heard::Known) => {}
            Ok(Heard::Joined) => {
                self.emit(Event::HostJoined {
                    host,
                    name: name.clone(),
                    mac,
                });
                self.hurry(now);
                self.note_meeting(now, host);
            }
            Ok(Heard::Left) => self.emit(Event::HostLeft { host }),
            // The newcomer needs an echo at once to prove itself.
            Err(Reject::Unproven) => self.hurry(now),
            Err(Reject::DuplicateId) => self.note_twin(now, host, (&name, mac)),
            Err(_) => {}
        }
        if stays && matches!(heard, Ok(_) | Err(Reject::Unproven)) {
            self.note_mode(now, host, &name, mode);
        }
        heard?;
        self.after_hearing(now, host, direct, echoed);
        Ok(())
    }

    fn after_hearing(&mut self, now: Time, host: HostId, direct: bool, echoed: Option<u64>) {
        self.lingering.news = true;
        let confirmed = echoed.and_then(|sequence| self.sent.serves_until(sequence));
        let (me, start) = (self.config.host, self.config.incarnation);
        self.note_path(now, host, direct);
        let Some(peer) = self.peers.get_mut(host) else {
            return;
        };
        peer.echoed = echoed;
        if let Some(reach) = peer.heartbeat.reach {
            peer.probes.note(reach.probed);
        }
        if peer.heartbeat.grants_to(me, start) {
            peer.renews_until = peer.renews_until.max(confirmed.unwrap_or(Time::ZERO));
        }
        let wanted = peer.heartbeat.wanted;
        let epoch = peer
            .heartbeat
            .committed
            .map_or(Epoch(0), |map| map.ballot.epoch);
        self.highest_epoch = self.highest_epoch.max(epoch);
        self.renew_lease(now);
        if let Some(wanted) = wanted {
            self.send_wanted_map(now, wanted);
        }
    }

    /// Takes a part of something large.
    fn on_chunk(&mut self, from: HostId, chunk: &Chunk) {
        match chunk.subject {
            Subject::Map(base) => self.on_map_chunk(from, base, chunk),
            Subject::Lingering(digest) | Subject::Sticky(digest) | Subject::Held(digest) => {
                self.on_bucket_chunk(from, digest, chunk);
            }
            Subject::Rules(digest) => self.on_rules_chunk(from, digest, chunk),
        }
    }

    /// The full sequence of a message of this host, from the low half in an echo.
    pub(super) fn whole_sequence(&self, low: u32) -> Option<u64> {
        let behind = (self.sequence as u32).wrapping_sub(low);
        self.sequence.checked_sub(u64::from(behind))
    }
}
