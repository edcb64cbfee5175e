//! The drain: three stages that run side by side until the queue is empty or the run has to end.
//!
//! ```text
//! lease ──work──> fetch ──ended──> commit and settle
//!    └────────────fresh───────────────┘
//! ```
//!
//! The lease stage keeps at most two seconds' worth of requests ahead of the limiter, the fetch stage calls concurrently,
//! the commit stage stores answers in groups and settles them. Beside them a keeper renews leases and key slots.

use std::{
    collections::BTreeSet,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::{sync::mpsc, time::Instant};
use tracing::{debug, warn};

use super::{
    Progress, Worker, allowance,
    caches::Caches,
    commit::Ended,
    deadline::Deadline,
    fetch::Work,
    flow::{Counts, Flow},
    halt::{Force, Halt},
    in_hand::InHand,
    judgement::{Circuits, judged},
    keys::KeyRing,
    mail::admit_mail,
    report::{StopReason, Tally},
    standing::{LONGEST_MAX_AGE, Standing, standing},
};
use crate::{
    api::{
        allowance::Allowance,
        judge::{Bench, Judge, Scope},
        run_keys::RunKeys,
    },
    clock::{ServerTime, Timestamp},
    derive::followup,
    model::{FollowUp, ObjectId, Outcome, Priority},
    queue::{Circuit, Lease, LeaseRequest, LeaseToken, Leased, MailLimits, Queue, QueueError, Slots},
    store::{Freshness, Store, StoreError},
};

/// How much of the rate may be leased ahead.
const AHEAD: Duration = Duration::from_secs(2);

/// How soon the mailbox is looked at again while requests are in flight and nothing is ready.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// The waits between tries to lease from a queue that does not answer.
const PATIENCE_WITH_LEASES: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(1)];

/// Between two probes of an API in maintenance.
pub const PROBE_INTERVAL: Duration = Duration::from_secs(30);

/// A database that has not answered for so long when a run ends is down; before that it may have been slow only.
const SILENCE: Duration = Duration::from_secs(4);

/// Clocks that moved apart by more than this: the queue's time is read again before any lease.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(1);

/// One drain and everything its stages share.
#[derive(Debug)]
pub struct Drain<'a, Q, S> {
    pub worker: &'a Worker<Q, S>,
    pub run: &'a str,
    pub time: &'a ServerTime,
    pub deadline: &'a Deadline,
    /// Whoever caches what changes is told.
    pub caches: &'a Caches<'a>,
    pub keys: &'a RunKeys,
    pub ring: &'a KeyRing<'a, Q>,
    pub halt: &'a Halt,
    pub flow: Flow,
    pub tally: &'a Mutex<Tally>,
    pub progress: &'a dyn Progress,
    pub priorities: &'a [Priority],
    pub max_requests: Option<u64>,
    /// The objects that this run was asked for by name and has not leased yet.
    pub named: Mutex<Vec<ObjectId>>,
    /// Whose fault bad answers are.
    pub bench: Bench,
    pub circuits: Mutex<Circuits>,
    /// The API failed and this run may probe it: nothing else is leased until the probe was answered.
    pub probing: Option<Circuit>,
    /// The objects that met a 429.
    pub throttled: Mutex<BTreeSet<ObjectId>>,
    /// The API refused a key in a way that may be about our address.
    pub is_forbidden: AtomicBool,
    /// Held by whoever carries out what the judge found.
    pub carrying_out: tokio::sync::Mutex<()>,
    /// Nonces of lease calls whose answers were lost, each with the end of what it may have leased.
    pub unheard: Mutex<Vec<(String, Timestamp)>>,
    /// Every request that this run has leased and not settled, for the keeper to renew.
    pub in_hand: InHand,
    /// Whether answers can be kept at the moment; calls wait while they cannot.
    pub store_answers: tokio::sync::watch::Sender<bool>,
    /// Answers that the store has refused, each by itself, since it stored one.
    pub refused_alone: AtomicU32,
}

