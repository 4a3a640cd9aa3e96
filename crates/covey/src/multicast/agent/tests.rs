//! Hours of a host's life as a member, in virtual time.

use super::*;

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 255, 0, 100);
const SWITCH: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 254));
const TIMEOUT: Duration = Duration::from_secs(260);
const START: Time = Time::from_micros(1_000_000_000);

fn settings() -> Settings {
    Settings {
        groups: vec![GROUP],
        report_interval: None,
        querier_timeout: TIMEOUT,
        announce: false,
        ipv6: false,
    }
}

fn query(version: Version) -> Input {
    let query = Query {
        version,
        within: Duration::from_secs(10),
        every: None,
    };
    Input::Asked(Family::V4, SWITCH, Asked::WhoListens(query))
}

/// Always the longest.
fn longest(time: Duration) -> Duration {
    time
}

/// What is done until then, with the seconds from the start.
fn run(agent: &mut Agent, until: Time) -> Vec<(u64, Action)> {
    let mut done = Vec::new();
    while agent.deadline() <= until {
        let now = agent.deadline();
        let actions = agent.handle(now, Input::Timer, longest);
        assert!(!actions.is_empty(), "it woke up for nothing at {now:?}");
        done.extend(
            actions
                .into_iter()
                .map(|action| (now.since(START).as_secs(), action)),
        );
    }
    done
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn a_querier_that_is_not_heard_is_told_of_once() {
    let mut agent = Agent::new(settings(), START);
    let told = run(&mut agent, START + seconds(3600));
    assert_eq!(told, [(260, Action::Tell(Notice::NoQuerier(TIMEOUT)))]);
    let back = agent.handle(START + seconds(4000), query(Version::V2), longest);
    let [Action::Tell(Notice::Querier(querier))] = back[..] else {
        panic!("{back:?}");
    };
    assert_eq!((querier.from, querier.query.version), (SWITCH, Version::V2));
    // Heard every 125 s it is there, also if one query is lost.
    for at in [4000, 4125, 4375, 4500] {
        let now = START + seconds(at);
        assert_eq!(run(&mut agent, now), []);
        assert_eq!(agent.handle(now, query(Version::V2), longest), []);
    }
    let told = run(&mut agent, START + seconds(9999));
    assert_eq!(told, [(4760, Action::Tell(Notice::NoQuerier(TIMEOUT)))]);
}

#[test]
fn without_a_group_nobody_waits_for_queries() {
    let nothing = Settings {
        groups: Vec::new(),
        report_interval: Some(seconds(60)),
        ..settings()
    };
    let mut agent = Agent::new(nothing.clone(), START);
    assert_eq!(agent.deadline(), Time::NEVER);
    assert_eq!(agent.handle(START, Input::Forgotten, longest), []);
    // The mode changes to IGMP and back.
    agent.follow(settings(), START + seconds(1000));
    assert_eq!(agent.deadline(), START + seconds(1000) + TIMEOUT);
    agent.follow(nothing, START + seconds(1001));
    let left = run(&mut agent, START + seconds(9999));
    assert_eq!(left, [(1301, Action::Leave(GROUP))]);
    assert_eq!(agent.deadline(), Time::NEVER);
}

#[test]
fn a_group_that_is_wanted_again_is_not_left() {
    let nothing = Settings {
        groups: Vec::new(),
        ..settings()
    };
    let mut agent = Agent::new(settings(), START);
    agent.follow(nothing, START + seconds(1));
    agent.follow(settings(), START + seconds(200));
    let done = run(&mut agent, START + seconds(9999));
    assert_eq!(done, [(460, Action::Tell(Notice::NoQuerier(TIMEOUT)))]);
}

#[test]
fn reports_nobody_asked_for_come_at_their_interval_in_the_queriers_version() {
    let mut agent = Agent::new(
        Settings {
            report_interval: Some(seconds(60)),
            querier_timeout: seconds(1000),
            ..settings()
        },
        START,
    );
    let at = |second, version| (second, Action::Report(GROUP, version));
    let done = run(&mut agent, START + seconds(130));
    assert_eq!(done, [at(60, Version::V2), at(120, Version::V2)]);
    assert_eq!(
        agent.handle(START + seconds(150), query(Version::V3), longest),
        []
    );
    assert_eq!(
        run(&mut agent, START + seconds(200)),
        [at(180, Version::V3)]
    );
    // One that has not been heard for too long does not count.
    let late = run(&mut agent, START + seconds(1200));
    assert_eq!(late.last(), Some(&at(1200, Version::V2)));
    // By default there are none.
    agent.follow(settings(), START + seconds(1201));
    assert_eq!(run(&mut agent, START + seconds(5000)).len(), 0);
}

#[test]
fn a_link_that_comes_back_is_told_to_the_switch_at_once_and_again() {
    let mut agent = Agent::new(
        Settings {
            announce: true,
            ..settings()
        },
        START,
    );
    run(&mut agent, START + seconds(100));
    assert_eq!(
        agent.handle(START + seconds(100), Input::Forgotten, longest),
        [
            Action::Report(GROUP, Version::V2),
            Action::Advertise(Family::V4)
        ]
    );
    let done = run(&mut agent, START + seconds(115));
    let report = Action::Report(GROUP, Version::V2);
    let advertise = |at| (at, Action::Advertise(Family::V4));
    assert_eq!(done, [(101, report), advertise(102), advertise(104)]);
}

#[test]
fn advertisements_come_fast_at_first_and_then_every_twenty_seconds() {
    let announcing = Settings {
        announce: true,
        ipv6: true,
        ..settings()
    };
    let mut agent = Agent::new(announcing, START);
    let done = run(&mut agent, START + seconds(50));
    let times = |family| -> Vec<u64> {
        let of_it = |(_, action): &&(u64, Action)| *action == Action::Advertise(family);
        done.iter().filter(of_it).map(|(at, _)| *at).collect()
    };
    assert_eq!(times(Family::V4), [0, 2, 4, 24, 45]);
    assert_eq!(times(Family::V6), times(Family::V4));
    // Who asks does not wait for the next, and one answer is for all who ask.
    let asked = |family| Input::Asked(family, SWITCH, Asked::WhoRoutes);
    agent.handle(START + seconds(51), asked(Family::V6), longest);
    agent.handle(START + seconds(52), asked(Family::V6), longest);
    let done = run(&mut agent, START + seconds(60));
    assert_eq!(done, [(53, Action::Advertise(Family::V6))]);

    let taken_back = agent.follow(settings(), START + seconds(60));
    assert_eq!(
        taken_back,
        [Action::Retire(Family::V4), Action::Retire(Family::V6)]
    );
    assert_eq!(run(&mut agent, START + seconds(200)), []);
}
