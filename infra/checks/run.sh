#!/usr/bin/env bash
# Checks infra/, the scripts and the workflows. Needs no AWS.
#
#   infra/checks/run.sh             what can be checked here; names each check that was not run, and how to get it
#   infra/checks/run.sh --strict    fails when something could not be checked (CI)
#
# Needs python3 with venv; tofu or terraform for the checks that name them. Everything else is installed from PyPI into
# target/check-tools. Where the registry of providers cannot be reached, a stand-in for the provider is used, made from the
# npm package @cdktf/provider-aws.
set -euo pipefail
cd "$(dirname "$0")/../.."
checks=$PWD/infra/checks tools=$PWD/target/check-tools strict='' provider_package=21.22.1
[ "${1:-}" != --strict ] || strict=yes
unset TF_CLI_CONFIG_FILE TF_CLI_ARGS

step() { printf '\n-- %s\n' "$1"; }
not_run() {
    printf 'NOT RUN: %s. To get it: %s\n' "$1" "$2"
    [ -z "$strict" ] || exit 1
}

# Installs the requirements of a file into a folder, unless they are there.
provide() {
    local folder=$1 wanted
    wanted=$(cat "$checks/$2")
    [ "$(cat "$folder/requirements" 2>/dev/null)" != "$wanted" ] || return 0
    echo "Installing from PyPI into ${folder#"$PWD/"}: $(grep -v '^#' "$checks/$2" | tr '\n' ' ')"
    rm -rf "$folder"
    python3 -m venv "$folder" && "$folder/bin/pip" install --quiet --disable-pip-version-check -r "$checks/$2" &&
        printf '%s' "$wanted" >"$folder/requirements"
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tofu=$(command -v tofu || command -v terraform || true)

format() {
    step "Format of infra"
    if [ -n "$tofu" ]; then "$tofu" fmt -check -diff -recursive infra; else not_run "tofu fmt" "https://opentofu.org/docs/intro/install/"; fi
}

readme() {
    step "Tables of infra/README.md"
    if command -v python3 >/dev/null; then
        python3 "$checks/readme.py" --check && echo "current"
    else
        not_run "tables of infra/README.md" "apt-get install python3-venv"
    fi
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

# Folder by folder: init, validate, test.
# shellcheck disable=SC2016  # Expanded by the shell that runs it.
validate_and_test='set -eo pipefail
for folder in . examples/* github; do
    (cd $folder && "$TOFU" init -backend=false -input=false >/dev/null && printf "%s: " "$folder" && "$TOFU" validate -no-color &&
        "$TOFU" test -no-color | grep -Ev "\.\.\. (pass|in progress|tearing down)")
done'

validate_and_test() {
    step "Arguments of every resource, and the tests of module and examples"
    if [ -z "$tofu" ]; then
        not_run "tofu validate, tofu test" "https://opentofu.org/docs/intro/install/"
        return
    fi
    cp -r infra "$work/infra"
    python3 "$checks/guide_tfvars.py" DEPLOYMENT.md "$work/infra"
    cd "$work/infra"
    if TOFU=$tofu timeout 300 "$tofu" init -backend=false -input=false >"$work/init" 2>&1; then
        echo "with the real provider"
        TOFU=$tofu bash -c "$validate_and_test"
    elif [ -n "$strict" ]; then
        cat "$work/init"
        exit 1
    elif command -v npm >/dev/null && (cd "$work" && npm pack --silent "@cdktf/provider-aws@$provider_package" >/dev/null 2>&1); then
        echo "with a stand-in for the provider, which knows names, kinds and required arguments only"
        tar -xzf "$work"/cdktf-provider-aws-*.tgz -C "$work"
        TOFU=$tofu "$tools/bin/python" "$checks/stand_in_provider.py" "$work/package" . -- bash -c "$validate_and_test"
    else
        not_run "tofu validate, tofu test" "reach registry.opentofu.org, or npm's registry for the stand-in"
    fi
    cd - >/dev/null
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
    git ls-files '*.sh' .ci | xargs "$tools/bin/shellcheck" --exclude=SC1091 && echo "clean"
}

workflows() {
    step "Zizmor"
    "$tools/bin/zizmor" --offline --quiet .github && echo "clean"
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
    if provide "$tools-aws" requirements-aws.txt; then
        "$tools-aws/bin/python" "$checks/package_upload.py"
    else
        not_run "upload and deployment" "reach pypi.org"
    fi
}

format
readme
if command -v python3 >/dev/null && provide "$tools" requirements.txt; then
    parses
    validate_and_test
    policies
    escalation
    scripts
    workflows
    workflow_scripts
    after_deploy
    package
else
    not_run "HCL, validate, test, checkov, shellcheck, zizmor, upload" "apt-get install python3-venv, and reach pypi.org"
fi
[ -n "$strict" ] || not_run "actionlint" "go install github.com/rhysd/actionlint/cmd/actionlint@v1.7.7; CI runs it"
