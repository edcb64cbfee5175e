//! What people read before they know anything.

use super::Shell;

#[tokio::test]
async fn help_of_every_command() {
    let commands: [&[&str]; 37] = [
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
        &["replay"],
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
async fn version_is_printed() {
    let version = Shell::new().run(&["--version"]).await.well();
    assert_eq!(version, format!("refresh-worker {}\n", env!("CARGO_PKG_VERSION")));
}

#[tokio::test]
async fn no_command_shows_help_and_exits_2() {
    let output = Shell::new().run(&[]).await.badly(2);
    assert!(output.contains("Start here:"), "{output}");
}

#[tokio::test]
async fn wrong_usage_is_named_and_exits_2() {
    let shell = Shell::new();
    for wrong in [&["demo", "--rate", "0"][..], &["drain", "--max-runtime", "0"], &["dead", "redrive"], &["nonsense"]] {
        let output = shell.run(wrong).await.badly(2);
        assert!(output.starts_with("error: "), "{wrong:?}: {output}");
    }
}

#[tokio::test]
async fn missing_configuration_lists_problems_and_exits_2() {
    let output = Shell::new().run(&["drain"]).await.badly(2);
    for name in ["REDIS_URL", "DATABASE_URL", "COC_API_TOKEN"] {
        assert!(output.contains(name), "{output}");
    }
    let output = Shell::new().run(&["queue", "stats"]).await.badly(2);
    assert!(output.contains("REDIS_URL") && !output.contains("DATABASE_URL"), "{output}");
}