/// A mutex whose holder panicked still holds plain counts: they are as good as before.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<Q: Queue + Slots, S: Store> Drain<'_, Q, S> {
    /// Drains until there is a reason to end, which is then in `halt`.
    pub async fn drain(&self) {
        self.tell_what_was_left().await;
        let (work, to_fetch) = mpsc::channel(1024);
        let (ended, to_commit) = mpsc::channel(1024);
        let stages = async {
            tokio::join!(
                self.lease_stage(work, ended.clone()),
                self.fetch_stage(to_fetch, ended),
                self.commit_stage(to_commit),
            )
        };
        tokio::select! {
            _ = stages => {}
            () = self.keep() => {}
            () = self.replace_refused_keys() => {}
            () = allowance::keep_up(self.worker.queue.as_ref(), self.keys) => {}
            () = self.keep_telling() => {}
            () = self.make_control_calls() => {}
            () = self.keep_carrying_out() => {}
        }
        self.carry_out().await;
        lock(self.tally).circuits = lock(&self.circuits).keys().map(|scope| scope.as_str()).collect();
    }

    /// Leases in small batches ahead of the limiter, and sends each to be fetched or, when it is fresh already, to be
    /// settled.
    async fn lease_stage(&self, work: mpsc::Sender<Work>, ended: mpsc::Sender<Ended>) {
        self.lease_all(&work, &ended).await;
        drop(work);
        loop {
            self.flow.until(|counts| counts.unstarted == 0 && counts.in_flight == 0).await;
            if self.flow.counts().behind > 0 && !self.halt.is_forced() {
                self.flow.now_those_behind();
                self.flow.until(|counts| counts.behind == 0).await;
            } else if !self.halt.is_forced() && self.keys.usable() > 0 && self.bench.look(Judge::has_doubts) {
                self.ask_the_judge().await;
            } else {
                break;
            }
        }
        // What still waits for a ruling gets none any more. Where calls could not go on, nothing follows from that.
        self.bench.tell(if self.halt.is_forced() { Judge::leave_undecided } else { Judge::finish });
        self.return_unused_probes().await;
    }

    async fn lease_all(&self, work: &mpsc::Sender<Work>, ended: &mpsc::Sender<Ended>) {
        let mut leased_so_far = 0_u64;
        let mut probing = self.probing.is_some();
        let mut told_of_mail = false;
        while let Some(room) = self.room(leased_so_far, probing).await {
            if probing {
                match self.probe_by_control().await {
                    Some(true) => {
                        probing = false;
                        self.carry_out().await;
                        continue;
                    }
                    Some(false) => return self.probe_failed(),
                    None => {}
                }
            }
            let batch = match self.lease_patiently(room, probing).await {
                Ok(batch) => batch,
                Err(error) => return self.queue_down(&error),
            };
            leased_so_far += batch.leases.len() as u64;
            if let Some(error) = batch.not_admitted.as_ref().filter(|_| !told_of_mail) {
                told_of_mail = true;
                warn!(error = %error, "could not admit mail; it waits, and what is ready is worked off");
                lock(self.tally).error(error.to_string());
            }
            let nothing = batch.leases.is_empty();
            let suspect = batch.suspect_waits || batch.leases.iter().any(Lease::is_suspect);
            if !nothing && !self.hand_out(batch.leases, work, ended).await {
                return;
            }
            if batch.mail_waits {
                self.catch_up_with_mail().await;
            }
            if probing && !nothing {
                probing = !self.probe_answered().await;
            } else if suspect {
                // Suspects are leased with nothing else in flight: should one kill us, it takes with it only others like it.
                self.wait(|counts| counts.open == counts.waiting, None).await;
            } else if nothing && !batch.more && !self.carry_out().await {
                let counts = self.flow.counts();
                if counts.open == counts.waiting && counts.behind > 0 {
                    self.flow.now_those_behind();
                    self.wait(|counts| counts.behind == 0, None).await;
                } else if counts.open == counts.waiting && self.bench.look(Judge::has_doubts) {
                    self.ask_the_judge().await;
                } else if counts.open == 0 {
                    return match batch.not_admitted {
                        Some(error) => self.queue_down(&error),
                        None => self.halt.end(Force::None, self.end_of_work(), None),
                    };
                } else {
                    self.wait(|counts| counts.open == counts.waiting, Some(LOOK_AGAIN)).await;
                }
            }
        }
    }

    /// Admits more of a flood while what is leased is enough for the calls meanwhile.
    async fn catch_up_with_mail(&self) {
        let half = requests_ahead(self.keys.total_rate()) / 2;
        let may_go_on = || self.flow.counts().unstarted > half && !self.halt.is_forced();
        // The next batch meets the same trouble and tells it.
        if let Err(error) = admit_mail(self.worker.queue.as_ref(), self.time, self.tally, may_go_on).await {
            debug!(error = %error, "could not admit more mail; it waits");
        }
    }

    /// Nothing else is at hand, and something is in doubt: a control call decides, or nothing does.
    async fn ask_the_judge(&self) {
        if self.bench.tell(Judge::nothing_else) {
            let answered = self.bench.until(|judge| judge.control().is_none().then_some(()));
            tokio::select! {
                () = answered => {}
                () = self.halt.forced(Force::StartNothing) => {}
                () = tokio::time::sleep(LOOK_AGAIN) => {}
            }
        }
        // Who waits for a ruling takes the next step before anybody looks again.
        tokio::task::yield_now().await;
    }

    /// A probe that this run claimed and had nothing for is another run's.
    async fn return_unused_probes(&self) {
        let (mut unused, api_is_unused) = self.bench.look(|judge| {
            let nothing_heard = judge.bads() + judge.goods() == 0;
            (judge.unused_probes(), nothing_heard && judge.is_convicted(&Scope::Api))
        });
        unused.extend(self.probing.as_ref().filter(|_| api_is_unused).map(|_| Scope::Api));
        let circuits: Vec<_> = lock(&self.circuits).iter().map(|(scope, probe)| (*scope, *probe)).collect();
        for (scope, next_probe) in circuits.into_iter().filter(|(scope, _)| unused.contains(&judged(*scope))) {
            if let Err(error) = self.worker.queue.claim_probe(scope, next_probe, self.time.now()).await {
                warn!(error = %error, scope = %scope, "could not return a probe; the next is due in {} s", PROBE_INTERVAL.as_secs());
            }
        }
    }

    /// Why a run ends when the queue is empty.
    fn end_of_work(&self) -> StopReason {
        if lock(&self.circuits).is_empty() { StopReason::QueueEmpty } else { StopReason::CircuitOpen }
    }

    /// Waits for the one request of a probe. A good answer ends the circuit, a bad one the run; a request that needed no
    /// call shows nothing.
    async fn probe_answered(&self) -> bool {
        loop {
            self.flow.until(|counts| counts.open == counts.behind).await;
            if self.flow.counts().behind == 0 {
                break;
            }
            self.flow.now_those_behind();
            self.flow.until(|counts| counts.behind == 0).await;
        }
        let (fails, bads) = self.bench.look(|judge| (judge.is_convicted(&Scope::Api), judge.bads()));
        if fails && bads > 0 {
            self.probe_failed();
        }
        self.carry_out().await;
        !fails
    }

    /// Waits for the flow to come so far, but not longer than `at_most`, the end of leasing, or a forced end.
    async fn wait(&self, condition: impl FnMut(&Counts) -> bool, at_most: Option<Duration>) {
        let until = at_most
            .map_or(self.deadline.leasing_ends(), |wait| self.deadline.leasing_ends().min(Instant::now() + wait));
        tokio::select! {
            () = self.flow.until(condition) => {}
            () = self.halt.forced(Force::StartNothing) => {}
            () = tokio::time::sleep_until(until) => {}
        }
    }

    /// Waits until something may be leased and says how much; `None` ends the stage.
    async fn room(&self, leased_so_far: u64, probing: bool) -> Option<usize> {
        loop {
            if self.halt.is_forced() {
                return None;
            }
            if !self.deadline.may_lease(Instant::now()) {
                self.halt.end(Force::None, StopReason::Deadline, None);
                return None;
            }
            let counts = self.flow.counts();
            // What was given back without a call may be leased again.
            let begun = leased_so_far.saturating_sub(counts.not_begun as u64);
            let left = self.max_requests.map_or(u64::MAX, |max| max.saturating_sub(begun));
            if left == 0 {
                if counts.unstarted == 0 {
                    self.halt.end(Force::None, StopReason::MaxRequests, None);
                    return None;
                }
                self.wait(|counts| counts.unstarted == 0, None).await;
                continue;
            }
            if self.keys.allowance().is_some_and(Allowance::is_used_up) {
                self.day_used_up();
                return None;
            }
            if self.keys.usable() == 0 {
                self.wait_for_a_key().await;
                continue;
            }
            // What is fetched may not be kept: one answer at a time, until one is stored.
            if self.worker.store.is_doubtful() {
                if counts.open == counts.waiting {
                    return Some(1);
                }
                self.wait(|counts| counts.open == counts.waiting, Some(LOOK_AGAIN)).await;
                continue;
            }
            let ahead = if probing { 1 } else { requests_ahead(self.keys.total_rate()) }.min(self.callable(&counts));
            if ahead > 0 && counts.unstarted <= ahead / 2 {
                return Some((ahead - counts.unstarted).min(usize::try_from(left).unwrap_or(usize::MAX)));
            }
            // With a key that comes back, or another block of the day, more can be called than it seems now.
            self.wait(|now| now.unstarted < counts.unstarted && now.unstarted <= ahead / 2, Some(LOOK_AGAIN)).await;
        }
    }

    /// How many requests can still be called before leasing ends, those that wait for a permit included.
    fn callable(&self, counts: &Counts) -> usize {
        let calls = self.keys.calls_until(self.deadline.leasing_ends());
        requests_for(calls, self.keys.calls_made(), counts)
    }

    /// Logs in when the API has refused a key that came from the portal; the calls wait for what that gives.
    async fn replace_refused_keys(&self) {
        loop {
            self.ring.login_is_due().await;
            let told = self.ring.log_in(self.deadline.leasing_ends()).await;
            if let Some(failure) = told.failure() {
                warn!("could not replace a key that the API refused: {failure}");
            }
            lock(self.tally).logged_in(told);
        }
    }

    /// All keys rest: waits for the first to come back, or ends the run when that is too late.
    async fn wait_for_a_key(&self) {
        if self.ring.is_logging_in() {
            tokio::select! {
                () = self.ring.logged_in() => {}
                () = self.halt.forced(Force::StartNothing) => {}
                () = tokio::time::sleep_until(self.deadline.leasing_ends()) => {}
            }
            return;
        }
        // Not one object is kept waiting by us meanwhile: another run may have a key.
        match self.ring.next_back() {
            Some(back) if self.deadline.may_lease(back) => {
                tokio::select! {
                    () = tokio::time::sleep_until(back + Duration::from_millis(5)) => {}
                    () = self.halt.forced(Force::StartNothing) => return,
                }
                if let Err(error) = self.ring.renew().await {
                    self.queue_down(&error);
                }
            }
            // Refused a moment ago, and whoever was refused is about to put it to rest; or its slot has to be confirmed.
            None if self.some_key_may_come_back() => {
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_millis(20)) => {}
                    () = self.halt.forced(Force::StartNothing) => return,
                }
                if let Err(error) = self.ring.renew().await {
                    self.queue_down(&error);
                }
            }
            _ => self.end_without_a_key(),
        }
    }

    /// No key is usable, and none will be in time.
    pub fn end_without_a_key(&self) {
        if self.ring.next_back().is_some() {
            return self.halt.end(Force::StartNothing, StopReason::KeysCoolingDown, None);
        }
        let failure =
            "no API key is usable any more: each was refused (`errors` says why) or its slot ran out unrenewed";
        let forbidden =
            "the API forbids every key (`errors` says how): is our address banned, or have the keys expired?";
        let failure = if self.is_forbidden.load(Ordering::Relaxed) { forbidden } else { failure };
        self.halt.end(Force::StartNothing, StopReason::NoUsableKey, Some(failure.to_owned()));
    }

    /// Whether one of our keys is neither lost nor benched for the rest of the run, or is about to be replaced.
    fn some_key_may_come_back(&self) -> bool {
        let benched = self.keys.resting().iter().filter(|rest| rest.remaining.is_none()).count();
        self.keys.fingerprints().len() > benched || self.ring.is_about_to_log_in()
    }

    /// [`Self::lease_batch`], again when the queue was away for a moment, as in a failover. What an answer that was lost on
    /// the way had leased is given back by the next call.
    async fn lease_patiently(&self, max: usize, probe: bool) -> Result<Batch, QueueError> {
        for wait in PATIENCE_WITH_LEASES {
            match self.lease_batch(max, probe).await {
                Err(error) if error.is_transient() && self.deadline.may_lease(Instant::now() + wait) => {
                    warn!(error = %error, "could not lease; will try again");
                    tokio::time::sleep(wait).await;
                }
                answer => return answer,
            }
        }
        self.lease_batch(max, probe).await
    }

    /// Admits a slice of mail and leases what is next in order.
    async fn lease_batch(&self, max: usize, probe: bool) -> Result<Batch, QueueError> {
        let queue = &self.worker.queue;
        if self.time.is_doubtful(CLOCK_TOLERANCE) {
            self.time.reset(queue.time().await?);
        }
        let now = self.time.now();
        failpoint!("mail.before_read");
        let mail = queue.read_mail(now, MailLimits::default()).await?;
        failpoint!("mail.after_read");
        let set_aside = self.kinds_set_aside(now).await?;
        let duration = self.lease_duration();
        let (nonce, lost) = self.announce_lease(now + duration, now);
        let request = LeaseRequest {
            max,
            duration,
            priorities: self.priorities.to_vec(),
            alone: self.flow.counts().open == 0,
            seed: fastrand::u64(..),
            run: self.run.to_owned(),
            first: lock(&self.named).clone(),
            set_aside,
            probe,
            nonce: nonce.clone(),
            lost,
        };
        // Sent one after the other on one connection, so that the lease sees what was admitted; one round trip.
        let admit = async {
            failpoint!("admit.before");
            let admitted = queue.admit(now, mail).await;
            failpoint!("admit.after");
            admitted
        };
        let lease = async {
            failpoint!("lease.before");
            let leased = queue.lease(now, &request).await;
            failpoint!("lease.after");
            leased
        };
        let (admitted, leased) = tokio::join!(admit, lease);
        if let Ok(admitted) = &admitted {
            lock(self.tally).admitted(admitted);
        }
        // A refusal is an answer, too: nothing was leased.
        if matches!(leased, Ok(_) | Err(QueueError::Refused { .. })) {
            lock(&self.unheard).retain(|(unheard, _)| *unheard != nonce);
        }
        let leased = leased?;
        lock(&self.named).retain(|named| leased.leases.iter().all(|lease| lease.object != *named));
        let mut tally = lock(self.tally);
        tally.lapsed += leased.lapsed as u64;
        tally.repaired.add(leased.repaired);
        drop(tally);
        if leased.lapsed > 0 {
            warn!(
                lapsed = leased.lapsed,
                dead = leased.lapsed_dead,
                "took back leases of a run that ended without settling them"
            );
        }
        let Leased { leases, suspect_waits, more, .. } = leased;
        match admitted {
            // A server that has forgotten the script of the one and not of the other carries them out in the other order.
            Ok(admitted) => {
                let more = admitted.more || admitted.admitted > 0 || more;
                Ok(Batch { leases, suspect_waits, more, mail_waits: admitted.more, not_admitted: None })
            }
            Err(error) if leases.is_empty() && error.is_transient() => Err(error),
            // Whatever became of the mail, what is leased is ours: dropped, it would lapse, and end as a dead letter.
            Err(error) => Ok(Batch { leases, suspect_waits, more, mail_waits: false, not_admitted: Some(error) }),
        }
    }

    /// A nonce for the next lease call, which counts as lost until it is answered, and the nonces of those that were lost. They
    /// are named for as long as their leases may last: a call may be carried out after the one that followed it.
    fn announce_lease(&self, until: Timestamp, now: Timestamp) -> (String, Vec<String>) {
        let mut unheard = lock(&self.unheard);
        unheard.retain(|(_, until)| *until > now);
        let lost = unheard.iter().map(|(nonce, _)| nonce.clone()).collect();
        let nonce = format!("{:08x}", fastrand::u32(..));
        unheard.push((nonce.clone(), until));
        (nonce, lost)
    }

    /// Tells the queue that suspects were received, before they are tried: should one kill us, its lapse counts. `false` when
    /// they are not certainly ours.
    async fn confirm_suspects(&self, leases: &[Lease]) -> bool {
        let suspects: Vec<(ObjectId, LeaseToken)> = leases
            .iter()
            .filter(|lease| lease.is_suspect())
            .map(|lease| (lease.object.clone(), lease.token.clone()))
            .collect();
        if suspects.is_empty() {
            return true;
        }
        let now = self.time.now();
        match self.worker.queue.renew(now, &suspects, now + self.lease_duration()).await {
            Ok(ours) => ours.into_iter().all(|still_ours| still_ours),
            Err(error) => {
                warn!(error = %error, "could not confirm the lease of a suspect; it is given back");
                false
            }
        }
    }

    /// Leases last `LEASE_SECONDS`, but never past the end of the run plus a margin.
    fn lease_duration(&self) -> Duration {
        let lease = self.worker.config.lease;
        let left = self.deadline.end().saturating_duration_since(Instant::now());
        lease.min(left + lease / 2)
    }

    /// Sends each lease on its way. `false` when the database does not answer and the run ends.
    async fn hand_out(&self, leases: Vec<Lease>, work: &mpsc::Sender<Work>, ended: &mpsc::Sender<Ended>) -> bool {
        // After a failover that lost writes the queue leases anew what we have in hand already.
        let leases = self.in_hand.take(leases);
        if leases.is_empty() {
            return true;
        }
        self.flow.leased(leases.len());
        if !self.confirm_suspects(&leases).await {
            for lease in leases {
                let _ = ended.send(Ended::given_back(lease)).await;
            }
            return true;
        }
        let objects: Vec<ObjectId> = leases.iter().map(|lease| lease.object.clone()).collect();
        let limit = self.deadline.left_for_the_database(Instant::now());
        failpoint!("freshness.before");
        let asked = Instant::now();
        let mut stored = match self.worker.store.freshness(&objects, limit).await {
            Ok(stored) => stored,
            Err(error) => {
                self.store_failed(&error, asked);
                for lease in leases {
                    let _ = ended.send(Ended::given_back(lease)).await;
                }
                return false;
            }
        };
        failpoint!("freshness.after");
        let now = self.time.now();
        for lease in leases {
            let known = stored.remove(&lease.object);
            self.send_on(lease, known, now, work, ended).await;
        }
        true
    }

    async fn send_on(
        &self,
        lease: Lease,
        known: Option<Freshness>,
        now: Timestamp,
        work: &mpsc::Sender<Work>,
        ended: &mpsc::Sender<Ended>,
    ) {
        let next_look = known.as_ref().and_then(|known| self.next_look_at_stored(&lease.object, known));
        match standing(&lease, known.as_ref(), now) {
            Standing::Call => {
                self.flow.queued();
                // The stages end together; a closed channel means that the run is being dropped.
                let _ = work.send(Work { lease, league: known.and_then(|known| known.league) }).await;
            }
            Standing::Fresh => {
                let _ = ended.send(Ended::fresh(lease, next_look)).await;
            }
            Standing::Later(until) => {
                let _ = ended.send(Ended::later(lease, until, next_look)).await;
            }
        }
    }

    /// The next look at a war that needs no call now. Whoever stored it may have died before it was put in.
    fn next_look_at_stored(&self, object: &ObjectId, stored: &Freshness) -> Option<FollowUp> {
        let memory = stored.league.as_ref().filter(|_| self.worker.config.follow_ups.wars)?;
        let fresh_until = stored.fresh_until.min(stored.fetched_at + LONGEST_MAX_AGE);
        followup::next_look(object, memory, stored.fetched_at, fresh_until)
    }

    /// Renews leases and key slots until the stages are done, and watches for the order to stop.
    async fn keep(&self) {
        let mut tick = tokio::time::interval(self.worker.config.lease.min(self.ring.lifetime()) / 3);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        tick.reset();
        loop {
            tokio::select! {
                _ = tick.tick() => self.renew().await,
                () = self.worker.stop.asked() => {
                    self.halt.end(Force::Abandon, StopReason::Shutdown, None);
                    std::future::pending::<()>().await;
                }
            }
        }
    }

    async fn renew(&self) {
        if self.time.is_doubtful(CLOCK_TOLERANCE) {
            match self.worker.queue.time().await {
                Ok(server) => self.time.reset(server),
                Err(error) => return warn!(error = %error, "could not read the queue's time; will try again"),
            }
        }
        let leases = self.in_hand.all();
        let now = self.time.now();
        let renewed = async {
            if leases.is_empty() {
                return Ok(Vec::new());
            }
            self.worker.queue.renew(now, &leases, now + self.lease_duration()).await
        };
        failpoint!("renew.before");
        let (renewed, slots) = tokio::join!(renewed, self.ring.renew());
        failpoint!("renew.after");
        match renewed {
            Ok(ours) => {
                for ((object, _), _) in leases.iter().zip(ours).filter(|(_, still_ours)| !still_ours) {
                    debug!(object = %object, "the lease of this object is no longer ours");
                }
            }
            Err(error) => warn!(error = %error, "could not renew leases; will try again"),
        }
        if let Err(error) = slots {
            warn!(error = %error, "could not renew key slots; will try again");
        }
    }

    /// All calls of this day are made: what was not started is given back.
    pub fn day_used_up(&self) {
        self.halt.end(Force::StartNothing, StopReason::DayUsedUp, None);
    }

    /// What would have become a dead letter waits: none of those that are there may be lost for it.
    pub fn no_room_for_dead_letters(&self) {
        let failure = "the room for dead letters is full: redrive or purge them (`refresh-worker dead list`), and see why they died";
        self.halt.end(Force::None, StopReason::DeadLettersFull, Some(failure.to_owned()));
    }

    pub fn queue_down(&self, error: &QueueError) {
        self.halt.end(Force::StartNothing, StopReason::QueueDown, Some(error.to_string()));
    }

    /// The database could not be used, asked since then. That the time of the run was over before it answered says nothing
    /// about it, unless it had long enough. True when the database is what ended the run.
    pub fn store_failed(&self, error: &StoreError, asked: Instant) -> bool {
        let is_over = matches!(error, StoreError::Locked { .. }) && Instant::now() >= self.deadline.end();
        let waited = if is_over { "; no time was left to wait for it" } else { "" };
        let failure = format!("{error}{waited}");
        if (is_over || matches!(error, StoreError::OutOfTime { .. })) && asked.elapsed() < SILENCE {
            warn!(error = %error, "the database was too slow for the end of this run; what it did not take is given back");
            lock(self.tally).error(failure);
            self.halt.end(Force::StartNothing, StopReason::Deadline, None);
            return false;
        }
        self.halt.end(Force::StartNothing, StopReason::DatabaseDown, Some(failure));
        true
    }

    /// Counts what became of a request, and shows it.
    pub fn count(&self, lease: &Lease, outcome: Outcome) {
        lock(self.tally).count(lease.object.kind, lease.priority, outcome);
        self.progress.settled(lease.object.kind, outcome);
    }
}

