#!/usr/bin/env python3
"""Runs the scripts of the workflows, .github/scripts, with mocked tofu where they would reach a network."""
import base64
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import tarfile
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / ".github" / "scripts"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
LINUX, MAC = "x86_64-unknown-linux-gnu", "aarch64-apple-darwin"


def run(script, *arguments, cwd=ROOT, path=None, expect=0, says="", **environment):
    environment = os.environ | {"CARGO_NET_OFFLINE": "true"} | environment
    if path:
        environment["PATH"] = f"{path}:{environment['PATH']}"
    done = subprocess.run([script, *arguments], cwd=cwd, env=environment, capture_output=True, text=True)
    text = done.stdout + done.stderr
    assert done.returncode == expect and says in text, (script.name, arguments, done.returncode, says, text)
    return done.stdout


def mock(folder, name, text):
    file = pathlib.Path(folder) / name
    file.write_text(f"#!/usr/bin/env bash\n{text}\n")
    file.chmod(0o755)


def third_party():
    script = SCRIPTS / "third_party.py"
    # The sources of the crates, where no build has fetched them. After that it works without a network.
    subprocess.run(["cargo", "fetch", "--quiet", "--locked"], cwd=ROOT, check=True)
    crates = {}
    for build in ((), ("--lambda",)):
        text = run(script, "notices", "--target", LINUX, *build)
        assert text == run(script, "notices", "--target", LINUX, *build), "two runs differ"
        table, *texts = text.split("=" * 100)
        listed = set(re.findall(r"^(\S+ [0-9]\S*): ", table, re.MULTILINE))
        owners = [owner for part in texts for owner in re.match(r"\nOf (.*):\n", part)[1].split(", ")]
        assert listed - set(owners) == set(), f"without a text: {listed - set(owners)}"
        assert any("standard library of Rust" in owner for owner in owners)
        bill = json.loads(run(script, "sbom", "--target", LINUX, *build))
        assert {f"{part['name']} {part['version']}" for part in bill["components"]} == listed, "the two lists differ"
        assert all(part["hashes"] and part["licenses"] for part in bill["components"])
        assert bill["metadata"]["component"]["name"] == "coc-refresh-worker"
        crates[build] = {name.split()[0] for name in listed}
    laptop, package = crates[()], crates[("--lambda",)]
    assert {"redis", "rustls", "ring", "lambda_runtime"} <= package <= laptop
    # Not linked into the package; and what only builds or tests is in neither.
    assert not package & {"clap", "axum", "libsqlite3-sys"} and {"clap", "axum", "libsqlite3-sys"} <= laptop
    assert not laptop & {"syn", "cc", "serde_derive", "insta", "proptest"}
    return f"{len(laptop)} and {len(package)} crates with their licences"


def repository(folder, changelog, version="1.2.3", locked="1.2.3"):
    """A copy of what release.sh reads."""
    folder = pathlib.Path(folder)
    (folder / ".github").mkdir(parents=True)
    shutil.copytree(SCRIPTS, folder / ".github" / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "Cargo.toml").write_text(f'[package]\nname = "coc-refresh-worker"\nversion = "{version}"\n\n[dependencies]\nversion = "9"\n')
    (folder / "Cargo.lock").write_text(f'[[package]]\nname = "coc-refresh-worker"\nversion = "{locked}"\n')
    (folder / "CHANGELOG.md").write_text(changelog)
    return folder / ".github" / "scripts" / "release.sh"


CHANGES = """# Changelog

## [Unreleased]

## [1.2.3] - 2026-05-06

### Added
- A thing, see [1.2.2].

## [1.2.2] - 2026-04-01

- Older.

[1.2.3]: https://example.com/1.2.3
"""


