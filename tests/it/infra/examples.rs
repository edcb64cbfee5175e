//! The examples against the module: each passes every variable on. `UPDATE_DOCS=1` writes the declarations.

use std::{collections::BTreeSet, env, fs};

use super::{between, path, read};

/// The file of an example with the module's variables, as the module declares them. Those that an example declares in its
/// variables.tf, with another default, are left out.
const PASSED_ON: &str = "module_variables.tf";
const HEADER: &str =
    "# The module's variables that are passed on as they are. Generated from infra/, where their rules are:
# UPDATE_DOCS=1 cargo test --locked --features failpoints --test it -- infra::examples
";

/// Every folder of `infra/examples`, with the variables that it makes itself or holds in an object for each region.
const EXAMPLES: [(&str, &[&str]); 4] = [
    ("complete", &["vpc"]),
    ("existing-vpc", &[]),
    ("hosted", &[]),
    (
        "several-regions",
        &[
            "name",
            "environment",
            "lambda_artifacts_bucket",
            "extra_layers",
            "vpc",
            "schedule_enabled",
            "alarm_topic_arn",
            "kms_key_arn",
            "secret_arns",
            "extension_layer_arn",
        ],
    ),
];

/// A variable: its name, and the lines of its block without the validations.
struct Variable {
    name: String,
    body: String,
}

impl Variable {
    fn text(&self) -> String {
        format!("\nvariable \"{}\" {{\n{}}}\n", self.name, self.body)
    }

    fn kind(&self) -> String {
        let after = self.body.split_once("  type ").unwrap_or_else(|| panic!("{} has no type", self.name)).1;
        let kind = after.split("\n  default").next().unwrap().split("\n  nullable").next().unwrap();
        kind.split_whitespace().collect()
    }
}

fn variables(file: &str) -> Vec<Variable> {
    let text = read(file);
    let blocks = text.split("\nvariable \"").skip(usize::from(!text.starts_with("variable \"")));
    let parse = |block: &str| {
        let block = block.strip_prefix("variable \"").unwrap_or(block);
        let (name, rest) = block.split_once("\" {\n")?;
        let body = rest.split("\n}\n").next()?.split("\n\n  validation {").next()?;
        Some(Variable { name: name.to_owned(), body: format!("{}\n", body.trim_end()) })
    };
    blocks.filter_map(parse).collect()
}

fn module_variables() -> Vec<Variable> {
    ["infra/variables.tf", "infra/secrets.tf"].into_iter().flat_map(variables).collect()
}

fn generated(example: &str, own: &[&str]) -> String {
    let by_hand = variables(&format!("infra/examples/{example}/variables.tf"));
    let left_out = |name: &str| own.contains(&name) || by_hand.iter().any(|variable| variable.name == name);
    let passed_on = module_variables().into_iter().filter(|variable| !left_out(&variable.name));
    HEADER.to_owned() + &passed_on.map(|variable| variable.text()).collect::<String>()
}

/// The calls of the module in an example: the label and the body of each.
fn calls(example: &str) -> Vec<(String, String)> {
    let text = read(&format!("infra/examples/{example}/main.tf"));
    let blocks = text.split("\nmodule \"").skip(1).map(|block| block.split_once("\" {\n").unwrap());
    let calls = blocks.filter(|(_, body)| body.starts_with("  source = \"../..\"\n"));
    calls.map(|(label, body)| (label.to_owned(), body.split("\n}\n").next().unwrap().to_owned())).collect()
}

/// The expression of an argument: its lines up to the next one of the same depth.
fn argument(body: &str, name: &str) -> Option<String> {
    let begins =
        |line: &str| line.strip_prefix("  ").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()));
    let is_it = |line: &&str| line.split_once('=').is_some_and(|(left, _)| left.trim_end() == format!("  {name}"));
    let mut lines = body.lines().skip_while(|line| !is_it(line));
    let first = lines.next()?.split_once('=')?.1.to_owned();
    Some(lines.take_while(|line| !begins(line)).fold(first, |text, line| text + line))
}

