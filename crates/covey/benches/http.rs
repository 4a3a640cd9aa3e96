//! What Covey costs a web server that takes all of its traffic: requests per second and latency of nginx behind the
//! filter and its tc programs, against the same with an XDP program that passes everything, and with none. `cargo xtask
//! bench http` runs it; it needs root, nginx, wrk and two CPUs.
//!
//! Server and client are network namespaces with a veth pair between them, each program on a CPU of its own. Covey owns
//! the whole map, so that every packet is accepted, which is what costs most. The three take turns, each round in
//! another order, and a ratio is one of two runs of the same round. Requests per second of time also tell what else the
//! machine does; requests per second of CPU time, which server, client and softirqs have used, tell less of it.

mod common;
#[path = "../../filter/tests/frames/mod.rs"]
mod frames;
#[path = "../tests/segment/mod.rs"]
mod segment;

use aya::programs::XdpMode;
use common::bars::{Bar, svg};
use common::traffic::{CLUSTER_MAC, Generator, HOST_MAC, Size};
use common::{cpu, median, shell};
use covey::datapath::{Attach, DataPath};
use frames::Mac;
use segment::{INTERFACE, Segment};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

const ROUNDS: usize = 21;
/// Seconds of a run, and connections in it.
const SECONDS: u32 = 2;
const CONNECTIONS: u32 = 64;
const SERVER_CPU: &str = "1";
const CLIENT_CPU: &str = "0";
/// The address and the rule that a cluster of this size has, all of it host 1's.
const SIZE: Size = Size {
    pairs: 1,
    rules: 1,
    hosts: 1,
};
const VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 1, 0);

/// What is attached to the server's interface.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Contender {
    Nothing,
    Pass,
    Covey,
}

impl Contender {
    const ALL: [Self; 3] = [Self::Nothing, Self::Pass, Self::Covey];

    const fn name(self) -> &'static str {
        match self {
            Self::Nothing => "no program",
            Self::Pass => "an XDP program that passes everything",
            Self::Covey => "Covey",
        }
    }

    /// Where clients send to.
    const fn mac(self) -> Mac {
        match self {
            Self::Nothing | Self::Pass => HOST_MAC,
            Self::Covey => CLUSTER_MAC,
        }
    }
}

/// What was measured: requests per second and per second of CPU time, and latency in microseconds, that of half and of
/// 99 % of them.
#[derive(Clone, Copy)]
struct Measured {
    requests: f64,
    per_cpu: f64,
    half: f64,
    most: f64,
}

/// nginx in the server's namespace; gone when dropped.
struct Nginx {
    process: Child,
    directory: PathBuf,
}

impl Nginx {
    fn start(segment: &Segment) -> Self {
        let directory = std::env::temp_dir().join(format!("covey-bench-{}", std::process::id()));
        fs::create_dir(&directory).expect("there is room for temporary files");
        let body = "covey ".repeat(100);
        let text = format!(
            "daemon off; master_process off; pid nginx.pid; error_log stderr crit;\n\
             events {{ worker_connections 1024; }}\n\
             http {{ access_log off; keepalive_requests 1000000000; client_body_temp_path .; proxy_temp_path .;\n\
             fastcgi_temp_path .; uwsgi_temp_path .; scgi_temp_path .;\n\
             server {{ listen 80; location / {{ return 200 '{body}'; }} }} }}\n"
        );
        fs::write(directory.join("nginx.conf"), text).expect("the directory is there");
        let mut command = on_cpu(SERVER_CPU, "nginx");
        command.args(["-c", "nginx.conf", "-p"]).arg(&directory);
        let process = segment.on_host(|| command.spawn().expect("nginx is installed"));
        let nginx = Self { process, directory };
        let start = Instant::now();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 80));
        while segment.on_host(|| TcpStream::connect(address).is_err()) {
            assert!(start.elapsed() < Duration::from_secs(5), "nginx is deaf");
            thread::sleep(Duration::from_millis(10));
        }
        nginx
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn measure(segment: &Segment, nginx: &Nginx, contender: Contender) -> Measured {
    let [a, b, c, d, e, f] = contender.mac();
    segment.client_ip(&format!(
        "neigh replace {VIP} dev {INTERFACE} lladdr {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}"
    ));
    match contender {
        Contender::Nothing => load(segment, nginx),
        Contender::Pass => {
            let mut programs = Generator::load(0);
            segment.on_host(|| {
                let pass = programs.program("pass");
                pass.attach(INTERFACE, XdpMode::Driver)
                    .expect("veth takes XDP programs");
            });
            let measured = load(segment, nginx);
            drop(programs);
            // The kernel detaches it some time later.
            segment.on_host(|| {
                shell(&format!(
                    "while ip link show dev {INTERFACE} | grep -q xdp; do sleep 0.01; done"
                ))
            });
            measured
        }
        Contender::Covey => {
            let path = segment.on_host(|| {
                let pins = covey::datapath::pin_dir(INTERFACE).expect("/proc is mounted");
                let path = DataPath::open(INTERFACE, &pins, Attach::Native, &SIZE.image(false));
                let path = path.unwrap_or_else(|error| panic!("{error}"));
                assert_eq!(path.attach(), Attach::Native);
                path.set_lease(u64::MAX);
                path
            });
            let measured = load(segment, nginx);
            segment.on_host(|| path.close().expect("what was attached can be detached"));
            measured
        }
    }
}

