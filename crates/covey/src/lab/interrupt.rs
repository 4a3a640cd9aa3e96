//! Ctrl-C, SIGTERM and SIGHUP as a flag, so that whoever is at work can put things back before he ends.
//!
//! `lab up` and `lab demo` look at it between two steps: what they have built is taken down again.

use anyhow::{Context, Result, bail};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// How long a loop that watches the flag may rest between two looks.
pub(super) const TICK: Duration = Duration::from_millis(20);

/// Whether somebody wants this process to end.
#[derive(Clone, Debug, Default)]
pub(super) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// From now on the signals set the flag instead of ending the process.
    ///
    /// # Errors
    /// If the signal handlers or their thread cannot be set up.
    pub(super) fn install() -> Result<Self> {
        let interrupt = Self::default();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .context("cannot set up the handling of signals")?;
        let context = runtime.enter();
        let mut int = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
        let mut term = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
        let mut hangup = signal(SignalKind::hangup()).context("cannot handle SIGHUP")?;
        drop(context);
        let flag = Arc::clone(&interrupt.0);
        thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = int.recv() => (),
                    _ = term.recv() => (),
                    _ = hangup.recv() => (),
                }
                flag.store(true, Ordering::Relaxed);
            });
        });
        Ok(interrupt)
    }

    /// Whether a signal has come.
    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// # Errors
    /// If a signal has come.
    pub(super) fn check(&self) -> Result<()> {
        if self.is_set() {
            bail!("interrupted");
        }
        Ok(())
    }
}
