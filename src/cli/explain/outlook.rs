//! A short text about what will happen to an object next, and when. Pure functions.

use super::{Known, MailFound};
use crate::{
    cli::text::{count, span},
    clock::Timestamp,
    config::Pause,
    queue::{
        ORPHAN_TIMEOUT, SUSPECT_LAPSES,
        record::{CIRCUIT, DEAD_LETTERS_FULL, LAPSED, Record, State},
        suspects_together,
    },
};

/// The sentence for this object.
pub fn outlook(known: &Known) -> String {
    let text = match &known.position.record {
        Some(record) => of_record(known, record),
        None => of_mail(known),
    };
    // A pause hides everything else: no run would get as far as a circuit.
    let but = match (known.pause, &known.circuit) {
        (Some(pause), _) => {
            let switch = match pause {
                Pause::RefreshPaused => "REFRESH_PAUSED",
                Pause::DisableAutoRefreshQueue => "DISABLE_AUTO_REFRESH_QUEUE",
            };
            format!(" But {switch} is true here: runs with that setting do nothing.")
        }
        (None, Some(circuit)) => format!(
            " But {} since {}: the next probe is at {}.",
            circuit.what_is_wrong(),
            at(circuit.since, known.now),
            at(circuit.next_probe, known.now)
        ),
        (None, None) => String::new(),
    };
    format!("{text}.{but}")
}

fn of_record(known: &Known, record: &Record) -> String {
    let now = known.now;
    match record.state {
        State::Ready => {
            let place = match known.position.ahead {
                None | Some(0) => "first in the queue".to_owned(),
                Some(ahead) => format!("{} ahead", count(ahead)),
            };
            // A request that may crash its worker is tried away from others.
            let alone = if record.lapses >= SUSPECT_LAPSES {
                let others = match suspects_together(record.lapses) - 1 {
                    0 => "alone".to_owned(),
                    others => format!("with at most {others} other suspects"),
                };
                format!(". A run leases it {others}, because {} leases in a row ran out unsettled", record.lapses)
            } else {
                String::new()
            };
            let call = if is_fresh(known, record) { ". It needs no call: the stored copy is fresh enough" } else { "" };
            format!("Ready, {place}{alone}{call}")
        }
        State::Delayed => delayed(known, record),
        State::Leased => leased(record, now),
        State::Dead => dead(known, record),
    }
}

/// True when a run would make no call, by the rule of the store.
fn is_fresh(known: &Known, record: &Record) -> bool {
    let Ok(Some(looked)) = &known.store else { return false };
    let Some(fetched_at) = looked.fetched_at else { return false };
    // The tolerance of the store for clocks that are slightly ahead.
    let minute = std::time::Duration::from_secs(60);
    let hour = minute * 60;
    let fresh_until = looked.fresh_until.unwrap_or(fetched_at).min(fetched_at + hour);
    fetched_at <= known.now + minute
        && (fetched_at >= record.wanted.last + minute || known.now < fresh_until && record.wanted.last <= fresh_until)
}

fn delayed(known: &Known, record: &Record) -> String {
    let (now, ready_at) = (known.now, record.ready_at());
    // The later of the two times is the reason for the wait.
    let why = if record.hold <= record.wanted.due {
        "the requester has data that is fresh until then, or requested it for that time".to_owned()
    } else {
        let reason = record.code.as_deref().unwrap_or("unknown");
        held(record).unwrap_or_else(|| {
            format!(
                "the last attempt failed ({reason}; {} of {} attempts used)",
                record.wanted.attempts, known.max_attempts
            )
        })
    };
    if ready_at <= now {
        return format!("Ready: its delay ended at {}", at(ready_at, now));
    }
    format!("Delayed until {}: {why}", at(ready_at, now))
}

/// The reason of a hold, which counts no attempt.
fn held(record: &Record) -> Option<String> {
    let code = record.held_for.as_deref()?;
    let reason = record.reason.as_deref().unwrap_or("unknown");
    Some(match code {
        // Set aside together with its kind, without an attempt of its own.
        CIRCUIT if record.held == 0 => {
            "the endpoint of its kind is failing (open circuit); no attempt is counted".to_owned()
        }
        DEAD_LETTERS_FULL => format!(
            "it should be a dead letter ({}), but there is no room; redrive or purge some (`refresh-worker dead`)",
            record.code.as_deref().unwrap_or("unknown")
        ),
        _ => {
            let times = if record.held > 1 { format!(" {} times in a row", record.held) } else { String::new() };
            format!("it was returned{times} ({code}: {reason}); no attempt is counted")
        }
    })
}

fn leased(record: &Record, now: Timestamp) -> String {
    let holder = holder(record).unwrap_or("a run");
    let expires = record.expires.unwrap_or_default();
    let next = if record.next.is_some() {
        ". It was requested again in the meantime, so it will be refreshed once more"
    } else {
        ""
    };
    if record.planned {
        return planned(holder, expires, now, next);
    }
    if expires <= now {
        return format!("Ready again: the lease of run {holder} ran out at {}{next}", at(expires, now));
    }
    format!("Run {holder} is refreshing it. Its lease ends at {}, unless the run renews it{next}", at(expires, now))
}

