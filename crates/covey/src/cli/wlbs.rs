//! `covey wlbs`: NLB's verbs, in NLB's grammar (NLB facts §5.1), for people and scripts that know them.
//!
//! Verbs and keywords are read whatever their case, options begin with a slash. What is asked of this host is asked of
//! its daemon by the same requests that `covey`'s own commands use; other hosts cannot be reached from here, and
//! whoever names one is told so. Called by [`super::run`]. Answers: [`super::render::Wlbs`].

use super::BAD_USAGE;
use super::args::{PortOrAll, Service, protocol_named, question};
use super::output::print;
use super::render::Wlbs;
use super::run::connect;
use crate::control::{Outcome, Ports, Request};
use crate::status::{HostStatus, Status};
use crate::why::Question;
use std::net::IpAddr;
use std::path::Path;
use std::process::ExitCode;

const USAGE: &str = "\
Usage: wlbs <verb> [<what>] [<target>]

  help                          this text
  ip2mac <cluster>              the MACs that belong to a cluster IP
  query                         state of this host and members of its cluster
  queryport [<vip>:]<port>      state of the port rule that holds the port
  filter <protocol> <client>[:<port>] <vip>[:<port>]
                                whether this host takes such a packet, and why
  params                        the parameters in force
  display                       parameters, state, recent events and port rules
  start, stop                   join the cluster, leave it
  drainstop                     leave it when the connections are done
  suspend, resume               leave it and heed nothing but resume; heed commands again
  reload                        read the configuration again
  enable, disable, drain <ports>
                                let port rules take traffic, take none, take no new traffic

  <ports>    <vip>[:<port> | :all], all[:<port> | :all], <port>; an IPv6 address stands in brackets
  <target>   nothing or \"all local\" for this host, <cluster>, or <cluster>:<host> with this host's
             priority, name or dedicated IP. Covey does not control other hosts from here.
";

/// What was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verb {
    Help,
    Ip2mac(IpAddr),
    Query,
    Queryport(Ports),
    Params,
    Filter(Question),
    Display,
    Command(Request),
}

/// Of whom.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    ThisHost,
    Everywhere,
    Cluster(String),
    Host { cluster: String, host: String },
}

