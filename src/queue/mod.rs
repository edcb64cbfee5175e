//! The queue room: the port, and the values that cross it.
//!
//! Two layers. The *mailbox* (`refresh_queue`, `refresh_requests`) is shared with the producers, who write it with
//! separate commands and in any spelling. The *queue* is ours: one record per object, leased, settled, delayed, dead.
//! Every run first admits mail into the queue. [`redis`] keeps both in Redis, every state change one script from
//! `lua/`; [`memory`] is the same thing without a server, and the model that Redis is tested against. [`record`] has the
//! rules of one object, which the scripts repeat in Lua. Beside the queue stand the [`Slots`]: what overlapping runs agree on.
//!
//! The queue knows the model and the clock's values. It does not know the API or the store. Time is always handed in,
//! so that a test can move it.

#[cfg(feature = "cli")]
pub mod archive;
mod letters;
pub mod mailbox;
pub mod memory;
pub mod record;
pub mod redis;
mod slots;
mod times;

pub use self::slots::{
    CALLS_LIFETIME, CallsGranted, Circuit, CircuitReason, CircuitScope, Holder, PAUSE_LIFETIME, RATE_LIFETIME, Slot,
    SlotView, Slots,
};
pub use crate::model::Fingerprint;

use std::{collections::BTreeMap, fmt, future::Future, time::Duration};

use crate::{
    clock::Timestamp,
    model::{Event, FollowUp, Kind, ObjectId, Priority, Reason, RefreshRequest},
};

/// Leases that ended without being settled before an object becomes a dead letter (`lapsed`). From [`SUSPECT_LAPSES`] on only
/// those count that their run is known to have received.
pub const MAX_LAPSES: u32 = 5;

/// From this many lapses on an object is a suspect and is leased with nothing else in flight but others like it.
pub const SUSPECT_LAPSES: u32 = 2;

/// How many suspects of so many lapses may be leased together. When one of them kills its worker, all of them lapse once more
/// and the next group is smaller: before the last lapse each is alone, so that it condemns nobody but itself.
#[must_use]
pub const fn suspects_together(lapses: u32) -> usize {
    match lapses {
        SUSPECT_LAPSES => 16,
        3 => 4,
        _ => 1,
    }
}

/// Mail larger than this, in bytes of id or value, is not read: it becomes a dead letter with its size.
pub const MAX_MAIL_BYTES: usize = 64 * 1024;

/// How long an index entry may wait for its data before it is dropped and counted.
pub const ORPHAN_PATIENCE: Duration = Duration::from_secs(10 * 60);

/// How much mail one slice may hold.
#[derive(Clone, Copy, Debug)]
pub struct MailLimits {
    /// Entries of each class: the oldest of those that are looked at.
    pub per_class: usize,
    /// How many more a step of the scan through the data takes, of whatever class: about half as many where the server counts
    /// fields and values apart, and at most what the longest ids are found again among (`mail.lua`).
    pub scan: usize,
    /// Bytes of values altogether.
    pub bytes: usize,
}

impl Default for MailLimits {
    fn default() -> Self {
        Self { per_class: 250, scan: 1000, bytes: 1024 * 1024 }
    }
}

impl MailLimits {
    /// The share of the bytes that each class, the orphans and the scan have for themselves.
    pub(crate) const fn bytes_of_part(&self) -> usize {
        self.bytes / 6
    }

    /// How many entries are looked at from each end of a class.
    pub(crate) const fn reach(&self) -> usize {
        2 * self.per_class
    }

    /// The bytes that are looked at of each class.
    pub(crate) const fn bytes_of_look(&self) -> usize {
        4 * self.bytes_of_part()
    }
}

/// What admitting one slice of mail came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admitted {
    /// Requests merged into the queue.
    pub admitted: usize,
    /// Entries that became dead letters: unreadable, unknown type, impossible tag, too large.
    pub unreadable: usize,
    /// Entries whose value changed between reading and admitting; they stay for the next slice.
    pub changed: usize,
    /// Index entries without data, set aside to wait for it.
    pub orphaned: usize,
    /// Index entries whose data did not come in time; dropped.
    pub orphans_dropped: usize,
    /// Data that no index entry pointed to, found by the scan and admitted.
    pub found_by_scan: usize,
    /// Records that had to be mended before they could take a request.
    pub repaired: Repaired,
    /// Whether more mail was waiting than this slice held.
    pub more: bool,
}

