//! The facts about an object, as text and as JSON.

use serde_json::{Value, json};

use super::{
    Known,
    outlook::{at, holder, outlook},
};
use crate::{
    cli::text::{Align, Style, Table, count, counted, short},
    clock::Timestamp,
    queue::{
        admin::Position,
        record::{Record, State, Wanted},
    },
};

/// The facts for people. `argument` is what was typed.
pub fn text(argument: &str, known: &Known, style: Style) -> String {
    let mut table = Table::new([("", Align::Left), ("", Align::Left)]);
    table.row(["read as", &format!("`{}` is {} {}", short(argument, 60), known.object.kind, known.object.tag)]);
    mail_rows(&mut table, known);
    match &known.position.record {
        None => table.row(["queue", "not queued"]),
        Some(record) => record_rows(&mut table, record, &known.position, known),
    }
    for letter in &known.letters {
        let text = format!("{}: {}: {}", short(&letter.name, 60), letter.reason_code, short(&letter.reason, 100));
        table.row(["unreadable mail", &text]);
    }
    store_rows(&mut table, known);
    match &known.plan {
        Ok(Some(plan)) => plan.rows(&mut table, known.now),
        Ok(None) => {}
        Err(why) => table.row(["plan", &format!("not read: {}", short(why, 300))]),
    }
    format!("{}\n{}{}\n", style.bold(&known.object.to_string()), table.render(style), style.bold(&outlook(known)))
}

fn mail_rows(table: &mut Table, known: &Known) {
    for mail in &known.mail {
        let what = match (&mail.score, &mail.value, mail.set_aside) {
            (_, _, Some(since)) => format!("no data since {}", at(since, known.now)),
            (Some(score), Some(value), _) => format!("score {score}, {}", short(value, 300)),
            (None, Some(value), _) => format!("no index entry, {}", short(value, 300)),
            (Some(score), None, _) => format!("score {score}, no data"),
            // Admitted between the two reads of the mailbox.
            (None, None, _) => "gone in the meantime".to_owned(),
        };
        table.row(["mail", &format!("`{}`: {what}", short(&mail.id, 60))]);
    }
    if known.mail.is_empty() {
        table.row(["mail", "none"]);
    }
}

fn record_rows(table: &mut Table, record: &Record, position: &Position, known: &Known) {
    let now = known.now;
    let place = match (record.state, position.ahead) {
        (State::Ready, Some(ahead)) => format!(", {} ahead", count(ahead)),
        _ => String::new(),
    };
    if record.planned {
        table.row(["queue", &format!("planned look, since {}", at(record.wanted.first, now))]);
    } else {
        table.row(["queue", &format!("{}, {}{place}", state_name(record.state), record.wanted.priority)]);
        wanted_rows(table, &record.wanted, now);
    }
    if record.hold > Timestamp::EPOCH {
        table.row(["held until", &at(record.hold, now)]);
    }
    if !record.planned {
        table.row(["failed attempts", &format!("{} of {}", record.wanted.attempts, known.max_attempts)]);
    }
    if record.lapses > 0 {
        table.row(["lapses", &format!("{} in a row (leases that ran out unsettled)", record.lapses)]);
    }
    table.row(["requested", &counted(record.merges, "time", "times")]);
    if record.state == State::Leased {
        let expires = at(record.expires.unwrap_or_default(), now);
        table.row(["lease", &format!("run {} until {expires}", holder(record).unwrap_or("unknown"))]);
    }
    if let Some(next) = &record.next {
        let text = format!("{}, requested {}, due {}", next.priority, at(next.last, now), at(next.due, now));
        table.row(["next request", &text]);
    }
    if let Some(died) = record.died {
        table.row(["died", &at(died, now)]);
    }
    if let Some(code) = &record.code {
        let name = match (record.state, record.held) {
            (State::Dead, _) => "reason",
            // A hold without a number is an ordinary delay after a failure.
            (_, 0) => "last failure",
            _ => "held for",
        };
        table.row([name, &format!("{code}: {}", short(record.reason.as_deref().unwrap_or_default(), 300))]);
    }
    if let Some(body) = &record.body {
        table.row(["received", &short(body, 500)]);
    }
}

