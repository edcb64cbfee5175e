//! The views that we bring: `clan_leaderboard` and `refresh_progress`, in the schema `refresh_worker`.
//!
//! Nobody gets them unasked: `refresh-worker views install` makes them, as the role that then refreshes them.

use sqlx::PgPool;

use crate::derive::database::{begin, told, within};

/// How long making one view may take, its first fill included.
const TIME: std::time::Duration = std::time::Duration::from_secs(600);

/// One view that we bring.
#[derive(Clone, Copy, Debug)]
pub struct OwnView {
    pub name: &'static str,
    /// What it shows, in one sentence.
    pub shows: &'static str,
    sql: &'static str,
}

/// All of them.
pub const OWN_VIEWS: [OwnView; 2] = [
    OwnView {
        name: "clan_leaderboard",
        shows: "clans by their points, each by its newest snapshot",
        sql: include_str!("../sql/own_views/clan_leaderboard.sql"),
    },
    OwnView {
        name: "refresh_progress",
        shows: "how many objects of each kind are as fresh as each class promises",
        sql: include_str!("../sql/own_views/refresh_progress.sql"),
    },
];

/// Why a view could not be made.
#[derive(Debug, thiserror::Error)]
#[error("make the view refresh_worker.{view}: {detail}")]
pub struct NotInstalled {
    pub view: &'static str,
    pub detail: String,
}

impl OwnView {
    /// Makes and fills the view, with its unique index. One that is there stays as it is.
    ///
    /// # Errors
    /// What the database said, such as that `refresh-worker migrate` has not been run.
    pub async fn install(&self, pool: &PgPool) -> Result<(), NotInstalled> {
        let made = within(TIME, async {
            let mut transaction = begin(pool, TIME).await?;
            // Its texts have backslashes, which a database may be set to read otherwise.
            sqlx::raw_sql("SET LOCAL standard_conforming_strings = on").execute(&mut *transaction).await?;
            sqlx::raw_sql(self.sql).execute(&mut *transaction).await?;
            transaction.commit().await
        });
        made.await.map_err(|error| NotInstalled { view: self.name, detail: told(&error) })
    }
}
