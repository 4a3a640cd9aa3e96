//! placeholder
/// .
pub struct Decision;
/// .
pub struct Reason;
/// .
pub struct Verdict;
/// .
pub fn decide() {}