/// A planned look is no request, so it ends without a trace, unless its run died.
fn planned(holder: &str, expires: Timestamp, now: Timestamp, next: &str) -> String {
    let next = if next.is_empty() { "" } else { ". It was requested in the meantime, so that request comes next" };
    if expires <= now {
        return format!(
            "A planned look was under way, and its run {holder} died: the lease ran out at {}. The next run makes it a request of \
             priority low{next}",
            at(expires, now)
        );
    }
    format!(
        "A planned look is under way: run {holder} refreshes it, though nobody asked. Its lease ends at {}, unless the run renews \
         it{next}",
        at(expires, now)
    )
}

/// The run in a lease token.
pub fn holder(record: &Record) -> Option<&str> {
    let token = record.token.as_deref()?;
    Some(token.rsplit_once(':').map_or(token, |(run, _)| run))
}

fn dead(known: &Known, record: &Record) -> String {
    let code = record.code.as_deref().unwrap_or("unknown");
    let died = at(record.died.unwrap_or_default(), known.now);
    let redrive = format!("`refresh-worker dead redrive {}`", known.object);
    // Only a person revives it, since a producer would kill the next worker.
    if code == LAPSED {
        return format!(
            "Dead letter since {died} ({code}: its workers crashed). New requests do not revive it; run {redrive}, or \
             `refresh-worker enqueue {} --revive`",
            known.object
        );
    }
    // Unreadable mail revives nothing.
    if known.mail.iter().any(|mail| mail.record.is_some()) {
        return format!("Dead letter since {died} ({code}). A new request is in the mailbox: the next run revives it");
    }
    format!("Dead letter since {died} ({code}). Nothing will happen until someone requests it again or runs {redrive}")
}

fn of_mail(known: &Known) -> String {
    let now = known.now;
    if let Some(record) =
        known.mail.iter().filter_map(|mail| mail.record.as_ref()).min_by_key(|record| record.ready_at())
    {
        let ready_at = record.ready_at();
        return if ready_at > now {
            format!("In the mailbox, not due until {}", at(ready_at, now))
        } else {
            format!("In the mailbox: the next run queues it with priority {}", record.wanted.priority)
        };
    }
    if let Some(since) = known.mail.iter().find_map(|mail: &MailFound| mail.set_aside) {
        return format!(
            "Incomplete: an index entry without data, which is dropped at {} unless the data arrives",
            at(since + ORPHAN_TIMEOUT, now)
        );
    }
    if !known.mail.is_empty() {
        return "Incomplete: an index entry without data. The next run drops it after 10 minutes, unless the data arrives"
            .to_owned();
    }
    let fetched = match &known.store {
        Err(_) => "The last fetch is unknown".to_owned(),
        Ok(None) => "Never fetched".to_owned(),
        Ok(Some(looked)) => looked
            .fetched_at
            .map_or_else(|| "Never fetched".to_owned(), |time| format!("Last fetched at {}", at(time, now))),
    };
    let letters =
        if known.letters.is_empty() { "" } else { ", but unreadable mail names it (see `refresh-worker dead show`)" };
    match &known.plan {
        Ok(Some(plan)) => format!("Not queued{letters}: {}. {fetched}", plan.outlook(now)),
        _ => format!("Not queued{letters}: nothing will happen until someone requests it. {fetched}"),
    }
}

