//! The queue in Redis: one JSON text per object, a sorted set per state, the producers' two keys beside them.
//!
//! Every state change is one script from `lua/`, and each script gets the time as an argument, so that a test can move it.
//! [`memory`](super::memory) is the same queue without Redis. `link` and `call` send; `scripts` has the scripts and our keys;
//! `arguments` and `rows` are what scripts take and return; `mailbox` differs between one server and a cluster.

#[cfg(feature = "cli")]
mod admin;
mod arguments;
mod call;
#[cfg(feature = "cli")]
mod carry_over;
#[cfg(feature = "cli")]
mod dead_letters;
mod errors;
mod inspect;
mod link;
mod mailbox;
mod repair;
#[cfg(feature = "cli")]
mod rights;
mod rows;
mod scripts;
mod shared_state;

use std::sync::Arc;

use secrecy::ExposeSecret as _;

#[cfg(feature = "cli")]
pub use carry_over::{InUse, SharedEntry};
pub use inspect::Inspection;
pub use link::Timeouts;
#[cfg(feature = "cli")]
pub use rights::MissingRights;

use self::{
    arguments::{Arguments, lifetime_millis},
    call::Call,
    link::Link,
    mailbox::Mailbox,
    rows::{ClaimReply, ClaimRow, HeadRow, LeaseReply, LeaseRow, RefusalRow, StatsReply},
    scripts::Keys,
};
use super::{
    Admitted, ClaimRequest, Claimed, Enqueued, Following, Lease, LeaseRequest, LeaseToken, Leased, MailLimits,
    NotQueued, Oldest, Publisher, Queue, QueueError, QueueStats, RUN_SUMMARIES_LIFETIME, Repaired, RunSummaries,
    RunSummary, SetAside, Settled, Settlement,
    lease::{Draw, name_of_batch},
    mailbox::{Content, DATA, Decision, Entry, INDEX, Id, Mail, Source},
    record::{MAX_SAMPLED_BYTES, MAX_SWEPT, OLDEST_SAMPLE, QueueLimits, Record, State, clamp},
};
use crate::{
    clock::{Clock, Timestamp},
    config::RedisConfig,
    model::{Event, Kind, ObjectId, Priority, RefreshRequest},
};

/// No queue is longer. A larger number would not be exact in a script.
const MAX_READY: usize = 1_000_000_000;

/// The most elements of one script call, so that no script blocks the server for long.
const CHUNK: usize = 500;

/// The queue and the shared state of runs, in one Redis.
#[derive(Debug)]
pub struct RedisQueue {
    link: Link,
    /// The database of the producers, when our URL names another one.
    database_0: Option<Link>,
    keys: Keys,
    limits: QueueLimits,
    mailbox: Mailbox,
}

impl RedisQueue {
    /// Prepares the connection, which is opened by the first call.
    ///
    /// # Errors
    /// When the URL cannot be used.
    pub fn connect(config: &RedisConfig, clock: Arc<dyn Clock>) -> Result<Self, QueueError> {
        let keys = Keys::new(&config.namespace);
        let link = Link::new(config.url.expose_secret(), Timeouts::default(), clock)?;
        let (link, mailbox) =
            if config.cluster { (link.of_cluster(keys.objects())?, Mailbox::Cluster) } else { (link, Mailbox::Server) };
        let database_0 = if link.database() == 0 { None } else { Some(link.to_database(0)?) };
        Ok(Self { link, database_0, keys, limits: QueueLimits::default(), mailbox })
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

    /// The server's address, without user and password.
    #[must_use]
    pub fn server(&self) -> &str {
        self.link.server()
    }

    /// The database number of our URL. Producers always use 0.
    #[must_use]
    pub const fn database(&self) -> i64 {
        self.link.database()
    }

    /// True when `REDIS_CLUSTER` is set: the mailbox's two keys lie in other slots than ours.
    #[must_use]
    pub fn is_cluster(&self) -> bool {
        self.mailbox == Mailbox::Cluster
    }

    /// The number of entries in database 0, when our URL names another database.
    async fn mail_in_database_0(&self) -> Option<u64> {
        let link = self.database_0.as_ref()?;
        let (mut index, mut data) = (::redis::cmd("ZCARD"), ::redis::cmd("HLEN"));
        index.arg(INDEX);
        data.arg(DATA);
        // Either key alone shows that producers use the other database.
        let (index, data): (Result<u64, _>, Result<u64, _>) = tokio::join!(
            link.ask("counting mail", Call::Command(&index)),
            link.ask("counting mail", Call::Command(&data))
        );
        // Our user may lack the right to see it: then nothing is known.
        index.ok().max(data.ok()).filter(|entries| *entries > 0)
    }
}

impl Publisher for RedisQueue {
    async fn publish_events(&self, stream: &str, most: u64, events: &[Event]) -> Result<usize, QueueError> {
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
            let call = Call::Script(&scripts::PUBLISH_EVENTS, &keys, &arguments);
            // Safe to repeat: readers know an event that comes twice by its id.
            appended += self.link.ask::<usize>("publishing events", call).await?;
        }
        Ok(appended)
    }

