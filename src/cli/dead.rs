//! `dead list` and `dead redrive`: what was set aside, and bringing it back.

use anyhow::Context as _;
use clap::{ArgGroup, Args, Subcommand};

use super::{
    Ending, Misuse, Shared, connect,
    text::{self, Align, Style, Table, counted, short, span},
};
use crate::{
    clock::Timestamp,
    model::{Kind, ObjectId},
    queue::{DeadFilter, DeadLetter, Queue},
};

/// Shows requests that were set aside, or brings them back
///
/// A dead letter is a request that failed for good (a refused tag, attempts used up, unreadable mail) and waits for a
/// person. Except for `lapsed` ones, a new request for the same object revives it too.
#[derive(Debug, Args)]
pub struct DeadArgs {
    #[command(subcommand)]
    command: DeadCommand,
}

#[derive(Debug, Subcommand)]
enum DeadCommand {
    List(ListArgs),
    Redrive(RedriveArgs),
}

/// Shows dead letters, the newest first
///
/// Needs REDIS_URL.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  refresh-worker dead list --kind clan
  refresh-worker dead list --reason lapsed --json")]
struct ListArgs {
    #[command(flatten)]
    which: Which,
    /// Show at most this many
    #[arg(long, default_value_t = 50, value_name = "COUNT")]
    limit: usize,
    /// Write JSON, one dead letter a line, with the start of the answer or mail that caused it
    #[arg(long)]
    json: bool,
}

/// Brings dead letters back with a clean record
///
/// Requests become ready again with attempts and lapses 0; unreadable mail goes back into the mailbox as it was.
/// Needs REDIS_URL.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("which_ones").required(true).multiple(true).args(["names", "all", "kind", "reason"]))]
#[command(after_help = "\
Examples:
  refresh-worker dead redrive clan:#2PP player:#8GQL2
  refresh-worker dead redrive --reason attempts_used_up
  refresh-worker dead redrive --all")]
struct RedriveArgs {
    /// Names as `dead list` shows them
    #[arg(value_name = "NAME", conflicts_with_all = ["all"])]
    names: Vec<String>,
    /// Every dead letter
    #[arg(long, conflicts_with_all = ["kind", "reason"])]
    all: bool,
    #[command(flatten)]
    which: Which,
}

#[derive(Debug, Args)]
struct Which {
    /// Only this kind: clan, player or war
    #[arg(long, value_name = "KIND")]
    kind: Option<Kind>,
    /// Only this reason, as the list shows it
    #[arg(long, value_name = "CODE")]
    reason: Option<String>,
}

pub async fn run(args: DeadArgs, shared: &Shared) -> anyhow::Result<Ending> {
    match args.command {
        DeadCommand::List(args) => list(args, shared).await,
        DeadCommand::Redrive(args) => redrive(args).await,
    }
}

async fn list(args: ListArgs, shared: &Shared) -> anyhow::Result<Ending> {
    let queue = connect::queue()?;
    let now = queue.time().await.context("failed to read dead letters")?;
    let filter = DeadFilter { names: Vec::new(), kind: args.which.kind, reason_code: args.which.reason };
    // One more than is shown, to know whether there are more.
    let asked = args.limit.saturating_add(1);
    let mut letters = queue.dead_letters(&filter, asked).await.context("failed to read dead letters")?;
    let more = letters.len() > args.limit;
    letters.truncate(args.limit);
    let told =
        if args.json { letters.iter().map(json_line).collect() } else { render(&letters, more, now, shared.style()) };
    text::print(&told)?;
    Ok(Ending::Well)
}

fn json_line(letter: &DeadLetter) -> String {
    let json = serde_json::json!({
        "name": letter.name,
        "died": letter.died.to_string(),
        "reason_code": letter.reason_code,
        "reason": letter.reason,
        "attempts": letter.attempts,
        "lapses": letter.lapses,
        "body": letter.body,
    });
    json.to_string() + "\n"
}

/// Dead letters as a table.
#[must_use]
pub fn render(letters: &[DeadLetter], more: bool, now: Timestamp, style: Style) -> String {
    if letters.is_empty() {
        return "no dead letters\n".to_owned();
    }
    let mut table = Table::new([
        ("name", Align::Left),
        ("age", Align::Right),
        ("attempts", Align::Right),
        ("reason", Align::Left),
        ("", Align::Left),
    ]);
    for letter in letters {
        let age = span(now.since(letter.died));
        table.row([
            short(&letter.name, 40),
            age,
            letter.attempts.to_string(),
            letter.reason_code.clone(),
            short(&letter.reason, 100),
        ]);
    }
    let mut told = table.render(style);
    if more {
        told.push_str("  and more: raise --limit, or narrow down with --kind and --reason\n");
    }
    told
}

async fn redrive(args: RedriveArgs) -> anyhow::Result<Ending> {
    let names = args.names.iter().map(|name| normalised(name)).collect::<Result<Vec<_>, _>>()?;
    let asked_for = names.len();
    let queue = connect::queue()?;
    let now = queue.time().await.context("failed to redrive")?;
    let filter = DeadFilter { names, kind: args.which.kind, reason_code: args.which.reason };
    let back = queue.redrive(now, &filter).await.context("failed to redrive")?;
    text::print(&format!("brought back {}\n", counted(back as u64, "dead letter", "dead letters")))?;
    if back < asked_for {
        let missing = counted((asked_for - back) as u64, "of the names is", "of the names are");
        eprintln!("{missing} no dead letter, or not of that kind and reason: see `refresh-worker dead list`");
        return Ok(Ending::Badly);
    }
    Ok(Ending::Well)
}

/// A name as the queue keeps it: objects in their normal spelling, `mail:<id>` as it is.
fn normalised(name: &str) -> Result<String, Misuse> {
    if name.starts_with("mail:") {
        return Ok(name.to_owned());
    }
    let object: ObjectId = name.parse().map_err(|error| Misuse(format!("nothing was brought back: {error}")))?;
    Ok(object.to_string())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_772_600_767_089);

    #[test]
    fn dead_letters_are_listed_with_age_attempts_and_reason() {
        let letters = [
            DeadLetter {
                name: "clan:2PP".to_owned(),
                died: NOW - Duration::from_secs(75),
                reason_code: "wrong_tag".to_owned(),
                reason: "asked for #2PP, got\n#2PQ".to_owned(),
                attempts: 1,
                lapses: 0,
                body: None,
            },
            DeadLetter {
                name: "mail:clan:#abc".to_owned(),
                died: NOW - Duration::from_secs(4000),
                reason_code: "impossible_tag".to_owned(),
                reason: "tag `abc` has the character 'A'".to_owned(),
                attempts: 0,
                lapses: 0,
                body: Some("{}".to_owned()),
            },
        ];
        insta::assert_snapshot!(render(&letters, true, NOW, Style::PLAIN), @r"
        name                   age  attempts  reason
        clan:2PP        1 min 15 s         1  wrong_tag       asked for #2PP, got #2PQ
        mail:clan:#abc  1 h 06 min         0  impossible_tag  tag `abc` has the character 'A'
        and more: raise --limit, or narrow down with --kind and --reason
        ");
        assert!(json_line(&letters[0]).starts_with('{'));
    }

    #[test]
    fn names_of_objects_are_taken_in_any_spelling_and_names_of_mail_as_they_are() {
        assert_eq!(normalised("clan:#2pp").unwrap(), "clan:2PP");
        assert_eq!(normalised("mail:clan:#abc").unwrap(), "mail:clan:#abc");
        assert!(normalised("clan:#abc").is_err());
    }
}
