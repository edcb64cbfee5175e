//! What is in the demo's database: counts before and after, and how they are told.

use anyhow::Context as _;
use sqlx::SqlitePool;

use super::super::text::{Align, Style, Table, count};

/// What is counted: how people call it, and the statement.
const COUNTED: [(&str, &str); 8] = [
    ("clans", "select count(*) from clans"),
    ("players", "select count(*) from players"),
    ("clan snapshots", "select count(*) from clan_snapshots"),
    ("player snapshots", "select count(*) from player_snapshots"),
    ("war snapshots", "select count(*) from war_snapshots"),
    ("memberships, open", "select count(*) from clan_memberships where left_at is null"),
    ("memberships, ended", "select count(*) from clan_memberships where left_at is not null"),
    ("runs", "select count(*) from refresh_worker_refresh_runs"),
];

/// Rows by what they are, in the order of [`COUNTED`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents([u64; COUNTED.len()]);

impl Contents {
    pub async fn count(pool: &SqlitePool) -> anyhow::Result<Self> {
        let mut counts = [0; COUNTED.len()];
        for ((_, statement), count) in COUNTED.iter().zip(&mut counts) {
            let rows: i64 = sqlx::query_scalar(*statement)
                .fetch_one(pool)
                .await
                .context("failed to count what the database holds")?;
            *count = u64::try_from(rows).unwrap_or(0);
        }
        Ok(Self(counts))
    }

    /// Whether no object was ever stored here.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|count| *count == 0)
    }

    /// What is there now and how much of it is new since `before`.
    #[must_use]
    pub fn render_since(&self, before: &Self, style: Style) -> String {
        let mut table = Table::new([("", Align::Left), ("rows", Align::Right), ("new", Align::Right)]);
        for (((name, _), now), before) in COUNTED.iter().zip(self.0).zip(before.0) {
            table.row([(*name).to_owned(), count(now), change(before, now)]);
        }
        table.render(style)
    }
}

fn change(before: u64, now: u64) -> String {
    match now.cmp(&before) {
        std::cmp::Ordering::Greater => format!("+{}", count(now - before)),
        std::cmp::Ordering::Less => format!("-{}", count(before - now)),
        std::cmp::Ordering::Equal => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_are_told_with_what_is_new() {
        let before = Contents([10, 20, 30, 40, 50, 60, 0, 1]);
        let after = Contents([75, 1_911, 105, 210, 95, 1_880, 2, 1]);
        insta::assert_snapshot!(after.render_since(&before, Style::PLAIN), @r"
                             rows     new
        clans                  75     +65
        players             1,911  +1,891
        clan snapshots        105     +75
        player snapshots      210    +170
        war snapshots          95     +45
        memberships, open   1,880  +1,820
        memberships, ended      2      +2
        runs                    1       -
        ");
    }
}
