//! f
/// .
pub struct Bucket;
/// .
pub fn bucket() {}
/// .
pub fn siphash13() {}
