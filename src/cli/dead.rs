//! `dead`: lists, shows, redrives and purges dead letters.

use std::{
    io::{self, IsTerminal as _},
    time::Duration,
};

use anyhow::Context as _;
use clap::{ArgGroup, Args, Subcommand};

use super::{
    Exit, Misuse, Shared, connect,
    text::{self, Align, Style, Table, counted, short, span},
};
use crate::{
    clock::Timestamp,
    model::{Kind, ObjectId},
    queue::{DeadFilter, DeadLetter, Queue, admin::QueueAdmin as _},
};

/// Shows dead letters, returns them to the queue, or deletes them for good
///
/// A dead letter is a request that failed for good (an impossible tag, all attempts used up, unreadable mail) and waits
/// for a person. A new request for the same object revives it, too, unless it is `lapsed`.
#[derive(Debug, Args)]
pub struct DeadArgs {
    #[command(subcommand)]
    command: DeadCommand,
}

#[derive(Debug, Subcommand)]
enum DeadCommand {
    List(ListArgs),
    Show(ShowArgs),
    Redrive(RedriveArgs),
    Purge(PurgeArgs),
}

/// Lists dead letters, newest first
///
/// Needs REDIS_URL.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  refresh-worker dead list --kind clan
  refresh-worker dead list --reason lapsed --older-than 2d --json")]
struct ListArgs {
    #[command(flatten)]
    which: Which,
    /// Show at most this many
    #[arg(long, default_value_t = 50, value_name = "COUNT")]
    limit: usize,
    /// Write JSON, one dead letter per line, with the beginning of the response or mail that caused it
    #[arg(long)]
    json: bool,
}

/// Shows all details of dead letters
///
/// The reason, the attempts, the times of the request and of its death, and the first 500 bytes of the response or mail
/// that caused it. Needs REDIS_URL.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("which_ones").required(true).multiple(true).args(["names", "all", "kind", "reason", "older_than"]))]
#[command(after_help = "\
Examples:
  refresh-worker dead show clan:#2PP
  refresh-worker dead show mail:clan:#abc
  refresh-worker dead show --reason wrong_tag --json")]
struct ShowArgs {
    #[command(flatten)]
    these: These,
    /// Write JSON, one dead letter per line
    #[arg(long)]
    json: bool,
}

/// Returns dead letters to the queue and resets their attempts
///
/// Requests become ready again, with 0 attempts and 0 lapses. Unreadable mail returns to the mailbox unchanged. Needs
/// REDIS_URL.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("which_ones").required(true).multiple(true).args(["names", "all", "kind", "reason", "older_than"]))]
#[command(after_help = "\
Examples:
  refresh-worker dead redrive clan:#2PP player:#8GQL2
  refresh-worker dead redrive --reason attempts_used_up
  refresh-worker dead redrive --all")]
struct RedriveArgs {
    #[command(flatten)]
    these: These,
    /// Write JSON: the number of dead letters that were returned
    #[arg(long)]
    json: bool,
}

/// Deletes dead letters for good
///
/// Shows how many and asks for confirmation; without a terminal it needs --yes. A dead letter stays if it changed in the
/// meantime, because it was requested again or died again. Needs REDIS_URL.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("which_ones").required(true).multiple(true).args(["names", "all", "kind", "reason", "older_than"]))]
#[command(after_help = "\
Examples:
  refresh-worker dead purge --older-than 30d
  refresh-worker dead purge --reason impossible_tag --yes
  refresh-worker dead purge mail:clan:#abc --yes")]
struct PurgeArgs {
    #[command(flatten)]
    these: These,
    /// Delete without asking
    #[arg(long)]
    yes: bool,
    /// Write JSON: the number of dead letters that were deleted
    #[arg(long)]
    json: bool,
}

/// The dead letters that a command is about: by name, all, or by filter.
#[derive(Debug, Args)]
struct These {
    /// Names as `dead list` shows them
    #[arg(value_name = "NAME", conflicts_with_all = ["all"])]
    names: Vec<String>,
    /// Every dead letter
    #[arg(long, conflicts_with_all = ["kind", "reason", "older_than"])]
    all: bool,
    #[command(flatten)]
    which: Which,
}

#[derive(Debug, Args)]
struct Which {
    /// Only this kind: clan, player or war
    #[arg(long, value_name = "KIND")]
    kind: Option<Kind>,
    /// Only this reason, as `dead list` shows it
    #[arg(long, value_name = "CODE")]
    reason: Option<String>,
    /// Only those that died longer ago than this: 90s, 30m, 12h, 2d, 1w
    #[arg(long, value_name = "AGE", value_parser = text::parse_span)]
    older_than: Option<Duration>,
}

