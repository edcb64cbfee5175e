//! `package-lambda.sh` without a build, and the commands of the guides.

use std::{
    fs,
    process::{Command, Output},
};

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

/// Unmarked commands of the guides: the beginning of the line, the file that runs it, and the words there.
const RUN_IN: [(&str, &str, &str); 15] = [
    ("cargo run -- demo", "tests/it/cli/demo.rs", "demo"),
    ("export ", "infra/checks/local-lambda.sh", "export REDIS_URL="),
    ("refresh-worker ", "infra/checks/local-lambda.sh", "/^refresh-worker / { print }"),
    ("cargo lambda ", "infra/checks/local-lambda.sh", "/^cargo lambda / {"),
    ("redis-cli ", "infra/checks/local-lambda.sh", "/^redis-cli / { print }"),
    ("./package-lambda.sh --arch arm64", "infra/checks/arm64.sh", "package-lambda.sh\" --arch"),
    ("./test.sh", ".ci/run", "./test.sh"),
    (".ci/run", "CONTRIBUTING.md", "everything that CI requires"),
    ("cargo test --features failpoints --test soak", ".ci/run", "--test soak"),
    ("COC_ACCOUNTS=", "tests/it/worker/portal.rs", "COC_ACCOUNTS"),
    // The same crate is built with optimisations as a package.
    ("cargo install --path .", "package-lambda.sh", "--profile lambda"),
    ("infra/checks/", ".ci/run", "infra/checks/"),
    (".github/scripts/release.sh build", ".github/workflows/release.yml", "release.sh build"),
    (".github/scripts/release.sh image", "infra/checks/workflow_scripts.py", "\"image\""),
    ("docker build", ".github/workflows/release.yml", "docker buildx build --file Dockerfile"),
];

/// The blocks of shell commands of a document: true when the paragraph before it says that it needs AWS, and its lines.
fn shell_blocks(text: &str) -> Vec<(bool, Vec<String>)> {
    let mut blocks = Vec::new();
    for (at, _) in text.match_indices("```sh\n") {
        let before = text[..at].trim_end();
        let paragraph = before.rsplit("\n\n").next().unwrap_or_default();
        let body = text[at + 6..].split("```").next().unwrap_or_default();
        let body = body.replace("\\\n", " ");
        blocks.push((paragraph.contains('☁'), body.lines().map(|line| line.trim().to_owned()).collect()));
    }
    blocks
}

/// Each command of each document is marked ☁, since it needs AWS, or is run by a test or check.
#[test]
fn guide_commands_run_or_are_marked() {
    let folders = [".", "docs", "docs/design", "infra"];
    let entries = folders.iter().flat_map(|folder| fs::read_dir(path(folder)).unwrap());
    let (mut run, mut marked) = (0, 0);
    for file in
        entries.map(|entry| entry.unwrap().path()).filter(|file| file.extension().is_some_and(|end| end == "md"))
    {
        for (needs_aws, lines) in shell_blocks(&fs::read_to_string(&file).unwrap()) {
            if needs_aws {
                marked += 1;
                continue;
            }
            for line in lines.iter().filter(|line| !line.is_empty() && !line.starts_with('#')) {
                let found = RUN_IN.iter().find(|(start, ..)| line.starts_with(start));
                let (_, place, words) = found.unwrap_or_else(|| {
                    panic!("{}: nothing runs `{line}`: mark it ☁, or add it to RUN_IN", file.display())
                });
                assert!(contains(place, words), "{place} does not have `{words}`, which should run `{line}`");
                run += 1;
            }
        }
    }
    assert!(run > 15 && marked > 8, "{run} commands that are run, {marked} blocks that need AWS");
}

/// True when a file, or one of the files of a folder, has these words.
fn contains(place: &str, words: &str) -> bool {
    let place = path(place);
    if place.is_file() {
        return fs::read_to_string(place).unwrap().contains(words);
    }
    fs::read_dir(place)
        .unwrap()
        .any(|entry| fs::read_to_string(entry.unwrap().path()).is_ok_and(|text| text.contains(words)))
}

/// Uploads need version 2 of the AWS command line: it is said wherever one reads, and pip has version 1 only.
#[test]
fn aws_command_line_version_is_said() {
    let script = read("package-lambda.sh");
    let oldest = script.lines().find_map(|line| line.strip_prefix("aws_oldest=")).unwrap();
    let help = String::from_utf8(package(&["--help"]).stdout).unwrap();
    for (place, text) in [("--help", &help), ("DEPLOYMENT.md", &read("DEPLOYMENT.md"))] {
        assert!(text.contains(&format!("version {oldest} or newer")), "{place} does not say version {oldest}");
    }
    for place in ["package-lambda.sh", "DEPLOYMENT.md", "README.md", "infra/checks/after-deploy.sh"] {
        assert!(!read(place).contains("pip install awscli"), "{place}: that is version 1");
    }
}

/// Everything that pip installs has a hash.
#[test]
fn requirements_have_hashes() {
    let mut lists = 0;
    for entry in fs::read_dir(path("infra/checks/requirements")).unwrap() {
        let file = entry.unwrap().path();
        if file.extension().is_none_or(|end| end != "txt") || file.ends_with("npm.txt") {
            continue;
        }
        lists += 1;
        let text = fs::read_to_string(&file).unwrap().replace("\\\n", " ");
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            assert!(line.contains("==") && line.contains("--hash=sha256:"), "{}: {line}", file.display());
        }
    }
    assert!(lists >= 5, "{lists}");
    for script in ["package-lambda.sh", "infra/checks/provide.sh"] {
        assert!(read(script).contains("--require-hashes --only-binary :all: -r"), "{script}");
    }
}
