//! The model test: random interleavings of producers, workers, crashes and time on both queues at once. After every step
//! the answers and everything the queues hold must be the same, and no request may be lost.

use std::{collections::BTreeMap, time::Duration};

use proptest::{bool::weighted, prelude::*, test_runner::TestRunner};
use refresh_worker::{
    clock::Timestamp,
    model::{FollowUp, Kind, ObjectId, Priority, Reason, RefreshRequest},
    queue::{
        ClaimRequest, DeadFilter, Following, Lease, LeaseRequest, MailLimits, ORPHAN_TIMEOUT, Queue, QueueAdmin as _,
        SetAside, Settled, Settlement,
        mailbox::Mail,
        memory::Contents,
        record::{QueueLimits, Record, State},
    },
};

use super::beds::{Bed, MemoryBed, NOW, RedisBed, lease_request, value};

/// Few, so that requests meet: two spellings of one object, another, and what cannot be read.
const IDS: [&str; 4] = ["clan:2PP", "clan:#2pp", "war:2LL", "junk"];

/// What is enqueued without mail.
const OBJECTS: [&str; 4] = ["clan:2PP", "war:2LL", "player:2QQ", "clan:2VV"];

/// One step. Numbers are folded into what exists at the time.
#[derive(Clone, Debug)]
enum Op {
    /// The commands of a producer, one at a time: `ZREM`, `HDEL`, `ZADD`, `HSET`.
    RemoveIndex(usize),
    RemoveData(usize),
    PutIndex(usize, u8),
    PutData(usize, u8, i64),
    /// A whole request, asked this many seconds from now.
    Mail(usize, u8, i64),
    Enqueue(usize, u8, i64),
    /// What a run puts in by itself; spare or not.
    Follow(usize, u8, i64, bool),
    /// A worker reads a slice; a later step admits it.
    Read(usize),
    Admit(usize),
    Lease {
        max: usize,
        alone: bool,
        seed: u64,
        classes: Vec<Priority>,
        first: Vec<&'static str>,
        /// A kind whose circuit is open: for how many seconds, and how many probes.
        aside: Option<(Kind, u64, usize)>,
        probe: bool,
        /// Its answer is lost.
        lose: bool,
    },
    /// Planned looks at these; the reply may be lost.
    Claim(Vec<&'static str>, bool),
    Lift(usize),
    Renew(usize),
    Settle(usize, Ending),
    /// The latest settlement is sent again, since its answer was lost.
    SettleAgain,
    /// A worker dies: its leases are never settled.
    Forget(usize),
    Advance(u64),
    Redrive,
    Return,
}

#[derive(Clone, Copy, Debug)]
enum Ending {
    Done,
    Later(u64),
    Failed(u64),
    Release,
    Held(usize),
    Dead,
}

/// Why objects are held.
const HOLDS: [&str; 3] = ["maintenance", "refused", "circuit"];

fn op() -> impl Strategy<Value = Op> {
    let id = 0..IDS.len();
    let class = 0_u8..4;
    let asked = prop_oneof![8 => -600_i64..1, 2 => 0_i64..400];
    let ending = prop_oneof![
        3 => Just(Ending::Done),
        1 => (0_u64..300).prop_map(Ending::Later),
        2 => (0_u64..300).prop_map(Ending::Failed),
        2 => Just(Ending::Release),
        2 => (0..HOLDS.len()).prop_map(Ending::Held),
        1 => Just(Ending::Dead),
    ];
    let first = prop_oneof![3 => Just(Vec::new()), 1 => proptest::sample::subsequence(OBJECTS.to_vec(), 1..=2)];
    let kind = proptest::sample::select(vec![Kind::Clan, Kind::War]);
    let aside = prop_oneof![2 => Just(None), 1 => (kind, 0_u64..100, 0_usize..2).prop_map(Some)];
    let classes = prop_oneof![3 => Just(Vec::new()), 1 => Just(vec![Priority::Low, Priority::Critical])];
    prop_oneof![
        1 => id.clone().prop_map(Op::RemoveIndex),
        1 => id.clone().prop_map(Op::RemoveData),
        2 => (id.clone(), class.clone()).prop_map(|(id, class)| Op::PutIndex(id, class)),
        2 => (id.clone(), class.clone(), asked.clone()).prop_map(|(id, class, at)| Op::PutData(id, class, at)),
        6 => (id.clone(), class.clone(), asked.clone()).prop_map(|(id, class, at)| Op::Mail(id, class, at)),
        3 => (id.clone(), class.clone(), asked.clone()).prop_map(|(id, class, at)| Op::Enqueue(id, class, at)),
        3 => (id, class, asked, any::<bool>()).prop_map(|(id, class, at, spare)| Op::Follow(id, class, at, spare)),
        3 => (0_usize..2).prop_map(Op::Read),
        5 => (0_usize..2).prop_map(Op::Admit),
        8 => (0_usize..4, any::<bool>(), any::<u64>(), classes, first, aside, any::<bool>(), weighted(0.2)).prop_map(
            |(max, alone, seed, classes, first, aside, probe, lose)| Op::Lease { max, alone, seed, classes, first, aside, probe, lose }
        ),
        5 => (proptest::sample::subsequence(OBJECTS.to_vec(), 0..=4), weighted(0.2)).prop_map(|(names, lose)| Op::Claim(names, lose)),
        1 => (0..HOLDS.len()).prop_map(Op::Lift),
        2 => any::<usize>().prop_map(Op::Renew),
        7 => (any::<usize>(), ending).prop_map(|(lease, ending)| Op::Settle(lease, ending)),
        1 => Just(Op::SettleAgain),
        2 => any::<usize>().prop_map(Op::Forget),
        6 => prop_oneof![0_u64..3, 10_u64..40, 100_u64..700].prop_map(Op::Advance),
        1 => Just(Op::Redrive),
        1 => Just(Op::Return),
    ]
}

const LIMITS: QueueLimits = QueueLimits { max_attempts: 3, dead_letters: 2, dead_entries: 1 };

#[test]
fn redis_agrees_with_model_after_every_step() {
    compare(48, RedisBed::with_limits(LIMITS));
}

#[test]
fn cluster_agrees_with_model_after_every_step() {
    compare(16, RedisBed::on_cluster(LIMITS));
}

fn compare(cases: u32, redis: impl Future<Output = RedisBed>) {
    let limits = LIMITS;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let redis = runtime.block_on(redis);
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(cases);
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let outcome = TestRunner::new(config).run(&prop::collection::vec(op(), 1..60), |ops| {
        runtime.block_on(async {
            redis.command::<()>(&["FLUSHDB"]).await;
            let mut pair = Pair::new(MemoryBed::with_limits(limits), &redis);
            for op in &ops {
                pair.step(op).await?;
            }
            pair.drain().await
        })
    });
    if let Err(problem) = outcome {
        panic!("{problem}");
    }
}

/// Both queues, and what two workers remember.
struct Pair<'a> {
    memory: MemoryBed,
    redis: &'a RedisBed,
    now: Timestamp,
    slices: [Option<(Mail, Mail)>; 2],
    leases: Vec<Lease>,
    runs: u64,
    /// Of each run the calls whose answers were lost.
    lost: [Vec<String>; 2],
    /// The latest settlement.
    settled: Option<Vec<(Lease, Settlement)>>,
    /// The requests that reached the queue and that no answer has fresh yet.
    owed: BTreeMap<String, Owed>,
}

