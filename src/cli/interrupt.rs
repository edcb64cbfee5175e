//! Ctrl-C and SIGTERM: the first asks a run to stop, the second ends the process.

use std::{future::Future, io};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The exit code of a process ended by Ctrl-C, by custom.
const INTERRUPTED: i32 = 130;

/// Listens from its making on; what arrives before somebody waits for it is not lost.
#[derive(Debug)]
pub struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupts {
    /// From now on Ctrl-C and SIGTERM end nothing by themselves.
    ///
    /// # Errors
    /// When the system will not have it.
    pub fn listen() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Returns when somebody wants this process to end.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    /// Carries `run` out; on Ctrl-C asks it to stop by `ask_to_stop`, and lets it finish what is in flight.
    pub async fn until_done<T>(&mut self, run: impl Future<Output = T>, ask_to_stop: impl FnOnce()) -> T {
        tokio::pin!(run);
        tokio::select! {
            done = &mut run => return done,
            () = self.next() => {
                eprintln!("stopping: what is in flight is given back; Ctrl-C again ends at once");
                ask_to_stop();
            }
        }
        tokio::select! {
            done = &mut run => done,
            () = self.next() => std::process::exit(INTERRUPTED),
        }
    }
}
