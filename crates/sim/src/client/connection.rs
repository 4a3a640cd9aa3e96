//! One connection of a client: the TCP of someone who talks to several hosts that all say they are one.

use super::{Happening, Results};
use crate::packet::{ACK, FIN, Packet, RST, SYN, Tcp, Transport};
use crate::site;
use crate::tcp::Tuple;
use covey_proto::ids::Mac;
use covey_proto::time::Time;
use std::time::Duration;

/// First wait for an answer to a SYN; doubled each time (RFC 6298).
pub(super) const SYN_AGAIN: Duration = Duration::from_secs(1);
/// First wait for an answer to anything else, and the longest.
const DATA_AGAIN: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));
/// SYNs that are sent before giving up.
const SYNS: u8 = 6;
/// Repeats of a request before the connection counts as hung: half a minute.
const REQUESTS: u8 = 18;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    SynSent,
    /// Nothing is under way; the next request or the end comes at `due`.
    Idle,
    /// A request waits for its answer.
    Asking,
    /// A FIN waits for its answer.
    Closing,
}

#[derive(Clone, Debug)]
pub(super) struct Connection {
    pub(super) tuple: Tuple,
    pub(super) isn: u32,
    pub(super) state: State,
    /// Next byte to send, once what is under way is acknowledged.
    pub(super) sent: u32,
    /// Next byte expected.
    pub(super) received: u32,
    pub(super) tries: u8,
    pub(super) due: Time,
    pub(super) requests_left: u8,
    pub(super) pause: Duration,
    pub(super) aborts: bool,
    /// The server has closed, so nothing more is to come.
    pub(super) complete: bool,
    /// A host has answered a SYN for an earlier connection of these ends.
    pub(super) stale: bool,
    /// The NIC of the host that accepted it.
    pub(super) voice: Option<Mac>,
    /// No host can have kept anything but TIME_WAIT of an earlier connection of these ends.
    pub(super) first: bool,
    /// Both sides have closed it.
    pub(super) closed: bool,
}

impl Connection {
    pub(super) fn arm(&mut self, now: Time) {
        let doubled = |first: Duration| first * (1 << self.tries.saturating_sub(1).min(10));
        self.due = now
            + match self.state {
                State::SynSent => doubled(SYN_AGAIN),
                State::Idle => self.pause,
                State::Asking | State::Closing => doubled(DATA_AGAIN.0).min(DATA_AGAIN.1),
            };
    }

    fn under_way(&self) -> (u8, [u8; 6]) {
        let request = self.tuple.client.ip().octets();
        let [a, b, c, d] = request;
        let port = self.tuple.client.port().to_be_bytes();
        (
            if self.state == State::Closing {
                FIN | ACK
            } else {
                ACK
            },
            [a, b, c, d, port[0], port[1]],
        )
    }

    fn speak(&self, wire: &mut Wire<'_>) {
        let (flags, request) = self.under_way();
        let data = if self.state == State::Asking {
            &request[..]
        } else {
            &[]
        };
        wire.send(self.tuple, self.sent, self.received, flags, data);
    }

    /// What to do when nothing has come for long enough. False when the connection is over.
    pub(super) fn on_due(&mut self, wire: &mut Wire<'_>) -> bool {
        let (tuple, isn) = (self.tuple, self.isn);
        match self.state {
            State::SynSent if self.tries == SYNS => {
                wire.happens(Happening::Refused {
                    key: (tuple, isn),
                    stale: self.stale,
                });
                return false;
            }
            State::SynSent => {
                self.tries += 1;
                wire.happens(Happening::SynAgain {
                    key: (tuple, isn),
                    stale: std::mem::take(&mut self.stale),
                });
                wire.send(tuple, isn, 0, SYN, &[]);
            }
            State::Asking | State::Closing if self.tries == REQUESTS => {
                wire.happens(Happening::Hung {
                    key: (tuple, isn),
                    stale: !self.first,
                });
                return false;
            }
            State::Asking | State::Closing => {
                self.tries += 1;
                self.speak(wire);
            }
            State::Idle if self.requests_left == 0 && self.aborts => {
                wire.send(tuple, self.sent, 0, RST, &[]);
                wire.happens(Happening::Finished((tuple, isn)));
                return false;
            }
            State::Idle => {
                self.state = if self.requests_left == 0 {
                    State::Closing
                } else {
                    State::Asking
                };
                self.requests_left = self.requests_left.saturating_sub(1);
                self.tries = 1;
                self.speak(wire);
            }
        }
        true
    }