#[test]
fn examples_are_all_known() {
    let folders =
        fs::read_dir(path("infra/examples")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let known: BTreeSet<String> = EXAMPLES.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(folders.collect::<BTreeSet<_>>(), known);
    let automation = read("infra/checks/run.sh") + &read(".github/dependabot.yml");
    for name in known {
        let in_both =
            automation.matches(&format!("examples/{name}")).count() + automation.matches("examples/*").count();
        assert!(in_both >= 2, "infra/checks/run.sh or .github/dependabot.yml leaves out infra/examples/{name}");
    }
}

/// Every variable of the module is a variable of every example, with its type, default and description.
#[test]
fn examples_declare_every_module_variable() {
    for (example, own) in EXAMPLES {
        let file = format!("infra/examples/{example}/{PASSED_ON}");
        let current = generated(example, own);
        let mut text = fs::read_to_string(path(&file)).unwrap_or_default();
        if env::var_os("UPDATE_DOCS").is_some() && text != current {
            fs::write(path(&file), &current).unwrap();
            text.clone_from(&current);
        }
        for variable in module_variables().iter().filter(|variable| current.contains(&variable.text())) {
            let name = &variable.name;
            assert!(text.contains(&variable.text()), "{file}: `{name}` is missing or outdated; run with UPDATE_DOCS=1");
        }
        assert_eq!(text, current, "{file}: run with UPDATE_DOCS=1");
    }
}

/// A variable that an example declares with another default has the module's type.
#[test]
fn examples_keep_types_of_module_variables() {
    for (example, _) in EXAMPLES {
        let by_hand = variables(&format!("infra/examples/{example}/variables.tf"));
        for ours in by_hand {
            if let Some(theirs) = module_variables().iter().find(|theirs| theirs.name == ours.name) {
                assert_eq!(ours.kind(), theirs.kind(), "infra/examples/{example}: the type of `{}`", ours.name);
            }
        }
    }
    let vpc = module_variables().into_iter().find(|variable| variable.name == "vpc").unwrap();
    let kind = vpc.kind().trim_start_matches('=').to_owned();
    let regions: String = read("infra/examples/several-regions/variables.tf").split_whitespace().collect();
    assert_eq!(
        regions.matches(&format!("vpc=optional({kind})")).count(),
        2,
        "infra/examples/several-regions: the type of vpc"
    );
}

/// Every call of the module sets every variable, from the example's variable of that name or by what the example makes.
#[test]
fn examples_pass_every_variable_on() {
    for (example, own) in EXAMPLES {
        let calls = calls(example);
        assert_eq!(calls.len(), if example == "several-regions" { 2 } else { 1 }, "{example} calls the module");
        for (label, body) in calls {
            for Variable { name, .. } in module_variables() {
                let set = argument(&body, &name).unwrap_or_else(|| {
                    panic!(
                        "infra/examples/{example}: module.{label} does not pass `{name}` on: add `{name} = var.{name}`"
                    )
                });
                let of_a_region = format!("var.{label}.{name}");
                let is_passed = set
                    .split(|c: char| !(c.is_alphanumeric() || "_.".contains(c)))
                    .any(|word| word == format!("var.{name}") || word == of_a_region);
                let is_made = example == "complete" && own.contains(&name.as_str());
                assert!(
                    is_passed || is_made,
                    "infra/examples/{example}: module.{label} sets `{name}` to{set}, not to var.{name}"
                );
            }
        }
    }
}

/// The outputs that the guides and the workflows read exist in each example of one deployment.
#[test]
fn examples_have_outputs_of_guides() {
    let scripts = read("infra/checks/after-deploy.sh").replace("$(output ", "tofu output ");
    let guides = read("DEPLOYMENT.md") + &read("docs/operating.md") + &scripts;
    for (example, _) in EXAMPLES.iter().filter(|(example, _)| *example != "several-regions") {
        let outputs = read(&format!("infra/examples/{example}/outputs.tf"));
        for rest in guides.split("tofu output ").skip(1) {
            let rest = rest.strip_prefix("-raw ").unwrap_or(rest);
            let name: String = rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
            let exists = outputs.contains(&format!("output \"{name}\""));
            assert!(exists || name.is_empty(), "infra/examples/{example} has no output `{name}`");
        }
    }
    let module = read("infra/outputs.tf");
    for (example, _) in EXAMPLES {
        let outputs = read(&format!("infra/examples/{example}/outputs.tf"));
        for name in outputs.split("module.refresh_worker.").skip(1).map(|rest| rest.lines().next().unwrap()) {
            assert!(
                module.contains(&format!("output \"{name}\"")),
                "infra/examples/{example}: the module has no output `{name}`"
            );
        }
    }
}

/// The names that a block of `terraform.tfvars` sets at its top level.
fn names_of(block: &str) -> Vec<&str> {
    let at_top = block.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_lowercase()));
    at_top.filter_map(|line| Some(line.split_once('=')?.0.trim_end())).collect()
}

