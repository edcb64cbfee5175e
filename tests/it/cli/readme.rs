//! The README against the command line.

use std::{fs, path::Path};

use super::Shell;

/// The names under `Commands:` of a help text.
fn commands(help: &str) -> Vec<&str> {
    let (_, list) = help.split_once("Commands:\n").expect("a list of commands");
    let lines = list.lines().take_while(|line| !line.trim().is_empty());
    // A long description goes on in the next line, which is indented more.
    let names = lines.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    names.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help").collect()
}

#[tokio::test]
async fn readme_lists_every_command() {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let table: String = readme.lines().filter(|line| line.starts_with('|')).collect();
    let shell = Shell::new();
    let help = shell.run(&["--help"]).await.well();
    let mut names: Vec<String> = commands(&help).into_iter().map(str::to_owned).collect();
    assert!(names.len() > 10, "{names:?}");
    for group in ["queue", "dead", "keys"] {
        let help = shell.run(&[group, "--help"]).await.well();
        names.extend(commands(&help).into_iter().map(|name| format!("{group} {name}")));
    }
    for name in names {
        let is_listed = ["", "refresh-worker "].iter().any(|before| table.contains(&format!("`{before}{name}")));
        assert!(is_listed, "README.md: its table of commands lacks `{name}`");
    }
}
