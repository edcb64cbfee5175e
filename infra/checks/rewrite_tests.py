#!/usr/bin/env python3
"""Turns the runs of all test files under a folder into `plan` or `apply`, so that their values or policies can be read.

    rewrite_tests.py FOLDER plan|apply

With `plan` only what the configuration says is known. With `apply` the mocked provider makes up the rest, and policies are whole. For
that it needs ids and ARNs of the right form; where a test has none of its own, these are put in. Assertions are left out, since they
were made for the other command; runs that expect a failure stay.
"""
import pathlib
import re
import sys

ACCOUNT = "eu-central-1:123456789012"
MOCKS = {
    "aws_cloudwatch_log_group": f'arn = "arn:aws:logs:{ACCOUNT}:log-group:mock"',
    "aws_db_instance": f'arn = "arn:aws:rds:{ACCOUNT}:db:mock"',
    "aws_eip": 'id = "eipalloc-0a"',
    "aws_elasticache_replication_group": f'arn = "arn:aws:elasticache:{ACCOUNT}:replicationgroup:mock"',
    "aws_iam_policy": 'arn = "arn:aws:iam::123456789012:policy/mock"',
    "aws_iam_role": 'arn = "arn:aws:iam::123456789012:role/mock"',
    "aws_kms_key": f'arn = "arn:aws:kms:{ACCOUNT}:key/00000000-0000-0000-0000-000000000000"',
    "aws_lambda_alias": f'arn = "arn:aws:lambda:{ACCOUNT}:function:mock:live"',
    "aws_lambda_function": f'arn = "arn:aws:lambda:{ACCOUNT}:function:mock"',
    "aws_s3_bucket": 'arn = "arn:aws:s3:::mock"',
    "aws_scheduler_schedule_group": f'arn = "arn:aws:scheduler:{ACCOUNT}:schedule-group/mock"',
    "aws_secretsmanager_secret": f'arn = "arn:aws:secretsmanager:{ACCOUNT}:secret:mock-AbCdEf"',
    "aws_security_group": 'id = "sg-0a"',
    "aws_sns_topic": f'arn = "arn:aws:sns:{ACCOUNT}:mock"',
    "aws_sqs_queue": f'arn = "arn:aws:sqs:{ACCOUNT}:mock"',
    "aws_ssm_parameter": f'arn = "arn:aws:ssm:{ACCOUNT}:parameter/mock"',
    "aws_subnet": 'id = "subnet-0a"',
    "aws_vpc": 'id = "vpc-0a"',
}


def rewrite(text, command):
    parts = re.split(r'^(?=run ")', text, flags=re.M)
    for number, part in enumerate(parts[1:], 1):
        if "expect_failures" not in part:
            part = re.sub(r"^  command\s*=[^\n]*\n|^  assert \{\n.*?^  \}\n", "", part, flags=re.M | re.S)
            parts[number] = part.replace("{\n", f"{{\n  command = {command}\n", 1)
    mocks = "".join(f'  mock_resource "{kind}" {{\n    defaults = {{ {value} }}\n  }}\n' for kind, value in MOCKS.items()
                    if f'mock_resource "{kind}"' not in text)
    if command == "apply":
        parts[0] = re.sub(r'^mock_provider "aws" \{(\})?\n', lambda found: f'mock_provider "aws" {{\n{mocks}' + ("}\n" if found[1] else ""),
                          parts[0], flags=re.M)
    return "".join(parts)


def main():
    for file in pathlib.Path(sys.argv[1]).rglob("*.tftest.hcl"):
        file.write_text(rewrite(file.read_text(), sys.argv[2]))
    for file in pathlib.Path(sys.argv[1]).rglob("*.tf"):
        # Otherwise nothing that was applied could be destroyed.
        file.write_text(re.sub(r"(prevent_destroy\s*=) true", r"\1 false", file.read_text()))


if __name__ == "__main__":
    main()