/// Does what the words say.
pub(super) fn run(words: &[String], socket: Option<&Path>) -> anyhow::Result<ExitCode> {
    let (verb, target) = match parse(words) {
        Ok(parsed) => parsed,
        Err(complaint) => {
            eprint!("wlbs: {complaint}\n\n{USAGE}");
            return Ok(ExitCode::from(BAD_USAGE));
        }
    };
    match verb {
        Verb::Help => {
            print(&(Wlbs::banner(env!("CARGO_PKG_VERSION")) + USAGE))?;
            return Ok(ExitCode::SUCCESS);
        }
        Verb::Ip2mac(ip) => {
            print(&Wlbs::ip2mac(ip))?;
            return Ok(ExitCode::SUCCESS);
        }
        Verb::Query
        | Verb::Queryport(_)
        | Verb::Params
        | Verb::Filter(_)
        | Verb::Display
        | Verb::Command(_) => {}
    }
    let mut client = connect(socket)?;
    let status = client.status()?;
    let wlbs = Wlbs::new(&status);
    let alone = match reach(&target, &status) {
        Ok(reach) => reach == Reach::ThisHost,
        Err(refusal) => {
            print(&wlbs.says(&refusal))?;
            return Ok(ExitCode::FAILURE);
        }
    };
    let (text, done) = match &verb {
        Verb::Queryport(ports) => wlbs.queryport(ports),
        Verb::Params => (wlbs.params(), true),
        Verb::Filter(question) => (wlbs.filter(&client.why(*question)?), true),
        Verb::Display => (wlbs.display(&client.events(0, false)?), true),
        Verb::Command(command) => {
            let outcome: Outcome = client.command(command)?;
            let mut text = wlbs.says(&outcome.text);
            if !alone {
                text += &wlbs.only_here();
            }
            (text, outcome.is_done(command))
        }
        Verb::Query | Verb::Help | Verb::Ip2mac(_) => (wlbs.query(), true),
    };
    print(&text)?;
    Ok(if done {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Reads the words.
///
/// # Errors
/// What is wrong with them, in a sentence.
fn parse(words: &[String]) -> Result<(Verb, Target), String> {
    let words: Vec<String> = words.iter().map(|word| word.to_lowercase()).collect();
    let mut words: &[String] = &words;
    let is_help =
        |word: &String| ["/h", "/?", "/help", "-h", "--help", "help"].contains(&word.as_str());
    if words.iter().any(is_help) {
        return Ok((Verb::Help, Target::ThisHost));
    }
    if let Some(option) = words.iter().find(|word| word.starts_with(['/', '-'])) {
        return Err(format!(
            "the option {option} is not known here: Covey has no remote control, and so no options for it"
        ));
    }
    let verb = take(&mut words).ok_or("there is no verb")?;
    let mut ports = |request: fn(Ports) -> Request| {
        let word = take(&mut words).ok_or_else(|| format!("{verb} needs to know which ports"))?;
        read_ports(word).map(|ports| Verb::Command(request(ports)))
    };
    let verb = match verb.as_str() {
        "query" => Verb::Query,
        "params" => Verb::Params,
        "start" => Verb::Command(Request::Start {}),
        "stop" => Verb::Command(Request::Stop {}),
        "drainstop" => Verb::Command(Request::Drainstop { within_ms: None }),
        "suspend" => Verb::Command(Request::Suspend {}),
        "resume" => Verb::Command(Request::Resume {}),
        "reload" => Verb::Command(Request::Reload {}),
        "enable" => ports(Request::Enable)?,
        "disable" => ports(Request::Disable)?,
        "drain" => ports(Request::Drain)?,
        "queryport" => {
            let word = take(&mut words).ok_or("queryport needs to know which port")?;
            Verb::Queryport(read_ports(word)?)
        }
        "display" => {
            // The first generation said "display all".
            if let [all] = words
                && all == "all"
            {
                words = &[];
            }
            Verb::Display
        }
        "filter" => {
            let mut next =
                |what| take(&mut words).ok_or_else(|| format!("filter needs to know which {what}"));
            let protocol = protocol_named(next("protocol")?)?;
            let client = next("client")?.parse()?;
            let endpoint = next("virtual IP")?.parse()?;
            Verb::Filter(question(client, Service { endpoint, protocol }))
        }
        "ip2mac" => {
            let word = take(&mut words).ok_or("ip2mac needs the IP of a cluster")?;
            Verb::Ip2mac(
                word.parse()
                    .map_err(|_| format!("{word} is no IP address"))?,
            )
        }
        unknown => return Err(format!("there is no verb \"{unknown}\"")),
    };
    Ok((verb, read_target(words)?))
}

fn take<'a>(words: &mut &'a [String]) -> Option<&'a String> {
    let (first, rest) = words.split_first()?;
    *words = rest;
    Some(first)
}

/// Reads `VIP[:Port|:all]`, `all[:Port|:all]` or `Port`.
fn read_ports(word: &str) -> Result<Ports, String> {
    let port = |text: &str| text.parse::<PortOrAll>().map(|port| port.0);
    let vip = |text: &str| match text {
        "all" => Ok(None),
        text => text
            .parse::<IpAddr>()
            .map(Some)
            .map_err(|_| format!("\"{text}\" is no virtual IP")),
    };
    if let Some(bracketed) = word.strip_prefix('[') {
        let (address, rest) = bracketed
            .split_once(']')
            .ok_or_else(|| format!("\"{word}\" has no closing bracket"))?;
        let vip = vip(address)?;
        return match rest.strip_prefix(':') {
            Some(rest) => port(rest).map(|port| Ports { vip, port }),
            None if rest.is_empty() => Ok(Ports { vip, port: None }),
            None => Err(format!("\"{rest}\" after the address is no port")),
        };
    }
    if let Ok(address) = word.parse::<IpAddr>() {
        return Ok(Ports {
            vip: Some(address),
            port: None,
        });
    }
    match word.split_once(':') {
        Some((address, rest)) => Ok(Ports {
            vip: vip(address)?,
            port: port(rest)?,
        }),
        None => port(word).map(|port| Ports { vip: None, port }),
    }
}

/// Reads `Cluster[:Host] | all {local|global}`, or nothing.
fn read_target(words: &[String]) -> Result<Target, String> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        [] | ["all", "local"] => Ok(Target::ThisHost),
        ["all", "global"] => Ok(Target::Everywhere),
        ["all"] => Err("\"all\" must be followed by local or global".to_owned()),
        [cluster] => Ok(match cluster.split_once(':') {
            Some((cluster, host)) if cluster.parse::<IpAddr>().is_ok() || !host.contains(':') => {
                Target::Host {
                    cluster: cluster.to_owned(),
                    host: host.to_owned(),
                }
            }
            _ => Target::Cluster((*cluster).to_owned()),
        }),
        [.., excess] => Err(format!("\"{excess}\" is one word too many")),
    }
}

