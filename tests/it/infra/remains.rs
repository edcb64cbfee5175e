//! What a deployment costs and leaves behind, against DEPLOYMENT.md.

use std::{collections::BTreeSet, fs, path::Path};

use super::{between, path, quoted, read};

/// Kinds of resources that leave something behind after `tofu destroy`, and the words by which the guide names it.
const LEAVE: [(&str, &str); 15] = [
    ("aws_api_gateway_account", "/cloudwatchRoleArn"),
    ("aws_api_gateway_account", "/aws/apigateway/welcome"),
    ("aws_api_gateway_stage", "API-Gateway-Execution-Logs_ID/live"),
    ("aws_api_gateway_stage", "/aws/apigateway/refresh-worker"),
    ("aws_cloudwatch_metric_alarm", "| metrics"),
    ("aws_db_instance", "delete-db-snapshot"),
    ("aws_db_instance", "/aws/rds/instance/refresh-worker/postgresql"),
    ("aws_db_instance", "AWSServiceRoleForRDS"),
    ("aws_eip", "The address of `complete` is released"),
    ("aws_elasticache_replication_group", "delete-snapshot --snapshot-name"),
    ("aws_elasticache_replication_group", "AWSServiceRoleForElastiCache"),
    ("aws_iam_role", "roles, policies and boundary of `infra/github`"),
    ("aws_kms_key", "pending deletion"),
    ("aws_lambda_function", "Lambda releases its network interfaces"),
    ("aws_sns_topic_subscription", "that nobody confirmed"),
];

/// Kinds that leave nothing. A new kind belongs into one of the two lists, after a look at what AWS keeps of it.
const LEAVE_NOTHING: [&str; 42] = [
    "aws_api_gateway_api_key",
    "aws_api_gateway_deployment",
    "aws_api_gateway_integration",
    "aws_api_gateway_integration_response",
    "aws_api_gateway_method",
    "aws_api_gateway_method_response",
    "aws_api_gateway_method_settings",
    "aws_api_gateway_request_validator",
    "aws_api_gateway_resource",
    "aws_api_gateway_rest_api",
    "aws_api_gateway_usage_plan",
    "aws_api_gateway_usage_plan_key",
    "aws_cloudwatch_composite_alarm",
    "aws_cloudwatch_dashboard",
    "aws_cloudwatch_log_group",
    "aws_db_subnet_group",
    "aws_default_security_group",
    "aws_elasticache_parameter_group",
    "aws_elasticache_subnet_group",
    "aws_iam_policy",
    "aws_iam_role_policy",
    "aws_iam_role_policy_attachment",
    "aws_internet_gateway",
    "aws_lambda_alias",
    "aws_lambda_function_event_invoke_config",
    "aws_lambda_permission",
    "aws_nat_gateway",
    "aws_route",
    "aws_route_table",
    "aws_route_table_association",
    "aws_scheduler_schedule",
    "aws_scheduler_schedule_group",
    "aws_security_group",
    "aws_sns_topic",
    "aws_sqs_queue",
    "aws_subnet",
    "aws_vpc",
    "aws_vpc_security_group_egress_rule",
    "aws_vpc_security_group_ingress_rule",
    "aws_cloudwatch_log_metric_filter",
    "aws_db_parameter_group",
    "aws_sns_topic_policy",
];

/// What people made by hand along the guide: its words in the section.
const MADE_BY_HAND: [&str; 9] = [
    "CloudShell",
    "aws ssm delete-parameters",
    "aws s3api delete-bucket",
    "delete-secret",
    "developer.clashofclans.com",
    "{coc-api}:*",
    "DROP SCHEMA refresh_worker",
    "delete-open-id-connect-provider",
    "artifacts on GitHub",
];

fn kinds_in(folder: &Path, kinds: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() && !entry.ends_with(".terraform") {
            kinds_in(&entry, kinds);
        } else if entry.extension().is_some_and(|extension| extension == "tf") {
            let text = fs::read_to_string(&entry).unwrap();
            let resources = text.lines().filter(|line| line.starts_with("resource \""));
            kinds.extend(resources.filter_map(|line| quoted(line).first().map(|kind| (*kind).to_owned())));
        }
    }
}