/// What was found out of order and mended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repaired {
    /// Records that were gone or broken while their object's name was left: rebuilt from what could be read.
    pub records: usize,
    /// Objects that stood in no set or in a wrong one.
    pub places: usize,
    /// Entries that are no object at all: dead letters now.
    pub invalid_entries: usize,
    /// Counters, and the place where a scan goes on, that held something else and began anew.
    pub counters: usize,
}

impl Repaired {
    #[must_use]
    pub const fn total(&self) -> usize {
        self.records + self.places + self.invalid_entries + self.counters
    }

    pub const fn add(&mut self, other: Self) {
        self.records += other.records;
        self.places += other.places;
        self.invalid_entries += other.invalid_entries;
        self.counters += other.counters;
    }
}

/// Requests of one kind that are not handed out for now, because the endpoint that would serve them fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetAside {
    pub kind: Kind,
    /// Each one that is met in order is delayed until then; nothing else about it changes.
    pub until: Timestamp,
    /// At most this many are handed out all the same, to find out whether the endpoint works again.
    pub probes: usize,
}

/// Asks for leases.
#[derive(Clone, Debug, Default)]
pub struct LeaseRequest {
    /// At most this many.
    pub max: usize,
    /// How long each lease lasts.
    pub duration: Duration,
    /// Only these classes; empty means all.
    pub priorities: Vec<Priority>,
    /// The caller has nothing in flight: suspects may be leased (and then come with nobody else).
    pub alone: bool,
    /// Seeds the draw that gives the lower classes their floor.
    pub seed: u64,
    /// Names the run in the lease tokens.
    pub run: String,
    /// Tells the leases of this call from those of others of the run; a part of their tokens.
    pub nonce: String,
    /// Nonces of calls of the run whose answers were lost: nobody has what they leased, and it is given back first.
    pub lost: Vec<String>,
    /// Objects that come before all others when they are ready, whatever their class.
    pub first: Vec<ObjectId>,
    /// Kinds whose circuit is open.
    pub set_aside: Vec<SetAside>,
    /// When nothing is ready, hand out the held request whose hold ends first: one call has to show whether the API
    /// works again, and a request that waits is worth more than one that nobody made.
    pub probe: bool,
}

/// What a lease request got.
#[derive(Clone, Debug, Default)]
pub struct Leased {
    pub leases: Vec<Lease>,
    /// The next in order is a suspect: finish what is in flight and ask again with [`LeaseRequest::alone`].
    pub suspect_waits: bool,
    /// Whether the batch was cut short by `max`, so that more is ready.
    pub more: bool,
    /// Leases of dead runs that were taken back on the way.
    pub lapsed: usize,
    /// Of those, how many became dead letters.
    pub lapsed_dead: usize,
    /// What was out of order on the way.
    pub repaired: Repaired,
}

/// Proof of a lease. A settlement with a token that is no longer the object's is refused as stale.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LeaseToken(pub String);

impl fmt::Display for LeaseToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One object, ours to refresh until the lease expires.
#[derive(Clone, Debug)]
pub struct Lease {
    pub object: ObjectId,
    pub token: LeaseToken,
    /// The record's merge counter at the time; if it moved by the settlement, something newer was asked for.
    pub merges: u64,
    pub priority: Priority,
    /// What gave the object its place.
    pub first_asked: Timestamp,
    /// What the answer must satisfy.
    pub last_asked: Timestamp,
    /// Attempts that failed so far.
    pub attempts: u32,
    /// Leases that ran out so far.
    pub lapses: u32,
    /// How often in a row it was returned with a hold, and the code of the reason.
    pub held: u32,
    pub held_for: Option<String>,
    pub expires: Timestamp,
}

impl Lease {
    /// Whether this object has outlived enough of its workers to be treated with care.
    #[must_use]
    pub const fn is_suspect(&self) -> bool {
        self.lapses >= SUSPECT_LAPSES
    }
}

/// How a lease ends. Anything else (a crash) lets it lapse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// Answered: the record is deleted, or its next request becomes the record with attempts and lapses 0.
    Done,
    /// Answered for now, but somebody asked for it as of a later time: it waits until then, nothing counted, attempts
    /// and lapses 0.
    Later { until: Timestamp },
    /// Failed: an attempt is counted and the object is held until then.
    Failed { until: Timestamp, reason: Reason },
    /// Given back as it was, nothing counted.
    Release,
    /// Returned with nothing counted, and held for 30 s, doubling to 10 min with every further time for the same reason,
    /// so that the next run or probe takes another object.
    Held { reason: Reason },
    /// Set aside for a person, with the reason and the first 500 bytes of what came.
    Dead { reason: Reason, body: Option<String> },
}

