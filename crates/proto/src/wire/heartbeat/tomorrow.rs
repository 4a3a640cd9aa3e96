//! What a later version may add to a message: bytes after the known fields of a record, and records of its own.
//!
//! A host whose configuration says that it speaks a later version than this program sends messages like these, so
//! that tests and the simulator can let today's hosts live with one of tomorrow. Daemons speak today's version.
//! Specification: docs/design.md, "On the wire".

use super::records::{kind, record};

/// A record type that no version has.
const UNKNOWN: u8 = 0xFA;
/// What stands where today's version expects nothing.
const NEWS: &[u8] = b"news";

/// Extends the records of an unsigned message, which begin at `start`.
pub(super) fn extend(out: &mut Vec<u8>, start: usize) {
    let records = out.split_off(start);
    record(out, UNKNOWN, |value| value.extend_from_slice(NEWS));
    let mut rest = &records[..];
    while let Some((&[kind, _, low, high], after)) = rest.split_first_chunk() {
        let length = usize::from(u16::from_le_bytes([low, high]));
        let (value, after) = after.split_at(length);
        rest = after;
        record(out, kind, |longer| {
            longer.extend_from_slice(value);
            // These two are lists that go on to their end: they cannot be extended.
            if kind != kind::ECHOES && kind != kind::CHUNK {
                longer.extend_from_slice(NEWS);
            }
        });
    }
    record(out, UNKNOWN, |value| value.extend_from_slice(NEWS));
}
