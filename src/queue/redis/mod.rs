//! The queue in Redis: one JSON text per object, a sorted set per state, the producers' two keys beside them.
//!
//! Talks to Redis and to nothing else. Every state change is a single script from `lua/`, and each script is handed the
//! time, so that a test can move it. [`memory`](super::memory) is the same queue without Redis.

#[cfg(feature = "cli")]
mod agreements;
#[cfg(feature = "cli")]
mod archive;
mod cluster;
mod inspect;
mod letters;
mod link;
mod repair;
#[cfg(feature = "cli")]
mod rights;
mod scripts;
mod slots;

use std::{sync::Arc, time::Duration};

use secrecy::ExposeSecret as _;

#[cfg(feature = "cli")]
pub use agreements::{Agreement, InUse};
pub use inspect::Inspection;
pub use link::Timeouts;
#[cfg(feature = "cli")]
pub use rights::MissingRights;

use self::{
    link::{Arguments, Call, Link},
    scripts::Keys,
};
use super::{
    Admitted, DeadFilter, DeadLetter, Enqueued, Exported, Following, Lease, LeaseRequest, LeaseToken, Leased,
    MAX_MAIL_BYTES, MailLimits, NotQueued, ORPHAN_PATIENCE, Oldest, Queue, QueueError, QueueStats, RUN_NOTES_LIFETIME,
    Repaired, RunSummaries, RunSummary, SetAside, Settled, Settlement,
    mailbox::{self, Content, Decision, Entry, Id, Mail, ScanStep, Source},
    record::{
        Draw, LARGEST_LOOKED_AT, LOOKED_AT_FOR_OLDEST, MAX_BODY_BYTES, QueueLimits, SWEEP, Wanted, clamp, clip,
        name_of_batch,
    },
};
use crate::{
    clock::{Clock, Timestamp},
    config::RedisConfig,
    model::{Event, Kind, ObjectId, Priority, RefreshRequest},
};

/// How many waiting orphans are looked up in one slice: the oldest, and as many of the newest.
const ORPHANS: usize = 100;

/// No queue is so long; beyond, a script's numbers are not exact.
const MOST_READY: usize = 1_000_000_000;

/// How many requests go into one script.
const CHUNK: usize = 500;

/// The queue, and what runs agree on, in one Redis.
#[derive(Debug)]
pub struct RedisQueue {
    link: Link,
    /// Where producers write when our URL names another database.
    database_0: Option<Link>,
    keys: Keys,
    limits: QueueLimits,
}

impl RedisQueue {
    /// Prepares the connection; Redis is first asked when something is wanted of it.
    ///
    /// # Errors
    /// When the URL cannot be used.
    pub fn connect(config: &RedisConfig, clock: Arc<dyn Clock>) -> Result<Self, QueueError> {
        let keys = Keys::new(&config.namespace);
        let mut link = Link::new(config.url.expose_secret(), Timeouts::default(), clock)?;
        if config.cluster {
            link = link.of_cluster(keys.objects())?;
        }
        let database_0 = if link.database() == 0 { None } else { Some(link.to_database(0)?) };
        Ok(Self { link, database_0, keys, limits: QueueLimits::default() })
    }

    #[must_use]
    pub const fn with_limits(mut self, limits: QueueLimits) -> Self {
        self.limits = limits;
        self
    }

    #[must_use]
    pub fn with_timeouts(mut self, timeouts: Timeouts) -> Self {
        self.link.set_timeouts(timeouts);
        if let Some(link) = &mut self.database_0 {
            link.set_timeouts(timeouts);
        }
        self
    }

    /// Where Redis is, without user and password.
    #[must_use]
    pub fn server(&self) -> &str {
        self.link.server()
    }

    /// The database number of our URL. Producers always use 0.
    #[must_use]
    pub const fn database(&self) -> i64 {
        self.link.database()
    }

    /// Whether `REDIS_CLUSTER` is set: the mailbox's two keys lie in other slots than ours.
    #[must_use]
    pub const fn is_cluster(&self) -> bool {
        self.link.is_cluster()
    }

    /// The keys of a script that sees the mailbox where it can.
    fn keys_in_reach(&self) -> &[String] {
        if self.link.is_cluster() { self.keys.queue() } else { self.keys.with_mailbox() }
    }

