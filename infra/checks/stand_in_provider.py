#!/usr/bin/env python3
"""A stand-in for the provider hashicorp/aws that knows its arguments and does nothing.

Where the registry of providers cannot be reached, `terraform validate` and `terraform test` (with its mocked provider) need
something that knows which arguments and blocks each resource has. The npm package @cdktf/provider-aws was generated from
that schema; this reads it back and serves it over the plugin protocol, then runs the command that it is given:

    stand_in_provider.py PACKAGE_FOLDER MODULE_FOLDER... -- terraform validate

What it cannot know: rules inside the provider (which arguments exclude one another, which values exist). CI has the real one.
"""
import concurrent.futures
import json
import os
import pathlib
import re
import subprocess
import sys

import grpc

TYPES = {
    "string": "string", "number": "number", "boolean": "bool",
    "stringList": ["list", "string"], "numberList": ["list", "number"], "booleanList": ["list", "bool"],
    "stringMap": ["map", "string"], "numberMap": ["map", "number"], "booleanMap": ["map", "bool"],
    "stringListList": ["list", ["list", "string"]], "stringMapList": ["list", ["map", "string"]],
}
COMPUTED = {"String": "string", "Number": "number", "Boolean": "bool", "List": ["list", "string"], "StringMap": ["map", "string"],
            "NumberList": ["list", "number"]}
ATTRIBUTE = re.compile(r"(\w+): \{\s+value: (.*),\s+isBlock: (true|false),\s+type: \"(\w+)\",\s+storageClassType: \"(\w+)\"")


# What the npm package says --------------------------------------------------------------------------------------------

class Resource:
    """One resource or data source: its attributes and blocks, read from the generated JavaScript and its types."""

    def __init__(self, folder):
        self.code = "\n".join(file.read_text() for file in sorted(folder.glob("*.js")))
        self.types = "\n".join(file.read_text() for file in sorted(folder.glob("*.d.ts")))
        self.name = re.search(r'tfResourceType = "(\w+)"', self.types)[1]

    def block(self):
        body = re.findall(r"synthesizeHclAttributes\(\) \{(.*?)\n    \}", self.code, re.S)[-1]
        config = re.search(r"export interface (\w+Config) extends", self.types)[1]
        block = self.members(body, config)
        own = self.code[re.search(r"class \w+ extends cdktf\.Terraform(Resource|DataSource)", self.code).start():]
        for kind, attribute in re.findall(r"return this\.get(\w+)Attribute\('(\w+)'\)", own):
            if attribute not in block["attributes"] and attribute not in block["blocks"] and kind in COMPUTED:
                block["attributes"][attribute] = {"type": COMPUTED[kind], "computed": True}
        # What is inside of computed lists is not told apart.
        for attribute in re.findall(r'= new \w+(?:List|Map)\(this, "(\w+)"', own):
            if attribute not in block["blocks"]:
                block["attributes"].setdefault(attribute, {"type": ["list", ["map", "string"]], "computed": True})
        if " extends cdktf.TerraformDataSource" in own:
            for attribute in block["attributes"].values():
                attribute["computed"] = not attribute.get("required", False)
        identifier = block["attributes"].setdefault("id", {"type": "string"})
        identifier.update(required=False, optional=True, computed=True)
        return block

    def members(self, body, interface):
        required, single = self.shape(interface)
        block = {"attributes": {}, "blocks": {}}
        for name, value, is_block, nesting, storage in ATTRIBUTE.findall(body):
            if is_block == "false":
                kind = TYPES[storage]
                if nesting == "set":
                    kind = ["set", kind[1]]
                block["attributes"][name] = {"type": kind, "required": name in required, "optional": name not in required}
                continue
            function = re.search(r"(\w+)ToHclTerraform", value)[1]
            inner = re.search(rf"function {function}ToHclTerraform\(struct\) \{{(.*?)\n\}}", self.code, re.S)[1]
            nested = self.members(inner, function[0].upper() + function[1:])
            block["blocks"][name] = {
                "block": nested,
                "nesting": {"struct": 1, "list": 2, "set": 3}[nesting],
                "min": 1 if name in required else 0,
                "max": 1 if name in single and nesting != "struct" else 0,
            }
        return block

    def shape(self, interface):
        """The names in snake case of what must be there, and of what can be there only once."""
        body = re.search(rf"export interface {interface}(?: extends [\w.]+)? \{{(.*?)\n\}}", self.types, re.S)[1]
        required, single = set(), set()
        for anchor, optional, kind in re.findall(r"#(\w+) [^}]*\}.*?readonly \w+(\??): ([^;]+);", body, re.S):
            if not optional:
                required.add(anchor)
            if "[]" not in kind:
                single.add(anchor)
        return required, single


