//! `enqueue`: puts requests into the queue, all of them or none.

use std::io::Read as _;

use anyhow::Context as _;
use clap::Args;

use super::{Ending, Misuse, connect, text, text::counted};
use crate::{
    model::{ObjectId, Priority, RefreshRequest},
    queue::{DeadFilter, Enqueued, Queue, record::LAPSED},
};

/// Puts requests into the queue
///
/// A request names a kind and a tag; tags may be written in any spelling (`#2pp`, `%232PP`, letter O for zero). A tag
/// that cannot be is named and nothing at all is queued. An object that waits already keeps its place and takes the
/// better of the two priorities. One that is a dead letter because its workers did not survive it (`lapsed`) is named
/// and not queued, unless --revive is given; when nothing at all was queued, this ends with 1. Needs REDIS_URL.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  refresh-worker enqueue clan:#2PP player:#8GQL2 --priority critical
  refresh-worker enqueue - < tags.txt

In a file, words are separated by white space, and a line that begins with // is passed over.")]
pub struct EnqueueArgs {
    /// What to refresh: clan:TAG, player:TAG or war:TAG (the war of the clan with that tag); - reads standard input
    #[arg(required = true, value_name = "KIND:TAG")]
    objects: Vec<String>,
    /// How urgent: critical, high, medium, low (or 0 to 3)
    #[arg(long, short, default_value = "high", value_name = "CLASS")]
    priority: Priority,
    /// Bring back dead letters among them, `lapsed` ones too, with attempts and lapses 0
    #[arg(long)]
    revive: bool,
}

pub async fn run(args: EnqueueArgs) -> anyhow::Result<Ending> {
    let objects = parse(&words(&args.objects)?)?;
    let queue = connect::queue()?;
    let now = queue.time().await.context("failed to enqueue")?;
    let requests: Vec<RefreshRequest> = objects.iter().map(|object| RefreshRequest::now(object.clone(), args.priority, now)).collect();
    if args.revive {
        let names = objects.iter().map(ToString::to_string).collect();
        let lapsed = DeadFilter { names, reason_code: Some(LAPSED.to_owned()), ..DeadFilter::default() };
        queue.redrive(now, &lapsed).await.context("failed to revive")?;
    }
    let Enqueued { queued, dead } = queue.enqueue(now, &requests).await.context("failed to enqueue")?;
    let waiting: Vec<&ObjectId> =
        objects.iter().filter(|object| dead.iter().all(|dead| dead.object != **object)).collect();
    if queued > 0 {
        text::print(&told(&waiting, args.priority))?;
    }
    for dead in &dead {
        text::print_error(&format!("{} was not queued: {}", dead.object, dead.why()));
    }
    Ok(if queued > 0 { Ending::Well } else { Ending::Badly })
}

/// The arguments, with `-` replaced by the words of standard input.
fn words(arguments: &[String]) -> anyhow::Result<Vec<String>> {
    let mut words = Vec::new();
    for argument in arguments {
        if argument == "-" {
            let mut input = String::new();
            std::io::stdin().read_to_string(&mut input).context("failed to read standard input")?;
            words.extend(words_of(&input));
        } else {
            words.push(argument.clone());
        }
    }
    Ok(words)
}

fn words_of(input: &str) -> impl Iterator<Item = String> + '_ {
    let lines = input.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.flat_map(str::split_whitespace).map(str::to_owned)
}

/// Every word as an object, each object once; or every word that is none.
fn parse(words: &[String]) -> Result<Vec<ObjectId>, Misuse> {
    let mut objects = Vec::new();
    let mut wrong = Vec::new();
    for word in words {
        match ObjectId::from_person(word) {
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

fn told(objects: &[&ObjectId], priority: Priority) -> String {
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
    fn every_spelling_of_an_object_is_queued_once() {
        let objects = parse(&words("clan:#2pp\n// a note\nclan:%232PP player:8GQL2")).unwrap();
        let objects: Vec<&ObjectId> = objects.iter().collect();
        assert_eq!(told(&objects, Priority::High), "queued 2 requests as high: clan:2PP player:8GQL2\n");
    }

    #[test]
    fn all_wrong_names_are_told_together() {
        let error = parse(&words("clan:#2PP clam:#2PP clan:#ABC 2PP")).unwrap_err();
        insta::assert_snapshot!(error, @r"
        nothing was queued, 3 of the names are wrong:
          clam:#2PP: type `clam` is unknown: expected clan, player or war
          clan:#ABC: tag `ABC` has the character 'A': a tag is made of 0289PYLQGRJCUV
          2PP: `2PP` is not of the form type:tag, such as clan:#2PP
        ");
    }

    #[test]
    fn an_empty_input_is_told() {
        assert!(parse(&[]).unwrap_err().to_string().contains("names no object"));
    }
}
