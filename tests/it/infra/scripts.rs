//! `package-lambda.sh` without a build, and the commands of the guides.

use std::process::{Command, Output};

use super::{path, read};

fn package(arguments: &[&str]) -> Output {
    Command::new("bash").arg(path("package-lambda.sh")).args(arguments).output().unwrap()
}

#[test]
fn packager_help_lists_every_option() {
    let output = package(&["--help"]);
    assert!(output.status.success());
    let help = String::from_utf8(output.stdout).unwrap();
    for option in ["--arch", "--output", "--ca-bundle", "--package", "--upload", "--deploy", "--alias", "--dry-run"] {
        assert!(help.contains(option), "{option} is not in\n{help}");
    }
}

#[test]
fn packager_refuses_wrong_usage_and_missing_package() {
    let wrong: [&[&str]; 5] = [
        &["--arch", "arm"],
        &["--fast"],
        &["--upload", "bucket"],
        &["--deploy"],
        &["--arch", "x86_64", "--output", ""],
    ];
    for arguments in wrong {
        let output = package(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(String::from_utf8(output.stderr).unwrap().contains("--help"), "{arguments:?}");
    }
    assert_eq!(package(&["--package", "no-such.zip"]).status.code(), Some(1), "good usage, but there is no such file");
}

#[test]
fn package_uses_lambda_profile_without_failpoints() {
    let script = read("package-lambda.sh");
    let builds: Vec<&str> = script.lines().filter(|line| line.trim_start().starts_with("cargo ")).collect();
    assert_eq!(builds.len(), 2);
    for build in builds {
        for part in ["--locked", "--profile lambda", "--no-default-features"] {
            assert!(build.contains(part), "{build}");
        }
        assert!(!build.contains("--features"), "{build}");
    }
}

/// The words after `start` in backticks and lines of the guide.
fn commands<'a>(guide: &'a str, start: &str) -> Vec<Vec<&'a str>> {
    let pieces = guide.split(['`', '\n', '|', ';']).map(str::trim);
    pieces.filter_map(|piece| piece.strip_prefix(start)).map(|rest| rest.split_whitespace().collect()).collect()
}

fn options<'a>(words: &[&'a str]) -> Vec<&'a str> {
    words.iter().copied().filter(|word| word.starts_with("--")).collect()
}

/// Every command in DEPLOYMENT.md and docs/operating.md exists, with its options.
#[test]
fn guide_commands_exist_with_their_options() {
    let guide = read("DEPLOYMENT.md") + &read("docs/operating.md");
    let ours: Vec<_> = commands(&guide, "refresh-worker ").into_iter().filter(|words| !words.is_empty()).collect();
    assert!(ours.len() > 10, "{ours:?}");
    for words in ours {
        let name = words.iter().take_while(|word| word.chars().all(|c| c.is_ascii_lowercase()));
        let help = Command::new(env!("CARGO_BIN_EXE_refresh-worker")).args(name).arg("--help").output().unwrap();
        assert!(help.status.success(), "refresh-worker {words:?}");
        let text = String::from_utf8(help.stdout).unwrap();
        assert!(options(&words).iter().all(|option| text.contains(option)), "refresh-worker {words:?}\n{text}");
    }
    let help = String::from_utf8(package(&["--help"]).stdout).unwrap();
    let packaging = commands(&guide, "./package-lambda.sh ");
    assert!(packaging.len() > 2, "{packaging:?}");
    for words in packaging {
        assert!(options(&words).iter().all(|option| help.contains(option)), "./package-lambda.sh {words:?}");
    }
}

#[test]
fn guide_outputs_exist_in_both_examples() {
    let guide = read("DEPLOYMENT.md") + &read("docs/operating.md");
    for example in ["complete", "existing-vpc"] {
        let outputs = read(&format!("infra/examples/{example}/outputs.tf"));
        for rest in guide.split("tofu output ").skip(1) {
            let rest = rest.strip_prefix("-raw ").unwrap_or(rest);
            let name: String = rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
            assert!(name.is_empty() || outputs.contains(&format!("output \"{name}\"")), "{name} of {example}");
        }
    }
}