def versions():
    cases = [
        ("v1.2.3", 0, "agree", {}),
        ("1.2.3", 1, "use v and three numbers", {}),
        ("v1.2.3-rc1", 1, "use v and three numbers", {}),
        ("v1.2.4", 1, "the version in Cargo.toml is 1.2.3", {}),
        ("v1.2.3", 1, "Fix: cargo check", {"locked": "1.2.2"}),
        ("v1.2.3", 1, "no dated section of 1.2.3", {"changelog": CHANGES.replace("2026-05-06", "unreleased")}),
        ("v1.2.3", 1, "no dated section of 1.2.3", {"changelog": CHANGES.replace("1.2.3", "1.2.30")}),
        ("v1.2.3", 1, "is empty", {"changelog": "## [1.2.3] - 2026-05-06\n\n## [1.2.2] - 2026-04-01\n- Older.\n"}),
    ]
    for tag, expect, says, changes in cases:
        with tempfile.TemporaryDirectory() as folder:
            script = repository(folder, **({"changelog": CHANGES} | changes))
            run(script, "check", tag, expect=expect, says=says)
    with tempfile.TemporaryDirectory() as folder:
        script = repository(folder, CHANGES)
        assert run(script, "notes", "1.2.3") == "### Added\n- A thing, see [1.2.2].\n"
        assert run(script, "notes", "1.2.2").strip() == "- Older."
        run(script, "notes", "9.9.9", expect=1, says="no section of 9.9.9")
        run(script, expect=2, says="release.sh check TAG")
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text(), "CHANGELOG.md has no section for what comes next"


def archives():
    """The build itself is cargo's; a mocked one stands for it here."""
    script = SCRIPTS / "release.sh"
    version = re.search(r'^version = "(.*)"', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)[1]
    cargo = shutil.which("cargo")
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        mock(folder, "cargo", f'''
[ "$1" = build ] || exec "{cargo}" "$@"
[[ " $* " = *" --locked --profile lambda --bin refresh-worker --target {MAC} "* && " $* " != *features* ]] || exit 9
mkdir -p "$CARGO_TARGET_DIR/{MAC}/lambda"
echo "$BINARY" >"$CARGO_TARGET_DIR/{MAC}/lambda/refresh-worker"''')
        for into in ("one", "two"):
            run(script, "build", MAC, str(folder / into), path=folder, CARGO_TARGET_DIR=str(folder / into / "target"), BINARY="worker")
        run(script, "build", MAC, str(folder / "bad"), path=folder, CARGO_TARGET_DIR=str(folder / "bad"), BINARY="FAILPOINT", expect=1, says="failpoints")
        run(script, "build", "wasm32-wasip1", str(folder / "bad"), path=folder, expect=1, says="The target is `wasm32-wasip1`")
        name = f"refresh-worker-{version}-{MAC}"
        archive = folder / "one" / f"{name}.tar.gz"
        assert archive.read_bytes() == (folder / "two" / archive.name).read_bytes(), "two builds differ"
        with tarfile.open(archive) as content:
            files = {entry.name: oct(entry.mode) for entry in content if entry.isfile()}
        assert files == {f"{name}/{file}": mode for file, mode in {
            "CHANGELOG.md": "0o644", "LICENSE": "0o644", "README.md": "0o644", "THIRD-PARTY-NOTICES.txt": "0o644", "refresh-worker": "0o755",
        }.items()}, files
        assert json.loads((folder / "one" / f"{name}.cdx.json").read_text())["bomFormat"] == "CycloneDX"

        shutil.rmtree(folder / "one" / "target")
        run(script, "sums", str(folder / "one"))
        run(script, "sums", "one", cwd=folder)
        lines = (folder / "one" / "SHA256SUMS").read_text().splitlines()
        assert lines == [f"{hashlib.sha256((folder / 'one' / file).read_bytes()).hexdigest()}  {file}" for file in (f"{name}.cdx.json", f"{name}.tar.gz")]

        run(script, "image", str(folder / "one"), str(folder / "image"), expect=1, says="no Linux archive")
        shutil.copy(archive, folder / "one" / f"refresh-worker-{version}-aarch64-unknown-linux-gnu.tar.gz")
        run(script, "image", str(folder / "one"), str(folder / "image"), says="left out")
        copied = re.findall(r"\$\{TARGETARCH\}/(\S+)", (ROOT / "Dockerfile").read_text())
        assert len(copied) == 3 and all((folder / "image" / "arm64" / file).is_file() for file in copied), copied


