//! The lease stage: leases in small batches ahead of the limiter, and hands each request on to be fetched or, when its stored copy
//! is fresh, to be settled.

use std::time::Duration;

use tokio::{sync::mpsc, time::Instant};
use tracing::warn;

use super::{
    breaker::Breaker,
    context::RunContext,
    flow::Counts,
    follow_ups,
    freshness::{self, Decision},
    halt::Force,
    hand_over::{Ended, How, Work},
    intake::Intake,
    planned::{PlannedLooks, REFUSED_FOR, Room},
    report::StopReason,
};
use crate::{
    api::{budget::DailyQuota, judge::Judge},
    clock::Timestamp,
    model::{EndpointKind, ObjectId},
    queue::{Lease, LeaseToken, Queue, SharedState, record::State},
    store::{Candidate, Freshness, PutOff, Store},
};

// Long enough that the limiter never waits for a lease, short enough that urgent requests overtake and few leases are returned
// at the end.
const LEASE_AHEAD: Duration = Duration::from_secs(2);

// While requests are in flight and nothing is ready, new entries may come. Half a second is soon enough for them, and spares Redis.
const IDLE_POLL_INTERVAL: Duration = Duration::from_millis(500);

// While planned looks are made. A request that comes meanwhile waits for this, and for the looks that are claimed ahead.
const PLANNED_POLL_INTERVAL: Duration = Duration::from_millis(250);

// Short, because a request may come at any moment, and it waits for the limiter behind the looks that are claimed.
const LOOK_AHEAD: Duration = Duration::from_millis(500);

// Short, because the cooldown or the replacement of a key that was just rejected is known within moments.
const KEY_POLL_INTERVAL: Duration = Duration::from_millis(20);

// Added to the end of a cooldown, so that the slot is free by the queue's clock as well.
const COOLDOWN_MARGIN: Duration = Duration::from_millis(5);

// So many claims in a row may have objects refused. A request waits for all of them.
const MAX_CLAIMS: u32 = 4;

/// The first of the three stages.
#[derive(Debug)]
pub struct LeaseStage<'a, Q, S> {
    pub ctx: &'a RunContext<'a, Q, S>,
    pub breaker: &'a Breaker<'a, Q, S>,
    pub intake: Intake<'a, Q, S>,
    pub max_requests: Option<u64>,
}