    /// Mail where producers write, when our URL names another database.
    async fn mail_in_database_0(&self) -> Option<u64> {
        let link = self.database_0.as_ref()?;
        let (mut index, mut data) = (::redis::cmd("ZCARD"), ::redis::cmd("HLEN"));
        index.arg(mailbox::INDEX);
        data.arg(mailbox::DATA);
        let (index, data): (Result<u64, _>, Result<u64, _>) = tokio::join!(
            link.ask("counting mail", Call::Command(&index)),
            link.ask("counting mail", Call::Command(&data))
        );
        // Our user need not see it: then nothing is known.
        index.ok().max(data.ok()).filter(|entries| *entries > 0)
    }
}

/// A row of `read_mail.lua`: source, id, id size, id digest, score, content, size, value.
type MailRow = (String, Vec<u8>, usize, String, String, String, usize, Vec<u8>);

/// A row of `lease.lua`: object, token, merges, priority, first, last, attempts, lapses, held, held for.
type LeaseRow = (String, String, u64, i64, i64, i64, u32, u32, u32, String);

/// The answer of `lease.lua`: suspect waits, more, lapsed, lapsed dead, leases, repaired.
type LeaseAnswer = (bool, bool, usize, usize, Vec<LeaseRow>, repair::Counts);

/// The answer of `stats.lua`.
type Counts = (u64, Vec<u64>, u64, u64, u64, u64, u64, i64, i64, Vec<HeadRow>);

/// Mail at the head of its class: id, score, value.
type HeadRow = (Vec<u8>, String, Vec<u8>);

impl Queue for RedisQueue {
    async fn time(&self) -> Result<Timestamp, QueueError> {
        let (seconds, micros): (i64, i64) =
            self.link.greet("reading the time", Call::Here(&::redis::cmd("TIME"))).await?;
        Ok(Timestamp::from_millis(seconds * 1000 + micros / 1000))
    }

    async fn time_to_write(&self) -> Result<Timestamp, QueueError> {
        // Whole, so that a server that does not know it yet costs no more round trips.
        let mut command = ::redis::cmd("EVAL");
        command.arg(scripts::TIME_TO_WRITE).arg(1).arg(self.keys.check());
        let (seconds, micros): (i64, i64) = self.link.greet("a write", Call::Command(&command)).await?;
        Ok(Timestamp::from_millis(seconds * 1000 + micros / 1000))
    }

    async fn read_mail(&self, _now: Timestamp, limits: MailLimits) -> Result<Mail, QueueError> {
        if self.link.is_cluster() {
            return Box::pin(cluster::read_mail(self, limits)).await;
        }
        let mut arguments = Arguments::default();
        arguments.number(limits.per_class).number(limits.reach());
        arguments.number(limits.bytes_of_part()).number(limits.bytes_of_look());
        arguments.number(MAX_MAIL_BYTES).number(MAX_BODY_BYTES).number(ORPHANS).number(limits.scan.max(1));
        let call = Call::Script(&scripts::READ_MAIL, self.keys.with_mailbox(), &arguments);
        let (more, from, to, rows): (bool, String, String, Vec<MailRow>) = self.link.ask("reading mail", call).await?;
        let entries = rows.into_iter().map(|row| self.entry(row)).collect::<Result<_, _>>()?;
        Ok(Mail { entries, more, scan: Some(ScanStep { from, to }) })
    }

    async fn admit(&self, now: Timestamp, mail: Mail) -> Result<Admitted, QueueError> {
        let decided: Vec<(&Entry, Decision)> = mail
            .entries
            .iter()
            .map(|entry| (entry, entry.decide(now, self.limits.max_attempts)))
            .filter(|(_, decision)| *decision != Decision::Wait)
            .collect();
        if decided.is_empty() && mail.scan.as_ref().is_none_or(|scan| scan.from == scan.to) {
            return Ok(Admitted { more: mail.more, ..Admitted::default() });
        }
        if self.link.is_cluster() {
            return Box::pin(cluster::admit(self, now, &mail, decided)).await;
        }
        self.merge(now, &mail, &decided).await
    }

