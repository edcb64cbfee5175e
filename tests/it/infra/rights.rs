//! Who may do what: the policies of `infra/`, and the permissions of the workflows.

use std::fs;

use super::{path, quoted, read};

/// What is in each `actions = [...]` of the file.
fn actions(text: &str) -> Vec<&str> {
    let lists = text.split('\n').filter(|line| line.trim_start().starts_with("actions "));
    let starts = lists.map(|line| line.as_ptr() as usize - text.as_ptr() as usize);
    starts.flat_map(|start| quoted(text[start..].split_once(']').unwrap().0)).collect()
}

#[test]
fn no_action_has_a_wildcard_but_the_administration_of_the_alarms_key() {
    let role_actions = read("infra/iam.tf");
    let role_actions = actions(&role_actions);
    assert!(role_actions.len() > 20, "{role_actions:?}");
    for action in role_actions {
        let (service, name) = action.split_once(':').unwrap_or_else(|| panic!("{action} names no service"));
        assert!(
            ["ec2", "kms", "lambda", "logs", "secretsmanager", "sqs", "ssm", "sts", "xray"].contains(&service),
            "{action}"
        );
        assert!(name.chars().all(char::is_alphabetic), "{action}");
    }
    let key = read("infra/alarms.tf");
    assert_eq!(actions(&key).into_iter().filter(|action| action.contains('*')).collect::<Vec<_>>(), ["kms:*"]);
}

#[test]
fn a_resource_is_everything_only_where_aws_knows_nothing_narrower() {
    let text = read("infra/iam.tf");
    let everything: Vec<&str> = text
        .split("statement {")
        .skip(1)
        .filter(|statement| statement.contains("resources = [\"*\"]"))
        .filter_map(|statement| quoted(statement).into_iter().next())
        .collect();
    assert_eq!(everything, ["SeeNetwork", "NoNetworkInterfacesForCode"]);
    assert_eq!(text.matches("resources = [\"*\"]").count(), 3, "the third is X-Ray's, in a dynamic statement");
}

#[test]
fn workflows_use_pinned_actions_and_start_without_permissions() {
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
