//! A capture of everything that was sent, in virtual time: the classic pcap format, link type Ethernet, to be opened
//! in Wireshark.
//!
//! ```text
//!   file:   magic a1b2c3d4 | major 2 | minor 4 | zone 0 | accuracy 0 | longest 65535 | link type 1
//!   frame:  seconds | microseconds | bytes kept | bytes there were | the frame
//! ```
//! All numbers are little-endian, 32 bits each but for the two halves of the version.

use covey_proto::time::Time;
use std::io::{self, Write};

const ETHERNET: u32 = 1;

/// A capture that is being written.
pub struct Pcap(Box<dyn Write>);

impl Pcap {
    /// Begins one.
    ///
    /// # Errors
    /// What the writer says.
    pub fn new(mut writer: Box<dyn Write>) -> io::Result<Self> {
        writer.write_all(&0xA1B2_C3D4_u32.to_le_bytes())?;
        writer.write_all(&[2, 0, 4, 0])?;
        for field in [0, 0, 65_535, ETHERNET] {
            writer.write_all(&field.to_le_bytes())?;
        }
        Ok(Self(writer))
    }

    /// Adds a frame.
    ///
    /// # Errors
    /// What the writer says.
    pub fn frame(&mut self, now: Time, frame: &[u8]) -> io::Result<()> {
        let (micros, length) = (now.as_micros(), frame.len() as u32);
        for field in [
            (micros / 1_000_000) as u32,
            (micros % 1_000_000) as u32,
            length,
            length,
        ] {
            self.0.write_all(&field.to_le_bytes())?;
        }
        self.0.write_all(frame)
    }

    /// Ends it.
    ///
    /// # Errors
    /// What the writer says.
    pub fn finish(mut self) -> io::Result<()> {
        self.0.flush()
    }
}
