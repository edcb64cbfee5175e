#!/usr/bin/env python3
"""Notices and bill of materials of the libraries that are linked into a binary.

    third_party.py notices [--target TARGET] [--lambda]    names, versions and licences of all crates, with the licences' texts
    third_party.py sbom    [--target TARGET] [--lambda]    the same crates as CycloneDX 1.5

--lambda means the features of the Lambda package. Cargo says which crates are linked with these features, without those that
only build or test; other generators list what any feature could bring. Reads the crates' own sources, and needs no network once
they are there. The same inputs give the same bytes.
"""
import argparse
import collections
import json
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
NAMES = re.compile(r"^(licen[cs]e|copying|notice|unlicense|copyright)", re.IGNORECASE)
MIT = """MIT License

Copyright (c) {holders}

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated documentation files
(the "Software"), to deal in the Software without restriction, including without limitation the rights to use, copy, modify, merge,
publish, distribute, sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is furnished to do
so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF
MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE
FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN
CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""


def run(*command):
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    return done.stdout


def linked(target, features):
    """The crates that are linked, as cargo's metadata has them, and this package itself."""
    tree = run("cargo", "tree", "--locked", "--edges", "normal,no-proc-macro", "--prefix", "none", "--format", "{p}", "--target", target, *features)
    wanted = {tuple(line.split()[:2]) for line in tree.splitlines() if line}
    metadata = json.loads(run("cargo", "metadata", "--locked", "--format-version", "1", "--filter-platform", target, *features))
    packages = {(package["name"], f"v{package['version']}"): package for package in metadata["packages"]}
    ours = next(package for package in metadata["packages"] if package["id"] == metadata["resolve"]["root"])
    crates = [packages[one] for one in sorted(wanted) if packages[one]["id"] != ours["id"]]
    return ours, crates


def expression(package):
    # The older form separates with a slash.
    return (package["license"] or "").replace("/", " OR ") or f"see {package['license_file']}"


def own_texts(package):
    folder = pathlib.Path(package["manifest_path"]).parent
    files = [file for file in folder.iterdir() if file.is_file() and NAMES.match(file.name)]
    files += [file for name in ("LICENSES", "LICENSE", "licenses") if (folder / name).is_dir() for file in (folder / name).iterdir() if file.is_file()]
    if package["license_file"]:
        files.append(folder / package["license_file"])
    return [file.read_text(encoding="utf-8", errors="replace").strip() for file in sorted(set(files))]


def holders(package):
    authors = [re.sub(r"\s*<.*", "", author) for author in package["authors"]]
    return ", ".join(authors) or f"the authors of {package['name']}"


def notices(target, features):
    ours, crates = linked(target, features)
    words = lambda text: " ".join(text.split())
    users, texts = collections.defaultdict(list), {}

    def add(text, name):
        texts.setdefault(words(text), text)
        if name not in users[words(text)]:
            users[words(text)].append(name)

    apache = collections.Counter()
    without = []
    for crate in crates:
        found = own_texts(crate)
        for text in found:
            add(text, f"{crate['name']} {crate['version']}")
            if words(text).startswith("Apache License Version 2.0"):
                apache[text] += 1
        if not found:
            without.append(crate)
    # Some crates name a licence and lack its text.
    for crate in without:
        licence = re.split(r" OR ", expression(crate))
        if "MIT" in licence:
            text = MIT.format(holders=holders(crate))
        elif "Apache-2.0" in licence and apache:
            text = apache.most_common(1)[0][0]
        else:
            sys.exit(f"{crate['name']} {crate['version']} has no text of its licence {expression(crate)}. Fix: add the text to {__file__}.")
        add(text.strip(), f"{crate['name']} {crate['version']}")
    rust = run("rustc", "--version").split()[1]
    add(MIT.format(holders="The Rust Project Contributors").strip(), f"the standard library of Rust {rust}")

    print(f"{ours['name']} {ours['version']} for {target} contains the libraries below.\n")
    for crate in crates:
        print(f"{crate['name']} {crate['version']}: " + ", ".join(filter(None, [expression(crate), crate["repository"]])))
    print(f"the standard library of Rust {rust}: MIT OR Apache-2.0, https://github.com/rust-lang/rust")
    if any(crate["name"] == "libsqlite3-sys" for crate in crates):
        print("SQLite, within libsqlite3-sys: in the public domain, https://sqlite.org/copyright.html")
    for key in sorted(texts, key=lambda key: users[key][0]):
        print(f"\n{'=' * 100}\nOf {', '.join(users[key])}:\n\n{texts[key]}")


def sbom(target, features):
    import tomllib  # Of Python 3.11, and only needed here.

    ours, crates = linked(target, features)
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text())["package"]
    sums = {(package["name"], package["version"]): package.get("checksum") for package in lock}
    commit, time = run("git", "log", "-1", "--format=%H %cI").split()

    def component(package, kind):
        purl = f"pkg:cargo/{package['name']}@{package['version']}"
        checksum = sums.get((package["name"], package["version"]))
        return {
            "type": kind, "bom-ref": purl, "name": package["name"], "version": package["version"], "purl": purl,
            "licenses": [{"expression": expression(package)}] if package["license"] else [],
            **({"hashes": [{"alg": "SHA-256", "content": checksum}]} if checksum else {}),
            **({"externalReferences": [{"type": "vcs", "url": package["repository"]}]} if package["repository"] else {}),
        }

    print(json.dumps({
        "$schema": "http://cyclonedx.org/schema/bom-1.5.schema.json", "bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
        "metadata": {
            "timestamp": time, "component": component(ours, "application"),
            "properties": [{"name": "git:commit", "value": commit}, {"name": "cargo:target", "value": target},
                           {"name": "cargo:features", "value": "none" if features else "default"}],
        },
        "components": [component(crate, "library") for crate in crates],
    }, indent=1))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["notices", "sbom"])
    parser.add_argument("--target", default=os.environ.get("CARGO_BUILD_TARGET"))
    parser.add_argument("--lambda", dest="of_lambda", action="store_true")
    arguments = parser.parse_args()
    target = arguments.target or re.search(r"host: (\S+)", run("rustc", "-vV"))[1]
    {"notices": notices, "sbom": sbom}[arguments.what](target, ["--no-default-features"] if arguments.of_lambda else [])


if __name__ == "__main__":
    main()
