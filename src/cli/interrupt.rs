//! Ctrl-C and SIGTERM: the first asks a run to stop, the second ends the process.

use std::future::Future;

use tokio::signal;

/// The exit code of a process ended by Ctrl-C, by custom.
const INTERRUPTED: i32 = 130;

/// Carries `run` out; on Ctrl-C asks it to stop by `ask_to_stop`, and lets it finish what is in flight.
pub async fn until_done<T>(run: impl Future<Output = T>, ask_to_stop: impl FnOnce()) -> T {
    tokio::pin!(run);
    tokio::select! {
        done = &mut run => return done,
        () = asked_to_end() => {
            eprintln!("stopping: what is in flight is finished first; Ctrl-C again ends at once");
            ask_to_stop();
        }
    }
    tokio::select! {
        done = &mut run => done,
        () = asked_to_end() => std::process::exit(INTERRUPTED),
    }
}

/// Returns when somebody wants this process to end.
pub async fn asked_to_end() {
    #[cfg(unix)]
    {
        let Ok(mut terminate) = signal::unix::signal(signal::unix::SignalKind::terminate()) else {
            return until_ctrl_c().await;
        };
        tokio::select! {
            () = until_ctrl_c() => {}
            _ = terminate.recv() => {}
        }
    }
    #[cfg(not(unix))]
    until_ctrl_c().await;
}

async fn until_ctrl_c() {
    if signal::ctrl_c().await.is_err() {
        // No handler can be installed: the system's own way of ending us is left.
        std::future::pending::<()>().await;
    }
}
