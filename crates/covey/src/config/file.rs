//! What stands in the file: its sections and keys, with the place of every value that may turn out wrong.
//!
//! Only shape is checked here, by serde: known keys, text or number. Meaning is given in `cluster.rs`, `host.rs`
//! and `rules.rs`. A file whose shape is wrong is not looked at any further, so that no error is a consequence
//! of another. Used only by [`super::Config::load`]. Specification: docs/design.md, "Command line".

use super::problem::Problems;
use serde::Deserialize;
use toml::Spanned;

/// The whole file. Each `[[rule]]` is one port rule.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ConfigFile {
    pub(super) cluster: Option<Spanned<ClusterSection>>,
    pub(super) host: Option<Spanned<HostSection>>,
    #[serde(default)]
    pub(super) rule: Vec<Spanned<RuleSection>>,
    #[serde(default)]
    pub(super) daemon: DaemonSection,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ClusterSection {
    pub(super) name: Option<Spanned<String>>,
    pub(super) vips: Option<Spanned<Vec<Spanned<String>>>>,
    pub(super) mode: Option<Spanned<String>>,
    pub(super) cluster_mac: Option<Spanned<String>>,
    pub(super) period: Option<Spanned<String>>,
    pub(super) tolerance: Option<Spanned<i64>>,
    pub(super) key_file: Option<Spanned<String>>,
    pub(super) auth: Option<Spanned<String>>,
    pub(super) quorum: Option<Spanned<String>>,
    pub(super) size: Option<Spanned<i64>>,
    pub(super) unicast_fallback: Option<bool>,
    pub(super) max_linger: Option<Spanned<String>>,
    pub(super) source_mac: Option<Spanned<String>>,
    pub(super) filter_icmp: Option<bool>,
    pub(super) igmp_report_interval: Option<Spanned<String>>,
    pub(super) querier_timeout: Option<Spanned<String>>,
    pub(super) announce_mrouter: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HostSection {
    pub(super) id: Option<Spanned<i64>>,
    pub(super) name: Option<Spanned<String>>,
    pub(super) interface: Option<Spanned<String>>,
    pub(super) dip: Option<Spanned<String>>,
    pub(super) initial_state: Option<Spanned<String>>,
    pub(super) persist_state: Option<bool>,
    pub(super) legacy_heartbeats: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RuleSection {
    pub(super) ports: Option<Spanned<NumberOrText>>,
    pub(super) protocol: Option<Spanned<String>>,
    pub(super) vip: Option<Spanned<String>>,
    pub(super) mode: Option<Spanned<String>>,
    pub(super) affinity: Option<Spanned<String>>,
    pub(super) sticky: Option<Spanned<String>>,
    pub(super) weight: Option<Spanned<NumberOrText>>,
    pub(super) handling_priority: Option<Spanned<i64>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DaemonSection {
    pub(super) log: Option<Spanned<String>>,
    pub(super) socket: Option<Spanned<String>>,
    pub(super) state_dir: Option<Spanned<String>>,
    pub(super) realtime: Option<bool>,
    pub(super) xdp: Option<Spanned<String>>,
}

/// `80` or `"80"`, `50` or `"equal"`.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a number, or a text in quotes")]
pub(super) enum NumberOrText {
    Number(i64),
    Text(String),
}

impl ConfigFile {
    /// Reads the file's text, or reports the first thing that is wrong with its shape.
    pub(super) fn parse(text: &str, problems: &mut Problems<'_>) -> Option<Self> {
        match toml::from_str(text) {
            Ok(file) => Some(file),
            Err(error) => {
                let sentence =
                    unknown_key(error.message()).unwrap_or_else(|| in_plain_words(error.message()));
                problems.add(error.span(), sentence);
                None
            }
        }
    }
}

/// serde says ``unknown field `weigth`, expected one of `ports`, `weight` ``: all that is needed stands between
/// the backticks.
fn unknown_key(message: &str) -> Option<String> {
    if !message.starts_with("unknown field") {
        return None;
    }
    let mut quoted = message.split('`').skip(1).step_by(2);
    let key = quoted.next()?;
    let mut known: Vec<&str> = quoted.collect();
    known.sort_by(|a, b| strsim::jaro_winkler(key, b).total_cmp(&strsim::jaro_winkler(key, a)));
    let near: Vec<&str> = known
        .iter()
        .copied()
        .filter(|name| strsim::jaro_winkler(key, name) > 0.75)
        .take(3)
        .collect();
    Some(if near.is_empty() {
        known.sort_unstable();
        format!("unknown key \"{key}\": known here are {}", known.join(", "))
    } else {
        format!("unknown key \"{key}\": did you mean {}?", near.join(" or "))
    })
}

/// TOML's own complaint on one line, without the names of Rust's types.
fn in_plain_words(message: &str) -> String {
    message
        .trim_end()
        .replace('\n', ", ")
        .replace("expected i64", "expected a whole number")
}
