#!/usr/bin/env python3
"""Writes the tables of infra/README.md in the form of terraform-docs; with --check, fails when they are not current."""
import pathlib
import re
import sys

FOLDER = pathlib.Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- BEGIN_TF_DOCS -->\n", "<!-- END_TF_DOCS -->\n"


def blocks(kind):
    text = "\n".join(file.read_text() for file in sorted(FOLDER.glob("*.tf")))
    return sorted(re.findall(rf'^{kind} "(\w+)" \{{\n(.*?)^\}}', text, re.M | re.S))


def description(body):
    return re.search(r'description = "((?:[^"\\]|\\.)*)"', body)[1].replace('\\"', '"').replace("|", "\\|")


def value(body, name):
    """The source text of an argument: one line, or as many as its brackets last."""
    found = re.search(rf"^  {name}\s+= (.*?)(?=\n  \w|\n\n|\Z)", body, re.M | re.S)
    return " ".join(found[1].split()) if found else None


def tables():
    resources = sorted(set(re.findall(r'^(?:resource|data) "(\w+)" "(\w+)"', "\n".join(
        file.read_text() for file in FOLDER.glob("*.tf")), re.M)))
    tool, provider = re.findall(r'version += "([^"]+)"', (FOLDER / "versions.tf").read_text())
    yield f"## Requirements\n\n| Name | Version |\n|---|---|\n| terraform, or OpenTofu | {tool} |\n| aws | {provider} |\n"
    yield f"\n## Resources\n\n{len(resources)} of the provider aws: " + ", ".join(f"`{a}.{b}`" for a, b in resources) + ".\n"
    yield "\n## Inputs\n\n| Name | Description | Type | Default | Required |\n|---|---|---|---|:---:|\n"
    inputs = sorted(blocks("variable"), key=lambda block: (value(block[1], "default") is not None, block[0]))
    for name, body in inputs:
        default, kind = value(body, "default"), value(body, "type")
        kind = kind.replace("|", "\\|")
        yield f"| {name} | {description(body)} | `{kind}` | {'n/a' if default is None else f'`{default}`'} | {'yes' if default is None else 'no'} |\n"
    yield "\n## Outputs\n\n| Name | Description |\n|---|---|\n"
    for name, body in blocks("output"):
        yield f"| {name} | {description(body)} |\n"


def main():
    readme = FOLDER / "README.md"
    text = readme.read_text()
    before, rest = text.split(BEGIN)
    current = before + BEGIN + "".join(tables()) + END + rest.split(END)[1]
    if "--check" in sys.argv and current != text:
        sys.exit("infra/README.md is not current: run infra/checks/readme.py")
    readme.write_text(current)


if __name__ == "__main__":
    main()
