//! `migrate`: creates the missing tables.

use clap::Args;

use super::{
    Exit,
    text::{self, counted},
};
use crate::{
    app,
    config::{DatabaseConfig, env::process_var},
    store::Store,
};

/// Creates the missing tables in the database
///
/// The worker's own tables are in the schema refresh_worker. The six tables that it shares with other programs are
/// created only if they are missing, and never changed. Safe at any time, and several may run it at once. Needs
/// DATABASE_URL.
#[derive(Debug, Args)]
pub struct MigrateArgs {}

pub async fn run(_args: MigrateArgs) -> anyhow::Result<Exit> {
    let config = DatabaseConfig::read(&process_var)?;
    let store = app::store(&config)?;
    let ran = store.migrate().await?;
    text::print(&render(&ran))?;
    Ok(Exit::Success)
}

fn render(ran: &[String]) -> String {
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
    fn render_names_each_migration() {
        assert_eq!(render(&["0001_shared_tables".to_owned()]), "ran 1 migration:\n  0001_shared_tables\n");
        assert!(render(&[]).starts_with("nothing to do"));
    }
}
