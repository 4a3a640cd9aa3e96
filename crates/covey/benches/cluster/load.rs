//! Processors that are busy: one thread for each, at ordinary priority, copying memory so that caches are no help
//! to anybody else. Called by the part `steady`. docs/benchmarks.md.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

/// Larger than a processor's own caches.
const BLOCK: usize = 8 << 20;

/// Busy threads, until dropped.
pub(crate) struct Busy {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Busy {
    /// One thread for each processor.
    pub(crate) fn everywhere() -> Self {
        let count = thread::available_parallelism().map_or(1, usize::from);
        let stop = Arc::new(AtomicBool::new(false));
        let busy = |_| {
            let stopped = stop.clone();
            thread::spawn(move || {
                let (from, mut to) = (vec![1_u8; BLOCK], vec![0_u8; BLOCK]);
                while !stopped.load(Ordering::Relaxed) {
                    to.copy_from_slice(black_box(&from));
                    black_box(&to);
                }
            })
        };
        let threads = (0..count).map(busy).collect();
        Self { stop, threads }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // It copies memory; it does not panic.
            let _ = thread.join();
        }
    }
}