/// `14:03:10 UTC (in 4 min 12 s)`, with the date unless it is today.
pub fn at(time: Timestamp, now: Timestamp) -> String {
    let (text, today) = (time.to_string(), now.to_string());
    let clock = &text[11..19];
    // Both are ISO 8601 in UTC, so the date is the first ten characters.
    let date = if text[..10] == today[..10] { String::new() } else { format!("{} ", &text[..10]) };
    let distance =
        if time > now { format!("in {}", span(time.since(now))) } else { format!("{} ago", span(now.since(time))) };
    format!("{date}{clock} UTC ({distance})")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        cli::explain::Plan,
        model::{EndpointKind, Priority, Reason, RefreshRequest},
        queue::{Circuit, CircuitReason, CircuitScope, Settlement, admin::Position},
        store::postgres::Looked,
    };

    const NOW: Timestamp = Timestamp::from_millis(1_772_600_767_089);
    const MINUTE: Duration = Duration::from_secs(60);

    fn known(record: Option<Record>) -> Known {
        Known {
            object: "clan:2PP".parse().unwrap(),
            now: NOW,
            position: Position { ahead: record.as_ref().map(|_| 12), record },
            mail: Vec::new(),
            letters: Vec::new(),
            store: Ok(None),
            plan: Ok(None),
            pause: None,
            circuit: None,
            max_attempts: 3,
        }
    }

    fn ready(asked: Timestamp) -> Record {
        Record::with_request(None, &RefreshRequest::now("clan:2PP".parse().unwrap(), Priority::High, asked), NOW)
    }

    fn leased() -> Record {
        let mut record = ready(NOW);
        record.lease("clan:2PP".parse().unwrap(), "3f9a:c:7".to_owned(), NOW + MINUTE / 4);
        record
    }

    #[test]
    fn every_state_has_a_sentence() {
        let failed = Settlement::Failed { until: NOW + MINUTE * 4, reason: Reason::new("timeout", "") };
        let dead = Settlement::Dead { reason: Reason::new("wrong_tag", ""), body: None };
        let held = Settlement::Held { reason: Reason::new("maintenance", "503 from two of them") };
        let mut aside = ready(NOW);
        aside.set_aside(NOW + MINUTE, NOW);
        let mut lapsed = leased();
        lapsed.expires = Some(NOW - MINUTE);
        lapsed.next = Some(ready(NOW).wanted);
        let mut suspect = ready(NOW);
        suspect.lapses = 2;
        let mut died_with_its_workers = ready(NOW);
        for _ in 0..5 {
            died_with_its_workers.lapse(true, NOW);
        }
        let later = Record::with_request(
            None,
            &RefreshRequest {
                due: NOW + MINUTE * 60 * 20,
                ..RefreshRequest::now("clan:2PP".parse().unwrap(), Priority::Low, NOW)
            },
            NOW,
        );
        let states = [
            Some(ready(NOW)),
            Some(suspect),
            Some(leased()),
            Some(lapsed),
            leased().settle(&failed, true, NOW),
            Some(later),
            leased().settle(&dead, true, NOW),
            Some(died_with_its_workers),
            None,
            leased().settle(&held, true, NOW),
            Some(aside),
            leased().settle(&dead, false, NOW),
        ];
        let sentences: Vec<String> = states.into_iter().map(|record| outlook(&known(record))).collect();
        insta::assert_snapshot!(sentences.join("\n"));
    }

    #[test]
    fn planned_look_is_called_so() {
        let mut record = Record::planned(NOW);
        record.lease("clan:2PP".parse().unwrap(), "3f9a:c-7".to_owned(), NOW + MINUTE / 4);
        let text = outlook(&known(Some(record.clone())));
        assert!(text.starts_with("A planned look is under way: run 3f9a refreshes it, though nobody asked."), "{text}");
        record.next = Some(ready(NOW).wanted);
        let text = outlook(&known(Some(record.clone())));
        assert!(text.ends_with("It was requested in the meantime, so that request comes next."), "{text}");
        record.expires = Some(NOW - MINUTE);
        let text = outlook(&known(Some(record)));
        assert!(text.contains("its run 3f9a died"), "{text}");
    }

    #[test]
    fn object_in_the_plan_has_a_next_look() {
        let mut plan = crate::cli::explain::plan::tests::plan();
        let text = |plan: &Plan| outlook(&Known { plan: Ok(Some(plan.clone())), ..known(None) });
        assert!(text(&plan).starts_with("Not queued: its planned look is at 05:0"), "{}", text(&plan));
        plan.is_on = false;
        assert!(
            text(&plan).contains("nothing will happen until someone requests it. Its planned look"),
            "{}",
            text(&plan)
        );
        assert!(text(&plan).ends_with("(it is off here). Never fetched."), "{}", text(&plan));
    }

    #[test]
    fn fresh_object_needs_no_call() {
        let looked = Looked { fetched_at: Some(NOW - MINUTE), ..Looked::default() };
        let known = Known { store: Ok(Some(looked)), ..known(Some(ready(NOW - MINUTE * 5))) };
        assert!(outlook(&known).contains("needs no call"), "{}", outlook(&known));
    }

    #[test]
    fn open_circuit_is_mentioned() {
        let circuit = |scope, code| Circuit {
            scope,
            since: NOW - MINUTE,
            next_probe: NOW + MINUTE,
            reason: CircuitReason::new(code, "status 500"),
        };
        let with = |circuit| outlook(&Known { circuit: Some(circuit), ..known(Some(ready(NOW))) });
        let maintenance = with(circuit(CircuitScope::Api, CircuitReason::MAINTENANCE));
        assert!(maintenance.contains("But the API is in maintenance since 05:05:"), "{maintenance}");
        let wars = with(circuit(CircuitScope::Endpoint(EndpointKind::CurrentWar), "failing"));
        assert!(wars.contains("But no current_war calls are made (failing: status 500) since 05:05:"), "{wars}");
    }

    #[test]
    fn pause_is_mentioned() {
        let known = Known { pause: Some(Pause::RefreshPaused), ..known(Some(ready(NOW))) };
        assert!(outlook(&known).contains("REFRESH_PAUSED is true"), "{}", outlook(&known));
    }
}