impl<Q: Queue + SharedState, S: Store> LeaseStage<'_, Q, S> {
    /// Leases until the run has to end, then waits until every request is through the fetch stage.
    pub async fn run(&self, work: mpsc::Sender<Work>, ended: mpsc::Sender<Ended>) {
        let Self { ctx, breaker, .. } = self;
        self.lease_all(&work, &ended).await;
        // The fetch stage ends with its channel.
        drop(work);
        loop {
            ctx.flow.until(|counts| counts.unstarted == 0 && counts.in_flight == 0).await;
            if ctx.flow.counts().behind > 0 && !ctx.halt.is_forced() {
                ctx.flow.now_those_behind();
                ctx.flow.until(|counts| counts.behind == 0).await;
            } else if !ctx.halt.is_forced() && ctx.pool().usable() > 0 && breaker.judge().read(Judge::has_doubts) {
                self.resolve_doubts().await;
            } else {
                break;
            }
        }
        // No further call can classify the failures that are still open. After a forced end they stay undecided, since calls that might
        // have decided them were not made.
        breaker.judge().update(if ctx.halt.is_forced() { Judge::leave_undecided } else { Judge::finish });
        breaker.return_unused_probes().await;
    }

    async fn lease_all(&self, work: &mpsc::Sender<Work>, ended: &mpsc::Sender<Ended>) {
        let Self { ctx, breaker, .. } = self;
        let mut leased_so_far = 0_u64;
        let mut probing = breaker.is_probing();
        let mut mailbox_error_is_reported = false;
        // The last claim found a request. Twice in a row it is one that may not be leased yet.
        let mut overtaken = false;
        while let Some(room) = self.wait_for_room(leased_so_far, probing).await {
            if probing {
                match breaker.probe_by_control().await {
                    Some(true) => {
                        probing = false;
                        breaker.carry_out().await;
                        continue;
                    }
                    Some(false) => return breaker.probe_failed(),
                    // No object to probe with: the next request is the probe.
                    None => {}
                }
            }
            let batch = match self.intake.lease(room, probing).await {
                Ok(batch) => batch,
                Err(error) => return ctx.queue_down(&error),
            };
            leased_so_far += batch.leases.len() as u64;
            if let Some(error) = batch.not_admitted.as_ref().filter(|_| !mailbox_error_is_reported) {
                mailbox_error_is_reported = true;
                warn!(error = %error, "could not admit the mailbox's entries; they wait, and ready requests go on");
                ctx.tally.lock().error(error.to_string());
            }
            // An empty batch alone does not end the run: more may wait than one call looks at.
            let nothing = batch.leases.is_empty();
            let suspect = batch.suspect_waits || batch.leases.iter().any(Lease::is_suspect);
            if !nothing && !self.hand_out(batch.leases, work, ended).await {
                return;
            }
            if batch.mail_waits {
                self.catch_up_with_mailbox().await;
            }
            if probing && !nothing {
                probing = !breaker.probe_answered().await;
            } else if suspect {
                // Suspects are leased with nothing else in flight: should one kill us, it takes with it only others like it.
                self.wait(|counts| counts.open == counts.waiting, None).await;
            } else if nothing && !batch.more && !breaker.carry_out().await {
                let counts = ctx.flow.counts();
                if counts.open == counts.waiting && counts.behind > 0 {
                    ctx.flow.now_those_behind();
                    self.wait(|counts| counts.behind == 0, None).await;
                } else if counts.open == counts.waiting && breaker.judge().read(Judge::has_doubts) {
                    self.resolve_doubts().await;
                } else if let Some(looks) = self.may_look(&counts, batch.not_admitted.is_none()) {
                    overtaken = match self.look(looks, room, work, ended).await {
                        Some(Looked::Overtaken) if !overtaken => true,
                        Some(_) => {
                            self.wait_for_more_looks().await;
                            false
                        }
                        None => return,
                    };
                } else if counts.open == 0 {
                    return match batch.not_admitted {
                        Some(error) => ctx.queue_down(&error),
                        None => ctx.halt.end(Force::None, breaker.end_of_work(), None),
                    };
                } else {
                    self.wait(|counts| counts.open == counts.waiting, Some(IDLE_POLL_INTERVAL)).await;
                }
            }
        }
    }

    /// The planned looks, when nothing stands before them: no request is ready, put behind, or waits for a classification.
    fn may_look(&self, counts: &Counts, is_admitted: bool) -> Option<&PlannedLooks> {
        self.ctx.planned.as_ref().filter(|_| counts.behind == 0 && counts.waiting == 0 && is_admitted)
    }

    /// Waits until half of the claimed looks have begun. Where fewer could be claimed, the queue is asked again after a while: else this
    /// stage would ask it without a pause.
    async fn wait_for_more_looks(&self) {
        let Self { ctx, .. } = self;
        let few = looks_ahead(ctx.pool().total_rate()) / 2;
        let enough = ctx.flow.counts().unstarted > few;
        self.wait(|counts| enough && counts.unstarted <= few, Some(PLANNED_POLL_INTERVAL)).await;
    }

    /// Claims planned looks until half a second of the rate is claimed ahead. `None` when the database does not respond and the run ends.
    async fn look(
        &self,
        looks: &PlannedLooks,
        room: usize,
        work: &mpsc::Sender<Work>,
        ended: &mpsc::Sender<Ended>,
    ) -> Option<Looked> {
        // A run beside this one takes about half of what both would choose.
        for _ in 0..MAX_CLAIMS {
            let looked = self.claim_looks(looks, room, work, ended).await?;
            if looked != Looked::Refused {
                return Some(looked);
            }
        }
        Some(Looked::Claimed)
    }

    /// Claims planned looks, and hands on those that were given.
    async fn claim_looks(
        &self,
        looks: &PlannedLooks,
        room: usize,
        work: &mpsc::Sender<Work>,
        ended: &mpsc::Sender<Ended>,
    ) -> Option<Looked> {
        let Self { ctx, .. } = self;
        let candidates = self.choose_looks(looks, room);
        if candidates.is_empty() {
            return Some(Looked::Claimed);
        }
        let objects = candidates.iter().map(|candidate| candidate.object.clone()).collect();
        let claimed = match self.intake.claim(objects).await {
            Ok(claimed) => claimed,
            Err(error) => {
                // A full Redis refuses claims while requests still go on. One that is down fails the next lease call, too.
                warn!(error = %error, "could not claim planned looks; requests go on");
                ctx.tally.lock().error(format!("could not claim planned looks: {error}"));
                looks.pause(Instant::now());
                looks.give_back(candidates, false);
                return Some(Looked::Claimed);
            }
        };
        let overtaken = claimed.work_waits;
        let is_unclaimed = |one: &Candidate| claimed.leases.iter().all(|lease| lease.object != one.object);
        let mut unclaimed: Vec<Candidate> = candidates.into_iter().filter(is_unclaimed).collect();
        let refusal = |one: &Candidate| claimed.refused.iter().find(|(object, _)| *object == one.object);
        let refused: Vec<Candidate> = unclaimed.extract_if(.., |one| refusal(one).is_some()).collect();
        // Another run looks at what is leased, and will say when the next look is.
        let requested = refused.iter().filter(|one| refusal(one).is_some_and(|(_, state)| *state != State::Leased));
        let until = ctx.time.now() + REFUSED_FOR;
        let put_off: Vec<PutOff> = requested.map(|one| PutOff::as_seen(one, until)).collect();
        if let Some(tally) = &mut ctx.tally.lock().planned {
            tally.refused(put_off.len() as u64);
        }
        looks.put_off(put_off);
        let is_refused = !refused.is_empty();
        looks.give_back(refused, false);
        looks.give_back(unclaimed, true);
        if !self.hand_out(claimed.leases, work, ended).await {
            return None;
        }
        Some(match (overtaken, is_refused) {
            (true, _) => Looked::Overtaken,
            (false, true) => Looked::Refused,
            (false, false) => Looked::Claimed,
        })
    }

    /// The next objects to look at, within all limits.
    fn choose_looks(&self, looks: &PlannedLooks, room: usize) -> Vec<Candidate> {
        let Self { ctx, breaker, .. } = self;
        let unstarted = ctx.flow.counts().unstarted;
        let ahead = looks_ahead(ctx.pool().total_rate()).saturating_sub(unstarted);
        let limits = Room {
            most: ahead.min(room),
            per_second: self.planned_rate(),
            left_today: ctx
                .pool()
                .daily_quota()
                .map_or(u64::MAX, |quota| quota.left_for_planned().saturating_sub(unstarted as u64)),
        };
        looks.choose(limits, ctx.time.now(), Instant::now(), |candidate| {
            let endpoint = EndpointKind::of(candidate.object.kind);
            !ctx.in_hand.has(&candidate.object)
                && breaker.judge().read(|judge| !judge.is_open(endpoint) && !judge.is_in_question(endpoint))
        })
    }

    /// The planned calls a second of this run: runs beside it with other keys have their share of the setting.
    fn planned_rate(&self) -> f64 {
        let Self { ctx, .. } = self;
        let limit = ctx.worker.config.planner.map_or(0, |planner| planner.calls_per_second);
        #[expect(clippy::cast_precision_loss, reason = "a few keys")]
        let share = ctx.pool().fingerprints().len() as f64 / ctx.all_keys().max(1) as f64;
        f64::from(limit) * share
    }

    /// Hands on each lease of a batch. False when the database does not respond and the run ends.
    pub async fn hand_out(&self, leases: Vec<Lease>, work: &mpsc::Sender<Work>, ended: &mpsc::Sender<Ended>) -> bool {
        let Self { ctx, .. } = self;
        // After a failover that lost writes the queue leases anew what this run has in hand already.
        let leases = ctx.in_hand.take(leases);
        if leases.is_empty() {
            return true;
        }
        ctx.flow.leased(leases.len());
        if !self.confirm_suspects(&leases).await {
            release_all(leases, ended).await;
            return true;
        }
        let objects: Vec<ObjectId> = leases.iter().map(|lease| lease.object.clone()).collect();
        let limit = ctx.deadline.left_for_the_database(Instant::now());
        failpoint!("freshness.before");
        let asked = Instant::now();
        let mut stored = match ctx.worker.store.freshness(&objects, limit).await {
            Ok(stored) => stored,
            Err(error) => {
                ctx.store_failed(&error, asked);
                release_all(leases, ended).await;
                return false;
            }
        };
        failpoint!("freshness.after");
        let now = ctx.time.now();
        for lease in leases {
            let copy = stored.remove(&lease.object);
            self.hand_on(lease, copy, now, work, ended).await;
        }
        true
    }

    async fn hand_on(
        &self,
        lease: Lease,
        copy: Option<Freshness>,
        now: Timestamp,
        work: &mpsc::Sender<Work>,
        ended: &mpsc::Sender<Ended>,
    ) {
        let config = self.ctx.worker.config.follow_ups;
        let next_poll = copy.as_ref().and_then(|copy| follow_ups::next_poll_of_stored(config, &lease.object, copy));
        let how = match freshness::decide(&lease, copy.as_ref(), now) {
            Decision::Call => {
                self.ctx.flow.queued();
                // The stages end together; a closed channel means that the run is being dropped.
                let _ = work.send(Work { lease, league: copy.and_then(|copy| copy.league) }).await;
                return;
            }
            Decision::Fresh => How::Fresh(next_poll),
            Decision::Later(until) => How::Later(until, next_poll),
        };
        // Sending fails only in a run that is being dropped, which has no commit stage any more.
        let _ = ended.send(Ended::new(lease, how)).await;
    }

    /// Confirms to the queue that suspects were received, before they are tried: should one kill us, its lapse counts. False when
    /// they are not certainly ours.
    async fn confirm_suspects(&self, leases: &[Lease]) -> bool {
        let Self { ctx, .. } = self;
        let suspects: Vec<(ObjectId, LeaseToken)> = leases
            .iter()
            .filter(|lease| lease.is_suspect())
            .map(|lease| (lease.object.clone(), lease.token.clone()))
            .collect();
        if suspects.is_empty() {
            return true;
        }
        let now = ctx.time.now();
        match ctx.worker.queue.renew(now, &suspects, now + ctx.lease_duration()).await {
            Ok(ours) => ours.into_iter().all(|still_ours| still_ours),
            Err(error) => {
                warn!(error = %error, "could not confirm the lease of a suspect; it is released");
                false
            }
        }
    }

    /// Admits more of a flood while enough is leased for the calls meanwhile.
    async fn catch_up_with_mailbox(&self) {
        let Self { ctx, .. } = self;
        let half = requests_ahead(ctx.pool().total_rate()) / 2;
        self.intake.admit_more(|| ctx.flow.counts().unstarted > half && !ctx.halt.is_forced()).await;
    }

    /// Nothing else is at hand, and the judge is in doubt: a control call decides, or nothing does.
    async fn resolve_doubts(&self) {
        let judge = self.breaker.judge();
        if judge.update(Judge::nothing_else_to_call) {
            let decided = judge.until(|judge| judge.control().is_none().then_some(()));
            tokio::select! {
                () = decided => {}
                // A run that ends leaves doubts undecided.
                () = self.ctx.halt.forced(Force::StartNothing) => {}
                // More requests may have become ready in the meantime.
                () = tokio::time::sleep(IDLE_POLL_INTERVAL) => {}
            }
        }
        // Lets requests whose classification is known go on before this stage looks at the flow again.
        tokio::task::yield_now().await;
    }

    /// Waits for this state of the flow, but not longer than `at_most`, the end of leasing, or a forced end.
    async fn wait(&self, condition: impl FnMut(&Counts) -> bool, at_most: Option<Duration>) {
        let Self { ctx, .. } = self;
        let until =
            at_most.map_or(ctx.deadline.leasing_ends(), |wait| ctx.deadline.leasing_ends().min(Instant::now() + wait));
        tokio::select! {
            () = ctx.flow.until(condition) => {}
            // The caller checks again and finds out why the wait ended.
            () = ctx.halt.forced(Force::StartNothing) => {}
            () = tokio::time::sleep_until(until) => {}
        }
    }

    /// Waits until something may be leased, and returns the number; `None` ends the stage.
    async fn wait_for_room(&self, leased_so_far: u64, probing: bool) -> Option<usize> {
        let Self { ctx, .. } = self;
        loop {
            if ctx.halt.is_forced() {
                return None;
            }
            if !ctx.deadline.may_lease(Instant::now()) {
                ctx.halt.end(Force::None, StopReason::Deadline, None);
                return None;
            }
            let counts = ctx.flow.counts();
            // Requests that were released without a call do not count: others may be leased in their place.
            let begun = leased_so_far.saturating_sub(counts.not_begun as u64);
            let left = self.max_requests.map_or(u64::MAX, |max| max.saturating_sub(begun));
            if left == 0 {
                if counts.unstarted == 0 {
                    ctx.halt.end(Force::None, StopReason::MaxRequests, None);
                    return None;
                }
                self.wait(|counts| counts.unstarted == 0, None).await;
                continue;
            }
            if ctx.pool().daily_quota().is_some_and(DailyQuota::is_exhausted) {
                ctx.day_used_up();
                return None;
            }
            if ctx.pool().usable() == 0 {
                self.wait_for_a_key().await;
                continue;
            }
            // A doubtful database may refuse responses, so only one request at a time is fetched until one is stored.
            if ctx.worker.store.is_doubtful() {
                if counts.open == counts.waiting {
                    return Some(1);
                }
                self.wait(|counts| counts.open == counts.waiting, Some(IDLE_POLL_INTERVAL)).await;
                continue;
            }
            let ahead = if probing { 1 } else { requests_ahead(ctx.pool().total_rate()) }.min(self.callable(&counts));
            // Each lease call is a round trip, so a batch is at least half of what may be leased ahead.
            if ahead > 0 && counts.unstarted <= ahead / 2 {
                return Some((ahead - counts.unstarted).min(usize::try_from(left).unwrap_or(usize::MAX)));
            }
            // The wait is bounded, because a key that recovers or another block of the daily quota makes room without a change of the flow.
            let has_room = |now: &Counts| now.unstarted < counts.unstarted && now.unstarted <= ahead / 2;
            self.wait(has_room, Some(IDLE_POLL_INTERVAL)).await;
        }
    }

    /// The number of requests that can still be called before leasing ends, those that wait for a permit included.
    fn callable(&self, counts: &Counts) -> usize {
        let calls = self.ctx.pool().calls_until(self.ctx.deadline.leasing_ends());
        requests_for(calls, self.ctx.pool().calls_made(), counts)
    }

    /// No key is usable: waits for the first to recover, or ends the run when that is too late.
    async fn wait_for_a_key(&self) {
        let Self { ctx, breaker, .. } = self;
        if ctx.slots.is_logging_in() {
            tokio::select! {
                // The login may have given a key or none; the caller checks.
                () = ctx.slots.logged_in() => {}
                () = ctx.halt.forced(Force::StartNothing) => {}
                () = tokio::time::sleep_until(ctx.deadline.leasing_ends()) => {}
            }
            return;
        }
        // A run without a key leases nothing, so that a run with a key can serve the requests.
        let wait = match ctx.slots.next_recovery() {
            Some(at) if ctx.deadline.may_lease(at) => at + COOLDOWN_MARGIN,
            // Whoever was rejected a moment ago is about to start the cooldown, or a slot has to be confirmed.
            None if ctx.slots.some_key_may_recover() => Instant::now() + KEY_POLL_INTERVAL,
            _ => return breaker.end_without_a_key(),
        };
        tokio::select! {
            () = tokio::time::sleep_until(wait) => {}
            // Whoever ended the run has given its reason.
            () = ctx.halt.forced(Force::StartNothing) => return,
        }
        if let Err(error) = ctx.slots.renew().await {
            ctx.queue_down(&error);
        }
    }
}