    async fn enqueue(&self, now: Timestamp, requests: &[RefreshRequest]) -> Result<Enqueued, QueueError> {
        let mut dead = Vec::new();
        for chunk in requests.chunks(CHUNK) {
            let mut arguments = Arguments::default();
            arguments.number(now.as_millis());
            for request in chunk {
                request_arguments(&mut arguments, request, now);
            }
            let call = Call::Script(&scripts::ENQUEUE, self.keys.queue(), &arguments);
            // Merging a request twice changes nothing but the count of merges.
            for (name, died, reason) in self.link.ask::<Vec<(String, i64, String)>>("enqueueing", call).await? {
                let odd = |_| self.link.unexpected("enqueueing", format!("an object named `{name}`"));
                let object = name.parse().map_err(odd)?;
                dead.push(NotQueued { object, died: Timestamp::from_millis(died), reason });
            }
        }
        Ok(Enqueued { queued: requests.len() - dead.len(), dead })
    }

    async fn lease(&self, now: Timestamp, request: &LeaseRequest) -> Result<Leased, QueueError> {
        let expires = now + request.duration;
        let classes = if request.priorities.is_empty() { &Priority::ALL[..] } else { &request.priorities };
        let classes: String = classes.iter().map(|class| char::from(b'0' + class.as_number())).collect();
        let mut arguments = Arguments::default();
        arguments.number(now.as_millis()).number(expires.as_millis()).number(request.max).text(&classes);
        arguments.number(u8::from(request.alone)).number(Draw::from_seed(request.seed).state()).text(&request.run);
        arguments.number(self.limits.dead_letters).number(SWEEP).number(u8::from(request.probe));
        arguments.text(&request.nonce).number(request.lost.len());
        for nonce in &request.lost {
            arguments.text(nonce);
        }
        arguments.number(request.set_aside.len());
        for SetAside { kind, until, probes } in &request.set_aside {
            arguments.text(kind.as_str()).number(clamp(*until, now).as_millis()).number((*probes).min(MOST_READY));
        }
        for object in &request.first {
            arguments.text(&object.to_string());
        }
        let call = Call::Script(&scripts::LEASE, self.keys.queue(), &arguments);
        let (suspect_waits, more, lapsed, lapsed_dead, rows, repaired): LeaseAnswer =
            self.link.run("leasing", call).await?;
        let leases = rows.into_iter().map(|row| self.lease_of(row, expires)).collect::<Result<_, _>>()?;
        Ok(Leased { leases, suspect_waits, more, lapsed, lapsed_dead, repaired: repair::told(repaired) })
    }

    async fn renew(
        &self,
        now: Timestamp,
        leases: &[(ObjectId, LeaseToken)],
        until: Timestamp,
    ) -> Result<Vec<bool>, QueueError> {
        if leases.is_empty() {
            return Ok(Vec::new());
        }
        let mut arguments = Arguments::default();
        arguments.number(clamp(until, now).as_millis());
        for (object, token) in leases {
            arguments.text(&object.to_string()).text(&token.0);
        }
        let call = Call::Script(&scripts::RENEW, self.keys.queue(), &arguments);
        self.link.ask("renewing leases", call).await
    }

    async fn settle_and_follow(
        &self,
        now: Timestamp,
        settlements: &[(Lease, Settlement)],
        following: Following<'_>,
    ) -> Result<(Vec<Settled>, usize), QueueError> {
        if settlements.is_empty() && following.follow_ups.is_empty() {
            return Ok((Vec::new(), 0));
        }
        let mut arguments = Arguments::default();
        arguments.number(now.as_millis()).number(self.limits.dead_letters);
        arguments.number(following.most_ready.min(MOST_READY)).number(following.follow_ups.len());
        for follow_up in following.follow_ups {
            request_arguments(&mut arguments, &follow_up.request, now);
            arguments.number(u8::from(follow_up.is_spare));
        }
        for (lease, settlement) in settlements {
            arguments.text(&lease.object.to_string()).text(&lease.token.0);
            settlement_arguments(&mut arguments, settlement, now);
        }
        let keys = self.keys.settling(&name_of_batch(settlements));
        let call = Call::Script(&scripts::SETTLE, &keys, &arguments);
        // What was settled when the answer was lost is told again.
        let (answers, taken): (Vec<u8>, usize) = self.link.ask("settling", call).await?;
        let settled = answers.into_iter().map(|answer| match answer {
            0 => Settled::LeaseLost,
            2 => Settled::NoRoom,
            _ => Settled::Settled,
        });
        Ok((settled.collect(), taken))
    }

