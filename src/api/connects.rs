//! How many connections a call is opening: a layer around the HTTP client's connector.
//!
//! A call that needs a new connection leaves only when that stands, long after it was handed over. The connector is called
//! by whoever awaits the call, so the count is found by the task. Touches nothing but that.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::sync::watch;
use tower::{Layer, Service};

tokio::task_local! {
    static OF_THIS_CALL: Connects;
}

/// The count of one call. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Connects(Arc<watch::Sender<Count>>);

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    opening: usize,
    /// Opened or given up, ever.
    ended: u64,
}

impl Default for Connects {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(Count::default())))
    }
}

impl Connects {
    /// The call itself: the connections that are opened for it count here.
    pub(super) async fn of<C: Future>(&self, call: C) -> C::Output {
        OF_THIS_CALL.scope(self.clone(), call).await
    }

    pub(super) fn is_opening(&self) -> bool {
        self.0.borrow().opening > 0
    }

    /// How many were opened or given up, ever.
    pub(super) fn ended(&self) -> u64 {
        self.0.borrow().ended
    }

    /// Returns as soon as none is being opened and more have [`ended`](Self::ended) than these; says how many.
    pub(super) async fn none_after(&self, ended: u64) -> u64 {
        let mut counts = self.0.subscribe();
        // The sender lives in `self`, so waiting cannot fail.
        let count = counts.wait_for(|count| count.opening == 0 && count.ended > ended).await;
        count.map_or(ended, |count| count.ended)
    }

    pub(super) fn opening(&self) -> Opening {
        self.0.send_modify(|count| count.opening += 1);
        Opening(self.clone())
    }
}

/// One connection that is being opened, until it stands or was given up.
#[derive(Debug)]
pub(super) struct Opening(Connects);

impl Drop for Opening {
    fn drop(&mut self) {
        self.0.0.send_modify(|count| {
            count.opening -= 1;
            count.ended += 1;
        });
    }
}

/// The layer.
#[derive(Clone, Copy, Debug)]
pub(super) struct CountConnects;

impl<S> Layer<S> for CountConnects {
    type Service = Counted<S>;

    fn layer(&self, connector: S) -> Counted<S> {
        Counted(connector)
    }
}

/// A connector whose work is counted.
#[derive(Clone, Debug)]
pub(super) struct Counted<S>(S);

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
        // Nobody counts what is not a call, such as a login.
        let opening = OF_THIS_CALL.try_with(Connects::opening).ok();
        let connected = self.0.call(target);
        Box::pin(async move {
            let connected = connected.await;
            drop(opening);
            connected
        })
    }
}