    async fn delete_cache_keys(&self, keys: &[String]) -> Result<usize, QueueError> {
        let mut deleted = 0;
        for chunk in keys.chunks(CHUNK) {
            // Not `DEL`, which frees a large value while all other clients wait.
            let mut command = ::redis::cmd("UNLINK");
            command.arg(chunk);
            // Safe to repeat: a key that is gone already only lowers the count.
            deleted += self.link.ask::<usize>("deleting cache keys", Call::Command(&command)).await?;
        }
        Ok(deleted)
    }
}

impl Queue for RedisQueue {
    async fn time(&self) -> Result<Timestamp, QueueError> {
        let (seconds, micros): (i64, i64) =
            self.link.greet("reading the time", Call::Here(&::redis::cmd("TIME"))).await?;
        Ok(Timestamp::from_millis(seconds * 1000 + micros / 1000))
    }

    async fn time_to_write(&self) -> Result<Timestamp, QueueError> {
        // The whole text, so that a server that does not know the script costs no further round trip.
        let mut command = ::redis::cmd("EVAL");
        command.arg(scripts::TIME_TO_WRITE).arg(1).arg(self.keys.check());
        let (seconds, micros): (i64, i64) = self.link.greet("a write", Call::Command(&command)).await?;
        Ok(Timestamp::from_millis(seconds * 1000 + micros / 1000))
    }

    async fn read_mail(&self, _now: Timestamp, limits: MailLimits) -> Result<Mail, QueueError> {
        self.mailbox.read(self, limits).await
    }

    async fn admit(&self, now: Timestamp, mail: Mail) -> Result<Admitted, QueueError> {
        let decided: Vec<(&Entry, Decision)> = mail
            .entries
            .iter()
            .map(|entry| (entry, entry.decide(now, self.limits.max_attempts)))
            .filter(|(_, decision)| *decision != Decision::Wait)
            .collect();
        // Nothing to write, not even the cursor of the scan.
        if decided.is_empty() && mail.scan.as_ref().is_none_or(|scan| scan.from == scan.to) {
            return Ok(Admitted { more: mail.more, ..Admitted::default() });
        }
        self.mailbox.admit(self, now, &mail, decided).await
    }

