//! `covey wlbs query`: the words of NLB's own tool, because scripts and people know them.
//!
//! The sentences of a host that converges or is converged are NLB's (KB812870, Q228942; wlbs.md §5.2), without
//! its doubled "has entered". What it says of a host that is stopped or draining is not public; those are ours.

use super::{companions, list};
use crate::status::{HostState, Status};

/// The whole answer.
pub(in crate::cli) fn wlbs_query(status: &Status) -> String {
    let id = status.host.id;
    let cluster = status
        .cluster
        .vips
        .first()
        .map_or_else(|| status.cluster.name.clone(), ToString::to_string);
    let times = format!(
        "Host {id} has entered a converging state {} time(s) since joining the cluster",
        status.host.times_converging
    );
    let members = list(&companions(status), ", ");
    let default = if status.host.is_default {
        " as DEFAULT"
    } else {
        ""
    };
    let state = match status.host.state {
        HostState::Converged => format!(
            "{times}.\nHost {id} converged{default} with the following host(s) as part of the cluster:\n{members}"
        ),
        HostState::Converging => format!(
            "{times}\nand is still in a state of convergence.\n\
             Host {id} converging with the following host(s) as part of the cluster:\n{members}"
        ),
        HostState::Draining => format!(
            "Host {id} draining, and still converged{default} with the following host(s) as part of the cluster:\n{members}"
        ),
        HostState::Stopped => {
            format!("Host {id} is stopped and takes no part in the convergence of the cluster.")
        }
    };
    let version = &status.host.version;
    format!("Covey Cluster Control Utility V{version}\nCluster {cluster}\n{state}\n")
}
