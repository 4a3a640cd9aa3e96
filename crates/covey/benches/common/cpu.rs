//! CPU time and CPUs: what a benchmark counts in, so that whatever else the machine does disturbs it less.
#![allow(unsafe_code)] // Clocks and affinity have no safe form in std.

use std::fs;
use std::time::Duration;

/// CPU time that this thread has used, the kernel's work for it included.
pub fn of_this_thread() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the kernel fills the structure that it is given.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(result, 0, "every thread has this clock");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// CPU time that a process has used in all of its threads, also those that have ended.
pub fn of_process(pid: u32) -> Duration {
    let (mut clock, mut time) = (
        0,
        libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        },
    );
    // SAFETY: the kernel fills what it is given.
    unsafe {
        let result = libc::clock_getcpuclockid(pid as libc::pid_t, &raw mut clock);
        assert_eq!(result, 0, "process {pid} is there");
        let result = libc::clock_gettime(clock, &raw mut time);
        assert_eq!(result, 0, "process {pid} is still there");
    }
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// CPU time that a kernel thread, or the first thread of a process, has used.
pub fn of_thread(pid: u32) -> Duration {
    let text = fs::read_to_string(format!("/proc/{pid}/schedstat")).expect("the thread is there");
    let ran = text.split(' ').next().and_then(|ran| ran.parse().ok());
    Duration::from_nanos(ran.expect("the kernel writes a number"))
}

/// CPU time that processes have used which this one started and that have ended.
pub fn of_children() -> Duration {
    // SAFETY: plain numbers; none is one.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel fills the structure that it is given.
    let result = unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage) };
    assert_eq!(result, 0, "everyone may ask this");
    let duration = |time: libc::timeval| {
        Duration::from_secs(time.tv_sec as u64) + Duration::from_micros(time.tv_usec as u64)
    };
    duration(usage.ru_utime) + duration(usage.ru_stime)
}

/// The kernel's threads whose names begin like this.
pub fn kernel_threads(name: &str) -> Vec<u32> {
    let processes = fs::read_dir("/proc").expect("/proc is mounted");
    let numbers = processes
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers
        .filter(|pid| {
            fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.starts_with(name))
        })
        .collect()
}

/// Keeps a thread on one CPU; 0 is this one.
pub fn pin(pid: u32, cpu: usize) {
    // SAFETY: a set of CPUs is plain bits; none is one.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the number is far below the size of the set.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: the set is as large as is said.
    let result =
        unsafe { libc::sched_setaffinity(pid as libc::pid_t, size_of_val(&set), &raw const set) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}