    async fn enqueue(&self, now: Timestamp, requests: &[RefreshRequest]) -> Result<Enqueued, QueueError> {
        let mut dead = Vec::new();
        for chunk in requests.chunks(CHUNK) {
            let mut arguments = Arguments::default();
            arguments.number(now.as_millis());
            for request in chunk {
                arguments.request(request, now);
            }
            let call = Call::Script(&scripts::ENQUEUE, self.keys.queue(), &arguments);
            // Safe to repeat: merging a request twice changes nothing but the count of merges.
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
        // One digit for each priority.
        let classes: String = classes.iter().map(|class| char::from(b'0' + class.as_number())).collect();
        let mut arguments = Arguments::default();
        arguments.number(now.as_millis()).number(expires.as_millis()).number(request.max).text(&classes);
        arguments.number(u8::from(request.alone)).number(Draw::from_seed(request.seed).state()).text(&request.run);
        arguments.number(self.limits.dead_letters).number(MAX_SWEPT).number(u8::from(request.probe));
        arguments.text(&request.nonce).number(request.lost.len());
        for nonce in &request.lost {
            arguments.text(nonce);
        }
        arguments.number(request.set_aside.len());
        for SetAside { kind, until, probes } in &request.set_aside {
            arguments.text(kind.as_str()).number(clamp(*until, now).as_millis()).number((*probes).min(MAX_READY));
        }
        for object in &request.first {
            arguments.text(&object.to_string());
        }
        let call = Call::Script(&scripts::LEASE, self.keys.queue(), &arguments);
        // Not repeated: the run names the nonce of a lost reply in its next call, which then releases the leases.
        let reply: LeaseReply = self.link.run("leasing", call).await?;
        let LeaseReply { suspect_waits, more, lapsed, lapsed_dead, leases, repaired } = reply;
        let leases = leases.into_iter().map(|row| self.lease_of(row, expires)).collect::<Result<_, _>>()?;
        Ok(Leased { leases, suspect_waits, more, lapsed, lapsed_dead, repaired: repair::repaired(&repaired) })
    }

    async fn claim(&self, now: Timestamp, request: &ClaimRequest) -> Result<Claimed, QueueError> {
        let expires = now + request.duration;
        let mut claimed = Claimed::default();
        for chunk in request.objects.chunks(CHUNK) {
            let mut arguments = Arguments::default();
            arguments.number(now.as_millis()).number(expires.as_millis()).text(&request.run).text(&request.nonce);
            for object in chunk {
                arguments.text(&object.to_string());
            }
            let call = Call::Script(&scripts::CLAIM, self.keys.queue(), &arguments);
            // Not repeated, like a lease: the run names the nonce of a lost reply in its next lease call.
            let reply: ClaimReply = self.link.run("claiming", call).await?;
            claimed.repaired.add(repair::repaired(&reply.repaired));
            for ClaimRow { object, token } in reply.claims {
                let object = self.object_of(&object, "claiming")?;
                claimed.leases.push(Record::planned(now).lease(object, token, expires));
            }
            for RefusalRow { object, state } in reply.refusals {
                let odd = || self.link.unexpected("claiming", format!("a record in the state `{state}`"));
                claimed.refused.push((self.object_of(&object, "claiming")?, State::from_word(&state).ok_or_else(odd)?));
            }
            if reply.work_waits {
                claimed.work_waits = true;
                break;
            }
        }
        Ok(claimed)
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
        // Safe to repeat: a renewal with the same time changes nothing.
        self.link.ask("renewing leases", call).await
    }

    async fn settle_and_follow(
        &self,
        now: Timestamp,
        settlements: &[(Lease, Settlement)],
        following: Following<'_>,
    ) -> Result<(Vec<Settled>, usize), QueueError> {
        // An empty batch changes nothing: it is not worth a round trip.
        if settlements.is_empty() && following.follow_ups.is_empty() {
            return Ok((Vec::new(), 0));
        }
        let mut arguments = Arguments::default();
        arguments.number(now.as_millis()).number(self.limits.dead_letters);
        arguments.number(following.most_ready.min(MAX_READY)).number(following.follow_ups.len());
        for follow_up in following.follow_ups {
            arguments.request(&follow_up.request, now).number(u8::from(follow_up.is_spare));
        }
        for (lease, settlement) in settlements {
            arguments.text(&lease.object.to_string()).text(&lease.token.0).settlement(settlement, now);
        }
        let keys = self.keys.settling(&name_of_batch(settlements));
        let call = Call::Script(&scripts::SETTLE, &keys, &arguments);
        // Safe to repeat: the script remembers its reply to the batch.
        let (codes, accepted): (Vec<u8>, usize) = self.link.ask("settling", call).await?;
        let settled = codes.into_iter().map(|code| match code {
            // The numbers of `settle.lua`.
            0 => Settled::LeaseLost,
            2 => Settled::NoRoom,
            _ => Settled::Settled,
        });
        Ok((settled.collect(), accepted))
    }

    async fn reconcile(&self, now: Timestamp) -> Result<Repaired, QueueError> {
        repair::reconcile(self, now).await
    }

    async fn lift_holds(&self, now: Timestamp, code: &str) -> Result<usize, QueueError> {
        let mut arguments = Arguments::default();
        arguments.number(now.as_millis()).text(code);
        // Safe to repeat: a second try finds no holds.
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
            // Each call frees a bounded number, so that no script takes long.
            if !more {
                return Ok(freed);
            }
        }
    }

