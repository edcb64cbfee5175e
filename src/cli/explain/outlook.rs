//! What will happen to an object next, and when, in one sentence. Pure functions.

use super::{Known, MailFound};
use crate::{
    cli::text::{count, span},
    clock::Timestamp,
    config::Pause,
    queue::{
        ORPHAN_PATIENCE, SUSPECT_LAPSES,
        record::{CIRCUIT, DEAD_LETTERS_FULL, LAPSED, Record, State},
        suspects_together,
    },
};

/// The sentence.
pub fn outlook(known: &Known) -> String {
    let told = match &known.standing.record {
        Some(record) => of_record(known, record),
        None => of_mail(known),
    };
    let but = match (known.pause, &known.circuit) {
        (Some(pause), _) => {
            let switch = match pause {
                Pause::RefreshPaused => "REFRESH_PAUSED",
                Pause::DisableAutoRefreshQueue => "DISABLE_AUTO_REFRESH_QUEUE",
            };
            format!("; but {switch} is true here: as long as runs see that, they do nothing")
        }
        (None, Some(circuit)) => format!(
            "; but {} since {}: the next probe is at {}",
            circuit.what_is_wrong(),
            at(circuit.since, known.now),
            at(circuit.next_probe, known.now)
        ),
        (None, None) => String::new(),
    };
    format!("{told}{but}.")
}

fn of_record(known: &Known, record: &Record) -> String {
    let now = known.now;
    match record.state {
        State::Ready => {
            let place = match known.standing.ahead {
                None | Some(0) => "it is the first in order".to_owned(),
                Some(1) => "1 comes before it".to_owned(),
                Some(ahead) => format!("{} come before it", count(ahead)),
            };
            let alone = if record.lapses >= SUSPECT_LAPSES {
                let others = match suspects_together(record.lapses) - 1 {
                    0 => "alone, with nothing else in flight".to_owned(),
                    others => format!("with nothing else in flight but up to {others} others like it"),
                };
                format!(" {others}, because {} leases of it in a row ran out unsettled", record.lapses)
            } else {
                String::new()
            };
            let call = if is_answered(known, record) {
                ", and answers it without a call: what is stored is new enough"
            } else {
                ""
            };
            format!("it is ready: the next run leases it{alone} ({place}){call}")
        }
        State::Delayed => delayed(known, record),
        State::Leased => leased(record, now),
        State::Dead => dead(known, record),
    }
}

/// The rule by which a run makes no call.
fn is_answered(known: &Known, record: &Record) -> bool {
    let Ok(Some(looked)) = &known.store else { return false };
    let Some(fetched_at) = looked.fetched_at else { return false };
    let minute = std::time::Duration::from_secs(60);
    let hour = minute * 60;
    let fresh_until = looked.fresh_until.unwrap_or(fetched_at).min(fetched_at + hour);
    fetched_at <= known.now + minute
        && (fetched_at >= record.wanted.last + minute || known.now < fresh_until && record.wanted.last <= fresh_until)
}

fn delayed(known: &Known, record: &Record) -> String {
    let (now, ready_at) = (known.now, record.ready_at());
    let why = if record.hold <= record.wanted.due {
        "the data its asker knew of is fresh enough until then, or it was asked for as of that time".to_owned()
    } else {
        let reason = record.code.as_deref().unwrap_or("unknown");
        held(record).unwrap_or_else(|| {
            format!("its last attempt failed ({reason}), {} of {} are used", record.wanted.attempts, known.max_attempts)
        })
    };
    if ready_at <= now {
        return format!("its delay ended at {}: the next run makes it ready and leases it", at(ready_at, now));
    }
    format!("it is delayed until {} because {why}; the first run after that leases it", at(ready_at, now))
}

/// Why it waits without a fault of its own.
fn held(record: &Record) -> Option<String> {
    let code = record.held_for.as_deref()?;
    let reason = record.reason.as_deref().unwrap_or("unknown");
    Some(match code {
        CIRCUIT if record.held == 0 => {
            "the endpoint that serves its kind fails (circuit), so that it was set aside; nothing is counted".to_owned()
        }
        DEAD_LETTERS_FULL => format!(
            "it would be a dead letter ({}), and their room is full: redrive or purge some (`refresh-worker dead`)",
            record.code.as_deref().unwrap_or("unknown")
        ),
        _ => {
            let times = if record.held > 1 { format!(" {} times in a row", record.held) } else { String::new() };
            format!("it was returned{times} ({code}: {reason}); nothing is counted")
        }
    })
}