/// What is still wanted of an object.
struct Owed {
    /// When the newest of its requests was asked.
    last: Timestamp,
    /// The record's count of merges then: a lease that hands out a lower one was granted before.
    merges: u64,
}

/// Both queues' answers to the same question, which must be alike.
macro_rules! same {
    ($pair:ident, |$queue:ident| $question:expr) => {{
        let ours = {
            let $queue = $pair.memory.queue();
            $question.await.unwrap()
        };
        let theirs = {
            let $queue = $pair.redis.queue();
            $question.await.unwrap()
        };
        prop_assert_eq!(format!("{ours:?}"), format!("{theirs:?}"), "memory and Redis answer differently");
        ours
    }};
}

impl<'a> Pair<'a> {
    fn new(memory: MemoryBed, redis: &'a RedisBed) -> Self {
        Self {
            memory,
            redis,
            now: NOW,
            slices: [None, None],
            leases: Vec::new(),
            runs: 0,
            lost: Default::default(),
            settled: None,
            owed: BTreeMap::new(),
        }
    }

    async fn step(&mut self, op: &Op) -> Result<(), TestCaseError> {
        let now = self.now;
        match op {
            Op::RemoveIndex(id) => {
                self.memory.remove_index(IDS[*id].as_bytes()).await;
                self.redis.remove_index(IDS[*id].as_bytes()).await;
            }
            Op::RemoveData(id) => {
                self.memory.remove_data(IDS[*id].as_bytes()).await;
                self.redis.remove_data(IDS[*id].as_bytes()).await;
            }
            Op::PutIndex(id, class) => self.put_index(IDS[*id], *class).await,
            Op::PutData(id, class, at) => self.put_data(IDS[*id], *class, *at).await,
            Op::Mail(id, class, at) => {
                self.put_index(IDS[*id], *class).await;
                self.put_data(IDS[*id], *class, *at).await;
            }
            Op::Enqueue(number, class, at) => {
                let object = OBJECTS[*number].parse().unwrap();
                let asked = seconds_from(now, *at);
                let request = RefreshRequest {
                    asked,
                    due: asked,
                    ..RefreshRequest::now(object, Priority::nearest((*class).into()), now)
                };
                same!(self, |queue| queue.enqueue(now, std::slice::from_ref(&request)));
            }
            Op::Follow(number, class, at, is_spare) => {
                let (object, asked) = (OBJECTS[*number].parse().unwrap(), seconds_from(now, *at));
                let request = RefreshRequest {
                    asked,
                    due: asked,
                    ..RefreshRequest::now(object, Priority::nearest((*class).into()), now)
                };
                let follow_ups = [FollowUp { request, is_spare: *is_spare }];
                let following = Following { follow_ups: &follow_ups, most_ready: 2 };
                same!(self, |queue| queue.settle_and_follow(now, &[], following));
            }
            Op::Read(worker) => {
                let limits = MailLimits { per_class: 3, ..MailLimits::default() };
                let ours = self.memory.queue().read_mail(now, limits).await.unwrap();
                let theirs = self.redis.queue().read_mail(now, limits).await.unwrap();
                let sorted = |mail: &Mail| {
                    let mut entries: Vec<String> = mail.entries.iter().map(|entry| format!("{entry:?}")).collect();
                    entries.sort_unstable();
                    (entries, mail.more)
                };
                prop_assert_eq!(sorted(&ours), sorted(&theirs));
                self.slices[*worker] = Some((ours, theirs));
            }
            Op::Admit(worker) => {
                if self.slices[*worker].is_none() {
                    Box::pin(self.step(&Op::Read(*worker))).await?;
                }
                let (ours, theirs) = self.slices[*worker].take().unwrap();
                let before = self.memory.dump().await;
                let ours = self.memory.queue().admit(now, ours).await.unwrap();
                let theirs = self.redis.queue().admit(now, theirs).await.unwrap();
                prop_assert_eq!(ours, theirs);
                Self::check_admission(&before, &self.memory.dump().await, now)?;
            }
            Op::Lease { max, alone, seed, classes, first, aside, probe, lose } => {
                self.runs += 1;
                let run = usize::from(self.runs % 2 == 1);
                let nonce = format!("{:x}", self.runs);
                let asked = LeaseRequest {
                    alone: *alone,
                    seed: *seed,
                    priorities: classes.clone(),
                    run: format!("run-{run}"),
                    nonce: nonce.clone(),
                    lost: self.lost[run].clone(),
                    first: first.iter().map(|object| object.parse().unwrap()).collect(),
                    set_aside: aside
                        .iter()
                        .map(|(kind, seconds, probes)| SetAside {
                            kind: *kind,
                            until: now + Duration::from_secs(*seconds),
                            probes: *probes,
                        })
                        .collect(),
                    probe: *probe,
                    ..lease_request(*max)
                };
                let leased = same!(self, |queue| queue.lease(now, &asked));
                for record in self.memory.dump().await.records.values() {
                    let token = record.token.as_deref().unwrap_or_default();
                    let has = |nonce: &String| token.starts_with(&format!("run-{run}:{nonce}-"));
                    prop_assert!(!self.lost[run].iter().any(has), "{} is still lost", token);
                }
                if *lose {
                    self.lost[run].push(nonce);
                    return self.compare().await;
                }
                for lease in leased.leases {
                    prop_assert!(lease.first_requested <= lease.last_requested);
                    self.leases.push(lease);
                }
            }
            Op::Claim(objects, lose) => return self.claim(objects, *lose).await,
            Op::Lift(code) => {
                same!(self, |queue| queue.lift_holds(now, HOLDS[*code]));
            }
            Op::Renew(which) => {
                if let Some(lease) = pick(&self.leases, *which) {
                    let renewal = [(lease.object.clone(), lease.token.clone())];
                    same!(self, |queue| queue.renew(now, &renewal, now + Duration::from_secs(20)));
                }
            }
            Op::Settle(which, ending) => {
                if !self.leases.is_empty() {
                    let lease = self.leases.swap_remove(which % self.leases.len());
                    self.settle(lease, *ending).await?;
                }
            }
            Op::SettleAgain => {
                if let Some(batch) = self.settled.clone() {
                    let before = self.memory.dump().await;
                    same!(self, |queue| queue.settle(now, &batch));
                    prop_assert_eq!(self.memory.dump().await, before, "a settlement sent again changed something");
                }
            }
            Op::Forget(which) => {
                if !self.leases.is_empty() {
                    self.leases.swap_remove(which % self.leases.len());
                }
            }
            Op::Advance(seconds) => self.now = now + Duration::from_secs(*seconds),
            Op::Redrive => {
                same!(self, |queue| queue.redrive(now, &DeadFilter::default()));
            }
            Op::Return => {
                same!(self, |queue| queue.export(now));
                same!(self, |queue| queue.return_to_mailbox(now));
                let contents = self.memory.dump().await;
                for (name, _) in std::mem::take(&mut self.owed) {
                    let returned = contents.data.keys().any(|id| id.starts_with(name.as_bytes()));
                    prop_assert!(returned, "{} was not returned", name);
                }
            }
        }
        self.compare().await
    }