def used_types(modules):
    text = "\n".join(file.read_text() for module in modules for file in pathlib.Path(module).rglob("*.tf"))
    return (set(re.findall(r'^resource "aws_(\w+)"', text, re.M)), set(re.findall(r'^data "aws_(\w+)"', text, re.M)))


# The plugin protocol, as far as it is needed --------------------------------------------------------------------------

def varint(number):
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def field(number, value):
    """One field of a protobuf message; zero and nothing are left out."""
    if isinstance(value, (bool, int)):
        return varint(number << 3) + varint(int(value)) if value else b""
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def encoded_block(block):
    out = b""
    for name, attribute in sorted(block["attributes"].items()):
        out += field(2, field(1, name) + field(2, json.dumps(attribute["type"])) + field(4, attribute.get("required", False))
                     + field(5, attribute.get("optional", False)) + field(6, attribute.get("computed", False)))
    for name, nested in sorted(block["blocks"].items()):
        out += field(3, field(1, name) + field(2, encoded_block(nested["block"])) + field(3, nested["nesting"])
                     + field(4, nested["min"]) + field(5, nested["max"]))
    return out


def encoded_schema(package, modules):
    schema = field(1, field(2, encoded_block({"attributes": {"region": {"type": "string", "optional": True}}, "blocks": {
        "default_tags": {"nesting": 2, "min": 0, "max": 1, "block": {
            "attributes": {"tags": {"type": ["map", "string"], "optional": True}}, "blocks": {}}}}})))
    resources, sources = used_types(modules)
    for number, prefix, names in ((2, "", resources), (3, "data-aws-", sources)):
        for name in sorted(names):
            folder = package / "lib" / (prefix + name.replace("_", "-"))
            if not folder.is_dir():
                sys.exit(f"{package}: knows no {'data source' if prefix else 'resource'} aws_{name}")
            resource = Resource(folder)
            schema += field(number, field(1, resource.name) + field(2, field(2, encoded_block(resource.block()))))
    print(f"schema of {len(resources)} resources and {len(sources)} data sources, from {package}", file=sys.stderr)
    return schema


def serve(schema):
    answers = {"GetSchema": lambda request, _: schema, "PrepareProviderConfig": lambda request, _: request}
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(answers.get(name, lambda request, _: b""))
        for name in ("GetSchema", "PrepareProviderConfig", "ValidateResourceTypeConfig", "ValidateDataSourceConfig", "Configure", "Stop")
    }
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("tfplugin5.Provider", handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, port


def main():
    split = sys.argv.index("--")
    package, modules, command = pathlib.Path(sys.argv[1]), sys.argv[2:split], sys.argv[split + 1:]
    server, port = serve(encoded_schema(package, modules))
    provider = {"Protocol": "grpc", "ProtocolVersion": 5, "Pid": os.getpid(), "Test": True,
                "Addr": {"Network": "tcp", "String": f"127.0.0.1:{port}"}}
    names = ("registry.terraform.io/hashicorp/aws", "registry.opentofu.org/hashicorp/aws")
    environment = os.environ | {"TF_REATTACH_PROVIDERS": json.dumps({name: provider for name in names})}
    status = subprocess.call(command, env=environment)
    server.stop(0)
    sys.exit(status)


if __name__ == "__main__":
    main()
