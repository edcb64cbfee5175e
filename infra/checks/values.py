#!/usr/bin/env python3
"""Checks the values of planned resources against AWS's own description of its API, which comes with botocore.

    values.py INFRA_FOLDER PLANS.jsonl...     the outputs of `terraform test -json -verbose`

The model knows enumerations, patterns, lengths and ranges. What AWS documents in words only is in RULES. Then the check is checked:
each value of WRONG, put in the place of a planned one, must be found.
"""
import collections
import copy
import ipaddress
import json
import pathlib
import re
import sys
import zoneinfo

import botocore.loaders
import botocore.model
import regex

# The requests that make a resource, with the arguments that have another name there.
REQUESTS = {
    "aws_api_gateway_account": (["apigateway UpdateAccount"], {}),
    "aws_api_gateway_api_key": (["apigateway CreateApiKey"], {}),
    "aws_api_gateway_deployment": (["apigateway CreateDeployment"], {}),
    "aws_api_gateway_integration": (["apigateway PutIntegration"], {}),
    "aws_api_gateway_integration_response": (["apigateway PutIntegrationResponse"], {}),
    "aws_api_gateway_method": (["apigateway PutMethod"], {"authorization": "authorizationType"}),
    "aws_api_gateway_method_response": (["apigateway PutMethodResponse"], {}),
    "aws_api_gateway_request_validator": (["apigateway CreateRequestValidator"], {}),
    "aws_api_gateway_resource": (["apigateway CreateResource"], {}),
    "aws_api_gateway_rest_api": (["apigateway CreateRestApi"], {}),
    "aws_api_gateway_stage": (["apigateway CreateStage"], {"xray_tracing_enabled": "tracingEnabled"}),
    "aws_api_gateway_usage_plan": (["apigateway CreateUsagePlan"], {"quota_settings": "quota", "throttle_settings": "throttle"}),
    "aws_api_gateway_usage_plan_key": (["apigateway CreateUsagePlanKey"], {}),
    "aws_cloudwatch_composite_alarm": (["cloudwatch PutCompositeAlarm"], {}),
    "aws_cloudwatch_dashboard": (["cloudwatch PutDashboard"], {}),
    "aws_cloudwatch_log_group": (["logs CreateLogGroup", "logs PutRetentionPolicy"], {"name": "logGroupName"}),
    "aws_cloudwatch_log_metric_filter": (["logs PutMetricFilter"], {"name": "filterName", "pattern": "filterPattern"}),
    "aws_cloudwatch_metric_alarm": (["cloudwatch PutMetricAlarm"], {
        "metric_query": "Metrics", "metric_query.metric": "MetricStat", "metric_query.metric.metric_name": "Metric.MetricName",
        "metric_query.metric.namespace": "Metric.Namespace", "metric_query.metric.dimensions": "Metric.Dimensions"}),
    "aws_db_instance": (["rds CreateDBInstance"], {
        "identifier": "DBInstanceIdentifier", "instance_class": "DBInstanceClass", "username": "MasterUsername",
        "enabled_cloudwatch_logs_exports": "EnableCloudwatchLogsExports"}),
    "aws_db_parameter_group": (["rds CreateDBParameterGroup"], {"name": "DBParameterGroupName", "family": "DBParameterGroupFamily"}),
    "aws_db_subnet_group": (["rds CreateDBSubnetGroup"], {"name": "DBSubnetGroupName"}),
    "aws_eip": (["ec2 AllocateAddress"], {}),
    "aws_elasticache_parameter_group": (["elasticache CreateCacheParameterGroup", "elasticache ModifyCacheParameterGroup"], {
        "name": "CacheParameterGroupName", "family": "CacheParameterGroupFamily", "parameter": "ParameterNameValues",
        "parameter.name": "ParameterName", "parameter.value": "ParameterValue"}),
    "aws_elasticache_replication_group": (["elasticache CreateReplicationGroup"], {
        "description": "ReplicationGroupDescription", "node_type": "CacheNodeType", "parameter_group_name": "CacheParameterGroupName",
        "subnet_group_name": "CacheSubnetGroupName"}),
    "aws_elasticache_subnet_group": (["elasticache CreateCacheSubnetGroup"], {"name": "CacheSubnetGroupName"}),
    "aws_elasticache_user": (["elasticache CreateUser"], {}),
    "aws_elasticache_user_group": (["elasticache CreateUserGroup"], {}),
    "aws_iam_policy": (["iam CreatePolicy"], {"name": "PolicyName", "policy": "PolicyDocument"}),
    "aws_iam_role": (["iam CreateRole"], {"name": "RoleName", "assume_role_policy": "AssumeRolePolicyDocument"}),
    "aws_iam_role_policy": (["iam PutRolePolicy"], {"name": "PolicyName", "policy": "PolicyDocument", "role": "RoleName"}),
    "aws_iam_role_policy_attachment": (["iam AttachRolePolicy"], {"role": "RoleName"}),
    "aws_kms_alias": (["kms CreateAlias"], {"name": "AliasName"}),
    "aws_kms_key": (["kms CreateKey", "kms EnableKeyRotation", "kms ScheduleKeyDeletion"],
                    {"deletion_window_in_days": "PendingWindowInDays", "customer_master_key_spec": "KeySpec"}),
    "aws_lambda_alias": (["lambda CreateAlias"], {}),
    "aws_lambda_function": (["lambda CreateFunction", "lambda PutFunctionConcurrency"],
                            {"s3_bucket": "Code.S3Bucket", "s3_key": "Code.S3Key", "s3_object_version": "Code.S3ObjectVersion"}),
    "aws_lambda_function_event_invoke_config": (["lambda PutFunctionEventInvokeConfig"], {}),
    "aws_lambda_permission": (["lambda AddPermission"], {}),
    "aws_nat_gateway": (["ec2 CreateNatGateway"], {}),
    "aws_route": (["ec2 CreateRoute"], {}),
    "aws_s3_bucket": (["s3 CreateBucket"], {}),
    "aws_scheduler_schedule": (["scheduler CreateSchedule"], {}),
    "aws_scheduler_schedule_group": (["scheduler CreateScheduleGroup"], {}),
    "aws_secretsmanager_secret": (["secretsmanager CreateSecret"], {}),
    "aws_security_group": (["ec2 CreateSecurityGroup"], {"name": "GroupName"}),
    "aws_sns_topic": (["sns CreateTopic"], {}),
    "aws_sns_topic_subscription": (["sns Subscribe"], {}),
    "aws_sqs_queue": (["sqs CreateQueue"], {"name": "QueueName"}),
    "aws_ssm_parameter": (["ssm PutParameter"], {}),
    "aws_subnet": (["ec2 CreateSubnet"], {}),
    "aws_vpc": (["ec2 CreateVpc"], {}),
    "aws_vpc_endpoint": (["ec2 CreateVpcEndpoint"], {}),
    "aws_vpc_security_group_egress_rule": (["ec2 AuthorizeSecurityGroupEgress"], {}),
    "aws_vpc_security_group_ingress_rule": (["ec2 AuthorizeSecurityGroupIngress"], {}),
}
# Arguments of the provider that no request has.
OF_THE_PROVIDER = {"apply_immediately", "force_destroy", "revoke_rules_on_delete", "skip_final_snapshot", "skip_destroy", "tags_all", "timeouts",
                   "triggers"}