/// Who does what is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    /// This host, which is all that was named.
    ThisHost,
    /// This host, though its whole cluster was named.
    OneOfCluster,
}

/// Whether what was named can be reached.
fn reach(target: &Target, status: &Status) -> Result<Reach, String> {
    let host = &status.host;
    let is_this_cluster = |named: &str| {
        let vips = status.cluster.vips.iter();
        named.eq_ignore_ascii_case(&status.cluster.name)
            || named
                .parse()
                .is_ok_and(|ip: IpAddr| vips.clone().any(|vip| *vip == ip))
    };
    let (cluster, host_named) = match target {
        Target::ThisHost => return Ok(Reach::ThisHost),
        Target::Everywhere => {
            return Err(
                "Covey does not offer remote control: other clusters cannot be reached from here"
                    .to_owned(),
            );
        }
        Target::Cluster(cluster) => (cluster, None),
        Target::Host { cluster, host } => (cluster, Some(host)),
    };
    if !is_this_cluster(cluster) {
        return Err(format!(
            "Covey does not offer remote control: host {} belongs to {}, and no other cluster can be reached from here",
            host.id, status.cluster.name
        ));
    }
    match host_named {
        None => Ok(Reach::OneOfCluster),
        Some(named) if is_this_host(named, host) => Ok(Reach::ThisHost),
        Some(named) => Err(format!(
            "Covey does not offer remote control: this is host {} ({}), give the command on host {named} itself",
            host.id, host.name
        )),
    }
}

