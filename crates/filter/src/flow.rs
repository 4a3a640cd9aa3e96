//! f
/// .
pub struct Frame;
/// .
pub trait Packet {}