    async fn append_events(&self, stream: &str, most: u64, events: &[Event]) -> Result<usize, QueueError> {
        let keys = [stream.to_owned()];
        let mut appended = 0;
        for chunk in events.chunks(CHUNK) {
            let mut arguments = Arguments::default();
            arguments.number(most);
            for Event(fields) in chunk {
                arguments.number(2 * fields.len());
                for (name, value) in fields {
                    arguments.text(name).text(value);
                }
            }
            let call = Call::Script(&scripts::APPEND_EVENTS, &keys, &arguments);
            // An entry may come twice; each says by its id what it is.
            appended += self.link.ask::<usize>("appending events", call).await?;
        }
        Ok(appended)
    }

    async fn forget_keys(&self, keys: &[String]) -> Result<usize, QueueError> {
        let mut forgotten = 0;
        for chunk in keys.chunks(CHUNK) {
            let mut command = ::redis::cmd("UNLINK");
            command.arg(chunk);
            forgotten += self.link.ask::<usize>("deleting copies of readers", Call::Command(&command)).await?;
        }
        Ok(forgotten)
    }

    async fn reconcile(&self, now: Timestamp) -> Result<Repaired, QueueError> {
        repair::reconcile(self, now).await
    }

    async fn repair(&self, now: Timestamp) -> Result<Repaired, QueueError> {
        repair::everything(self, now).await
    }

    async fn lift_holds(&self, now: Timestamp, code: &str) -> Result<usize, QueueError> {
        let mut arguments = Arguments::default();
        arguments.number(now.as_millis()).text(code);
        // Done twice it finds nothing the second time.
        self.link.ask("lifting holds", Call::Script(&scripts::LIFT_HOLDS, self.keys.queue(), &arguments)).await
    }

    async fn return_set_aside(&self, now: Timestamp, kind: Kind, until: Timestamp) -> Result<usize, QueueError> {
        let mut arguments = Arguments::default();
        arguments.number(now.as_millis()).text(kind.as_str()).number(until.as_millis()).number(CHUNK);
        let mut freed = 0;
        loop {
            let call = Call::Script(&scripts::RETURN_SET_ASIDE, self.keys.queue(), &arguments);
            let (count, more): (usize, bool) = self.link.ask("returning what was set aside", call).await?;
            freed += count;
            if !more {
                return Ok(freed);
            }
        }
    }

    async fn record_run(&self, note: &RunSummary) -> Result<(), QueueError> {
        let json = serde_json::to_string(note).expect("a note of texts and numbers is JSON");
        let sort = if note.error.is_some() { "failed" } else { "good" };
        let mut arguments = Arguments::default();
        arguments.text(sort).text(&json).number(lifetime_millis(RUN_NOTES_LIFETIME));
        let call = Call::Script(&scripts::NOTE_RUN, &[self.keys.runs()], &arguments);
        let _: i64 = self.link.ask("recording a run", call).await?;
        Ok(())
    }

    async fn run_summaries(&self) -> Result<RunSummaries, QueueError> {
        let mut command = ::redis::cmd("HMGET");
        command.arg(self.keys.runs()).arg("good").arg("failed");
        let (good, failed): (Option<String>, Option<String>) =
            self.link.ask("reading the last runs", Call::Command(&command)).await?;
        let read = |json: Option<String>| json.and_then(|json| serde_json::from_str(&json).ok());
        Ok(RunSummaries { good: read(good), failed: read(failed) })
    }