fn leased(record: &Record, now: Timestamp) -> String {
    let holder = holder(record).unwrap_or("a run");
    let expires = record.expires.unwrap_or_default();
    let next = if record.next.is_some() {
        "; it was asked for again meanwhile, so it is refreshed once more after that"
    } else {
        ""
    };
    if expires <= now {
        return format!(
            "the lease of run {holder} ran out at {}: the next run takes it back and leases it anew{next}",
            at(expires, now)
        );
    }
    format!(
        "run {holder} is refreshing it; if it does not settle it by {}, the next run takes it over{next}",
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
    if code == LAPSED {
        return format!(
            "it is a dead letter since {died} ({code}: its workers did not survive it): it is not queued, whoever asks for it, \
             until {redrive} or `refresh-worker enqueue {} --revive`",
            known.object
        );
    }
    if known.mail.iter().any(|mail| mail.record.is_some()) {
        return format!(
            "it is a dead letter since {died} ({code}), and mail for it waits: the next run admits that and tries again"
        );
    }
    format!(
        "it is a dead letter since {died} ({code}): nothing happens to it until it is asked for again, or {redrive}"
    )
}

fn of_mail(known: &Known) -> String {
    let now = known.now;
    if let Some(record) =
        known.mail.iter().filter_map(|mail| mail.record.as_ref()).min_by_key(|record| record.ready_at())
    {
        let ready_at = record.ready_at();
        return if ready_at > now {
            format!(
                "the next run takes it out of the mailbox and delays it until {}, as its mail asks",
                at(ready_at, now)
            )
        } else {
            format!("the next run takes it out of the mailbox, where it is ready as {}", record.wanted.priority)
        };
    }
    if let Some(since) = known.mail.iter().find_map(|mail: &MailFound| mail.set_aside) {
        return format!(
            "an index entry waits for its data: when that does not come by {} it is dropped",
            at(since + ORPHAN_PATIENCE, now)
        );
    }
    if !known.mail.is_empty() {
        return "an index entry names it, and its data is not there: the next run sets it aside for 10 minutes"
            .to_owned();
    }
    let fetched = match &known.store {
        Err(_) => "; what the database knows could not be asked".to_owned(),
        Ok(None) => "; it was never fetched".to_owned(),
        Ok(Some(looked)) => looked.fetched_at.map_or_else(
            || "; it was never fetched itself".to_owned(),
            |time| format!("; it was last fetched at {}", at(time, now)),
        ),
    };
    let letters = if known.letters.is_empty() {
        ""
    } else {
        ", though unreadable mail names it (see `refresh-worker dead show`)"
    };
    format!("nobody waits for it{letters}: nothing happens until it is asked for{fetched}")
}

/// `14:03:10 UTC (in 4 min 12 s)`; with its date when that is not today's.
pub fn at(time: Timestamp, now: Timestamp) -> String {
    let (text, today) = (time.to_string(), now.to_string());
    let clock = &text[11..19];
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
        model::{EndpointKind, Priority, Reason, RefreshRequest},
        queue::{Circuit, CircuitReason, CircuitScope, Settlement, archive::Standing},
        store::postgres::Looked,
    };

    const NOW: Timestamp = Timestamp::from_millis(1_772_600_767_089);
    const MINUTE: Duration = Duration::from_secs(60);

    fn known(record: Option<Record>) -> Known {
        Known {
            object: "clan:2PP".parse().unwrap(),
            now: NOW,
            standing: Standing { ahead: record.as_ref().map(|_| 12), record },
            mail: Vec::new(),
            letters: Vec::new(),
            store: Ok(None),
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
    fn every_state_has_its_sentence() {
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
            &RefreshRequest { due: NOW + MINUTE * 60 * 20, ..RefreshRequest::now("clan:2PP".parse().unwrap(), Priority::Low, NOW) },
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
        let told: Vec<String> = states.into_iter().map(|record| outlook(&known(record))).collect();
        insta::assert_snapshot!(told.join("\n"));
    }

    #[test]
    fn what_is_new_enough_is_known_to_need_no_call() {
        let looked = Looked { fetched_at: Some(NOW - MINUTE), ..Looked::default() };
        let known = Known { store: Ok(Some(looked)), ..known(Some(ready(NOW - MINUTE * 5))) };
        assert!(outlook(&known).contains("without a call"), "{}", outlook(&known));
    }

    #[test]
    fn an_open_circuit_is_part_of_the_sentence() {
        let circuit = |scope, code| Circuit {
            scope,
            since: NOW - MINUTE,
            next_probe: NOW + MINUTE,
            reason: CircuitReason::new(code, "status 500"),
        };
        let with = |circuit| outlook(&Known { circuit: Some(circuit), ..known(Some(ready(NOW))) });
        let maintenance = with(circuit(CircuitScope::Api, CircuitReason::MAINTENANCE));
        assert!(maintenance.contains("but the API is in maintenance since 05:05:"), "{maintenance}");
        let wars = with(circuit(CircuitScope::Endpoint(EndpointKind::CurrentWar), "failing"));
        assert!(wars.contains("but no current_war calls are made (failing: status 500) since 05:05:"), "{wars}");
    }

    #[test]
    fn a_pause_is_part_of_the_sentence() {
        let known = Known { pause: Some(Pause::RefreshPaused), ..known(Some(ready(NOW))) };
        assert!(outlook(&known).contains("REFRESH_PAUSED is true"), "{}", outlook(&known));
    }
}