fn wanted_rows(table: &mut Table, wanted: &Wanted, now: Timestamp) {
    table.row(["first requested", &at(wanted.first, now)]);
    table.row(["last requested", &at(wanted.last, now)]);
    if let Some(asked) = wanted.asked {
        table.row(["a reader asked", &at(asked, now)]);
    }
    table.row(["due", &at(wanted.due, now)]);
}

fn store_rows(table: &mut Table, known: &Known) {
    let now = known.now;
    let looked = match &known.store {
        Err(why) => return table.row(["database", &format!("not read: {}", short(why, 300))]),
        Ok(None) => return table.row(["database", "never fetched"]),
        Ok(Some(looked)) => looked,
    };
    let mut row = |name: &str, time: Option<Timestamp>, absent: &str| {
        let text = time.map_or_else(|| absent.to_owned(), |time| at(time, now));
        if !text.is_empty() {
            table.row([name, &text]);
        }
    };
    row("last fetched", looked.fetched_at, "never");
    row("last changed", looked.changed_at, "");
    row("fresh until", looked.fresh_until, "");
    row("last seen as a member", looked.member_at, "");
    if let Some(outcome) = &looked.last_outcome {
        table.row(["last outcome", outcome]);
    }
    for error in &looked.errors {
        table.row([
            "error",
            &format!("{}, run {}: {}", at(error.started, now), short(&error.run, 40), short(&error.text, 200)),
        ]);
    }
}

const fn state_name(state: State) -> &'static str {
    match state {
        State::Ready => "ready",
        State::Delayed => "delayed",
        State::Leased => "leased",
        State::Dead => "dead letter",
    }
}

/// The facts for programs.
pub fn json(known: &Known) -> Value {
    let mail: Vec<Value> = known
        .mail
        .iter()
        .map(|mail| {
            json!({
                "id": mail.id,
                "score": mail.score,
                "value": mail.value,
                "set_aside": mail.set_aside.map(|time| time.to_string()),
            })
        })
        .collect();
    let mut json = json!({
        "object": known.object.to_string(),
        "now": known.now.to_string(),
        "mail": mail,
        "queue": known.position.record.as_ref().map(|record| queue_json(record, &known.position)),
        "unreadable_mail": known.letters.iter().map(|letter| &letter.name).collect::<Vec<_>>(),
        "database": match &known.store {
            Err(why) => json!({"read": false, "because": why}),
            Ok(looked) => store_json(looked.as_ref()),
        },
        "outlook": outlook(known),
    });
    match &known.plan {
        Ok(Some(plan)) => json["plan"] = plan.json(known.now),
        Ok(None) => {}
        Err(why) => json["plan"] = json!({"read": false, "because": why}),
    }
    json
}

fn queue_json(record: &Record, position: &Position) -> Value {
    let time = |time: Timestamp| time.to_string();
    json!({
        "state": record.state,
        "priority": record.wanted.priority,
        "ahead": position.ahead,
        "first_requested": time(record.wanted.first),
        "last_requested": time(record.wanted.last),
        "reader_asked": record.wanted.asked.map(time),
        "planned": record.planned,
        "due": time(record.wanted.due),
        "held_until": (record.hold > Timestamp::EPOCH).then(|| time(record.hold)),
        "held_times": record.held,
        "held_for": record.held_for,
        "attempts": record.wanted.attempts,
        "lapses": record.lapses,
        "merges": record.merges,
        "leased_by": holder(record),
        "lease_expires": record.expires.map(time),
        "next_request": record.next.as_ref().map(|next| json!({
            "priority": next.priority,
            "last_requested": time(next.last),
            "reader_asked": next.asked.map(time),
            "due": time(next.due),
        })),
        "died": record.died.map(time),
        "reason_code": record.code,
        "reason": record.reason,
        "body": record.body,
    })
}

fn store_json(looked: Option<&crate::store::postgres::Looked>) -> Value {
    let time = |time: Option<Timestamp>| time.map(|time| time.to_string());
    let Some(looked) = looked else { return json!({"read": true, "last_fetched": null}) };
    let mut json = json!({
        "read": true,
        "last_fetched": time(looked.fetched_at),
        "last_changed": time(looked.changed_at),
        "fresh_until": time(looked.fresh_until),
        "last_seen_as_member": time(looked.member_at),
        "last_outcome": looked.last_outcome,
    });
    json["errors"] = looked
        .errors
        .iter()
        .map(|error| json!({"run": error.run, "started": error.started.to_string(), "error": error.text}))
        .collect();
    json
}
