//! The README's first command.

use std::path::Path;

use sqlx::{Connection as _, SqliteConnection, sqlite::SqliteConnectOptions};

use super::Shell;

async fn number(database: &Path, statement: &'static str) -> u64 {
    let mut file = SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(database)).await.unwrap();
    let number: i64 = sqlx::query_scalar(statement).fetch_one(&mut file).await.unwrap();
    u64::try_from(number).unwrap()
}

/// The number in the row of a table that begins with `name`, by column.
fn cell(output: &str, name: &str, column: usize) -> u64 {
    let row =
        output.lines().find(|line| line.trim_start().starts_with(name)).unwrap_or_else(|| panic!("{name}: {output}"));
    let cells: Vec<&str> = row.trim_start()[name.len()..].split_whitespace().collect();
    cells[column].replace([',', '+'], "").parse().unwrap_or_else(|_| panic!("{name}, column {column}: {row}"))
}

#[tokio::test]
async fn demo_numbers_agree_with_its_file() {
    let shell = Shell::new();
    let output = shell.run(&["demo", "--requests", "60", "--rate", "300", "--database", "d.sqlite"]).await.well();
    let file = shell.folder().join("d.sqlite");
    for (name, statement) in [
        ("clans ", "select count(*) from clans"),
        ("clan snapshots", "select count(*) from clan_snapshots"),
        ("war snapshots", "select count(*) from war_snapshots"),
    ] {
        let contents = output.split("What is in").nth(1).unwrap();
        let stored = number(&file, statement).await;
        assert!(stored > 0, "{name}");
        assert!(cell(contents, name, 0) <= stored, "the second act may add, {name}: {output}");
    }
    assert_eq!(number(&file, "select count(*) from refresh_worker_refresh_runs").await, 3);
    assert!(output.contains("private log"), "{output}");
    assert!(output.contains("wrong_tag") && output.contains("impossible_tag"), "{output}");
    assert!(output.contains("fresh"), "{output}");
    let planned = output.split("Nothing is requested").nth(1).expect("the third act");
    assert!(planned.contains("looks at known objects"), "{output}");
    assert!(!output.contains('\x1b'), "piped text is plain");

    let again = shell.run(&["demo", "--requests", "60", "--rate", "300", "--database", "d.sqlite"]).await.well();
    assert!(again.contains("the data of an earlier demo"), "{again}");
    let contents = again.split("What is in").nth(1).unwrap();
    assert_eq!(cell(contents, "runs", 0), 4, "the first act of the second demo: {again}");
    assert_eq!(number(&file, "select count(*) from refresh_worker_refresh_runs").await, 6);
}

#[tokio::test]
async fn ctrl_c_ends_demo_with_a_summary() {
    let shell = Shell::new();
    let mut demo = shell.start(&["demo", "--requests", "300", "--rate", "5"]);
    let welcome = demo.line().await;
    assert!(welcome.contains("300 requests"), "{welcome}");
    demo.interrupt();
    let ran = demo.end().await;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stdout.contains("stopped on request"), "{}", ran.stdout);
    assert!(ran.stdout.contains("The data is in"), "{}", ran.stdout);
    assert!(!ran.stdout.contains("once more"), "{}", ran.stdout);
}

#[tokio::test]
async fn demo_serves_recorded_responses() {
    let Ok(folder) = std::env::var("COC_FIXTURES_DIR") else {
        return println!("skipped: COC_FIXTURES_DIR is not set");
    };
    let output = Shell::new().run(&["demo", "--rate", "300", "--fixtures", &folder]).await.well();
    assert!(output.contains("stored") && output.contains("fresh"), "{output}");
}
