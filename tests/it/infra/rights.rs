//! The policies of `infra/`, and the permissions of the workflows.

use std::fs;

use super::{path, quoted, read};

/// The content of each `actions = [...]` of the file.
fn actions(text: &str) -> Vec<&str> {
    let is_list = |line: &&str| line.trim_start().starts_with("actions ") && line.contains("= [");
    let lists = text.split('\n').filter(is_list);
    let starts = lists.map(|line| line.as_ptr() as usize - text.as_ptr() as usize);
    starts.flat_map(|start| quoted(text[start..].split_once(']').unwrap().0)).collect()
}

/// Every action of the functions' and the schedule's roles, in the order of `iam.tf`, each as AWS spells it in its service
/// authorization reference. A misspelt one would be accepted by AWS and allow nothing.
const ACTIONS: [&str; 28] = [
    "sts:AssumeRole",
    "logs:CreateLogStream",
    "logs:PutLogEvents",
    "ec2:CreateNetworkInterface",
    "ec2:DeleteNetworkInterface",
    "ec2:AssignPrivateIpAddresses",
    "ec2:UnassignPrivateIpAddresses",
    "ec2:DescribeNetworkInterfaces",
    "ec2:DescribeSubnets",
    "ec2:CreateNetworkInterface",
    "ec2:DeleteNetworkInterface",
    "ec2:DescribeNetworkInterfaces",
    "ec2:DescribeSubnets",
    "ec2:DetachNetworkInterface",
    "ec2:AssignPrivateIpAddresses",
    "ec2:UnassignPrivateIpAddresses",
    "sqs:SendMessage",
    "ssm:GetParameter",
    "secretsmanager:GetSecretValue",
    "kms:Decrypt",
    "kms:GenerateDataKey",
    "xray:PutTraceSegments",
    "xray:PutTelemetryRecords",
    "sts:AssumeRole",
    "lambda:InvokeFunction",
    "sqs:SendMessage",
    "kms:Decrypt",
    "kms:GenerateDataKey",
];

#[test]
fn roles_have_exactly_needed_actions() {
    assert_eq!(actions(&read("infra/iam.tf")), ACTIONS);
    let key = ["kms:*", "kms:Decrypt", "kms:GenerateDataKey"]; // The first administers the alarms' key.
    assert_eq!(actions(&read("infra/alarms.tf")), key);
    assert_eq!(actions(&read("infra/api.tf")), ["sts:AssumeRole"]);
}

/// A statement covers all resources only where AWS has no narrower form.
#[test]
fn wildcard_resources_only_where_required() {
    let text = read("infra/iam.tf");
    let statements = text.split(" sid ").skip(1);
    let everything: Vec<&str> = statements
        .filter(|statement| statement.contains("resources = [\"*\"]"))
        .filter_map(|statement| quoted(statement).into_iter().next())
        .collect();
    assert_eq!(everything, ["SeeNetwork", "NoNetworkInterfacesForCode", "Trace"]);
    assert_eq!(text.matches("resources = [\"*\"]").count(), 3);
}

/// An organization's boundary and path apply to every role, and the names of roles differ between regions.
#[test]
fn roles_share_boundary_path_and_naming() {
    let modules = ["api", "iam", "main", "alarms", "schedule"].map(|name| read(&format!("infra/{name}.tf"))).concat();
    let roles: Vec<&str> = modules.split("resource \"aws_iam_role\" ").skip(1).collect();
    assert_eq!(roles.len(), 3);
    for role in roles {
        let body = role.split_once("\n}").unwrap().0;
        for argument in ["= local.role_names", "= var.role_path", "= var.permissions_boundary_arn"] {
            assert!(body.contains(argument), "`{argument}` is missing in aws_iam_role {body}");
        }
    }
}

#[test]
fn workflows_pin_actions_and_drop_permissions() {
    let mut seen = 0;
    for entry in fs::read_dir(path(".github/workflows")).unwrap() {
        let name = entry.unwrap().path();
        let text = fs::read_to_string(&name).unwrap();
        assert!(text.contains("\npermissions: {}\n"), "{name:?} does not start from no permissions");
        for action in
            text.lines().filter_map(|line| line.split("uses: ").nth(1)).filter(|action| !action.starts_with("./"))
        {
            let (_, pin) = action.split_once('@').unwrap_or_else(|| panic!("{action}"));
            let (commit, version) =
                pin.split_once(" # v").unwrap_or_else(|| panic!("{action} does not say its version"));
            let is_commit = commit.len() == 40 && commit.chars().all(|c| c.is_ascii_hexdigit());
            assert!(is_commit && version.starts_with(|c: char| c.is_ascii_digit()), "{action} is not pinned");
            seen += 1;
        }
        assert_eq!(
            text.matches("actions/checkout@").count(),
            text.matches("persist-credentials: false").count(),
            "{name:?}"
        );
    }
    assert!(seen > 10);
}
