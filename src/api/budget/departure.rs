//! The moment at which a call leaves this process, as far as it can be known. Counts connections and touches nothing else.
//!
//! A call that needs a new connection leaves only when that connection stands, long after the call was handed over. A layer
//! around the HTTP client's connector counts the connections that are being opened. The task that awaits the call runs the
//! connector, so a task-local value finds the call's own count.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::task::yield_now;
use tower::{Layer, Service};

use crate::signal::Signal;

/// A new connection is made ready, receives its call, and writes it. Each is a turn of its own on this thread.
const NEW_CONNECTION_TURNS: usize = 4;

tokio::task_local! {
    static OF_THIS_CALL: Connects;
}

/// The connections that one call opens. Clones share the count.
#[derive(Clone, Debug, Default)]
pub(in crate::api) struct Connects(Signal<Count>);

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    opening: usize,
    /// Opened or given up, ever.
    ended: u64,
}

impl Connects {
    /// Awaits the call; the connections opened for it count here.
    pub(in crate::api) async fn of<C: Future>(&self, call: C) -> C::Output {
        OF_THIS_CALL.scope(self.clone(), call).await
    }

    /// Calls `left` whenever the call may just have left, for as long as this is awaited: after its connection had a turn on
    /// this thread, which may be busy with something else meanwhile, and after every connection that was opened for it.
    pub(super) async fn watch(&self, left: impl Fn()) -> Infallible {
        // Read before the yield, because a connection may be established during it.
        let mut ended = self.0.get().ended;
        yield_now().await;
        if self.0.get().opening == 0 {
            left();
        }
        loop {
            ended = self.0.wait_for(|count| count.opening == 0 && count.ended > ended).await.ended;
            for _ in 0..NEW_CONNECTION_TURNS {
                yield_now().await;
            }
            left();
        }
    }

    pub(super) fn opening(&self) -> Opening {
        self.0.update(|count| count.opening += 1);
        Opening(self.clone())
    }
}

/// A connection that is being opened, until it stands or was given up.
#[derive(Debug)]
pub(super) struct Opening(Connects);

impl Drop for Opening {
    fn drop(&mut self) {
        self.0.0.update(|count| {
            count.opening -= 1;
            count.ended += 1;
        });
    }
}

/// Wraps a connector so that its connections are counted.
#[derive(Clone, Copy, Debug)]
pub(in crate::api) struct CountConnects;

impl<S> Layer<S> for CountConnects {
    type Service = Counted<S>;

    fn layer(&self, connector: S) -> Counted<S> {
        Counted(connector)
    }
}

/// A connector whose connections are counted.
#[derive(Clone, Debug)]
pub(in crate::api) struct Counted<S>(S);

impl<S, R> Service<R> for Counted<S>
where
    S: Service<R>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, target: R) -> Self::Future {
        // A connection outside a call, such as that of a login, is not counted.
        let opening = OF_THIS_CALL.try_with(Connects::opening).ok();
        let connected = self.0.call(target);
        Box::pin(async move {
            let connected = connected.await;
            drop(opening);
            connected
        })
    }
}