/// By priority, by name, by dedicated IP, or as 0 if it is the default host.
fn is_this_host(named: &str, host: &HostStatus) -> bool {
    named.eq_ignore_ascii_case(&host.name)
        || named == host.id.to_string()
        || named.parse().is_ok_and(|ip: IpAddr| ip == host.dip)
        || (named == "0" && host.is_default)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<(Verb, Target), String> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        parse(&words)
    }

    fn ports(vip: Option<&str>, port: Option<u16>) -> Ports {
        let vip = vip.map(|vip| vip.parse().unwrap());
        Ports { vip, port }
    }

    #[test]
    fn nlbs_grammar_is_read() {
        let here = Target::ThisHost;
        for (line, verb) in [
            ("query", Verb::Query),
            ("QUERY all LOCAL", Verb::Query),
            ("Help", Verb::Help),
            ("stop /?", Verb::Help),
            ("display all", Verb::Display),
            ("ip2mac 10.0.0.1", Verb::Ip2mac("10.0.0.1".parse().unwrap())),
            (
                "drainstop",
                Verb::Command(Request::Drainstop { within_ms: None }),
            ),
            (
                "enable 80",
                Verb::Command(Request::Enable(ports(None, Some(80)))),
            ),
            (
                "disable all",
                Verb::Command(Request::Disable(ports(None, None))),
            ),
            (
                "drain ALL:all all local",
                Verb::Command(Request::Drain(ports(None, None))),
            ),
            (
                "drain all:443",
                Verb::Command(Request::Drain(ports(None, Some(443)))),
            ),
            (
                "drain 10.77.0.100:80",
                Verb::Command(Request::Drain(ports(Some("10.77.0.100"), Some(80)))),
            ),
            (
                "enable 10.77.0.100",
                Verb::Command(Request::Enable(ports(Some("10.77.0.100"), None))),
            ),
            (
                "enable 10.77.0.100:all",
                Verb::Command(Request::Enable(ports(Some("10.77.0.100"), None))),
            ),
            (
                "enable fd77::100",
                Verb::Command(Request::Enable(ports(Some("fd77::100"), None))),
            ),
            (
                "enable [fd77::100]:80",
                Verb::Command(Request::Enable(ports(Some("fd77::100"), Some(80)))),
            ),
            ("queryport 80", Verb::Queryport(ports(None, Some(80)))),
            (
                "filter TCP 192.0.2.7:40000 10.77.0.100:80",
                Verb::Filter(Question {
                    client: "192.0.2.7".parse().unwrap(),
                    client_port: Some(40_000),
                    vip: "10.77.0.100".parse().unwrap(),
                    port: Some(80),
                    protocol: crate::why::Protocol::Tcp,
                }),
            ),
        ] {
            assert_eq!(read(line), Ok((verb, here.clone())), "{line}");
        }
        for (line, target) in [
            ("query all global", Target::Everywhere),
            (
                "stop 10.77.0.100",
                Target::Cluster("10.77.0.100".to_owned()),
            ),
            ("stop fd77::100", Target::Cluster("fd77::100".to_owned())),
            (
                "stop 10.77.0.100:3",
                Target::Host {
                    cluster: "10.77.0.100".to_owned(),
                    host: "3".to_owned(),
                },
            ),
            (
                "disable 80 www.example.com:H2",
                Target::Host {
                    cluster: "www.example.com".to_owned(),
                    host: "h2".to_owned(),
                },
            ),
        ] {
            assert_eq!(read(line).map(|(_, target)| target), Ok(target), "{line}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for line in [
            "",
            "dance",
            "stop all",
            "stop a b",
            "enable",
            "enable eighty",
            "enable 70000",
            "enable all:",
            "enable all:80:81",
            "enable [fd77::100",
            "enable [fd77::100]80",
            "enable 10.0.0.300:80",
            "queryport",
            "filter",
            "filter gre 192.0.2.7 10.77.0.100",
            "filter tcp 192.0.2.7",
            "ip2mac",
            "ip2mac www.example.com",
            "stop /passw secret",
        ] {
            let refused = read(line).expect_err(line);
            assert!(!refused.contains("secret"), "{refused}");
        }
    }

    #[test]
    fn only_this_host_can_be_reached() {
        use super::super::tests::values::converged;
        let status = converged();
        for (line, reached) in [
            ("stop", Some(Reach::ThisHost)),
            ("stop 10.77.0.100", Some(Reach::OneOfCluster)),
            ("stop www.example.com", Some(Reach::OneOfCluster)),
            ("stop 10.77.0.100:1", Some(Reach::ThisHost)),
            ("stop 10.77.0.100:0", Some(Reach::ThisHost)),
            ("stop 10.77.0.100:10.77.0.1", Some(Reach::ThisHost)),
            ("stop 10.77.0.101:h1", Some(Reach::ThisHost)),
            ("stop 10.77.0.100:2", None),
            ("stop 10.77.0.99", None),
            ("stop 10.77.0.99:1", None),
            ("stop all global", None),
        ] {
            let (_, target) = read(line).unwrap();
            assert_eq!(reach(&target, &status).ok(), reached, "{line}");
        }
    }
}
