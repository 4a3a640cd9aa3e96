fn main() {
    let a: Vec<String> = std::env::args().collect();
    let s = covey_sim::catalogue::find(&a[1]).unwrap();
    let o = covey_sim::run::run_with(
        &s,
        a[2].parse().unwrap(),
        covey_sim::run::Options {
            trace: a.len() > 3,
            ..Default::default()
        },
    );
    if let Some(v) = &o.violation {
        for l in &o.last {
            println!("{l}");
        }
        println!("{v}");
    }
    print!("{}", o.counts);
}