/// What one lease call gave.
#[derive(Debug)]
struct Batch {
    leases: Vec<Lease>,
    suspect_waits: bool,
    /// Mail waits, or came with this batch, or not all that is due was looked at: an empty batch does not mean an empty
    /// queue.
    more: bool,
    /// More mail waits than came with this batch.
    mail_waits: bool,
    /// Why mail could not be taken in. It is still in the mailbox.
    not_admitted: Option<QueueError>,
}

/// How many requests may be leased and not yet started.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rates are small and positive")]
fn requests_ahead(rate: f64) -> usize {
    ((rate * AHEAD.as_secs_f64()) as usize).clamp(2, 1000)
}

/// How many requests so many calls are enough for: as many calls each as those of this run took so far, and those in flight
/// need their later ones, too.
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
    fn requests_that_take_several_calls_get_as_many() {
        let counts = |begun, in_flight| Counts { in_flight, begun, ..Counts::default() };
        assert_eq!(requests_for(60, 0, &counts(0, 0)), 60);
        assert_eq!(requests_for(60, 100, &counts(100, 5)), 60);
        assert_eq!(requests_for(60, 300, &counts(100, 0)), 20);
        assert_eq!(requests_for(60, 300, &counts(100, 6)), 16);
        assert_eq!(requests_for(1, 300, &counts(100, 6)), 0);
        assert_eq!(requests_for(60, 5, &counts(10, 10)), 60, "some have not called yet");
    }

    #[test]
    fn no_more_is_leased_ahead_than_two_seconds_of_the_rate() {
        assert_eq!(requests_ahead(29.55), 59);
        assert_eq!(requests_ahead(0.3), 2);
        assert_eq!(requests_ahead(5000.0), 1000);
    }
}
