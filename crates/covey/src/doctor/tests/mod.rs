//! Every finding, once produced and once not; and the guide.
use super::*;
