//! The contents of the demo's database: counts before and after.

use anyhow::Context as _;
use sqlx::SqlitePool;

use super::super::text::{Align, Style, Table, count};

/// The counts, each with its label and its statement.
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

/// The numbers of rows, in the order of [`COUNTED`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents([u64; COUNTED.len()]);

impl Contents {
    pub async fn count(pool: &SqlitePool) -> anyhow::Result<Self> {
        let mut counts = [0; COUNTED.len()];
        for ((_, statement), count) in COUNTED.iter().zip(&mut counts) {
            let rows: i64 = sqlx::query_scalar(*statement)
                .fetch_one(pool)
                .await
                .context("cannot count the rows of the demo's database")?;
            *count = u64::try_from(rows).unwrap_or(0);
        }
        Ok(Self(counts))
    }

    /// True when the database is new.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|count| *count == 0)
    }

    /// A table of the rows, with the number of new ones since `before`.
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
    fn table_shows_new_rows() {
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