/// The result of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Looked {
    /// What could be claimed is claimed.
    Claimed,
    /// Some objects had a record already, so there is room for others.
    Refused,
    /// A request came before the claim: it goes first.
    Overtaken,
}

async fn release_all(leases: Vec<Lease>, ended: &mpsc::Sender<Ended>) {
    for lease in leases {
        // Only a run that is being dropped has no commit stage.
        let _ = ended.send(Ended::released(lease)).await;
    }
}

/// The number of requests that may be leased and not yet started.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rates are small and positive")]
fn requests_ahead(rate: f64) -> usize {
    ((rate * LEASE_AHEAD.as_secs_f64()) as usize).clamp(2, 1000)
}

/// The number of planned looks that may be claimed and not yet started.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rates are small and positive")]
fn looks_ahead(rate: f64) -> usize {
    ((rate * LOOK_AHEAD.as_secs_f64()) as usize).clamp(1, 250)
}

/// The number of requests that `calls` calls are enough for. Each needs as many calls as those of this run took so far, and those in
/// flight still need their later ones.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "counts of one run are small"
)]
fn requests_for(calls: usize, calls_made: u64, counts: &Counts) -> usize {
    let each = (calls_made as f64 / counts.begun.max(1) as f64).max(1.0);
    let still_owed = counts.in_flight as f64 * (each - 1.0);
    ((calls as f64 - still_owed) / each) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_several_calls_share_what_is_left() {
        let counts = |begun, in_flight| Counts { in_flight, begun, ..Counts::default() };
        assert_eq!(requests_for(60, 0, &counts(0, 0)), 60);
        assert_eq!(requests_for(60, 100, &counts(100, 5)), 60);
        assert_eq!(requests_for(60, 300, &counts(100, 0)), 20);
        assert_eq!(requests_for(60, 300, &counts(100, 6)), 16);
        assert_eq!(requests_for(1, 300, &counts(100, 6)), 0);
        assert_eq!(requests_for(60, 5, &counts(10, 10)), 60, "some have not called yet");
    }

    #[test]
    fn leases_are_ahead_by_two_seconds() {
        assert_eq!(requests_ahead(29.55), 59);
        assert_eq!(requests_ahead(0.3), 2);
        assert_eq!(requests_ahead(5000.0), 1000);
        assert_eq!((looks_ahead(29.55), looks_ahead(0.3), looks_ahead(5000.0)), (14, 1, 250));
    }
}