    async fn record_run(&self, summary: &RunSummary) -> Result<(), QueueError> {
        let json = serde_json::to_string(summary).expect("texts and numbers are JSON");
        let field = if summary.error.is_some() { "failed" } else { "good" };
        let mut arguments = Arguments::default();
        arguments.text(field).text(&json).number(lifetime_millis(RUN_SUMMARIES_LIFETIME));
        let call = Call::Script(&scripts::RECORD_RUN, &[self.keys.runs()], &arguments);
        // Safe to repeat: the second write has the same text.
        let _: i64 = self.link.ask("recording a run", call).await?;
        Ok(())
    }

    async fn run_summaries(&self) -> Result<RunSummaries, QueueError> {
        let mut command = ::redis::cmd("HMGET");
        command.arg(self.keys.runs()).arg("good").arg("failed");
        let (good, failed): (Option<String>, Option<String>) =
            self.link.ask("reading the summaries of runs", Call::Command(&command)).await?;
        let read = |json: Option<String>| json.and_then(|json| serde_json::from_str(&json).ok());
        Ok(RunSummaries { good: read(good), failed: read(failed) })
    }

    async fn stats(&self, now: Timestamp) -> Result<QueueStats, QueueError> {
        let mut arguments = Arguments::default();
        arguments.number(now.as_millis()).number(OLDEST_SAMPLE).number(MAX_SAMPLED_BYTES);
        let call = Call::Script(&scripts::STATS, self.mailbox.keys(&self.keys), &arguments);
        let (reply, apart) = tokio::join!(self.link.ask("counting", call), self.mailbox.count_apart(self));
        let (reply, (mailbox, heads)): (StatsReply, _) = (reply?, apart?);
        let entry = |HeadRow { id, score, value }: HeadRow| Entry {
            id: Id::Whole(id),
            source: Source::Index { score },
            content: Content::Value(value),
        };
        let heads: Vec<Entry> = reply.heads.into_iter().chain(heads).map(entry).collect();
        let mailbox = reply.mailbox + mailbox;
        // Only worth a look when we see no mail: the producers may use another database.
        let mail_in_database_0 = if mailbox == 0 { Box::pin(self.mail_in_database_0()).await } else { None };
        let time = |millis: i64| (millis >= 0).then(|| Timestamp::from_millis(millis));
        Ok(QueueStats {
            mailbox,
            ready: reply.ready.iter().sum(),
            ready_by_priority: Priority::ALL.into_iter().zip(reply.ready).collect(),
            delayed: reply.delayed,
            leased: reply.leased,
            dead_letters: reply.dead_letters,
            dead_letters_evicted: reply.dead_letters_evicted,
            orphans: reply.orphans,
            oldest: Oldest::of(time(reply.oldest).into_iter(), &heads, mailbox, now),
            next_due: time(reply.next_due),
            mail_in_database_0,
        })
    }
}

impl RedisQueue {
    fn lease_of(&self, row: LeaseRow, expires: Timestamp) -> Result<Lease, QueueError> {
        Ok(Lease {
            object: self.object_of(&row.object, "leasing")?,
            token: LeaseToken(row.token),
            merges: row.merges,
            priority: Priority::nearest(row.priority),
            first_requested: Timestamp::from_millis(row.first_requested),
            last_requested: Timestamp::from_millis(row.last_requested),
            attempts: row.attempts,
            lapses: row.lapses,
            held: row.held,
            held_for: (!row.held_for.is_empty()).then_some(row.held_for),
            asked: (row.asked >= 0).then(|| Timestamp::from_millis(row.asked)),
            planned: false,
            expires,
        })
    }

    fn object_of(&self, name: &str, action: &'static str) -> Result<ObjectId, QueueError> {
        name.parse().map_err(|_| self.link.unexpected(action, format!("an object named `{name}`")))
    }
}
