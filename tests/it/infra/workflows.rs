//! What the workflows use is pinned, and deploy applies what it has shown.

use std::{fs, process::Command};

use super::{path, read};

/// Name and text of each workflow.
fn workflows() -> Vec<(String, String)> {
    let entries = fs::read_dir(path(".github/workflows")).unwrap();
    entries
        .map(Result::unwrap)
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read_to_string(entry.path()).unwrap()))
        .collect()
}

/// The values of `key:` in a text, without a comment behind them.
fn values<'a>(text: &'a str, key: &str) -> Vec<&'a str> {
    let lines = text.lines().filter_map(|line| line.trim_start().strip_prefix(key));
    lines.map(|value| value.split('#').next().unwrap().trim().trim_matches('"')).collect()
}

#[test]
fn opentofu_is_pinned_in_one_place() {
    let version = read(".opentofu-version");
    let numbers: Vec<&str> = version.trim_end().split('.').collect();
    assert!(numbers.len() == 3 && numbers.iter().all(|number| number.parse::<u32>().is_ok()), "{version}");
    let mut seen = 0;
    for (name, text) in workflows() {
        let uses = text.matches("opentofu/setup-opentofu@").count();
        assert_eq!(values(&text, "tofu_version_file:"), vec![".opentofu-version"; uses], "{name}");
        assert!(!text.contains("tofu_version:"), "{name} has a version of its own");
        seen += uses;
    }
    assert!(seen >= 4);
}

#[test]
fn workflows_build_with_one_toolchain() {
    let mut toolchains: Vec<String> = Vec::new();
    for (_, text) in workflows() {
        toolchains.extend(values(&text, "RUSTUP_TOOLCHAIN:").into_iter().map(str::to_owned));
    }
    // The oldest supported Rust has two numbers.
    toolchains.retain(|toolchain| toolchain.matches('.').count() == 2);
    toolchains.sort();
    toolchains.dedup();
    assert_eq!(toolchains.len(), 1, "{toolchains:?}");
}

/// A version without hashes, or none at all, would be whatever the registry serves that day.
#[test]
fn installs_have_versions_or_hashes() {
    let scripts = ["package-lambda.sh", ".github/scripts/release.sh", ".github/scripts/lock-providers.sh"];
    let texts = workflows().into_iter().chain(scripts.map(|script| (script.to_owned(), read(script))));
    for (name, text) in texts {
        for line in text.lines().filter(|line| !line.trim_start().starts_with('#')) {
            if let Some((_, crates)) = line.split_once("cargo install ") {
                assert!(crates.contains("--locked") && crates.contains('@'), "{name}: {line}");
            }
            if line.contains("pip install ") && name.starts_with("release") {
                assert!(line.contains("--require-hashes"), "{name}: {line}");
            }
            assert!(!line.contains(" go install "), "{name}: {line}");
        }
    }
}

#[test]
fn deploy_applies_the_plan_it_showed() {
    let text = read(".github/workflows/deploy.yml");
    let (plan, deploy) = text.split_once("\n  deploy:\n").unwrap();
    for part in ["-plan\n", "deploy.sh plan", "GITHUB_STEP_SUMMARY", "AWS_PLAN_ROLE_ARN"] {
        assert!(plan.contains(part), "{part} is not in the job plan");
    }
    assert!(!plan.contains(" apply") && !plan.contains("AWS_DEPLOY_ROLE_ARN }}"), "the job plan applies");
    let parts = ["needs: plan", "sha256sum --check", "deploy.sh apply-plan tofu.plan", "after-deploy.sh", "Roll back"];
    let places = parts.map(|part| deploy.find(part).unwrap_or_else(|| panic!("{part} is not in the job deploy")));
    assert!(places.is_sorted(), "{places:?}");
}

/// An apply that never began, such as of a stale plan, leaves what others have changed alone.
#[test]
fn rollback_needs_a_changed_deployment() {
    let text = read(".github/workflows/deploy.yml");
    let (_, step) = text.split_once("- name: Roll back\n").unwrap();
    let condition = values(step, "if:")[0];
    let wanted = [
        "failure()",
        "steps.apply.outcome != 'skipped'",
        "steps.apply.outputs.untouched != 'true'",
        "env.FORMER != ''",
    ];
    for part in wanted {
        assert!(condition.split(" && ").any(|found| found.ends_with(part)), "{part} is not in {condition}");
    }
    assert!(!condition.contains("||"), "{condition}");
    assert!(read(".github/scripts/deploy.sh").contains("untouched=true"));
}

#[test]
fn lock_files_are_not_ignored() {
    let examples = fs::read_dir(path("infra/examples")).unwrap().map(Result::unwrap);
    let mut roots: Vec<String> = examples
        .filter(|entry| entry.path().join("main.tf").is_file())
        .map(|entry| format!("infra/examples/{}", entry.file_name().into_string().unwrap()))
        .collect();
    assert!(roots.len() >= 4, "{roots:?}");
    roots.push("infra/github".to_owned());
    for root in roots {
        let file = format!("{root}/.terraform.lock.hcl");
        let status =
            Command::new("git").args(["check-ignore", "--quiet", &file]).current_dir(path(".")).status().unwrap();
        assert_eq!(status.code(), Some(1), "{file} is ignored, so nobody can commit it");
    }
}