impl Settlement {
    /// As the scripts call it.
    const fn word(&self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Later { .. } => "later",
            Self::Failed { .. } => "failed",
            Self::Release => "release",
            Self::Held { .. } => "held",
            Self::Dead { .. } => "dead",
        }
    }
}

/// Whether a settlement was still ours to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    Settled,
    /// The lease had run out and the object is no longer ours. An ordinary answer.
    LeaseLost,
    /// It would have become a dead letter, and their room is full: it was returned, held for ten minutes.
    NoRoom,
}

/// What a batch of settlements leads to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Following<'a> {
    pub follow_ups: &'a [FollowUp],
    /// Spare ones are left out while so many requests are ready.
    pub most_ready: usize,
}

/// What became of requests that were put into the queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Enqueued {
    /// How many wait now, or waited already.
    pub queued: usize,
    /// Those that do not: dead letters that no request revives.
    pub dead: Vec<NotQueued>,
}

/// An object that died with its workers (`lapsed`): a request for it is noted, and nothing is done about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotQueued {
    pub object: ObjectId,
    pub died: Timestamp,
    /// Why it is dead.
    pub reason: String,
}

impl NotQueued {
    /// What it is, why, and what would help.
    #[must_use]
    pub fn why(&self) -> String {
        format!(
            "it is a dead letter since {} ({}: {}); `refresh-worker enqueue {} --revive` returns it to the queue",
            self.died,
            record::LAPSED,
            self.reason,
            self.object
        )
    }
}

/// When the longest waiting of all that waits to be done now was first asked for: what is ready, what is due and not yet moved,
/// and, by a bounded look at the head of each class, the mailbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Oldest {
    #[default]
    NothingWaits,
    Asked(Timestamp),
    /// Mail waits, and none that was looked at says when it was asked for.
    Unknown,
}

impl Oldest {
    /// From what is known of the queue's records, and from the mail at the head of each class: as many as were looked at, of how
    /// many.
    fn of(records: impl Iterator<Item = Timestamp>, mail: &[mailbox::Entry], in_mailbox: u64, now: Timestamp) -> Self {
        let requests: Vec<RefreshRequest> = mail
            .iter()
            .filter_map(|entry| match entry.decide(now, 1) {
                mailbox::Decision::Admit(request) => Some(request),
                _ => None,
            })
            .collect();
        let all_are_known = requests.len() as u64 >= in_mailbox;
        // What is due later waits for its time, not for us.
        let waiting = requests.into_iter().filter(|request| request.due <= now).map(|request| request.asked.min(now));
        match records.chain(waiting).min() {
            Some(asked) => Self::Asked(asked),
            None if all_are_known => Self::NothingWaits,
            None => Self::Unknown,
        }
    }

    /// In seconds; 0 when nothing waits, `None` when it is unknown.
    #[must_use]
    pub fn age(&self, now: Timestamp) -> Option<Duration> {
        match self {
            Self::NothingWaits => Some(Duration::ZERO),
            Self::Asked(asked) => Some(now.since(*asked)),
            Self::Unknown => None,
        }
    }
}

/// Numbers for health, metrics and the log line of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueStats {
    /// Entries in the mailbox.
    pub mailbox: u64,
    pub ready: u64,
    pub ready_by_priority: BTreeMap<Priority, u64>,
    pub delayed: u64,
    pub leased: u64,
    pub dead_letters: u64,
    /// Unreadable mail among the dead letters that gave way to newer mail, ever. Objects never give way.
    pub dead_letters_evicted: u64,
    pub orphans: u64,
    /// Since when the longest waiting request waits.
    pub oldest: Oldest,
    /// When the next delayed object is due.
    pub next_due: Option<Timestamp>,
    /// Our Redis database is not 0, and producers (who always write to 0) have mail there.
    pub mail_in_database_0: Option<u64>,
}

impl QueueStats {
    /// The contract's `queue_size`: what waits to be done now.
    #[must_use]
    pub const fn queue_size(&self) -> u64 {
        self.mailbox + self.ready
    }
}

/// A request that was set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// `clan:2PP`, or `mail:<id>` for mail that could not be read.
    pub name: String,
    pub died: Timestamp,
    pub reason_code: String,
    pub reason: String,
    pub attempts: u32,
    pub lapses: u32,
    /// The start of the answer or of the mail.
    pub body: Option<String>,
    /// What was asked for; `None` of mail that could not be read.
    pub request: Option<DeadRequest>,
    /// The score that unreadable mail had.
    pub score: Option<String>,
    /// Mail of which only the start was kept cannot be brought back.
    pub can_be_redriven: bool,
}