def images():
    """A job that runs again keeps the image that it has published, and never replaces another one."""
    script = SCRIPTS / "release.sh"
    labels = {"config": {"Labels": {"org.opencontainers.image.revision": COMMIT}}}
    found = {"name": "x", "manifest": {"digest": "sha256:1"}, "image": {"linux/amd64": labels, "linux/arm64": labels}}
    with tempfile.TemporaryDirectory() as folder:
        mock(folder, "docker", '[ "$1 $2 $3 $6" = "buildx imagetools inspect ghcr.io/o/r:1.2.3" ] || exit 9; echo "$SAYS"; exit "$STATUS"')

        def tried(answer, status="0", commit=COMMIT, **more):
            return run(script, "existing", "ghcr.io/o/r:1.2.3", commit, path=folder, SAYS=answer, STATUS=status, **more)

        assert tried(json.dumps(found)).strip() == "sha256:1"
        tried(json.dumps(found), commit="0" * 40, expect=1, says=f"of the commit {COMMIT}. What is public is never replaced")
        tried(json.dumps(found | {"image": {}}), expect=1, says="of the commit unknown")
        for missing in ("ERROR: ghcr.io/o/r:1.2.3: not found", "denied: denied"):
            assert not tried(missing, status="1"), missing
        tried("dial tcp: i/o timeout", status="1", expect=1, says="cannot be seen")
    steps = (ROOT / ".github" / "workflows" / "release.yml").read_text()
    places = [steps.index(part) for part in ("gh release create", "--draft --verify-tag", "release.sh existing", "imagetools create", "--draft=false")]
    assert places == sorted(places) and steps.count("gh release create") == 1, "the release is not a draft until its image is there"


PLAN = """
OpenTofu will perform the following actions:

  # module.refresh_worker.aws_lambda_alias.live["refresh"] will be updated in-place
  ~ resource "aws_lambda_alias" "live" {}

  # module.refresh_worker.aws_sqs_queue.failures must be replaced
  # module.refresh_worker.aws_iam_role.old will be destroyed
  # (because aws_iam_role.old is not in configuration)

Plan: 1 to add, 1 to change, 2 to destroy.
"""


def deployment():
    script = SCRIPTS / "deploy.sh"
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        mock(folder, "tofu", 'printf "%s\\n" "$*" >>"$CALLS"; [ "$2" != show ] || cat "$PLAN"')
        calls, root, lock = folder / "calls", folder / "root", folder / "root" / ".terraform.lock.hcl"
        root.mkdir()
        (folder / "plan").write_text(PLAN)
        (folder / f"refresh-worker-{COMMIT}.zip").write_text("package")
        with_all = {"path": folder, "cwd": folder, "CALLS": str(calls), "PLAN": str(folder / "plan"), "DIRECTORY": str(root), "STATE_BUCKET": "state",
                    "REGION": "eu-central-1", "ENVIRONMENT": "production", "VARIABLES": '{"name": "worker"}', "BUCKET": "packages"}

        run(script, "prepare", expect=1, says="Fix: run the workflow Lock", **with_all)
        lock.write_text('provider "registry.terraform.io/hashicorp/aws" {}\n')
        run(script, "prepare", expect=1, says="made by Terraform", **with_all)
        lock.write_text('provider "registry.opentofu.org/hashicorp/aws" {}\n')
        run(script, "prepare", expect=1, says="STATE_BUCKET is not set", **(with_all | {"STATE_BUCKET": ""}))
        run(script, "prepare", expect=1, says="not a JSON object", **(with_all | {"VARIABLES": "name = 1"}))
        run(script, "prepare", expect=1, says="There is no folder", **(with_all | {"DIRECTORY": "nowhere"}))
        assert not calls.exists(), "tofu was called before all was checked"
        run(script, "prepare", **with_all)
        assert "init -lockfile=readonly" in calls.read_text() and "key=refresh-worker/production.tfstate" in calls.read_text()
        assert json.loads((root / "deploy.auto.tfvars.json").read_text()) == {"name": "worker"}

        digest = base64.b64encode(hashlib.sha256(b"package").digest()).decode()
        given = f"-var commit_sha={COMMIT} -var lambda_artifacts_bucket=packages -var package_sha256={digest}"
        calls.unlink()
        run(script, "plan", COMMIT, "plan", **with_all)
        assert f"plan -lock=false -out={folder / 'plan'} {given}" in calls.read_text(), calls.read_text()
        run(script, "apply", COMMIT, **with_all)
        assert f"apply -auto-approve {given}" in calls.read_text()

        text = run(script, "summary", COMMIT, "plan", **with_all)
        assert "**Plan: 1 to add, 1 to change, 2 to destroy.**" in text and COMMIT in text and PLAN.strip() in text
        assert "- `module.refresh_worker.aws_sqs_queue.failures` is replaced\n- `module.refresh_worker.aws_iam_role.old` is destroyed\n" in text
        (folder / "plan").write_text("No changes. Your infrastructure matches the configuration.\n")
        text = run(script, "summary", COMMIT, "plan", **with_all)
        assert "**No changes. Your" in text and "Look at these first" not in text
        (folder / "plan").write_text(PLAN + "x" * 5000)
        text = run(script, "summary", COMMIT, "plan", SUMMARY_LIMIT="1000", **with_all)
        assert len(text) < 2000 and "longer than a summary" in text and text.count("~~~~~~") == 2
        run(script, "destroy", expect=1, says="Usage", **with_all)


