//! Ctrl-C and SIGTERM: the first stops a run gracefully, the second ends the process.

use std::{future::Future, io};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The conventional exit code of a process that Ctrl-C ended.
const INTERRUPTED: i32 = 130;

/// The signals. One that arrives before somebody waits for it is not lost.
#[derive(Debug)]
pub struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupts {
    /// Takes over Ctrl-C and SIGTERM, which from now on do not end the process by themselves.
    ///
    /// # Errors
    /// When the system refuses a signal handler.
    pub fn listen() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Returns at the next signal.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            // systemd and Docker stop a process with SIGTERM.
            _ = self.terminate.recv() => {}
        }
    }

    /// Awaits `run`. The first signal calls `ask_to_stop`, after which `run` finishes its open calls.
    pub async fn until_done<T>(&mut self, run: impl Future<Output = T>, ask_to_stop: impl FnOnce()) -> T {
        // Pinned here, since the second `select!` continues the same future.
        tokio::pin!(run);
        tokio::select! {
            // The run may end by itself before any signal.
            done = &mut run => return done,
            () = self.next() => {
                eprintln!("stopping: finishing open calls, returning the rest to the queue (Ctrl-C again quits now)");
                ask_to_stop();
            }
        }
        tokio::select! {
            done = &mut run => done,
            // Leases that are left behind run out, and their requests are free again.
            () = self.next() => std::process::exit(INTERRUPTED),
        }
    }
}
