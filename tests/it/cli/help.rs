//! What people read before they know anything.

use super::Shell;

#[tokio::test]
async fn every_command_has_a_help_worth_reading() {
    let commands: [&[&str]; 36] = [
        &[],
        &["demo"],
        &["drain"],
        &["enqueue"],
        &["queue"],
        &["queue", "stats"],
        &["queue", "explain"],
        &["queue", "backup"],
        &["queue", "restore"],
        &["queue", "migrate"],
        &["queue", "repair"],
        &["queue", "export"],
        &["dead"],
        &["dead", "list"],
        &["dead", "show"],
        &["dead", "redrive"],
        &["dead", "purge"],
        &["migrate"],
        &["keys"],
        &["keys", "list"],
        &["keys", "test"],
        &["keys", "renew"],
        &["keys", "prune"],
        &["report"],
        &["jobs"],
        &["jobs", "enqueue"],
        &["jobs", "list"],
        &["jobs", "show"],
        &["jobs", "retry"],
        &["jobs", "purge"],
        &["views"],
        &["views", "install"],
        &["views", "refresh"],
        &["retention"],
        &["check"],
        &["sim"],
    ];
    let shell = Shell::new();
    for command in commands {
        let help = shell.run(&[command, &["--help"]].concat()).await.well();
        let name = if command.is_empty() { "help".to_owned() } else { format!("help_{}", command.join("_")) };
        insta::assert_snapshot!(name, help);
    }
}

#[tokio::test]
async fn the_version_is_told() {
    let version = Shell::new().run(&["--version"]).await.well();
    assert_eq!(version, format!("refresh-worker {}\n", env!("CARGO_PKG_VERSION")));
}

#[tokio::test]
async fn without_a_command_the_help_is_shown_and_the_exit_code_is_2() {
    let told = Shell::new().run(&[]).await.badly(2);
    assert!(told.contains("Start here:"), "{told}");
}

#[tokio::test]
async fn wrong_usage_ends_with_2_and_names_what_is_wrong() {
    let shell = Shell::new();
    for wrong in [&["demo", "--rate", "0"][..], &["drain", "--max-runtime", "0"], &["dead", "redrive"], &["nonsense"]] {
        let told = shell.run(wrong).await.badly(2);
        assert!(told.starts_with("error: "), "{wrong:?}: {told}");
    }
}

#[tokio::test]
async fn a_missing_configuration_ends_with_2_and_lists_every_problem() {
    let told = Shell::new().run(&["drain"]).await.badly(2);
    for name in ["REDIS_URL", "DATABASE_URL", "COC_API_TOKEN"] {
        assert!(told.contains(name), "{told}");
    }
    let told = Shell::new().run(&["queue", "stats"]).await.badly(2);
    assert!(told.contains("REDIS_URL") && !told.contains("DATABASE_URL"), "{told}");
}
