//! What tests do to the hosts of a segment: commands, crashes, stalls, upgrades, forged frames.

use super::*;

impl Segment {
    pub(in super::super) fn start_all(&mut self) {
        for index in 0..self.hosts.len() {
            self.command(index, Command::Start);
        }
    }

    /// Starts all but the host at this index.
    pub(in super::super) fn start_all_but(&mut self, rest: usize) {
        for index in (0..self.hosts.len()).filter(|index| *index != rest) {
            self.command(index, Command::Start);
        }
    }

    pub(in super::super) fn command_to(&mut self, host: u8, command: Command) -> Answer {
        let index = self.index(host);
        self.command(index, command)
    }

    pub(in super::super) fn command(&mut self, index: usize, command: Command) -> Answer {
        let answer = self.hosts[index].cluster.command(self.now, command);
        self.drain(index);
        answer
    }

    pub(in super::super) fn input(&mut self, host: u8, input: Input<'_>) {
        let index = self.index(host);
        self.hosts[index].cluster.handle_input(self.now, input);
        self.drain(index);
    }

    /// Power failure.
    pub(in super::super) fn crash(&mut self, host: u8) {
        let index = self.index(host);
        let host = &mut self.hosts[index];
        (host.powered, host.running) = (false, false);
    }

    /// The daemon dies, the machine lives on.
    pub(in super::super) fn kill(&mut self, host: u8) {
        let index = self.index(host);
        self.hosts[index].running = false;
    }

    pub(in super::super) fn restart(&mut self, host: u8) {
        let index = self.index(host);
        let now = self.now;
        let host = &mut self.hosts[index];
        host.config.incarnation.0 += 0x100 + now.as_micros();
        host.cluster = Cluster::new(host.config.clone());
        (host.powered, host.running) = (true, true);
        (host.image, host.staged, host.lease) = (None, None, Time::ZERO);
        host.inbox.clear();
        self.command(index, Command::Start);
    }

    /// The daemon is replaced in place, and the next one runs after this time: what arrives meanwhile is lost, and the
    /// data path is filled anew by the next. False if it cannot be handed over now.
    pub(in super::super) fn upgrade(&mut self, host: u8, gap: Duration) -> bool {
        let index = self.index(host);
        let Some(state) = self.hosts[index].cluster.export(self.now) else {
            return false;
        };
        self.hosts[index].running = false;
        self.run(gap);
        self.take_over(host, &state);
        true
    }

    /// The next daemon begins with what the one before has exported.
    pub(in super::super) fn take_over(&mut self, host: u8, state: &[u8]) {
        let (index, now) = (self.index(host), self.now);
        let host = &mut self.hosts[index];
        let cluster = Cluster::import(host.config.clone(), state, now).unwrap();
        let (image, lease) = cluster.in_force(now).unzip();
        (host.image, host.staged) = (image, None);
        host.lease = lease.unwrap_or(Time::ZERO);
        (host.cluster, host.running) = (cluster, true);
        host.inbox.clear();
        host.cluster.handle_input(now, Input::Link(true));
        self.drain(index);
    }

    pub(in super::super) fn stall(&mut self, host: u8, time: Duration) {
        let index = self.index(host);
        self.hosts[index].stalled_until = self.now + time;
    }

    pub(in super::super) fn inject(&mut self, frame: Vec<u8>) {
        for index in 0..self.hosts.len() {
            self.hosts[index].inbox.push_back(frame.clone());
        }
    }
}