# What the API reference says in words -----------------------------------------------------------------------------------

RETENTION = {1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653, 0}
EVICTION = {f"{kind}-{way}" for kind in ("volatile", "allkeys") for way in ("lru", "lfu", "random")} | {"volatile-ttl", "noeviction"}
FIELDS = r"[\w*?,/#-]+"


def one_of(*values):
    return lambda value: value in values, f"one of {', '.join(map(str, values))}"


def between(low, high):
    return lambda value: low <= float(value) <= high, f"{low} to {high}"


def matches(pattern, says):
    return lambda value: re.fullmatch(pattern, str(value)) is not None, says


def is_cidr(text):
    try:
        return ipaddress.ip_network(text) is not None
    except ValueError:
        return False


PERIOD = lambda value: value in (10, 20, 30) or (value > 0 and value % 60 == 0 and value <= 604800), "10, 20, 30 or a multiple of 60 seconds"
PORT = between(-1, 65535)
PROTOCOL = matches(r"-1|tcp|udp|icmp|icmpv6|\d{1,3}", "tcp, udp, icmp, icmpv6, a number, or -1")
CIDR = is_cidr, "a network such as 10.0.0.0/16, without host bits"
GROUP_TEXT = matches(r"[a-zA-Z0-9. _\-:/()#,@\[\]+=&;{}!$*]{0,255}", "at most 255 of a-z, A-Z, 0-9, spaces and ._-:/()#,@[]+=&;{}!$*")
TAG = (lambda key, value: regex.fullmatch(r"(?!aws:)[\p{L}\p{Z}\p{N}_.:/=+\-@]{1,128}", key) and regex.fullmatch(r"[\p{L}\p{Z}\p{N}_.:/=+\-@]{0,256}", value or ""),
       "a key of 1 to 128 and a value of at most 256 letters, digits, spaces and _.:/=+-@")
