//! `enqueue`: adds requests to the queue, all of them or none.

use std::io::Read as _;

use anyhow::Context as _;
use clap::Args;

use super::{Exit, Misuse, connect, text, text::counted};
use crate::{
    model::{ObjectId, Priority, RefreshRequest},
    queue::{DeadFilter, Enqueued, Queue, QueueAdmin, record::LAPSED},
};

/// Requests the refresh of objects
///
/// A request names a kind and a tag, in any spelling of the tag (`#2pp`, `%232PP`, letter O for zero). If one tag is
/// impossible, it is named and nothing is queued. An object that is queued already keeps its place and gets the higher
/// of the two priorities. A `lapsed` dead letter (its workers crashed) is named and skipped; --revive queues it, too.
/// The exit code is 1 when nothing was queued. Needs REDIS_URL.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  refresh-worker enqueue clan:#2PP player:#8GQL2 --priority critical
  refresh-worker enqueue - < tags.txt

In a file, white space separates the objects, and a line that begins with // is a comment.")]
pub struct EnqueueArgs {
    /// The objects: clan:TAG, player:TAG or war:TAG (the war of the clan with that tag); - reads standard input
    #[arg(required = true, value_name = "KIND:TAG")]
    objects: Vec<String>,
    /// critical, high, medium or low (or 0 to 3)
    #[arg(long, short, default_value = "high", value_name = "PRIORITY")]
    priority: Priority,
    /// Return dead letters among them to the queue, `lapsed` ones included, and reset their attempts
    #[arg(long)]
    revive: bool,
}

pub async fn run(args: EnqueueArgs) -> anyhow::Result<Exit> {
    // All or nothing: a typing error must not leave half of a list queued.
    let objects = parse(&words(&args.objects)?)?;
    let queue = connect::queue()?;
    let now = queue.time().await?;
    let requests: Vec<RefreshRequest> =
        objects.iter().map(|object| RefreshRequest::now(object.clone(), args.priority, now)).collect();
    // Only lapsed ones: a request revives every other dead letter by itself.
    if args.revive {
        let names = objects.iter().map(ToString::to_string).collect();
        let lapsed = DeadFilter { names, reason_code: Some(LAPSED.to_owned()), ..DeadFilter::default() };
        queue.redrive(now, &lapsed).await?;
    }
    let Enqueued { queued, dead } = queue.enqueue(now, &requests).await?;
    let waiting: Vec<&ObjectId> =
        objects.iter().filter(|object| dead.iter().all(|dead| dead.object != **object)).collect();
    if queued > 0 {
        text::print(&render(&waiting, args.priority))?;
    }
    for dead in &dead {
        // On standard error, so that a script still reads the list of queued objects.
        text::print_error(&format!("{} was not queued: {}", dead.object, dead.why()));
    }
    // Some dead letters among many objects are no reason to fail a script.
    Ok(if queued > 0 { Exit::Success } else { Exit::Failure })
}

/// The arguments, with `-` replaced by the words of standard input.
fn words(arguments: &[String]) -> anyhow::Result<Vec<String>> {
    let mut words = Vec::new();
    for argument in arguments {
        if argument == "-" {
            let mut input = String::new();
            std::io::stdin().read_to_string(&mut input).context("cannot read standard input")?;
            words.extend(words_of(&input));
        } else {
            words.push(argument.clone());
        }
    }
    Ok(words)
}

fn words_of(input: &str) -> impl Iterator<Item = String> + '_ {
    // Not `#`, which begins a tag.
    let lines = input.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.flat_map(str::split_whitespace).map(str::to_owned)
}

/// The objects that the words name, each once, or an error that names every wrong word.
fn parse(words: &[String]) -> Result<Vec<ObjectId>, Misuse> {
    let mut objects = Vec::new();
    let mut wrong = Vec::new();
    for word in words {
        match ObjectId::from_person(word) {
            // Two spellings of one object are one request.
            Ok(object) if objects.contains(&object) => {}
            Ok(object) => objects.push(object),
            Err(error) => wrong.push(format!("  {}: {error}", text::short(word, 60))),
        }
    }
    if !wrong.is_empty() {
        let number = counted(wrong.len() as u64, "of the names is wrong", "of the names are wrong");
        return Err(Misuse(format!("nothing was queued, {number}:\n{}", wrong.join("\n"))));
    }
    if objects.is_empty() {
        return Err(Misuse("nothing was queued: standard input names no object".to_owned()));
    }
    Ok(objects)
}

fn render(objects: &[&ObjectId], priority: Priority) -> String {
    const SHOWN: usize = 10;
    let names: Vec<String> = objects.iter().take(SHOWN).map(ToString::to_string).collect();
    let more = objects.len().saturating_sub(SHOWN);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let requests = counted(objects.len() as u64, "request", "requests");
    format!("queued {requests} as {priority}: {}{more}\n", names.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        words_of(text).collect()
    }

    #[test]
    fn parse_keeps_each_object_once() {
        let objects = parse(&words("clan:#2pp\n// a note\nclan:%232PP player:8GQL2")).unwrap();
        let objects: Vec<&ObjectId> = objects.iter().collect();
        assert_eq!(render(&objects, Priority::High), "queued 2 requests as high: clan:2PP player:8GQL2\n");
    }

    #[test]
    fn parse_names_every_wrong_word() {
        let error = parse(&words("clan:#2PP clam:#2PP clan:#ABC 2PP")).unwrap_err();
        insta::assert_snapshot!(error, @r"
        nothing was queued, 3 of the names are wrong:
          clam:#2PP: type `clam` is unknown: expected clan, player or war
          clan:#ABC: tag `ABC` has the character 'A': a tag is made of 0289PYLQGRJCUV
          2PP: `2PP` is not of the form type:tag, such as clan:#2PP
        ");
    }

    #[test]
    fn parse_refuses_empty_input() {
        assert!(parse(&[]).unwrap_err().to_string().contains("names no object"));
    }
}