    async fn stats(&self, now: Timestamp) -> Result<QueueStats, QueueError> {
        let mut arguments = Arguments::default();
        arguments.number(now.as_millis()).number(LOOKED_AT_FOR_OLDEST).number(LARGEST_LOOKED_AT);
        let call = Call::Script(&scripts::STATS, self.keys_in_reach(), &arguments);
        let (counts, mail_of_cluster) = tokio::join!(self.link.ask("counting", call), Box::pin(cluster::mailbox(self)));
        let (counts, (mail_of_cluster, heads_of_cluster)): (Counts, _) = (counts?, mail_of_cluster?);
        let (mailbox, ready, delayed, leased, dead_letters, dead_letters_evicted, orphans, oldest, next_due, heads) =
            counts;
        let heads: Vec<Entry> = heads
            .into_iter()
            .chain(heads_of_cluster)
            .map(|(id, score, value)| Entry {
                id: Id::Whole(id),
                source: Source::Index { score },
                content: Content::Value(value),
            })
            .collect();
        let mailbox = mailbox + mail_of_cluster;
        let mail_in_database_0 = if mailbox == 0 { Box::pin(self.mail_in_database_0()).await } else { None };
        let time = |millis: i64| (millis >= 0).then(|| Timestamp::from_millis(millis));
        Ok(QueueStats {
            mailbox,
            ready: ready.iter().sum(),
            ready_by_priority: Priority::ALL.into_iter().zip(ready).collect(),
            delayed,
            leased,
            dead_letters,
            dead_letters_evicted,
            orphans,
            oldest: Oldest::of(time(oldest).into_iter(), &heads, mailbox, now),
            next_due: time(next_due),
            mail_in_database_0,
        })
    }

    async fn dead_letters(&self, filter: &DeadFilter, limit: usize) -> Result<Vec<DeadLetter>, QueueError> {
        letters::list(self, filter, limit).await
    }

    async fn redrive(&self, now: Timestamp, filter: &DeadFilter) -> Result<usize, QueueError> {
        letters::redrive(self, now, filter).await
    }

    async fn export(&self, now: Timestamp) -> Result<Vec<Exported>, QueueError> {
        letters::export(self, now).await
    }

    async fn return_to_mailbox(&self, now: Timestamp) -> Result<usize, QueueError> {
        letters::return_to_mailbox(self, now).await
    }
}

impl RedisQueue {
    /// One script: compares with what was read, merges, and deletes. On a cluster it merges only.
    async fn merge(&self, now: Timestamp, mail: &Mail, decided: &[(&Entry, Decision)]) -> Result<Admitted, QueueError> {
        let scan = mail.scan.clone().unwrap_or_default();
        let mut arguments = Arguments::default();
        arguments.number(now.as_millis()).number(self.limits.unreadable_letters);
        arguments.text(&scan.from).text(&scan.to).number(MAX_MAIL_BYTES).number(decided.len());
        for (entry, decision) in decided {
            if self.link.is_cluster() {
                entry_arguments(&mut arguments, &entry.without_content());
            } else {
                entry_arguments(&mut arguments, entry);
            }
            decision_arguments(&mut arguments, decision, now);
        }
        let call = Call::Script(&scripts::ADMIT, self.keys_in_reach(), &arguments);
        // Run again after a broken connection it finds the mail changed: what was read is compared. (On a cluster it merges
        // again.)
        let (admitted, unreadable, changed, orphaned, orphans_dropped, found_by_scan, repaired) =
            self.link.ask("admitting mail", call).await?;
        let (repaired, more) = (repair::told(repaired), mail.more);
        Ok(Admitted { admitted, unreadable, changed, orphaned, orphans_dropped, found_by_scan, repaired, more })
    }

    fn entry(&self, row: MailRow) -> Result<Entry, QueueError> {
        let (source, id, id_bytes, digest, score, content, bytes, value) = row;
        let odd = |what: &str| self.link.unexpected("reading mail", format!("a row with the {what}"));
        let id = if digest.is_empty() { Id::Whole(id) } else { Id::TooLong { bytes: id_bytes, head: id, digest } };
        let source = match source.as_str() {
            "index" => Source::Index { score },
            "orphan" => {
                let (class, since) = orphan_score(&score).ok_or_else(|| odd(&format!("score {score}")))?;
                Source::Orphan { class, since }
            }
            "scan" => Source::Scan,
            _ => return Err(odd(&format!("source {source}"))),
        };
        let content = match content.as_str() {
            "missing" => Content::Missing,
            "value" => Content::Value(value),
            "large" => Content::TooLarge { bytes, head: value },
            _ => return Err(odd(&format!("content {content}"))),
        };
        Ok(Entry { id, source, content })
    }

