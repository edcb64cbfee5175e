//! The settings of `infra/` against what the binary reads. `UPDATE_DOCS=1` writes what is generated.

use std::{collections::BTreeSet, env, fmt::Write, fs};

use refresh_worker::config::VARIABLES;

use super::{between, path, read};

const SETTINGS: &str = "infra/settings.tf";
const BEGIN: &str = "  # Generated from src/config/variables.rs.\n";
const END: &str = "  # End of what is generated.\n";

/// Settings that have a variable or a place of their own in `infra/`, with that place.
const PLACED: [(&str, &str, &str); 5] = [
    ("ENVIRONMENT", "infra/settings.tf", "{ ENVIRONMENT = var.environment, DEPLOYMENT = var.name"),
    ("DEPLOYMENT", "infra/settings.tf", "{ ENVIRONMENT = var.environment, DEPLOYMENT = var.name"),
    ("MAX_RUNTIME_SECONDS", "infra/settings.tf", "MAX_RUNTIME_SECONDS = tostring(var.max_runtime_seconds)"),
    ("LOG_LEVEL", "infra/main.tf", "application_log_level = var.log_level"),
    ("WORKER_ROLE", "infra/main.tf", "handler       = each.key"),
];

/// Settings of commands that people run. No function has them.
const OF_COMMANDS: [&str; 3] = ["QUEUE_BACKUP_DIR", "QUEUE_BACKUP_RETENTION_DAYS", "MIGRATE_TO_REDIS_URL"];

fn generated() -> String {
    let list = |title: &str, secret: bool| {
        let mut text = format!("  {title} = [\n");
        let elsewhere = |name: &str| OF_COMMANDS.contains(&name) || PLACED.iter().any(|(placed, ..)| *placed == name);
        for variable in VARIABLES.iter().filter(|one| one.secret == secret && !elsewhere(one.name)) {
            let _ = writeln!(text, "    \"{}\",", variable.name);
        }
        text + "  ]\n"
    };
    format!("{}\n{}", list("settings", false), list("secrets", true))
}

/// The functions can be given every setting that the binary reads, and no other.
#[test]
fn functions_accept_exactly_known_settings() {
    let text = read(SETTINGS);
    let (before, after) = (text.split(BEGIN).next().unwrap(), text.split(END).nth(1).unwrap());
    let current = format!("{before}{BEGIN}{}{END}{after}", generated());
    if env::var_os("UPDATE_DOCS").is_some() {
        fs::write(path(SETTINGS), &current).unwrap();
    }
    assert_eq!(read(SETTINGS), current, "run again with UPDATE_DOCS=1");
}

/// A setting with a variable of its own is set where `PLACED` says.
#[test]
fn placed_settings_exist_and_are_set() {
    let names: BTreeSet<&str> = VARIABLES.iter().map(|variable| variable.name).collect();
    for (name, file, text) in PLACED {
        assert!(names.contains(name), "nothing reads {name}");
        assert!(read(file).contains(text), "{file} does not set {name}: `{text}` is not in it");
    }
    for name in OF_COMMANDS {
        assert!(names.contains(name), "nothing reads {name}");
    }
}

/// A full run and its deadline buffer end before the timeout and before the duration alarm.
#[test]
fn run_fits_into_function_timeout() {
    let variables = read("infra/variables.tf");
    let default = |name: &str| -> u64 {
        let body = between(&variables, &format!("variable \"{name}\" {{"), "\n}");
        between(body, "default     = ", "\n").parse().unwrap()
    };
    let buffer = VARIABLES.iter().find(|variable| variable.name == "DEADLINE_BUFFER_MS").unwrap().default.unwrap();
    let buffer_seconds = buffer.parse::<u64>().unwrap() / 1000;
    assert!(default("max_runtime_seconds") + buffer_seconds < default("timeout_seconds"));
    assert!(default("max_runtime_seconds") + 2 * buffer_seconds <= 240, "a full run ends before the duration alarm");
}

#[test]
fn module_table_lists_variables_and_outputs() {
    let readme = read("infra/README.md");
    let count = |kind: &str, files: &[&str]| -> Vec<String> {
        let text: String = files.iter().map(|file| read(file)).collect();
        let names = text.lines().filter_map(|line| line.strip_prefix(kind)?.split('"').nth(1).map(str::to_owned));
        names.collect()
    };
    let mut names = count("variable ", &["infra/variables.tf", "infra/secrets.tf"]);
    names.extend(count("output ", &["infra/outputs.tf"]));
    assert!(names.len() > 40, "{names:?}");
    for name in names {
        assert!(readme.contains(&format!("\n| {name} | ")), "{name}: run infra/checks/readme.py");
    }
}