    async fn claim(&mut self, objects: &[&str], lose: bool) -> Result<(), TestCaseError> {
        self.runs += 1;
        let (now, run) = (self.now, usize::from(self.runs % 2 == 1));
        let asked = ClaimRequest {
            objects: objects.iter().map(|object| object.parse().unwrap()).collect(),
            duration: Duration::from_secs(15),
            run: format!("run-{run}"),
            nonce: format!("{:x}", self.runs),
        };
        let before = self.memory.dump().await.records;
        let claimed = same!(self, |queue| queue.claim(now, &asked));
        let waits = |record: &Record| match record.state {
            State::Ready | State::Delayed | State::Leased => {
                record.score() <= now.as_millis() || record.state == State::Ready
            }
            State::Dead => false,
        };
        prop_assert_eq!(claimed.work_waits, !objects.is_empty() && before.values().any(waits));
        if claimed.work_waits {
            prop_assert!(claimed.leases.is_empty(), "a look before a request");
        } else {
            prop_assert_eq!(claimed.leases.len() + claimed.refused.len(), objects.len());
        }
        for lease in &claimed.leases {
            prop_assert!(lease.planned && !before.contains_key(&lease.object.to_string()), "{:?}", lease);
        }
        if lose {
            self.lost[run].push(asked.nonce);
        } else {
            self.leases.extend(claimed.leases);
        }
        self.compare().await
    }