/// Sends requests for a while, and counts the CPU time that they take.
fn load(segment: &Segment, nginx: &Nginx) -> Measured {
    let softirqs = cpu::kernel_threads("ksoftirqd/");
    let used = || {
        let server = cpu::of_process(nginx.process.id());
        let kernel: Duration = softirqs.iter().map(|pid| cpu::of_thread(*pid)).sum();
        server + cpu::of_children() + kernel
    };
    let before = used();
    let output = segment.on_client(|| {
        on_cpu(CLIENT_CPU, "wrk")
            .args(["--latency", "--timeout", "10s", "-t1"])
            .arg(format!("-c{CONNECTIONS}"))
            .arg(format!("-d{SECONDS}s"))
            .arg(format!("http://{VIP}/"))
            .stderr(Stdio::inherit())
            .output()
            .expect("wrk is installed")
    });
    let spent = used() - before;
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && !said.contains("errors") && !said.contains("Non-2xx"),
        "{said}"
    );
    let value = |key: &str| {
        let line = said.lines().find_map(|line| line.trim().strip_prefix(key));
        number(line.unwrap_or_else(|| panic!("wrk does not tell {key}: {said}")))
    };
    let all = said
        .lines()
        .find_map(|line| line.split_once(" requests in"));
    let (all, _) = all.expect("wrk tells how many");
    Measured {
        requests: value("Requests/sec:"),
        per_cpu: number(all) / spent.as_secs_f64(),
        half: value("50%"),
        most: value("99%"),
    }
}

/// A program that stays on a CPU, before whatever else wants it.
fn on_cpu(cpu: &str, program: &str) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", cpu, "nice", "-n", "-15", program]);
    command
}

/// A number, or a time in microseconds.
fn number(text: &str) -> f64 {
    let text = text.trim();
    let units = [("us", 1.0), ("ms", 1e3), ("s", 1e6), ("", 1.0)];
    let parsed = units
        .iter()
        .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)))
        .and_then(|(digits, factor)| Some(digits.parse::<f64>().ok()? * factor));
    parsed.unwrap_or_else(|| panic!("`{text}` is no number of wrk's"))
}

fn main() {
    if !common::wanted("http") {
        return;
    }
    if thread::available_parallelism().map_or(1, usize::from) < 2 {
        println!("SKIPPED http: it needs two CPUs");
        return;
    }
    let segment = Segment::new();
    segment.host_ip(&format!("addr add {VIP}/32 dev lo"));
    segment.client_ip(&format!("route add {VIP}/32 dev {INTERFACE}"));
    let nginx = Nginx::start(&segment);
    let rounds: Vec<[Measured; 3]> = (0..ROUNDS)
        .map(|round| {
            let mut measured = [None; 3];
            for turn in 0..3 {
                let at = (round + turn) % 3;
                measured[at] = Some(measure(&segment, &nginx, Contender::ALL[at]));
            }
            measured.map(|one| one.expect("each had its turn"))
        })
        .collect();
    tell(&rounds);
}

/// Prints the table and draws the plot.
fn tell(rounds: &[[Measured; 3]]) {
    const PASS: usize = 1;
    println!(
        "| on the server's interface | requests/s (least, most) | of those that pass everything | per CPU second | \
         of those that pass everything | latency, median | latency, 99 % |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|");
    let mut bars = Vec::new();
    for (at, contender) in Contender::ALL.into_iter().enumerate() {
        let of = |value: fn(&Measured) -> f64| -> Vec<f64> {
            rounds.iter().map(|round| value(&round[at])).collect()
        };
        let share = |value: fn(&Measured) -> f64| {
            let ratios = rounds
                .iter()
                .map(|round| 100.0 * value(&round[at]) / value(&round[PASS]));
            median(&ratios.collect::<Vec<_>>())
        };
        let requests = of(|measured| measured.requests);
        let least = requests.iter().copied().fold(f64::INFINITY, f64::min);
        let most = requests.iter().copied().fold(0.0, f64::max);
        let per_cpu = median(&of(|measured| measured.per_cpu));
        let share_per_cpu = share(|measured| measured.per_cpu);
        println!(
            "| {} | {:.0} ({least:.0}, {most:.0}) | {:.1} % | {per_cpu:.0} | {share_per_cpu:.1} % | {:.0} µs | {:.0} µs |",
            contender.name(),
            median(&requests),
            share(|measured| measured.requests),
            median(&of(|measured| measured.half)),
            median(&of(|measured| measured.most)),
        );
        bars.push(Bar {
            name: contender.name().to_owned(),
            value: per_cpu,
            label: format!("{per_cpu:.0} ({share_per_cpu:.1} %)"),
            group: usize::from(contender == Contender::Covey),
        });
    }
    println!();
    println!(
        "Medians of {ROUNDS} rounds; {CONNECTIONS} connections for {SECONDS} s in each run. Ratios are medians of the \
         rounds' ratios."
    );
    let title = "HTTP requests per second of CPU time";
    common::draw("bench-http.svg", &svg(title, &bars, None));
}