    /// Notices who acknowledges what the client says. Anything else may be repeated of an earlier connection of these
    /// ends, or of the answer to a SYN that two hosts took.
    pub(super) fn hear_voice(&mut self, source: Mac, segment: &Tcp<'_>, wire: &mut Wire<'_>) {
        let bare =
            segment.payload.is_empty() && ![SYN, RST, FIN].iter().any(|flag| segment.has(*flag));
        match self.voice {
            _ if self.stale || !self.first => {}
            None if segment.has(SYN) && segment.acknowledgement == self.sent => {
                self.voice = Some(source);
            }
            Some(voice) if bare && voice != source => {
                wire.happens(Happening::OtherVoice {
                    key: (self.tuple, self.isn),
                    mac: source,
                });
                // If its own host is gone, this one's TIME_WAIT answers until it ends.
                self.first = false;
            }
            Some(_) | None => {}
        }
    }

    /// Takes a segment. False when the connection is over.
    pub(super) fn receive(&mut self, now: Time, segment: &Tcp<'_>, wire: &mut Wire<'_>) -> bool {
        let (tuple, isn) = (self.tuple, self.isn);
        if self.state == State::SynSent {
            let ours = segment.has(ACK) && segment.acknowledgement == self.sent;
            if segment.has(RST) {
                if ours {
                    wire.happens(Happening::Refused {
                        key: (tuple, isn),
                        stale: self.stale,
                    });
                }
                return !ours;
            }
            if !ours {
                // Of an earlier connection of this tuple (RFC 9293, §3.10.7.3).
                self.stale = true;
                wire.send(tuple, segment.acknowledgement, 0, RST, &[]);
                return true;
            }
            if segment.has(SYN) {
                self.received = segment.sequence.wrapping_add(1);
                self.state = State::Idle;
                self.arm(now);
                wire.happens(Happening::Established);
                wire.send(tuple, self.sent, self.received, ACK, &[]);
            }
            return true;
        }
        if segment.has(RST) {
            let exact = segment.sequence == self.received;
            if exact && self.complete {
                // All has been said; only the last acknowledgement was lost, and TIME_WAIT stays where it is.
                wire.happens(Happening::Finished((tuple, isn)));
            } else if exact {
                wire.happens(Happening::Reset((tuple, isn)));
            }
            return !exact;
        }
        if segment.sequence != self.received {
            // A bare acknowledgement is not answered by another (RFC 5961, §7).
            if segment.end() != segment.sequence {
                wire.send(tuple, self.sent, self.received, ACK, &[]);
            }
            return true;
        }
        self.take(now, segment, wire)
    }

    /// Data, FIN and acknowledgements of an established connection.
    fn take(&mut self, now: Time, segment: &Tcp<'_>, wire: &mut Wire<'_>) -> bool {
        let (tuple, isn) = (self.tuple, self.isn);
        let (_, request) = self.under_way();
        match self.state {
            State::Asking if !segment.payload.is_empty() => {
                self.sent = self.sent.wrapping_add(request.len() as u32);
                self.received = segment.end();
                if segment.has(FIN) {
                    // The server has closed: so does the client, and is done when that arrives.
                    self.state = State::Closing;
                    self.complete = true;
                    self.tries = 1;
                    self.speak(wire);
                } else {
                    self.state = State::Idle;
                    wire.send(tuple, self.sent, self.received, ACK, &[]);
                }
                self.arm(now);
                true
            }
            State::Closing if segment.has(FIN) || tuple.service.port() == site::SHORT => {
                let fin_taken = segment.acknowledgement == self.sent.wrapping_add(1);
                if segment.has(FIN) {
                    wire.send(tuple, self.sent.wrapping_add(1), segment.end(), ACK, &[]);
                }
                if fin_taken {
                    self.closed = true;
                    wire.happens(Happening::Finished((tuple, isn)));
                }
                !fin_taken
            }
            State::SynSent | State::Idle | State::Asking | State::Closing => true,
        }
    }
}

/// Where frames and happenings go.
pub(super) struct Wire<'a> {
    pub(super) mac: Mac,
    pub(super) cluster: Mac,
    pub(super) results: &'a mut Results,
}

impl Wire<'_> {
    fn happens(&mut self, happening: Happening) {
        self.results.happenings.push(happening);
    }

    pub(super) fn send(
        &mut self,
        tuple: Tuple,
        sequence: u32,
        acknowledgement: u32,
        flags: u8,
        payload: &[u8],
    ) {
        let segment = Tcp {
            sequence,
            acknowledgement,
            flags,
            payload,
        };
        let packet = Packet {
            from: tuple.client,
            to: tuple.service,
            transport: Transport::Tcp(segment),
        };
        self.results
            .frames
            .push(packet.emit(self.mac, self.cluster));
    }
}