# What tofu says when an apply fails: before it could begin, and after.
UNTOUCHED = ["Error: Saved plan is stale", "Error: Saved plan does not match the given state", "Error: Error acquiring the state lock"]
TOUCHED = ["Error: creating Lambda Function (refresh-worker-refresh): AccessDenied", "Error: Failed to save state", "Error: Error releasing the state lock"]


def apply_plan():
    """Only an apply that never began is untouched: after another failure there is something to roll back."""
    script = SCRIPTS / "deploy.sh"
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        mock(folder, "tofu", '[ -z "$SAYS" ] || { echo "$SAYS" >&2; exit 1; }; echo "$*"')
        output = folder / "output"
        (folder / "plan").write_text("")

        def tried(**more):
            output.write_text("")
            said = run(script, "apply-plan", "plan", cwd=folder, path=folder, DIRECTORY=str(folder), GITHUB_OUTPUT=str(output), **more)
            return said, output.read_text()

        said, written = tried(SAYS="")
        assert f"apply {folder / 'plan'}" in said and not written, (said, written)
        for error in UNTOUCHED:
            assert tried(SAYS=error, expect=1, says="::error::Nothing was changed")[1] == "untouched=true\n", error
        for error in TOUCHED:
            said, written = tried(SAYS=error, expect=1, says=error)
            assert not written and "Nothing was changed" not in said, error

        # The real words, where there is a tofu.
        tool = shutil.which("tofu") or shutil.which("terraform")
        if not tool:
            return "a stale plan by its words alone, without tofu"
        mock(folder, "tofu", f'exec "{tool}" "$@"')
        (folder / "main.tf").write_text('variable "x" {}\nresource "terraform_data" "x" { input = var.x }\n')
        for arguments in (["init"], ["plan", "-out=plan", "-var=x=1"], ["apply", "-auto-approve", "-var=x=2"]):
            subprocess.run([tool, *arguments, "-input=false"], cwd=folder, check=True, capture_output=True)
        assert tried(expect=1, says="Saved plan is stale")[1] == "untouched=true\n"
        return "a stale plan"


def roots():
    """Every root configuration of infra."""
    found = sorted(file.parent.relative_to(ROOT).as_posix() for file in ROOT.glob("infra/examples/*/main.tf"))
    assert len(found) >= 4, found
    return [*found, "infra/github"]


def lock():
    with tempfile.TemporaryDirectory() as folder:
        calls = pathlib.Path(folder) / "calls"
        mock(folder, "tofu", 'printf "%s\\n" "$*" >>"$CALLS"')
        run(SCRIPTS / "lock-providers.sh", path=folder, CALLS=str(calls))
        made = calls.read_text()
        for root in roots():
            assert f"-chdir={root}/ providers lock -platform=linux_amd64 -platform=linux_arm64 -platform=darwin_amd64 -platform=darwin_arm64" in made
        assert "-upgrade" not in made
        run(SCRIPTS / "lock-providers.sh", "--upgrade", path=folder, CALLS=str(calls))
        assert "init -backend=false -input=false -upgrade" in calls.read_text()
        run(SCRIPTS / "lock-providers.sh", "--fast", path=folder, CALLS=str(calls), expect=2, says="Usage")


def main():
    crates = third_party()
    versions()
    archives()
    images()
    deployment()
    applied = apply_plan()
    lock()
    print(f"notices and bills of materials ({crates}), versions, archives, checksums, image, plan, {applied}, lock: as they should be")


if __name__ == "__main__":
    main()