    async fn put_index(&self, id: &str, class: u8) {
        self.memory.put_index(id.as_bytes(), f64::from(class)).await;
        self.redis.put_index(id.as_bytes(), f64::from(class)).await;
    }

    async fn put_data(&mut self, id: &str, class: u8, at: i64) {
        let text = match id {
            "junk" => format!("junk {at}"),
            id => value(id, class, seconds_from(self.now, at)),
        };
        self.memory.put_data(id.as_bytes(), text.as_bytes()).await;
        self.redis.put_data(id.as_bytes(), text.as_bytes()).await;
    }

    async fn settle(&mut self, lease: Lease, ending: Ending) -> Result<(), TestCaseError> {
        let now = self.now;
        let after = |seconds: u64| now + Duration::from_secs(seconds);
        let settlement = match ending {
            Ending::Done => Settlement::Done,
            Ending::Later(seconds) => Settlement::Later { until: after(seconds) },
            Ending::Failed(seconds) => {
                Settlement::Failed { until: after(seconds), reason: Reason::new("timeout", "no \"answer\" ß") }
            }
            Ending::Release => Settlement::Release,
            Ending::Held(code) => Settlement::Held { reason: Reason::new(HOLDS[code], "no \"answer\" ß") },
            Ending::Dead => Settlement::Dead { reason: Reason::new("bad_request", "400"), body: Some("{}\n".into()) },
        };
        let before = self.memory.dump().await;
        let batch = [(lease.clone(), settlement)];
        let settled = same!(self, |queue| queue.settle(now, &batch));
        self.settled = Some(batch.to_vec());
        if settled == [Settled::LeaseLost] {
            prop_assert_eq!(self.memory.dump().await, before, "a stale token touched something");
        } else if lease.planned {
            let name = lease.object.to_string();
            let next = before.records[&name].next.as_ref();
            let after = self.memory.dump().await.records.remove(&name);
            // Its record is gone, or it is the request that came meanwhile.
            prop_assert_eq!(after.is_some(), next.is_some(), "{:?}", after);
            if let (Some(after), Some(next)) = (after, next) {
                prop_assert!(
                    !after.planned && after.state != State::Leased && after.state != State::Dead,
                    "{:?}",
                    after
                );
                prop_assert_eq!(
                    (after.wanted.first, after.wanted.last, after.wanted.asked),
                    (next.first, next.last, next.asked)
                );
                prop_assert_eq!((after.lapses, after.held, after.hold), (0, 0, Timestamp::EPOCH));
            }
        } else if matches!(ending, Ending::Done) {
            let name = lease.object.to_string();
            let newer = self.owed.get(&name).is_some_and(|owed| owed.merges != lease.merges);
            if !newer {
                self.owed.remove(&name);
            }
        }
        Ok(())
    }