/// What a dead letter asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadRequest {
    pub priority: Priority,
    pub first_asked: Timestamp,
    pub last_asked: Timestamp,
    /// Requests merged so far; tells whether the letter is still as it was listed.
    pub merges: u64,
}

/// Which dead letters are meant.
#[derive(Clone, Debug, Default)]
pub struct DeadFilter {
    /// Only these names; empty means any.
    pub names: Vec<String>,
    pub kind: Option<Kind>,
    pub reason_code: Option<String>,
    /// Only those that died before this.
    pub died_before: Option<Timestamp>,
}

/// A queue entry in the mailbox's own format, for going back to the old worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    pub id: String,
    pub score: u8,
    /// The JSON value as the Python producer writes it.
    pub value: String,
}

/// How one run went, for health: without server, role or path.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RunSummary {
    pub run: String,
    pub started: Timestamp,
    pub ended: Timestamp,
    pub stopped_because: String,
    /// Why it failed, in one line; `None` when it did not.
    pub error: Option<String>,
    pub processed: u64,
    pub failed: u64,
    pub api_requests: u64,
}

/// The newest run of each sort.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunSummaries {
    pub good: Option<RunSummary>,
    pub failed: Option<RunSummary>,
}

/// How long notes of runs are kept after the last one.
pub const RUN_NOTES_LIFETIME: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Requests: admitted, leased, settled.
pub trait Queue: Send + Sync + 'static {
    /// The queue server's clock. Also the proof that it answers.
    fn time(&self) -> impl Future<Output = Result<Timestamp, QueueError>> + Send;

    /// The same, and the proof that it may be written to: what a run asks first.
    fn time_to_write(&self) -> impl Future<Output = Result<Timestamp, QueueError>> + Send {
        self.time()
    }

    /// Reads a slice of the mailbox without changing it. Waiting orphans and a step of the data scan are part of it.
    fn read_mail(
        &self,
        now: Timestamp,
        limits: MailLimits,
    ) -> impl Future<Output = Result<mailbox::Mail, QueueError>> + Send;

    /// Merges what was read into the queue and deletes it from the mailbox, unless it changed meanwhile.
    fn admit(&self, now: Timestamp, mail: mailbox::Mail) -> impl Future<Output = Result<Admitted, QueueError>> + Send;

    /// Puts requests into the queue directly, as a handler or an operator does. Answers what became of them.
    fn enqueue(
        &self,
        now: Timestamp,
        requests: &[RefreshRequest],
    ) -> impl Future<Output = Result<Enqueued, QueueError>> + Send;

    /// Takes back leases that ran out, moves what is due to ready, and leases the next objects in order.
    fn lease(&self, now: Timestamp, request: &LeaseRequest) -> impl Future<Output = Result<Leased, QueueError>> + Send;

    /// Extends leases to `until`, and confirms that they were received: only then a lapse counts against a suspect. Answers, in
    /// order, whether each is still ours.
    fn renew(
        &self,
        now: Timestamp,
        leases: &[(ObjectId, LeaseToken)],
        until: Timestamp,
    ) -> impl Future<Output = Result<Vec<bool>, QueueError>> + Send;

    /// Ends leases, all in one step. Answers in order. The same batch sent again within a minute, since its answer was lost, is
    /// told the same.
    fn settle(
        &self,
        now: Timestamp,
        settlements: &[(Lease, Settlement)],
    ) -> impl Future<Output = Result<Vec<Settled>, QueueError>> + Send {
        async move { Ok(self.settle_and_follow(now, settlements, Following::default()).await?.0) }
    }

    /// The same, and in the same step puts in what follows. A follow-up merges like a request, but revives no dead letter.
    /// Answers also how many follow-ups were taken in.
    fn settle_and_follow(
        &self,
        now: Timestamp,
        settlements: &[(Lease, Settlement)],
        following: Following<'_>,
    ) -> impl Future<Output = Result<(Vec<Settled>, usize), QueueError>> + Send;

    /// Appends entries to a stream beside the queue, of which about the newest `most` are kept. Answers how many.
    fn append_events(
        &self,
        stream: &str,
        most: u64,
        events: &[Event],
    ) -> impl Future<Output = Result<usize, QueueError>> + Send;

    /// Deletes keys of others beside the queue: copies that are old now. Answers how many there were.
    fn forget_keys(&self, keys: &[String]) -> impl Future<Output = Result<usize, QueueError>> + Send;

    /// What every run does once: looks at the next stretch of records and brings in order what does not agree. Bounded: the
    /// cost of one run does not grow with the queue, unless records and sets visibly differ.
    fn reconcile(&self, now: Timestamp) -> impl Future<Output = Result<Repaired, QueueError>> + Send;

    /// The same over everything, as an operator asks for it. A second time finds nothing.
    fn repair(&self, now: Timestamp) -> impl Future<Output = Result<Repaired, QueueError>> + Send;

    /// Ends the holds that were put on objects for this reason, since it is gone. Returns how many there were.
    fn lift_holds(&self, now: Timestamp, code: &str) -> impl Future<Output = Result<usize, QueueError>> + Send;

    /// Frees the objects of a kind that were set aside until this time. Returns how many there were.
    fn return_set_aside(
        &self,
        now: Timestamp,
        kind: Kind,
        until: Timestamp,
    ) -> impl Future<Output = Result<usize, QueueError>> + Send;

    /// Keeps this as the newest run that went well, or that failed, for [`RUN_NOTES_LIFETIME`], if it keeps any.
    fn record_run(&self, _note: &RunSummary) -> impl Future<Output = Result<(), QueueError>> + Send {
        async { Ok(()) }
    }

    /// What is kept of runs. A note that cannot be read is none.
    fn run_summaries(&self) -> impl Future<Output = Result<RunSummaries, QueueError>> + Send {
        async { Ok(RunSummaries::default()) }
    }

    fn stats(&self, now: Timestamp) -> impl Future<Output = Result<QueueStats, QueueError>> + Send;

    /// Dead letters, the newest first.
    fn dead_letters(
        &self,
        filter: &DeadFilter,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<DeadLetter>, QueueError>> + Send;

    /// Brings dead letters back: objects with attempts and lapses 0, unreadable mail into the mailbox as it was.
    /// Answers how many.
    fn redrive(&self, now: Timestamp, filter: &DeadFilter) -> impl Future<Output = Result<usize, QueueError>> + Send;

    /// Everything that waits, in the mailbox's format, without removing it. Dead letters are not part of it.
    fn export(&self, now: Timestamp) -> impl Future<Output = Result<Vec<Exported>, QueueError>> + Send;

    /// Puts everything that waits back into the mailbox, where the old worker finds it. Answers how many.
    fn return_to_mailbox(&self, now: Timestamp) -> impl Future<Output = Result<usize, QueueError>> + Send;
}