impl Which {
    fn filter(self, names: Vec<String>, now: Timestamp) -> DeadFilter {
        let died_before = self.older_than.map(|age| now - age);
        DeadFilter { names, kind: self.kind, reason_code: self.reason, died_before }
    }
}

impl These {
    fn filter(self, now: Timestamp) -> Result<DeadFilter, Misuse> {
        let mut names = self.names.iter().map(|name| normalised(name)).collect::<Result<Vec<_>, _>>()?;
        names.sort_unstable();
        // A name given twice must not count as missing.
        names.dedup();
        Ok(self.which.filter(names, now))
    }
}

pub async fn run(args: DeadArgs, shared: &Shared) -> anyhow::Result<Exit> {
    match args.command {
        DeadCommand::List(args) => list(args, shared).await,
        DeadCommand::Show(args) => show(args, shared).await,
        DeadCommand::Redrive(args) => redrive(args).await,
        DeadCommand::Purge(args) => purge(args).await,
    }
}

async fn list(args: ListArgs, shared: &Shared) -> anyhow::Result<Exit> {
    let queue = connect::queue()?;
    let now = queue.time().await?;
    let filter = args.which.filter(Vec::new(), now);
    // One more than is shown reveals whether there are more.
    let mut letters = queue.dead_letters(&filter, args.limit.saturating_add(1)).await?;
    let more = letters.len() > args.limit;
    letters.truncate(args.limit);
    let output =
        if args.json { letters.iter().map(json_line).collect() } else { render(&letters, more, now, shared.style()) };
    text::print(&output)?;
    Ok(Exit::Success)
}

async fn show(args: ShowArgs, shared: &Shared) -> anyhow::Result<Exit> {
    let queue = connect::queue()?;
    let now = queue.time().await?;
    let filter = args.these.filter(now)?;
    let letters = queue.dead_letters(&filter, usize::MAX).await?;
    if args.json {
        text::print(&letters.iter().map(json_line).collect::<String>())?;
    } else if letters.is_empty() && filter.names.is_empty() {
        text::print("no dead letters\n")?;
    } else {
        let details: Vec<String> = letters.iter().map(|letter| render_whole(letter, now, shared.style())).collect();
        text::print(&details.join("\n"))?;
    }
    Ok(missing(&filter.names, letters.len(), "shown"))
}

fn json_line(letter: &DeadLetter) -> String {
    let request = letter.request.as_ref();
    let json = serde_json::json!({
        "name": letter.name,
        "died": letter.died.to_string(),
        "reason_code": letter.reason_code,
        "reason": letter.reason,
        "attempts": letter.attempts,
        "lapses": letter.lapses,
        "body": letter.body,
        "priority": request.map(|request| request.priority),
        "first_requested": request.map(|request| request.first_requested.to_string()),
        "last_requested": request.map(|request| request.last_requested.to_string()),
        "merges": request.map(|request| request.merges),
        "score": letter.score,
        "can_be_redriven": letter.can_be_redriven,
    });
    json.to_string() + "\n"
}

/// All details of one dead letter.
fn render_whole(letter: &DeadLetter, now: Timestamp, style: Style) -> String {
    let ago = |time: Timestamp| format!("{time} ({} ago)", span(now.since(time)));
    let mut table = Table::new([("", Align::Left), ("", Align::Left)]);
    table.row(["died", &ago(letter.died)]);
    table.row(["reason", &format!("{}: {}", letter.reason_code, short(&letter.reason, 300))]);
    if let Some(request) = &letter.request {
        table.row(["priority", request.priority.as_str()]);
        table.row(["first requested", &ago(request.first_requested)]);
        table.row(["last requested", &ago(request.last_requested)]);
        table.row(["attempts", &letter.attempts.to_string()]);
        table.row(["lapses", &letter.lapses.to_string()]);
        table.row(["requested", &counted(request.merges, "time", "times")]);
    }
    if let Some(score) = &letter.score {
        table.row(["score", score]);
    }
    if !letter.can_be_redriven {
        table.row(["redrive", "impossible: it was too large to be kept whole"]);
    }
    table.row(["received", &letter.body.as_deref().map_or_else(|| "nothing".to_owned(), |body| short(body, 500))]);
    format!("{}\n{}", style.bold(&short(&letter.name, 200)), table.render(style))
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
            // One line per letter; `dead show` has the whole text.
            short(&letter.reason, 100),
        ]);
    }
    let mut text = table.render(style);
    if more {
        text.push_str("  and more: raise --limit, or narrow down with --kind, --reason and --older-than\n");
    }
    text
}