    /// Both hold the same, and every request that reached the queue is still in it.
    async fn compare(&mut self) -> Result<(), TestCaseError> {
        let (ours, theirs) = (self.memory.dump().await, self.redis.dump().await);
        prop_assert_eq!(&ours, &theirs);
        for (name, record) in ours.records.iter().filter(|(_, record)| !record.is_only_planned()) {
            let merges = record.merges;
            if record.state == State::Dead {
                // A person decides now.
                self.owed.remove(name);
            } else if self.owed.get(name).is_none_or(|owed| owed.merges != merges) {
                let last = record.next.as_ref().unwrap_or(&record.wanted).last;
                self.owed.insert(name.clone(), Owed { last, merges });
            }
        }
        for (name, owed) in &self.owed {
            let kept = ours.records.get(name).is_some_and(|record| record.wanted_in_all().last >= owed.last);
            prop_assert!(kept, "the request for {} of {} is lost", name, owed.last);
        }
        Ok(())
    }

    /// What left the mailbox has reached the queue, and what waits for its data is given its time.
    fn check_admission(before: &Contents, after: &Contents, now: Timestamp) -> Result<(), TestCaseError> {
        let left = before.data.iter().filter(|(id, _)| !after.data.contains_key(*id));
        for (id, value) in left {
            let value: Option<serde_json::Value> = serde_json::from_slice(value).ok();
            let Some(value) = value else { continue };
            let text = |field: &str| value[field].as_str().unwrap();
            let object: ObjectId = format!("{}:{}", text("type"), text("tag")).parse().unwrap();
            let merges = |contents: &Contents| contents.records.get(&object.to_string()).map(|record| record.merges);
            prop_assert!(merges(after) > merges(before), "{:?} left the mailbox only", id);
        }
        for id in before.index.keys().filter(|id| !after.index.contains_key(*id) && !before.data.contains_key(*id)) {
            prop_assert_eq!(after.orphans.get(id).map(|(since, _)| *since), Some(now), "{:?} is not awaited", id);
        }
        for (id, (since, _)) in &before.orphans {
            let waits = after.orphans.contains_key(id) || before.data.contains_key(id);
            prop_assert!(waits || now.since(*since) >= ORPHAN_TIMEOUT, "{:?} was given up early", id);
        }
        Ok(())
    }

    /// In the end everything that waits can be leased and done, in a bounded number of steps.
    async fn drain(&mut self) -> Result<(), TestCaseError> {
        self.leases.clear();
        for _ in 0..60 {
            self.now = self.now + Duration::from_secs(3600);
            let now = self.now;
            Box::pin(self.step(&Op::Admit(0))).await?;
            let leased = same!(self, |queue| queue.lease(now, &lease_request(10)));
            for lease in leased.leases {
                self.settle(lease, Ending::Done).await?;
            }
            self.compare().await?;
            let contents = self.memory.dump().await;
            let waits = contents.records.values().any(|record| record.state != State::Dead);
            if !waits && contents.index.is_empty() && contents.data.is_empty() && contents.orphans.is_empty() {
                return Ok(());
            }
        }
        Err(TestCaseError::fail(format!("something never leaves the queue: {:?}", self.memory.dump().await)))
    }
}

fn pick(leases: &[Lease], which: usize) -> Option<&Lease> {
    leases.get(which % leases.len().max(1))
}

fn seconds_from(now: Timestamp, seconds: i64) -> Timestamp {
    Timestamp::from_millis(now.as_millis() + seconds * 1000)
}
