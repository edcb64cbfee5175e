//! `migrate`: creates what is missing in the database.

use anyhow::Context as _;
use clap::Args;

use super::{
    Ending,
    text::{self, counted},
};
use crate::{
    app,
    config::{DatabaseConfig, env::process_var},
    store::Store,
};

/// Creates what is missing in the database, and says what it did
///
/// Our own tables are in the schema refresh_worker. The six tables that other programs share are created only when they
/// are missing; existing ones are never changed. Safe to run at any time and by several at once. Needs DATABASE_URL.
#[derive(Debug, Args)]
pub struct MigrateArgs {}

pub async fn run(_args: MigrateArgs) -> anyhow::Result<Ending> {
    let config = DatabaseConfig::read(&process_var)?;
    let store = app::store(&config)?;
    let ran = store.migrate().await.context("failed to migrate the database")?;
    text::print(&told(&ran))?;
    Ok(Ending::Well)
}

fn told(ran: &[String]) -> String {
    if ran.is_empty() {
        return "nothing to do: the database is up to date\n".to_owned();
    }
    let migrations = counted(ran.len() as u64, "migration", "migrations");
    format!("ran {migrations}:\n  {}\n", ran.join("\n  "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrations_are_told_by_name_and_none_at_all_too() {
        assert_eq!(told(&["0001_shared_tables".to_owned()]), "ran 1 migration:\n  0001_shared_tables\n");
        assert!(told(&[]).starts_with("nothing to do"));
    }
}
