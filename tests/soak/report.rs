//! The result of a soak.

use std::{fmt, time::Duration};

use refresh_worker::{
    clock::SystemClock,
    config::RedisConfig,
    queue::{DeadFilter, Queue as _, QueueAdmin as _, redis::RedisQueue},
};

use crate::{
    evidence::{self, Following, Holdings},
    failover::FailedOver,
    freeze::Thawed,
    storm::{CAP, Recovery, Storm},
    support::process::WorkerProcess,
    world::World,
};

/// The numbers, and which of them break a promise.
#[derive(Debug)]
pub struct Report {
    lasted: Duration,
    kills: usize,
    at_failpoints: (usize, usize),
    requests: usize,
    lost: Vec<String>,
    doubled: Vec<String>,
    settled_unstored: Vec<String>,
    /// Innocents that were killed with five times in a row.
    buried: usize,
    lost_after_redrive: usize,
    calls: usize,
    calls_over: Vec<String>,
    busiest_second: usize,
    overlong: usize,
    recoveries: Vec<Recovery>,
    ends: Vec<(String, usize)>,
    thawed: Option<Thawed>,
    failed_over: Option<FailedOver>,
    following: Option<Following>,
}

impl Report {
    /// Lets a healthy run do what is left, and counts.
    pub async fn of(
        world: &World,
        storm: Storm<'_>,
        (thawed, failed_over): (Option<Thawed>, Option<FailedOver>),
        follow: bool,
    ) -> Self {
        let lasted = storm.lasted();
        let cap = CAP.to_string();
        let settings = [("COC_REQS_PER_SEC", &*cap), ("COC_MAX_REQS_PER_SEC", &cap), ("LEASE_SECONDS", "2")];
        let following = if follow { evidence::FOLLOWING } else { &[] };
        let mut worker = world.worker_with(&[&settings, following].concat()).await;
        evidence::drain(world, &mut worker).await;
        let asked = storm.asked.take();
        let stored = evidence::stored(world).await;
        let buried = Holdings::of(world).await.lapsed();
        let lost = asked.iter().filter(|object| !stored.contains(*object) && !buried.contains(*object));
        let lost = lost.cloned().collect();

        redrive(world).await;
        evidence::drain(world, &mut worker).await;
        let stored = evidence::stored(world).await;
        let following = if follow { Some(relay(world, &mut worker).await) } else { None };
        let calls: Vec<_> = world.simulator.calls();
        let reached = storm.at_failpoints.take();
        Self {
            lasted,
            kills: storm.kills.get(),
            at_failpoints: (reached.values().sum(), reached.len()),
            requests: asked.len(),
            lost,
            doubled: evidence::doubled(world).await,
            settled_unstored: storm.settled_unstored.take().into_iter().collect(),
            buried: buried.len(),
            lost_after_redrive: asked.iter().filter(|object| !stored.contains(*object)).count(),
            calls_over: evidence::calls_over(&calls, CAP),
            busiest_second: world
                .tokens
                .iter()
                .map(|token| world.simulator.most_in_any_second(token))
                .max()
                .unwrap_or(0),
            calls: calls.len(),
            overlong: storm.overlong.get(),
            recoveries: storm.recoveries.take(),
            ends: storm.ends.take().into_iter().collect(),
            thawed,
            failed_over,
            following,
        }
    }

    /// The promises that do not hold.
    pub fn broken(&self) -> Vec<&'static str> {
        let failed_runs = self.ends.iter().any(|(end, _)| end.contains("Error") || end.contains("Exited"));
        let promises = [
            (self.lost.is_empty() && self.lost_after_redrive == 0, "no request is lost"),
            (self.doubled.is_empty(), "none is stored twice"),
            (self.settled_unstored.is_empty(), "none is settled without being stored"),
            (self.overlong == 0, "what a killed run had leased is free again after a lease time"),
            (self.calls_over.is_empty(), "no key is called more often than its cap"),
            (!failed_runs, "no run fails because another was killed"),
            (
                self.following
                    .as_ref()
                    .is_none_or(|one| one.unpublished.is_empty() && one.poor == 0 && one.outbox == 0),
                "what is stored is published",
            ),
            (self.following.as_ref().is_none_or(|one| one.copies.is_empty()), "no reader keeps an old copy"),
            (
                self.failed_over.as_ref().is_none_or(FailedOver::is_well),
                "a failover loses nothing and ends no process for good",
            ),
            (self.thawed.as_ref().is_none_or(Thawed::is_well), "the run after a freeze works at the first try"),
        ];
        promises.into_iter().filter(|(holds, _)| !holds).map(|(_, promise)| promise).collect()
    }
}

