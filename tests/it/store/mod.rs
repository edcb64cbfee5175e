//! The store contract: one suite that runs over every store, as generic functions over a [`Bed`].
//!
//! A file per subject. Each lists its tests in [`over_every_store`], which makes four of each: PostgreSQL that only this
//! worker writes, PostgreSQL that other programs created and filled, PostgreSQL with changed types, and SQLite. Tests read and
//! write only the six contract tables with SQL, in the common dialect; times are `'2026-03-04 05:06:07.089000'` (see
//! [`sql_time`]).

mod addresses;
mod arbiter;
pub mod beds;
mod concurrency;
mod documents;
mod doubt;
mod event_count;
pub mod every_statement;
mod failover;
mod ids;
mod last_seen;
mod limits;
mod locks;
mod looks;
mod memberships;
pub mod migrations;
mod mixed_faults;
mod outages;
mod outbox;
#[cfg(feature = "embedded")]
mod parity;
mod plans;
mod poolers;
mod refusals;
mod rights;
mod runs;
mod snapshots;
mod statements;
mod values;
mod wars;

use std::time::Duration;

use refresh_worker::{
    clock::Timestamp,
    model::Fetched,
    store::{Commit, Committed, Store, Teaching},
};
use serde_json::Value;
use time::{PrimitiveDateTime, macros::format_description};

/// A store on a database of the test's own, and a way around the store.
pub trait Bed: Send + Sync {
    type S: Store;

    fn store(&self) -> &Self::S;

    /// Another store on the same database, whose commits teach the planner.
    fn with_teaching(&self, teaching: Teaching) -> Self::S;

    /// The rows of a SELECT as JSON objects; times as text.
    async fn rows(&self, sql: &str) -> Vec<Value>;

    /// Statements as other programs send them, separated by `;`.
    async fn exec(&self, sql: &str);

    /// Commits ten minutes after the last response, so that earlier rows of the test are not in the future.
    async fn commit(&self, batch: &[Fetched]) -> Vec<Committed> {
        self.commit_with_details(batch).await.committed
    }

    /// [`Self::commit`] with all details.
    async fn commit_with_details(&self, batch: &[Fetched]) -> Commit {
        let last = batch.iter().map(|fetched| fetched.began).max().unwrap_or_default();
        self.store().commit(last + Duration::from_secs(600), batch).await.expect("the batch is stored")
    }

    /// Commits one answer.
    async fn commit_one(&self, fetched: Fetched) -> Committed {
        self.commit(&[fetched]).await.remove(0)
    }

    /// The only row.
    async fn row(&self, sql: &str) -> Value {
        let mut rows = self.rows(sql).await;
        assert_eq!(rows.len(), 1, "one row of `{sql}`: {rows:?}");
        rows.remove(0)
    }

    /// True on PostgreSQL: for statements that the dialects do not share.
    fn is_postgres(&self) -> bool {
        true
    }

    async fn count(&self, from: &str) -> i64 {
        self.row(&format!("SELECT count(*) AS n FROM {from}")).await["n"].as_i64().expect("a number")
    }

    /// The row that readers use: the newest by `ts`, with `data` as text.
    async fn newest_player(&self, tag: &str) -> Value {
        self.row(&format!(
            "SELECT id, ts, player_tag, clan_tag, name, role, town_hall, trophies, donations, donations_received, \
             war_attacks_used, last_seen, CAST(data AS text) AS data \
             FROM player_snapshots WHERE player_tag = '{tag}' ORDER BY ts DESC LIMIT 1"
        ))
        .await
    }

    async fn newest_clan(&self, tag: &str) -> Value {
        self.row(&format!(
            "SELECT id, ts, name, member_count, level, war_wins, war_losses, CAST(data AS text) AS data \
             FROM clan_snapshots WHERE clan_tag = '{tag}' ORDER BY ts DESC LIMIT 1"
        ))
        .await
    }

    async fn player(&self, tag: &str) -> Value {
        self.row(&format!(
            "SELECT name, town_hall, role, clan_tag, updated_at, deep_link, CAST(data AS text) AS data \
             FROM players WHERE tag = '{tag}'"
        ))
        .await
    }

    /// The clans of the player's open memberships.
    async fn open_clans(&self, player: &str) -> Vec<String> {
        let sql = format!(
            "SELECT clan_tag FROM clan_memberships WHERE player_tag = '{player}' AND left_at IS NULL ORDER BY joined_at"
        );
        self.rows(&sql).await.iter().map(|row| text(&row["clan_tag"])).collect()
    }

    /// All memberships of a player, the oldest first.
    async fn memberships(&self, player: &str) -> Vec<Membership> {
        let sql = format!(
            "SELECT clan_tag, joined_at, left_at FROM clan_memberships WHERE player_tag = '{player}' \
             ORDER BY joined_at, id"
        );
        let rows = self.rows(&sql).await;
        rows.iter()
            .map(|row| (text(&row["clan_tag"]), time(&row["joined_at"]).expect("a time"), time(&row["left_at"])))
            .collect()
    }
}

/// Clan, joined, left.
pub type Membership = (String, Timestamp, Option<Timestamp>);

pub fn membership(clan: &str, joined: Timestamp, left: Option<Timestamp>) -> Membership {
    (clan.to_owned(), joined, left)
}

pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("a text: {value}")).to_owned()
}

/// A time column; `None` is null.
pub fn time(value: &Value) -> Option<Timestamp> {
    const FORM: time::format_description::StaticFormatDescription =
        format_description!("[year]-[month]-[day]T[hour]:[minute]:[second][optional [.[subsecond]]]");
    let text = value.as_str()?.trim_end_matches("+00:00").replace(' ', "T");
    let time = PrimitiveDateTime::parse(&text, FORM).unwrap_or_else(|error| panic!("the time {text}: {error}"));
    Some(Timestamp::from_utc(time.assume_utc()))
}

/// As a literal that both dialects take for a time column.
pub fn sql_time(at: Timestamp) -> String {
    let printed = at.to_string().replace('T', " ");
    format!("'{}000'", printed.trim_end_matches('Z'))
}

/// Makes a test of each named function for every store. What is named `as_received` looks at the bytes of documents, which
/// columns of type `jsonb` do not keep.
macro_rules! over_every_store {
    ($($name:ident),* $(,)? $(; as_received: $($exact:ident),+ $(,)?)?) => {
        mod postgres {
            $crate::store::over_a_store!(postgres: $($name,)* $($($exact,)+)?);
        }

        mod postgres_of_others {
            $crate::store::over_a_store!(postgres_of_others: $($name,)* $($($exact,)+)?);
        }

        mod postgres_of_changed_types {
            $crate::store::over_a_store!(postgres_of_changed_types: $($name,)*);
        }

        #[cfg(feature = "embedded")]
        mod sqlite {
            $crate::store::over_a_store!(sqlite: $($name,)* $($($exact,)+)?);
        }
    };
}

macro_rules! over_a_store {
    ($bed:ident: $($name:ident,)*) => {
        $(#[tokio::test]
        async fn $name() {
            super::$name($crate::store::beds::$bed().await).await;
        })*
    };
}
pub(crate) use over_a_store;
pub(crate) use over_every_store;