/// Every terraform.tfvars in DEPLOYMENT.md sets variables of the example that its commands enter.
#[test]
fn guide_tfvars_name_existing_variables() {
    let guide = read("DEPLOYMENT.md");
    let parts: Vec<&str> = guide.split("<<'VARIABLES'\n").collect();
    let mut seen = BTreeSet::new();
    for pair in parts.windows(2) {
        let example = pair[0].rsplit("cd infra/examples/").next().unwrap().lines().next().unwrap();
        let folder = format!("infra/examples/{example}");
        let files = fs::read_dir(path(&folder)).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let files = files.filter(|file| file.strip_suffix(".tf").is_some_and(|name| name != "main"));
        let known: Vec<String> =
            files.flat_map(|file| variables(&format!("{folder}/{file}"))).map(|one| one.name).collect();
        for name in names_of(between(pair[1], "", "\nVARIABLES\n")) {
            assert!(
                known.iter().any(|variable| variable == name),
                "DEPLOYMENT.md sets `{name}`, which {folder} has not"
            );
        }
        seen.insert(example.to_owned());
    }
    let examples: BTreeSet<String> = EXAMPLES.iter().map(|(example, _)| (*example).to_owned()).collect();
    assert_eq!(seen, examples, "DEPLOYMENT.md shows a terraform.tfvars for each example");
}

/// Variables that the guides name as `name = value` exist in the module.
#[test]
fn guides_name_existing_module_variables() {
    let guides = read("DEPLOYMENT.md") + &read("docs/operating.md") + &read("infra/README.md");
    let names: BTreeSet<String> = module_variables().into_iter().map(|variable| variable.name).collect();
    let spans = guides.split('`').skip(1).step_by(2).filter(|span| !span.contains(['\n', '\'']));
    let set = spans
        .filter_map(|span| Some(span.split_once(" = ")?.0))
        .filter(|name| !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c == '_'));
    let set: BTreeSet<&str> = set.filter(|name| *name != "source").collect();
    assert!(set.len() > 5, "{set:?}");
    for name in set {
        assert!(names.contains(name), "a guide sets `{name}`, which the module does not have");
    }
}

/// What is created before its predecessor is destroyed cannot have the same fixed name.
#[test]
fn replaced_resources_have_free_names() {
    let files = ["infra/network.tf", "infra/examples/complete/main.tf"];
    let text = files.map(read).concat();
    let blocks: Vec<&str> =
        text.split("\nresource ").filter(|block| block.contains("create_before_destroy = true")).collect();
    assert_eq!(blocks.len(), 4);
    for block in blocks {
        let block = block.split("\n}\n").next().unwrap();
        let is_free = block.contains("name_prefix") || block.contains("-valkey8\"");
        assert!(is_free, "two of these cannot exist at once: {block}");
    }
    let groups: Vec<&str> = text.split("\nresource \"aws_security_group\" ").skip(1).collect();
    assert!(groups.iter().all(|group| group.split("\n}\n").next().unwrap().contains("create_before_destroy = true")));
}