/// Runs until the outbox is empty: a run relays the entries of others once they are older than a lease.
async fn relay(world: &World, worker: &mut WorkerProcess) -> Following {
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        evidence::drain(world, worker).await;
        let following = Following::of(world).await;
        if following.outbox == 0 {
            return following;
        }
    }
    Following::of(world).await
}

async fn redrive(world: &World) {
    let config = RedisConfig { url: world.redis_url.as_str().into(), cluster: false, namespace: "refresh".to_owned() };
    let queue = RedisQueue::connect(&config, std::sync::Arc::new(SystemClock)).expect("a Redis URL");
    let now = queue.time().await.expect("Redis answers");
    queue.redrive(now, &DeadFilter::default()).await.expect("Redis answers");
}

/// Median, 99th percentile and worst, in seconds.
fn spread(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let at = |part: usize| times.get((times.len() * part / 100).min(times.len().saturating_sub(1)));
    let seconds = |time: Option<&Duration>| time.map_or(0.0, Duration::as_secs_f64);
    format!("{:.2} / {:.2} / {:.2} s", seconds(at(50)), seconds(at(99)), seconds(times.last()))
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (at, of) = self.at_failpoints;
        writeln!(f, "\nsoak of {} s", self.lasted.as_secs())?;
        writeln!(
            f,
            "kills                                    {}  ({at} at {of} failpoints, the rest at random times)",
            self.kills
        )?;
        writeln!(f, "requests                                 {}", self.requests)?;
        writeln!(f, "lost                                     {}", self.lost.len())?;
        writeln!(f, "stored twice                             {}", self.doubled.len())?;
        writeln!(f, "settled without being stored             {}", self.settled_unstored.len())?;
        writeln!(f, "dead letters (killed with 5 times)       {}", self.buried)?;
        writeln!(f, "  not stored after being redriven        {}", self.lost_after_redrive)?;
        #[expect(clippy::cast_precision_loss, reason = "counts of a soak")]
        let ratio = self.calls as f64 / self.requests.max(1) as f64;
        writeln!(f, "calls, calls per request                 {}, {ratio:.3}", self.calls)?;
        let over = self.calls_over.len();
        writeln!(f, "calls over the cap of {CAP} a second         {over}  (busiest second {})", self.busiest_second)?;
        for call in &self.calls_over {
            writeln!(f, "  {call}")?;
        }
        for lease in [2, 15].map(Duration::from_secs) {
            let of_lease: Vec<_> = self.recoveries.iter().filter(|recovery| recovery.lease == lease).collect();
            let times = |of: fn(&Recovery) -> Duration| spread(of_lease.iter().map(|recovery| of(recovery)).collect());
            let (count, seconds) = (of_lease.len(), lease.as_secs());
            writeln!(f, "leases of {seconds:2} s left by killed runs       {count}")?;
            writeln!(f, "  kill to free again, median/p99/worst   {}", times(|recovery| recovery.until_free))?;
            writeln!(f, "  kill to leased again, same             {}", times(|recovery| recovery.until_leased))?;
        }
        writeln!(f, "leases beyond a lease time after a kill  {}", self.overlong)?;
        for (end, count) in &self.ends {
            writeln!(f, "runs not killed that ended {end:13} {count}")?;
        }
        if let Some(thawed) = &self.thawed {
            writeln!(
                f,
                "after a freeze of {} s                   {} connections closed by servers, {} of 3 processed, {} warnings, {} s",
                thawed.frozen.as_secs(),
                thawed.closed,
                thawed.answer["processed_requests"],
                thawed.complaints,
                thawed.answer["runtime_seconds"],
            )?;
        }
        if let Some(FailedOver { failovers, requests, stored, calls, failed_runs, failed_at_the_end }) =
            &self.failed_over
        {
            writeln!(
                f,
                "{failovers} failovers, one of PostgreSQL          {stored} of {requests} stored with {calls} calls, {failed_runs} \
                 runs failed, {failed_at_the_end} after the last"
            )?;
        }
        if let Some(following) = &self.following {
            let Following { documents, unpublished, published_twice, poor, outbox, copies } = following;
            #[expect(clippy::cast_precision_loss, reason = "counts of a soak")]
            let ratio = self.calls as f64 / (*documents).max(1) as f64;
            writeln!(f, "documents stored, follow-ups included    {documents}, {ratio:.3} calls each")?;
            writeln!(f, "  never published to the event stream     {}  {unpublished:?}", unpublished.len())?;
            writeln!(f, "  published without changed fields       {poor}")?;
            writeln!(f, "events published twice                   {published_twice}")?;
            writeln!(f, "outbox entries that are left             {outbox}")?;
            writeln!(f, "old copies of readers that are left      {}", copies.len())?;
        }
        let broken = self.broken();
        if broken.is_empty() { write!(f, "every promise holds") } else { write!(f, "BROKEN: {}", broken.join("; ")) }
    }
}
