//! `replay --stdin`: the planner without a queue, a database or an API, behind a protocol of lines.

use std::io::{self, BufRead, BufWriter, Write as _};

use anyhow::Context as _;

use crate::{
    cli::{Exit, Misuse},
    clock::Timestamp,
    model::Kind,
    planner::{Index, Look, Policy, Strategy},
};

pub fn run(strategy: Strategy) -> anyhow::Result<Exit> {
    let mut index = Index::new(strategy, Policy::default());
    let mut output = BufWriter::new(io::stdout().lock());
    for (number, line) in (1..).zip(io::stdin().lock().lines()) {
        let line = line.context("cannot read standard input")?;
        let command = Line::parse(&line).map_err(|problem| Misuse(format!("line {number}: {problem}")))?;
        let known = match command {
            Line::Object { id, kind, fetched } => {
                index.add(id, kind, fetched);
                true
            }
            Line::Fetched { id, look } => index.learn(id, look),
            Line::Listed { at, id, active } => !active || index.hint(id, at),
            Line::Plan { at, most } => {
                let ids: Vec<String> = index.choose(at, most).iter().map(u64::to_string).collect();
                writeln!(output, "{}", ids.join(" "))?;
                // The world waits for the answer.
                output.flush()?;
                true
            }
        };
        if !known {
            return Err(Misuse(format!("line {number}: there is no `object` line of this id before `{line}`")).into());
        }
    }
    Ok(Exit::Success)
}

/// A line of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    Object { id: u64, kind: Kind, fetched: Timestamp },
    Fetched { id: u64, look: Look },
    Listed { at: Timestamp, id: u64, active: bool },
    Plan { at: Timestamp, most: usize },
}

impl Line {
    fn parse(line: &str) -> Result<Self, String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        match *words.as_slice() {
            ["object", id, kind, fetched] => {
                Ok(Self::Object { id: number("ID", id)?, kind: kind_of(kind)?, fetched: moment("FETCHED", fetched)? })
            }
            ["fetched", at, id, changed, asked] => {
                // Zero is nobody.
                let asked = Some(moment("ASKED", asked)?).filter(|&asked| asked > Timestamp::EPOCH);
                let look = Look { at: moment("T", at)?, changed: flag("CHANGED", changed)?, asked };
                Ok(Self::Fetched { id: number("ID", id)?, look })
            }
            ["listed", at, id, active] => {
                Ok(Self::Listed { at: moment("T", at)?, id: number("ID", id)?, active: flag("ACTIVE", active)? })
            }
            ["plan", at, most] => Ok(Self::Plan { at: moment("T", at)?, most: number("MOST", most)? }),
            _ => Err(format!(
                "expected `object ID KIND FETCHED`, `fetched T ID CHANGED ASKED`, `listed T ID ACTIVE` or `plan T MOST`, not `{line}`"
            )),
        }
    }
}

fn number<N: std::str::FromStr>(name: &str, word: &str) -> Result<N, String> {
    word.parse().map_err(|_| format!("{name} is a whole number, not `{word}`"))
}

fn moment(name: &str, word: &str) -> Result<Timestamp, String> {
    let seconds: u32 = word.parse().map_err(|_| format!("{name} is a time in whole seconds, not `{word}`"))?;
    Ok(Timestamp::from_millis(i64::from(seconds) * 1000))
}

fn flag(name: &str, word: &str) -> Result<bool, String> {
    match word {
        "0" => Ok(false),
        "1" => Ok(true),
        _ => Err(format!("{name} is 0 or 1, not `{word}`")),
    }
}

fn kind_of(word: &str) -> Result<Kind, String> {
    Kind::ALL
        .into_iter()
        .find(|kind| kind.as_str() == word)
        .ok_or_else(|| format!("the kind is clan, player or war, not `{word}`"))
}