    fn lease_of(&self, row: LeaseRow, expires: Timestamp) -> Result<Lease, QueueError> {
        let (name, token, merges, priority, first, last, attempts, lapses, held, held_for) = row;
        let object = name.parse().map_err(|_| self.link.unexpected("leasing", format!("an object named `{name}`")))?;
        Ok(Lease {
            object,
            token: LeaseToken(token),
            merges,
            priority: Priority::nearest(priority),
            first_asked: Timestamp::from_millis(first),
            last_asked: Timestamp::from_millis(last),
            attempts,
            lapses,
            held,
            held_for: (!held_for.is_empty()).then_some(held_for),
            expires,
        })
    }
}

/// An orphan's score is when it was first seen, with a quarter of a millisecond for each class below CRITICAL.
#[expect(clippy::cast_possible_truncation, reason = "milliseconds of this millennium fit both")]
fn orphan_score(score: &str) -> Option<(Priority, Timestamp)> {
    let score: f64 = score.parse().ok()?;
    let class = Priority::nearest((score.fract() * 4.0).round() as i64);
    Some((class, Timestamp::from_millis(score.trunc() as i64)))
}

fn entry_arguments(arguments: &mut Arguments, entry: &Entry) {
    let (source, score) = match &entry.source {
        Source::Index { score } => ("index", score.as_str()),
        Source::Orphan { .. } => ("orphan", ""),
        Source::Scan => ("scan", ""),
    };
    arguments.text(source);
    match &entry.id {
        Id::Whole(id) => arguments.bytes(id).text(""),
        Id::TooLong { digest, .. } => arguments.text("").text(digest),
    };
    arguments.text(score);
    match &entry.content {
        Content::Missing => arguments.text("missing").number(0).text(""),
        Content::Value(value) => arguments.text("value").number(value.len()).bytes(value),
        Content::TooLarge { bytes, head } => arguments.text("large").number(bytes).bytes(head),
    };
}

fn decision_arguments(arguments: &mut Arguments, decision: &Decision, now: Timestamp) {
    match decision {
        Decision::Admit(request) => request_arguments(arguments.text("admit"), request, now),
        Decision::Refuse(unreadable) => {
            let letter = serde_json::to_string(&unreadable.letter(now)).expect("a letter of texts and numbers is JSON");
            arguments.text("refuse").text(&unreadable.name).text(&letter);
        }
        Decision::SetAside(class) => {
            arguments.text("set_aside").number(class.as_number());
        }
        Decision::Drop | Decision::Wait => {
            arguments.text("drop").number(ORPHAN_PATIENCE.as_millis());
        }
    }
}

fn request_arguments(arguments: &mut Arguments, request: &RefreshRequest, now: Timestamp) {
    let wanted = Wanted::of(request, now);
    arguments.text(&request.object.to_string()).number(wanted.priority.as_number());
    arguments.number(wanted.first.as_millis()).number(wanted.due.as_millis()).number(wanted.attempts);
}

fn settlement_arguments(arguments: &mut Arguments, settlement: &Settlement, now: Timestamp) {
    let (until, reason, body) = match settlement {
        Settlement::Done | Settlement::Release => (now, None, None),
        Settlement::Later { until } => (*until, None, None),
        Settlement::Failed { until, reason } => (*until, Some(reason), None),
        Settlement::Held { reason } => (now, Some(reason), None),
        Settlement::Dead { reason, body } => (now, Some(reason), body.as_deref()),
    };
    arguments.text(settlement.word()).number(clamp(until, now).as_millis());
    arguments.text(reason.map_or("", |reason| reason.code)).text(reason.map_or("", |reason| &reason.detail));
    arguments.number(u8::from(body.is_some())).text(clip(body.unwrap_or("")));
}

/// A `PX` argument: never 0, which Redis refuses.
fn lifetime_millis(lifetime: Duration) -> u64 {
    u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX).clamp(1, 1_000_000_000_000)
}