METHOD = one_of("ANY", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
RULES = {
    "aws_api_gateway_integration.http_method": METHOD,
    "aws_api_gateway_integration.integration_http_method": METHOD,
    "aws_api_gateway_method.authorization": one_of("NONE", "AWS_IAM", "CUSTOM", "COGNITO_USER_POOLS"),
    "aws_api_gateway_method.http_method": METHOD,
    "aws_api_gateway_method_settings.settings.logging_level": one_of("OFF", "ERROR", "INFO"),
    "aws_api_gateway_method_settings.settings.throttling_burst_limit": between(-1, 5000),
    "aws_api_gateway_method_settings.settings.throttling_rate_limit": between(-1, 10000),
    "aws_api_gateway_stage.stage_name": matches(r"[A-Za-z0-9_-]{1,128}", "letters, digits, - and _"),
    "aws_api_gateway_usage_plan_key.key_type": one_of("API_KEY"),
    "aws_cloudwatch_log_group.retention_in_days": (lambda value: value in RETENTION, f"one of {sorted(RETENTION)}"),
    "aws_cloudwatch_metric_alarm.datapoints_to_alarm": between(1, 10000),
    "aws_cloudwatch_metric_alarm.extended_statistic": matches(
        r"(p|tm|wm|tc|ts)\d{1,2}(\.\d{1,10})?|p100|IQM|(TM|WM|TC|TS|PR)\([\d.%]*:[\d.%]*\)", "a percentile such as p99, or a trimmed statistic"),
    "aws_cloudwatch_metric_alarm.metric_query.metric.period": PERIOD,
    "aws_cloudwatch_metric_alarm.metric_query.metric.stat": matches(
        r"Sum|Average|Minimum|Maximum|SampleCount|(p|tm|wm|tc|ts)\d{1,2}(\.\d{1,10})?|p100|IQM|(TM|WM|TC|TS|PR)\([\d.%]*:[\d.%]*\)", "a statistic"),
    "aws_cloudwatch_metric_alarm.metric_query.period": PERIOD,
    "aws_cloudwatch_metric_alarm.period": PERIOD,
    "aws_cloudwatch_metric_alarm.treat_missing_data": one_of("breaching", "notBreaching", "ignore", "missing"),
    "aws_db_instance.backup_retention_period": between(0, 35),
    "aws_db_instance.db_name": matches(r"[A-Za-z][A-Za-z0-9_]{0,62}", "a letter, then at most 62 letters, digits and _"),
    "aws_db_instance.enabled_cloudwatch_logs_exports": one_of("postgresql", "upgrade", "iam-db-auth-error"),
    "aws_db_instance.engine": one_of("postgres", "aurora-postgresql"),
    "aws_db_instance.engine_version": matches(r"1[3-8](\.\d+)?", "a version of PostgreSQL, 13 to 18"),
    "aws_db_instance.identifier": matches(r"[a-z](-?[a-z0-9]){0,62}", "a letter, then letters, digits and single hyphens, 63 at most"),
    "aws_db_instance.instance_class": matches(r"db\.[a-z]\w+\.\w+", "db.FAMILY.SIZE"),
    "aws_db_instance.monitoring_interval": one_of(0, 1, 5, 10, 15, 30, 60),
    "aws_db_instance.performance_insights_retention_period": (lambda value: value in (7, 731) or (value % 31 == 0 and value < 731), "7, 731 or months of 31 days"),
    "aws_db_instance.storage_type": one_of("standard", "gp2", "gp3", "io1", "io2"),
    "aws_db_parameter_group.family": matches(r"postgres1[3-8]", "postgres13 to postgres18"),
    "aws_eip.domain": one_of("vpc"),
    "aws_elasticache_parameter_group.family": one_of("redis6.x", "redis7", "valkey7", "valkey8", "valkey9"),
    "aws_elasticache_replication_group.engine": one_of("redis", "valkey"),
    "aws_elasticache_replication_group.node_type": matches(r"cache\.[a-z]\w+\.\w+", "cache.FAMILY.SIZE"),
    "aws_elasticache_replication_group.replication_group_id": matches(r"[a-z](-?[a-z0-9]){0,39}", "a letter, then letters, digits and single hyphens, 40 at most"),
    "aws_elasticache_replication_group.snapshot_retention_limit": between(0, 35),
    "aws_kms_key.deletion_window_in_days": between(7, 30),
    "aws_lambda_function.memory_size": between(128, 10240),
    "aws_lambda_function.reserved_concurrent_executions": between(-1, 100000),
    "aws_lambda_function.timeout": between(1, 900),
    "aws_route.destination_cidr_block": CIDR,
    "aws_scheduler_schedule.schedule_expression": matches(
        rf"rate\([1-9]\d* (minutes?|hours?|days?)\)|cron\({FIELDS}( {FIELDS}){{5}}\)|at\(\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\d\)",
        "rate(NUMBER UNIT), cron() with six fields, or at(yyyy-mm-ddThh:mm:ss)"),
    "aws_scheduler_schedule.schedule_expression_timezone": (lambda value: value in zoneinfo.available_timezones(), "a time zone of IANA"),
    "aws_security_group.description": GROUP_TEXT,
    "aws_security_group.name": (lambda value: GROUP_TEXT[0](value) and not value.startswith("sg-"), f"{GROUP_TEXT[1]}, not sg- in front"),
    "aws_sns_topic.name": matches(r"[\w-]{1,256}(\.fifo)?", "at most 256 letters, digits, - and _"),
    "aws_sns_topic_subscription.protocol": one_of("http", "https", "email", "email-json", "sms", "sqs", "application", "lambda", "firehose"),
    "aws_sqs_queue.message_retention_seconds": between(60, 1209600),
    "aws_sqs_queue.name": matches(r"[\w-]{1,80}(?<!\.fifo)", "at most 80 letters, digits, - and _"),
    "aws_sqs_queue.receive_wait_time_seconds": between(0, 20),
    "aws_sqs_queue.visibility_timeout_seconds": between(0, 43200),
    "aws_subnet.cidr_block": CIDR,
    "aws_vpc.cidr_block": CIDR,
    **{f"aws_vpc_security_group_{way}_rule.{name}": rule for way in ("egress", "ingress") for name, rule in (
        ("cidr_ipv4", CIDR), ("cidr_ipv6", CIDR), ("description", GROUP_TEXT), ("from_port", PORT), ("ip_protocol", PROTOCOL), ("to_port", PORT))},
}


def together(kind, values):
    """Rules about several values of one resource, as (path, what is wrong)."""
    if kind == "aws_cloudwatch_metric_alarm":
        periods = values.get("evaluation_periods") or 0
        # An alarm on an expression has the period of its metrics.
        queries = [metric for query in values.get("metric_query") or [] for metric in query.get("metric") or []]
        period = values.get("period") or max([metric.get("period") or 0 for metric in queries], default=0)
        span = period * periods
        limit = 604800 if period >= 3600 else 86400
        if span > limit:
            yield "evaluation_periods", f"{span} s are looked at, but AWS allows {limit} s with this period"
        if (values.get("datapoints_to_alarm") or 0) > periods:
            yield "datapoints_to_alarm", f"more than the {periods} evaluation periods"
    if kind == "aws_elasticache_parameter_group":
        for parameter in values.get("parameter") or []:
            if parameter.get("name") == "maxmemory-policy" and parameter.get("value") not in EVICTION:
                yield "parameter.value", f"maxmemory-policy is one of {', '.join(sorted(EVICTION))}"
    if kind == "aws_elasticache_replication_group" and values.get("engine_version"):
        newest = {"valkey": r"[789]\.\d+", "redis": r"(6|7)\.\w+"}.get(values.get("engine"), ".*")
        if not re.fullmatch(newest, values["engine_version"]):
            yield "engine_version", f"there is no such version of {values['engine']}"
    if kind == "aws_lambda_function" and (values.get("logging_config") or [{}])[0].get("log_format") == "Text":
        if values["logging_config"][0].get("application_log_level"):
            yield "logging_config.application_log_level", "with the format Text there are no log levels"
    if kind.startswith("aws_vpc_security_group_") and (values.get("from_port") or 0) > (values.get("to_port") or 0):
        yield "from_port", "above to_port"


# A value that AWS refuses, for each kind of rule: resource type, path, value.
WRONG = [
    ("aws_api_gateway_integration", "http_method", "GETT"), ("aws_api_gateway_integration", "type", "AWS_PROX"),
    ("aws_api_gateway_method", "authorization", "None"), ("aws_api_gateway_method_settings", "settings.logging_level", "WARN"),
    ("aws_api_gateway_rest_api", "endpoint_configuration.types", "REGION"), ("aws_api_gateway_usage_plan", "quota_settings.period", "HOUR"),
    ("aws_cloudwatch_log_group", "log_group_class", "STANDART"), ("aws_cloudwatch_log_group", "name", "refresh worker"),
    ("aws_cloudwatch_log_group", "retention_in_days", 31), ("aws_cloudwatch_metric_alarm", "alarm_name", "a" * 256),
    ("aws_cloudwatch_metric_alarm", "comparison_operator", "GreaterThanTreshold"),
    ("aws_cloudwatch_metric_alarm", "evaluation_periods", 0), ("aws_cloudwatch_metric_alarm", "evaluation_periods", 5000),
    ("aws_cloudwatch_metric_alarm", "dimensions", {"Function Name": "a" * 1025}), ("aws_cloudwatch_metric_alarm", "period", 45), ("aws_cloudwatch_metric_alarm", "statistic", "Mean"),
    ("aws_cloudwatch_metric_alarm", "treat_missing_data", "notbreaching"), ("aws_db_instance", "backup_retention_period", 36),
    ("aws_db_instance", "engine", "postgresql"), ("aws_db_instance", "engine_version", "12"), ("aws_db_instance", "instance_class", "t4g.micro"),
    ("aws_db_instance", "storage_type", "gp4"), ("aws_elasticache_parameter_group", "family", "valkey-8"),
    ("aws_elasticache_parameter_group", "parameter.value", "no-eviction"), ("aws_elasticache_replication_group", "engine_version", "5.0"),
    ("aws_iam_role", "description", "a" * 1001), ("aws_iam_role", "name", "refresh worker"), ("aws_kms_key", "deletion_window_in_days", 5),
    ("aws_lambda_function", "architectures", "arm65"), ("aws_lambda_function", "function_name", "refresh worker"),
    ("aws_lambda_function", "logging_config.application_log_level", "Info"), ("aws_lambda_function", "logging_config.log_format", "Json"),
    ("aws_lambda_function", "memory_size", 64), ("aws_lambda_function", "runtime", "provided.al2024"), ("aws_lambda_function", "timeout", 901),
    ("aws_lambda_function", "tracing_config.mode", "On"), ("aws_lambda_function_event_invoke_config", "maximum_event_age_in_seconds", 59),
    ("aws_lambda_function_event_invoke_config", "maximum_retry_attempts", 3), ("aws_lambda_permission", "action", "Invoke"),
    ("aws_scheduler_schedule", "flexible_time_window.mode", "NONE"), ("aws_scheduler_schedule", "schedule_expression", "cron(0 5 * * *)"),
    ("aws_scheduler_schedule", "schedule_expression", "rate(2 mins)"), ("aws_scheduler_schedule", "schedule_expression_timezone", "Europe/Berlinn"),
    ("aws_scheduler_schedule", "state", "ON"), ("aws_scheduler_schedule", "target.retry_policy.maximum_retry_attempts", 186),
    ("aws_security_group", "description", "the worker's"), ("aws_sns_topic", "name", "a b"), ("aws_sqs_queue", "message_retention_seconds", 1209601),
    ("aws_vpc", "cidr_block", "10.60.0.1/16"), ("aws_vpc", "tags", {"Name": "a,b"}), ("aws_vpc_security_group_egress_rule", "from_port", 65536),
    ("aws_vpc_security_group_egress_rule", "ip_protocol", "https"), ("aws_vpc_security_group_ingress_rule", "description", "the worker's"),
]


# The model --------------------------------------------------------------------------------------------------------------

def plain(name):
    return name.replace("_", "").lower()


class Model:
    def __init__(self):
        self.loader = botocore.loaders.Loader()
        self.services, self.patterns = {}, {}

    def inputs(self, requests):
        for request in requests:
            service, operation = request.split()
            if service not in self.services:
                self.services[service] = botocore.model.ServiceModel(self.loader.load_service_model(service, "service-2"), service)
            yield self.services[service].operation_model(operation).input_shape

    def member(self, shape, name):
        """The shape of an argument: `A.B` goes through a structure."""
        for part in name.split("."):
            while shape is not None and shape.type_name == "list":
                shape = shape.member
            members = {plain(key): value for key, value in getattr(shape, "members", {}).items()}
            shape = members.get(plain(part)) or members.get(plain(part) + "s")
            if shape is None:
                return None
        return shape

    def matches(self, pattern, text):
        if pattern not in self.patterns:
            try:
                self.patterns[pattern] = regex.compile(pattern)
            except regex.error: # A form that only Java knows.
                self.patterns[pattern] = None
        found = self.patterns[pattern]
        return found is None or found.fullmatch(text) is not None

    def fault(self, shape, value):
        """What the model says against a value that is no structure."""
        data = shape.metadata
        if shape.type_name == "string":
            text = str(value).lower() if isinstance(value, bool) else str(value)
            if shape.enum and text not in shape.enum:
                return f"one of {', '.join(shape.enum)}"
            if not data.get("min", 0) <= len(text) <= data.get("max", float("inf")):
                return f"{data.get('min', 0)} to {data.get('max', 'any number of')} characters"
            if data.get("pattern") and not self.matches(data["pattern"], text):
                return f"text of the form {data['pattern']}"
        elif shape.type_name in ("integer", "long", "double", "float"):
            try:
                number = float(value)
            except (TypeError, ValueError):
                return "a number"
            if not data.get("min", float("-inf")) <= number <= data.get("max", float("inf")):
                return f"{data.get('min', 'anything')} to {data.get('max', 'anything')}"
        elif shape.type_name == "boolean" and not (isinstance(value, bool) or value in ("true", "false")):
            return "true or false"
        return None


class Check:
    def __init__(self):
        self.model = Model()
        self.checked, self.unmapped, self.kinds = 0, collections.Counter(), set()

    def resource(self, kind, values):
        """The faults of one planned resource, as (path, value, what is allowed)."""
        requests, names = REQUESTS.get(kind, ([], {}))
        if requests:
            self.kinds.add(kind)
        shapes = list(self.model.inputs(requests))
        found = []
        for name, value in values.items():
            if name in OF_THE_PROVIDER or value is None:
                continue
            if name == "tags":
                self.checked += len(value)
                found += [("tags", f"{key} = {one}", TAG[1]) for key, one in value.items() if not TAG[0](key, one)]
                continue
            renamed = names.get(name, name)
            fitting = [self.model.member(shape, renamed) for shape in shapes]
            shape = next((one for one in fitting if one is not None), None)
            found += self.value(kind, name, shape, value, names)
        return found + [(path, None, says) for path, says in together(kind, values)]

    def value(self, kind, path, shape, value, names):
        if isinstance(value, list):
            if shape is not None and shape.type_name == "list":
                low, high = shape.metadata.get("min", 0), shape.metadata.get("max", float("inf"))
                if value and not low <= len(value) <= high:
                    yield path, len(value), f"{low} to {high} elements"
                shape = shape.member
            for one in value:
                yield from self.value(kind, path, shape, one, names)
        elif isinstance(value, dict) and (pair := self.pair(shape)):
            for name, one in value.items():
                yield from self.value(kind, path, pair[0], name, names)
                yield from self.value(kind, path, pair[1], one, names)
        elif isinstance(value, dict):
            for name, one in value.items():
                below = f"{path}.{name}"
                inner = self.model.member(shape, names.get(below, name)) if shape is not None else None
                yield from self.value(kind, below, inner, one, names)
        elif value is not None and value != "":
            rule = RULES.get(f"{kind}.{path}")
            if shape is None and rule is None:
                self.unmapped[f"{kind}.{path}"] += 1
                return
            self.checked += 1
            says = self.model.fault(shape, value) if shape is not None and not self.excepted(kind, path, value) else None
            if says is None and rule is not None and not rule[0](value):
                says = rule[1]
            if says is not None:
                yield path, value, says

    @staticmethod
    def pair(shape):
        """The shapes of key and value, where the request has a map, or a list of keys and values."""
        if shape is not None and shape.type_name == "map":
            return shape.key, shape.value
        if shape is not None and shape.type_name == "list" and shape.member.type_name == "structure":
            members = shape.member.members
            if len(members) == 2 and "Value" in members:
                return next(one for name, one in members.items() if name != "Value"), members["Value"]
        return None

    @staticmethod
    def excepted(kind, path, value):
        # The provider's words for what the request leaves out.
        return (kind, path, value) in {("aws_lambda_function", "reserved_concurrent_executions", -1),
                                       ("aws_cloudwatch_log_group", "retention_in_days", 0)}


# Plans ------------------------------------------------------------------------------------------------------------------

def planned(files):
    """Every resource of every planned run, as (run, address, type, values)."""
    for file in files:
        for line in pathlib.Path(file).read_text().splitlines():
            message = json.loads(line)
            if message["type"] == "test_plan":
                for resource in message["test_plan"].get("resource_changes", []):
                    if resource["mode"] == "managed" and resource["change"]["after"] is not None:
                        yield f"{pathlib.Path(file).stem}: {message['@testrun']}", resource["address"], resource["type"], resource["change"]["after"]


def declared(folder):
    for file in sorted(pathlib.Path(folder).rglob("*.tf")):
        for kind, name in re.findall(r'^resource "(aws_\w+)" "(\w+)"', file.read_text(), re.M):
            yield f"{kind}.{name}", file


def put(values, path, value):
    """Replaces every value at the path that is there; true if there is one."""
    name, _, rest = path.partition(".")
    holders = values if isinstance(values, list) else [values]
    done = False
    for holder in holders:
        if not isinstance(holder, dict) or holder.get(name) in (None, []):
            continue
        if rest:
            done = put(holder[name], rest, value) or done
        else:
            holder[name] = [value] if isinstance(holder[name], list) else value
            done = True
    return done


def main():
    folder, files = sys.argv[1], sys.argv[2:]
    check, faults, by_kind, addresses = Check(), {}, collections.defaultdict(list), set()
    for run, address, kind, values in planned(files):
        by_kind[kind].append(values)
        addresses.add(re.sub(r"\[[^]]*\]", "", address).split("module.")[-1].split(".", 1)[-1] if "module." in address
                      else re.sub(r"\[[^]]*\]", "", address))
        for path, value, says in check.resource(kind, values):
            faults.setdefault(f"{address}: {path} = {json.dumps(value)}: AWS wants {says}", run)
    for address, file in declared(folder):
        if address not in addresses:
            faults[f"{address} is planned by no test, so that nothing checks its values: add a run"] = file
    if faults:
        sys.exit("\n".join(sorted(f"{where}: {fault}" for fault, where in faults.items())))

    checked, unmapped = check.checked, check.unmapped.copy()
    for kind, path, wrong in WRONG:
        examples = [copy.deepcopy(values) for values in by_kind[kind]]
        examples = [values for values in examples if put(values, path, wrong)]
        assert examples, f"{kind}.{path} is planned nowhere: remove it from WRONG"
        found = [fault for values in examples for fault in check.resource(kind, values) if fault[0] == path]
        assert found, f"{kind}.{path} = {wrong!r} should have been found"
    print(f"{checked} values of {len(check.kinds)} kinds of resources fit; {len(WRONG)} wrong ones were found")
    print(f"without a rule, or not part of the request that makes the resource: {' '.join(sorted(unmapped))}")
    others = sorted(set(by_kind) - set(REQUESTS))
    print(f"kinds without a request of their own: {' '.join(others) or 'none'}")


if __name__ == "__main__":
    main()