async fn redrive(args: RedriveArgs) -> anyhow::Result<Exit> {
    let queue = connect::queue()?;
    let now = queue.time().await?;
    let filter = args.these.filter(now)?;
    // No confirmation: a redrive loses nothing and can be repeated.
    let back = queue.redrive(now, &filter).await?;
    text::print(&if args.json {
        serde_json::json!({"redriven": back}).to_string() + "\n"
    } else {
        format!("returned {} to the queue\n", counted(back as u64, "dead letter", "dead letters"))
    })?;
    Ok(missing(&filter.names, back, "returned"))
}

async fn purge(args: PurgeArgs) -> anyhow::Result<Exit> {
    let queue = connect::queue()?;
    let now = queue.time().await?;
    let filter = args.these.filter(now)?;
    let letters = queue.dead_letters(&filter, usize::MAX).await?;
    let number = counted(letters.len() as u64, "dead letter", "dead letters");
    if !letters.is_empty() && !args.yes && !is_confirmed(&number)? {
        return Err(Misuse(format!("nothing was deleted: this would delete {number} for good; add --yes")).into());
    }
    // Exactly the letters that were counted: one that changed since then is spared by the script.
    let gone = queue.purge(&letters).await?;
    let stayed = letters.len() - gone;
    text::print(&if args.json {
        serde_json::json!({"purged": gone, "changed_meanwhile": stayed}).to_string() + "\n"
    } else {
        let stayed = if stayed > 0 { format!("; {stayed} changed in the meantime and stayed") } else { String::new() };
        format!("deleted {}{stayed}\n", counted(gone as u64, "dead letter", "dead letters"))
    })?;
    Ok(missing(&filter.names, letters.len(), "deleted"))
}

/// Asks for confirmation at a terminal. Without one the result is false.
pub(super) fn is_confirmed(number: &str) -> anyhow::Result<bool> {
    // Without a terminal nobody can read the question or answer it.
    if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return Ok(false);
    }
    // Standard output may be redirected to a file.
    eprint!("delete {number} for good? [y/N] ");
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).context("cannot read standard input")?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// Reports names that match no dead letter. `done` is a participle, such as `deleted`.
fn missing(names: &[String], found: usize, done: &str) -> Exit {
    if found >= names.len() {
        return Exit::Success;
    }
    let list: Vec<String> = names.iter().map(|name| format!("`{}`", short(name, 60))).collect();
    text::print_error(&if found == 0 {
        format!("nothing {done}: there is no dead letter {}; see `refresh-worker dead list`", list.join(" or "))
    } else {
        format!("only {found} of {} names match a dead letter; see `refresh-worker dead list`", names.len())
    });
    Exit::Failure
}

/// The name as the queue keeps it: an object in its normal spelling, `mail:<id>` unchanged.
fn normalised(name: &str) -> Result<String, Misuse> {
    // Unreadable mail has no object to normalise.
    if name.starts_with("mail:") {
        return Ok(name.to_owned());
    }
    let object = ObjectId::from_person(name).map_err(|error| Misuse(format!("nothing was done: {error}")))?;
    Ok(object.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_772_600_767_089);

    #[test]
    fn list_shows_age_attempts_and_reason() {
        let letters = [
            DeadLetter {
                name: "clan:2PP".to_owned(),
                died: NOW - Duration::from_secs(75),
                reason_code: "wrong_tag".to_owned(),
                reason: "asked for #2PP, got\n#2PQ".to_owned(),
                attempts: 1,
                lapses: 0,
                body: None,
                request: None,
                score: None,
                can_be_redriven: true,
            },
            DeadLetter {
                name: "mail:clan:#abc".to_owned(),
                died: NOW - Duration::from_secs(4000),
                reason_code: "impossible_tag".to_owned(),
                reason: "tag `abc` has the character 'A'".to_owned(),
                attempts: 0,
                lapses: 0,
                body: Some("{}".to_owned()),
                request: None,
                score: Some("1".to_owned()),
                can_be_redriven: true,
            },
        ];
        insta::assert_snapshot!(render(&letters, true, NOW, Style::PLAIN), @r"
        name                   age  attempts  reason
        clan:2PP        1 min 15 s         1  wrong_tag       asked for #2PP, got #2PQ
        mail:clan:#abc  1 h 06 min         0  impossible_tag  tag `abc` has the character 'A'
        and more: raise --limit, or narrow down with --kind, --reason and --older-than
        ");
        assert!(json_line(&letters[0]).starts_with('{'));
    }

    #[test]
    fn names_of_objects_are_normalised() {
        assert_eq!(normalised("clan:#2pp").unwrap(), "clan:2PP");
        assert_eq!(normalised("mail:clan:#abc").unwrap(), "mail:clan:#abc");
        assert!(normalised("clan:#abc").is_err());
    }
}