/// Each kind of resource was looked at, and the guide names what survives.
#[test]
fn destroy_leaves_only_what_guide_lists() {
    let mut kinds = BTreeSet::new();
    kinds_in(&path("infra"), &mut kinds);
    assert!(kinds.len() > 40, "{kinds:?}");
    for kind in &kinds {
        let known = LEAVE.iter().any(|(leaves, _)| leaves == kind) || LEAVE_NOTHING.contains(&kind.as_str());
        assert!(known, "{kind}: does it leave something behind? Add it to LEAVE or LEAVE_NOTHING");
    }
    let guide = read("DEPLOYMENT.md");
    let section = between(&guide, "\n## Taking it down\n", "\n## ");
    for (kind, words) in LEAVE {
        assert!(kinds.contains(kind), "{kind} is not used any more: remove it here and from the guide");
        assert!(section.contains(words), "\"Taking it down\" does not say what {kind} leaves: `{words}`");
    }
    for words in MADE_BY_HAND {
        assert!(section.contains(words), "\"Taking it down\" leaves out `{words}`");
    }
}

/// Every secret of the examples is deleted by the guide's command.
#[test]
fn destroy_deletes_parameters_of_examples() {
    let guide = read("DEPLOYMENT.md");
    let command = between(&guide, "aws ssm delete-parameters", "\nfor ");
    for example in ["complete", "existing-vpc", "hosted", "several-regions"] {
        let text = read(&format!("infra/examples/{example}/variables.tf"));
        for name in quoted(&text).into_iter().filter(|name| name.starts_with("/refresh-worker/")) {
            let is_deleted = command.split_whitespace().any(|word| word == name);
            assert!(is_deleted, "the guide does not delete {name} of {example}");
        }
    }
}

/// API Gateway and RDS create log groups by themselves, unless tofu has.
#[test]
fn log_groups_of_services_are_managed() {
    for (file, name) in [
        ("infra/api.tf", "\"API-Gateway-Execution-Logs_${"),
        ("infra/api.tf", "\"/aws/apigateway/${"),
        ("infra/main.tf", "\"/aws/lambda/${"),
        ("infra/examples/complete/main.tf", "\"/aws/rds/instance/${var.name}/postgresql\""),
    ] {
        let text = read(file);
        let groups: Vec<&str> = text.split("resource \"aws_cloudwatch_log_group\"").skip(1).collect();
        let group = groups.iter().map(|group| group.split("\n}\n").next().unwrap()).find(|group| group.contains(name));
        let group = group.unwrap_or_else(|| panic!("{file} has no log group {name}"));
        assert!(group.contains("retention_in_days = var.log_retention_days"), "{file}: {name} has no retention");
    }
}

fn default(variables: &str, name: &str) -> f64 {
    between(variables, &format!("{name} = optional(number, "), ")").parse().unwrap()
}

/// "What strangers may cost" is computed from the module's limits.
#[test]
fn keyless_health_costs_what_guide_says() {
    const SECONDS: f64 = 30.0 * 86_400.0;
    const GB_SECOND: f64 = 0.25 * 0.000_013_333_4;
    let variables = read("infra/variables.tf");
    let throttle = between(&variables, "variable \"health_throttle\" {", "\n}\n");
    let memory = between(&variables, "variable \"memory_size\" {", "\n}\n");
    assert!(memory.contains("default     = 256\n"), "the guide computes with 256 MB");
    let rate = default(&throttle.replace("rate  =", "rate ="), "rate");
    let concurrency =
        between(&read("infra/main.tf"), "var.reserved_concurrency == -1 ? -1 : ", ")").parse::<f64>().unwrap();
    let calls = rate * SECONDS;
    let parts = [calls * 3.5e-6, calls * 0.2e-6, calls * 0.05 * GB_SECOND, calls * 1e-6 * 0.5];
    let sum: f64 = parts.iter().sum();
    let hanging = concurrency * SECONDS * GB_SECOND;
    let all = 2.0 * (sum - parts[2]) + hanging;

    let guide = read("DEPLOYMENT.md");
    let section = between(&guide, "\n## What strangers may cost\n", "\n## ");
    for part in parts {
        let row = format!("| {part:.2} | {:.2} |", 2.0 * part);
        assert!(section.contains(&row), "the section has no row {row}");
    }
    for number in [sum, 2.0 * sum, hanging, all, 1000.0 * 30.0 * 25.0 * GB_SECOND, 4.0 * SECONDS * GB_SECOND] {
        assert!(section.contains(&format!("{number:.2}")), "the section does not say {number:.2}");
    }
    let methods = read("infra/api.tf").matches("resource \"aws_api_gateway_method\" ").count();
    assert_eq!(methods, 2, "a new method needs a limit in local.throttles, and a line in the section");
}
