//! The views that come with the worker: `clan_leaderboard` and `refresh_progress`, in the schema `refresh_worker`.
//!
//! Only `refresh-worker views install` creates them, as the role that then refreshes them.

use sha2::{Digest as _, Sha256};
use sqlx::{AssertSqlSafe, PgPool};

use crate::maintenance::database::{begin, describe, within};

/// The timeout for creating one view, its first fill included.
const INSTALL_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(600);

/// A view that comes with the worker.
#[derive(Clone, Copy, Debug)]
pub struct OwnView {
    pub name: &'static str,
    /// Its content, in one sentence.
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
        shows: "how many objects of each kind are as fresh as each priority promises",
        sql: include_str!("../sql/own_views/refresh_progress.sql"),
    },
];

/// The reason why a view could not be created.
#[derive(Debug, thiserror::Error)]
#[error("cannot create the view refresh_worker.{view}: {detail}")]
pub struct NotInstalled {
    pub view: &'static str,
    pub detail: String,
}

/// Moves the grants and the name of a view to its successor, in one transaction, so that readers wait for moments only.
const TAKE_PLACE: &str = "
    DO $$
    DECLARE one record;
    BEGIN
        FOR one IN
            SELECT g.privilege_type, CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE g.grantee::regrole::text END AS grantee
            FROM pg_class AS c CROSS JOIN LATERAL aclexplode(c.relacl) AS g
            WHERE c.oid = 'refresh_worker.{view}'::regclass AND g.grantee <> c.relowner
        LOOP
            EXECUTE format('GRANT %s ON refresh_worker.{next} TO %s', one.privilege_type, one.grantee);
        END LOOP;
        DROP MATERIALIZED VIEW refresh_worker.{view};
        FOR one IN
            SELECT i.indexrelid::regclass AS name, replace(c.relname, '{next}', '{view}') AS becomes
            FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
            WHERE i.indrelid = 'refresh_worker.{next}'::regclass
        LOOP
            EXECUTE format('ALTER INDEX %s RENAME TO %I', one.name, one.becomes);
        END LOOP;
        ALTER MATERIALIZED VIEW refresh_worker.{next} RENAME TO {view};
    END
    $$";

impl OwnView {
    /// Creates and fills the view, with its unique index. A view of this definition stays as it is; one of an earlier version of the
    /// worker is replaced and keeps its grants.
    ///
    /// # Errors
    /// When the database refuses it, for example because `refresh-worker migrate` has not been run.
    pub async fn install(&self, pool: &PgPool) -> Result<(), NotInstalled> {
        let made = within(INSTALL_TIMEOUT, async {
            let mut transaction = begin(pool, INSTALL_TIMEOUT).await?;
            // The definition has backslashes, which some databases are set to read as escapes.
            sqlx::raw_sql("SET LOCAL standard_conforming_strings = on").execute(&mut *transaction).await?;
            let (is_there, comment): (bool, Option<String>) = sqlx::query_as(
                "SELECT v.oid IS NOT NULL, obj_description(v.oid, 'pg_class') FROM (SELECT to_regclass($1)::oid AS oid) AS v",
            )
            .persistent(false)
            .bind(format!("refresh_worker.{}", self.name))
            .fetch_one(&mut *transaction)
            .await?;
            let mark = self.mark();
            // Replacing it would cost readers a wait for nothing.
            if is_there && comment.is_some_and(|comment| comment.ends_with(&mark)) {
                return transaction.commit().await;
            }
            if is_there {
                // Filled beside the old view, so that readers keep theirs until the last moment.
                let next = format!("{}_next", self.name);
                let sql = self.sql.replace(self.name, &next);
                sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *transaction).await?;
                let take_place = TAKE_PLACE.replace("{next}", &next).replace("{view}", self.name);
                sqlx::raw_sql(AssertSqlSafe(take_place)).execute(&mut *transaction).await?;
            } else {
                sqlx::raw_sql(self.sql).execute(&mut *transaction).await?;
            }
            let comment = format!(
                "COMMENT ON MATERIALIZED VIEW refresh_worker.{} IS 'Of the last refresh: {}. {mark}'",
                self.name, self.shows
            );
            sqlx::raw_sql(AssertSqlSafe(comment)).execute(&mut *transaction).await?;
            transaction.commit().await
        });
        made.await.map_err(|error| NotInstalled { view: self.name, detail: describe(&error) })
    }

    /// The end of the view's comment, which identifies its definition.
    fn mark(&self) -> String {
        let hash = Sha256::digest(self.sql);
        let number = hash.iter().take(6).fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        format!("Definition {number:012x}.")
    }
}
