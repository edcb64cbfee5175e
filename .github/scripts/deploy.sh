#!/usr/bin/env bash
# The steps of deploy.yml that need more than a line. They run by hand, too, with the same variables.
#
#   deploy.sh prepare              makes the backend and the variables, and initializes with exactly the locked providers
#   deploy.sh plan COMMIT FILE     plans COMMIT into FILE; its package lies in the current folder
#   deploy.sh summary COMMIT FILE  prints the plan as Markdown, short enough for the summary of a job
#   deploy.sh apply-plan FILE      applies exactly this plan; where it could not begin, it adds untouched=true to $GITHUB_OUTPUT
#   deploy.sh apply COMMIT         applies COMMIT without a plan: the way back
#
# Variables: DIRECTORY, the root configuration; STATE_BUCKET, REGION, ENVIRONMENT, for the state; VARIABLES, the configuration's
# variables as JSON; BUCKET, the bucket of the packages.
set -euo pipefail
summary_limit=${SUMMARY_LIMIT:-900000} # Bytes. GitHub refuses the summary of a step above 1 MiB.

fail() { printf '%s\n' "$@" >&2; exit 1; }
need() { for name in "$@"; do [ -n "${!name:-}" ] || fail "$name is not set: see the head of .github/workflows/deploy.yml"; done; }

prepare() {
    local lock=$DIRECTORY/.terraform.lock.hcl
    need STATE_BUCKET REGION ENVIRONMENT
    [ -d "$DIRECTORY" ] || fail "There is no folder $DIRECTORY: set the variable TOFU_DIRECTORY to the root configuration."
    # Without it every deployment would take the newest provider, whatever that does.
    [ -f "$lock" ] || fail "$lock is not committed, so the providers of this deployment are not pinned." \
        "Fix: run the workflow Lock and merge its branch, or run .github/scripts/lock-providers.sh and commit the file."
    grep -q '"registry.opentofu.org/' "$lock" || fail "$lock was made by Terraform, and the workflow uses OpenTofu, whose registry is another." \
        "Fix: run the workflow Lock and merge its branch, or run .github/scripts/lock-providers.sh with tofu and commit the file."
    jq -e 'type == "object"' <<<"${VARIABLES:-"{}"}" >/dev/null 2>&1 || fail "TOFU_VARIABLES is not a JSON object."
    printf 'terraform {\n  backend "s3" {}\n}\n' >"$DIRECTORY/backend.tf"
    printf '%s' "${VARIABLES:-"{}"}" >"$DIRECTORY/deploy.auto.tfvars.json"
    # readonly: a provider that the lock file does not have is an error, also one that only the state names.
    tofu -chdir="$DIRECTORY" init -lockfile=readonly -backend-config="bucket=$STATE_BUCKET" -backend-config="region=$REGION" \
        -backend-config="key=refresh-worker/$ENVIRONMENT.tfstate" -backend-config="use_lockfile=true"
}

of_commit() {
    printf '%s\n' -var "commit_sha=$1" -var "lambda_artifacts_bucket=$BUCKET" \
        -var "package_sha256=$(openssl dgst -sha256 -binary "refresh-worker-$1.zip" | base64)"
}

plan() {
    local arguments
    need BUCKET
    mapfile -t arguments < <(of_commit "$1")
    # The role that plans may not write the lock of the state. The apply notices when the state has changed since the plan.
    tofu -chdir="$DIRECTORY" plan -lock=false -out="$(realpath "$2")" "${arguments[@]}"
}

# shellcheck disable=SC2016  # The backticks are Markdown's.
summary() {
    local text changes gone
    text=$(tofu -chdir="$DIRECTORY" show -no-color "$(realpath "$2")")
    changes=$(grep -E '^(Plan:|No changes\.)' <<<"$text" || echo "See the plan below.")
    gone=$(sed -nE 's/^  # (.*) (will be|must be) (destroyed|replaced).*/- `\1` is \3/p' <<<"$text")
    printf '## Plan for %s\n\nCommit `%s`. **%s**\n' "$ENVIRONMENT" "$1" "$changes"
    [ -z "$gone" ] || printf '\n### Look at these first\n\n%s\n' "$gone"
    # Tildes, since a plan may have backticks.
    printf '\n<details><summary>The whole plan</summary>\n\n~~~~~~text\n'
    if [ "${#text}" -gt "$summary_limit" ]; then
        printf '%s\n~~~~~~\n\nThe plan is longer than a summary may be. The log of the step Plan has all of it.\n' "${text:0:$summary_limit}"
    else
        printf '%s\n~~~~~~\n' "$text"
    fi
    printf '\n</details>\n'
}

# There is nothing to roll back after an apply that never began. The former commit would go, unreviewed, over what somebody else has
# just changed. tofu looks at the plan and takes the lock before it changes anything.
apply-plan() {
    local log reason
    log=$(mktemp)
    # shellcheck disable=SC2064  # The value of now is meant.
    trap "rm -f '$log'" EXIT
    tofu -chdir="$DIRECTORY" apply "$(realpath "$1")" 2>&1 | tee "$log" && return
    reason=$(grep -oE 'Saved plan is stale|Saved plan does not match the given state|Error acquiring the state lock' "$log" | head -1) || exit 1
    echo "untouched=true" >>"${GITHUB_OUTPUT:-/dev/null}"
    echo "::error::Nothing was changed: $reason. Fix: wait until no other apply runs, then start the workflow again, for a new plan."
    exit 1
}

apply() {
    local arguments
    need BUCKET
    mapfile -t arguments < <(of_commit "$1")
    tofu -chdir="$DIRECTORY" apply -auto-approve "${arguments[@]}"
}

need DIRECTORY
case ${1:-} in
    prepare | plan | summary | apply-plan | apply) "$@" ;;
    *) fail "Usage: deploy.sh prepare | plan COMMIT FILE | summary COMMIT FILE | apply-plan FILE | apply COMMIT" ;;
esac