/// A failure of the queue. Each variant is a whole sentence.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The address cannot be used, so nothing was connected.
    #[error("REDIS_URL cannot be used: {detail}")]
    Url { detail: String },
    /// Redis did not answer, or not in time.
    #[error("cannot reach Redis at {server}: {detail}")]
    Unreachable { server: String, detail: String },
    /// Redis answered with an error: full, read-only, loading, a key of the wrong type, no permission.
    #[error("Redis at {server} refused{}", refusal(action, detail))]
    Refused { server: String, action: &'static str, detail: String },
    /// Redis answered something this worker cannot understand.
    #[error("Redis at {server} gave an unexpected reply when {action}: {detail}")]
    Unexpected { server: String, action: &'static str, detail: String },
}

/// The refused action and the reason. The action is left out where Redis would refuse any.
fn refusal(action: &str, detail: &str) -> String {
    let (code, rest) = detail.split_once(' ').unwrap_or((detail, ""));
    let reason = match code {
        "NOAUTH" => "it requires a password",
        "WRONGPASS" => "wrong user name or password",
        "LOADING" => "it is still loading its data",
        "OOM" => return format!(" {action}: it has no memory left (OOM)"),
        _ => return format!(" {action}: {detail}"),
    };
    let advice = rest.find("; ").map_or("", |at| &rest[at..]);
    format!(": {reason} ({code}){advice}")
}

impl QueueError {
    /// Whether trying again soon may help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        /// The first word of a server that starts, fails over, is busy or moves a slot.
        const FOR_A_MOMENT: [&str; 9] =
            ["LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "MOVED", "TRYAGAIN", "BUSY", "NOREPLICAS", "ASK"];
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused { detail, .. } => detail.split(' ').next().is_some_and(|word| FOR_A_MOMENT.contains(&word)),
            Self::Unexpected { .. } | Self::Url { .. } => false,
        }
    }

    /// True when the server refused since it is a replica.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        matches!(self, Self::Refused { detail, .. } if detail.starts_with("READONLY"))
    }
}
