//! What `package-lambda.sh` says without building anything.

use std::process::{Command, Output};

use super::{path, read};

fn package(arguments: &[&str]) -> Output {
    Command::new("bash").arg(path("package-lambda.sh")).args(arguments).output().unwrap()
}

#[test]
fn the_packager_explains_every_option() {
    let output = package(&["--help"]);
    assert!(output.status.success());
    let help = String::from_utf8(output.stdout).unwrap();
    for option in ["--arch", "--output", "--ca-bundle", "--package", "--upload", "--deploy", "--alias", "--dry-run"] {
        assert!(help.contains(option), "{option} is not in\n{help}");
    }
}

#[test]
fn the_packager_refuses_what_it_does_not_understand() {
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
    assert_eq!(package(&["--package", "no-such.zip"]).status.code(), Some(1));
}

#[test]
fn the_package_is_built_in_the_lambda_profile_and_never_with_failpoints() {
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

/// What stands in backticks or lines of the guide and starts with this.
fn commands<'a>(guide: &'a str, start: &str) -> Vec<Vec<&'a str>> {
    let pieces = guide.split(['`', '\n', '|', ';']).map(str::trim);
    pieces.filter_map(|piece| piece.strip_prefix(start)).map(|rest| rest.split_whitespace().collect()).collect()
}

fn options<'a>(words: &[&'a str]) -> Vec<&'a str> {
    words.iter().copied().filter(|word| word.starts_with("--")).collect()
}

#[test]
fn every_command_of_the_guide_exists_with_its_options() {
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
fn every_output_that_the_guide_asks_for_is_one_of_both_examples() {
    let guide = read("DEPLOYMENT.md") + &read("docs/operating.md");
    for example in ["complete", "existing-vpc"] {
        let outputs = read(&format!("infra/examples/{example}/outputs.tf"));
        for rest in guide.split("tofu output ").skip(1) {
            let rest = rest.strip_prefix("-raw ").unwrap_or(rest);
            let name: String = rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
            assert!(outputs.contains(&format!("output \"{name}\"")), "{name} of {example}");
        }
    }
}
