#!/usr/bin/env python3
"""A stand-in for the provider hashicorp/aws that knows its arguments and does nothing.

Where the registry of providers cannot be reached, `terraform validate` and `terraform test` (with its mocked provider) need
something that knows which arguments and blocks each resource has. The npm package @cdktn/provider-aws is generated from that
schema with every release of the provider; this reads it back and serves it over the plugin protocol, then runs a command:

    stand_in_provider.py PACKAGE_FOLDER MODULE_FOLDER... -- terraform validate

It knows every argument and block, their types, which are required, which only the provider sets, and which blocks are there once
at most. It cannot know the rules that are code of the provider: which arguments exclude one another. values.py knows which values
exist. CI has the real provider.
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
            "NumberList": ["list", "number"], "BooleanMap": ["map", "bool"], "NumberMap": ["map", "number"]}
ATTRIBUTE = re.compile(r"(\w+): \{\s+value: (.*),\s+isBlock: (true|false),\s+type: \"(\w+)\",\s+storageClassType: \"(\w+)\"")
FLAGS = re.compile(r"// (\w+) - computed: (true|false), optional: (true|false), required: (true|false)\n(.*?)(?=\n    // \w+ - computed|\Z)", re.S)


# What the npm package says --------------------------------------------------------------------------------------------

class Resource:
    """One resource or data source: its attributes and blocks, read from the generated JavaScript and its types."""

    def __init__(self, folder):
        self.code = "\n".join(file.read_text() for file in sorted(folder.glob("*.js")))
        self.types = "\n".join(file.read_text() for file in sorted(folder.glob("*.d.ts")))
        self.classes = dict(re.findall(r"^class (\w+) extends cdktn\.\w+ \{\n(.*?)^\}", self.code, re.M | re.S))

    def block(self):
        found = re.search(r"^class (\w+) extends cdktn\.Terraform(Resource|DataSource|Provider) ", self.code, re.M)
        name = found[1]
        body = re.search(r"synthesizeHclAttributes\(\) \{(.*?)\n    \}", self.classes[name], re.S)[1]
        block = self.members(body, f"{name}Config", name)
        if found[2] != "Provider":
            block["attributes"].setdefault("id", {"type": "string"}).update(required=False, optional=True, computed=True)
        return block

    def members(self, body, interface, owner):
        """The members of a block: `body` lists what can be written, the class `owner` has flags and what the provider sets."""
        required, single = self.shape(interface)
        flags = {name: (computed == "true", optional == "true", rest)
                 for name, computed, optional, _, rest in FLAGS.findall(self.classes.get(owner, ""))}
        block = {"attributes": {}, "blocks": {}}
        for name, value, is_block, nesting, storage in ATTRIBUTE.findall(body):
            if is_block == "false":
                kind = TYPES[storage]
                if nesting == "set":
                    kind = ["set", kind[1]]
                block["attributes"][name] = {"type": kind, "required": name in required, "optional": name not in required,
                                             "computed": flags.get(name, (False,))[0]}
                continue
            function = re.search(r"(\w+)ToHclTerraform", value)[1]
            inner = re.search(rf"function {function}ToHclTerraform\(struct\) \{{(.*?)\n\}}", self.code, re.S)[1]
            kind = function[0].upper() + function[1:]
            block["blocks"][name] = {
                "block": self.members(inner, kind, f"{kind}OutputReference"),
                "nesting": {"struct": 1, "list": 2, "set": 3}[nesting],
                "min": 1 if name in required else 0,
                "max": 1 if name in single and nesting != "struct" else 0,
            }
        for name, (_, optional, rest) in flags.items():
            if name not in block["attributes"] and name not in block["blocks"] and not optional:
                block["attributes"][name] = {"type": self.computed(rest), "computed": True}
        return block

    def computed(self, rest):
        """The type of what only the provider sets, from its member or its getter."""
        if nested := re.search(r"= new (\w+?)(List|Map|OutputReference)\(this, \"\w+\"(?:, (true|false))?\)", rest):
            members = {name: self.computed(inner) for name, _, _, _, inner in FLAGS.findall(self.classes[f"{nested[1]}OutputReference"])}
            kind = ["object", members]
            return {"List": ["set" if nested[3] == "true" else "list", kind], "Map": ["map", kind], "OutputReference": kind}[nested[2]]
        if getter := re.search(r"this\.get(\w+)Attribute\(", rest):
            kind = COMPUTED[getter[1]]
            return ["set", kind[1]] if "Fn.tolist" in rest else kind
        return ["list", ["map", "string"]]

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
    schema = field(1, field(2, encoded_block(Resource(package / "lib" / "provider").block())))
    resources, sources = used_types(modules)
    for number, prefix, names in ((2, "", resources), (3, "data-aws-", sources)):
        for name in sorted(names):
            folder = package / "lib" / (prefix + name.replace("_", "-"))
            if not folder.is_dir():
                sys.exit(f"{package}: knows no {'data source' if prefix else 'resource'} aws_{name}")
            schema += field(number, field(1, f"aws_{name}") + field(2, field(2, encoded_block(Resource(folder).block()))))
    version = re.search(r"providerVersion: '([\d.]+)'", (package / "lib" / "provider" / "index.js").read_text())[1]
    print(f"schema of {len(resources)} resources and {len(sources)} data sources of version {version}", file=sys.stderr)
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
