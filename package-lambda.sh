#!/usr/bin/env bash
# Builds the package for AWS Lambda, dist/refresh-worker-<commit>.zip, and uploads and deploys it on request.
#
#   ./package-lambda.sh                              builds for arm64 into dist/
#   ./package-lambda.sh --arch x86_64 --output /tmp
#   ./package-lambda.sh --upload s3://BUCKET         uploads it to where infra/ expects it
#   ./package-lambda.sh --deploy FUNCTION            also points the function's alias `live` to it
#
# `--help` has all options. Two builds of a commit give the same bytes on any machine, if Rust, the CA bundle and Python's zlib
# are the same and zig can be installed.
# Needs Rust and git; uploads and deployments also the AWS command line, version 2. Installs what else is missing, and says so: python3
# and a C compiler with apt-get, zig from PyPI.
set -euo pipefail
caller=$PWD
cd "$(dirname "$0")"

# AWS Lambda's provided.al2023 has glibc 2.34. The build links against an older one, to have a margin.
glibc_build=2.26 glibc_limit=2.34
# cargo-zigbuild and zig, with the hash of each file.
requirements=infra/checks/requirements/package.txt
# Uploads use S3's conditional writes, which came with this version. Version 1 has other defaults, and other options elsewhere.
aws_oldest=2.17.34
ca_bundle_url=https://truststore.pki.rds.amazonaws.com/global/global-bundle.pem
zip_limit_mb=50 unzipped_limit_mb=250 # AWS's own, for a package that is uploaded directly.

arch=arm64 output=dist package='' upload='' deploy=() alias=live ca_bundle='' dry_run='' allow_dirty=''
tools=${PACKAGE_TOOLS_DIR:-target/package-tools}

usage() {
    cat <<'HELP'
Usage: ./package-lambda.sh [options]

  --arch arm64|x86_64   the architecture (default arm64)
  --output FOLDER       the folder for the zip (default dist)
  --ca-bundle FILE      the CA bundle of Amazon RDS for the package. By default it is downloaded, and omitted if that fails;
                        with `required` that is an error, with `none` it is omitted
  --package FILE        upload or deploy this zip instead of building one
  --upload s3://BUCKET[/PREFIX]
                        upload the zip; an existing object is never replaced, and a different one is an error
  --deploy FUNCTION     publish the zip as a version of FUNCTION and point the alias to it; repeatable (refresh and health)
  --alias NAME          the alias (default live)
  --allow-dirty         build although files differ from the commit; the name then ends in -dirty
  --dry-run             show what would be done, and do nothing
  --help                show this text

--upload and --deploy need the AWS command line, version 2.17.34 or newer: https://aws.amazon.com/cli/
It reads AWS_PROFILE, AWS_REGION and AWS_ENDPOINT_URL.
HELP
}

say() { printf '%s\n' "$@"; }
fail() { printf '%s\n' "$@" >&2; exit 1; }
absolute() { case $1 in /*) say "$1" ;; *) say "$PWD/$1" ;; esac; }
# Resolves a path relative to the folder of the caller, since the script changes into its own.
of_caller() {
    case $1 in /* | none | required) say "$1" ;; *) if [ "$caller" = "$PWD" ]; then say "$1"; else say "$caller/$1"; fi ;; esac
}
wrong_usage() { printf '%s\n' "$1" "Try ./package-lambda.sh --help" >&2; exit 2; }

# Runs the command, or shows it in a dry run.
act() {
    if [ -n "$dry_run" ]; then say "would run: $*"; else "$@"; fi
}

while [ $# -gt 0 ]; do
    case $1 in
        --arch | --output | --ca-bundle | --package | --upload | --deploy | --alias)
            [ $# -ge 2 ] && [ -n "$2" ] || wrong_usage "$1 needs a value."
            case $1 in
                --arch) arch=$2 ;;
                --output) output=$(of_caller "$2") ;;
                --ca-bundle) ca_bundle=$(of_caller "$2") ;;
                --package) package=$(of_caller "$2") ;;
                --upload) upload=${2%/} ;;
                --deploy) deploy+=("$2") ;;
                --alias) alias=$2 ;;
            esac
            shift 2
            ;;
        --allow-dirty) allow_dirty=yes && shift ;;
        --dry-run) dry_run=yes && shift ;;
        --help | -h) usage && exit ;;
        *) wrong_usage "Unknown option: $1" ;;
    esac
done

case $arch in
    arm64) rust_arch=aarch64 ;;
    x86_64) rust_arch=x86_64 ;;
    *) wrong_usage "--arch is \`$arch\`: use arm64 or x86_64." ;;
esac
target=$rust_arch-unknown-linux-gnu
case $upload in '' | s3://?*) ;; *) wrong_usage "--upload is \`$upload\`: use s3://BUCKET or s3://BUCKET/PREFIX." ;; esac
[ -z "$package" ] || [ -f "$package" ] || fail "There is no file $package."
case $ca_bundle in '' | none | required) ;; *) [ -f "$ca_bundle" ] || fail "There is no file $ca_bundle." ;; esac

# Tools ---------------------------------------------------------------------------------------------------------------

install_with_apt() {
    local as_root=''
    [ "$(id -u)" = 0 ] || as_root=sudo
    if ! command -v apt-get >/dev/null || { [ -n "$as_root" ] && ! command -v sudo >/dev/null; }; then
        fail "Missing: $*. Install it with your system's packages (Debian: apt-get install $*), then run this again."
    fi
    say "Missing: $*. Installing with: ${as_root:+sudo }apt-get install $*"
    { $as_root apt-get update -qq && $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$@"; } \
        >/dev/null || fail "The installation failed. Install it yourself: apt-get install $*"
}

provide_python() {
    command -v python3 >/dev/null && python3 -c 'import venv, ensurepip' 2>/dev/null && return
    act install_with_apt python3 python3-venv
}

provide_compiler() {
    # Build scripts and macros run on this machine, so they need its own compiler.
    command -v cc >/dev/null || act install_with_apt build-essential
}

provide_zigbuild() {
    if [ -x "$tools/bin/cargo-zigbuild" ] && cmp -s "$requirements" "$tools/requirements"; then
        return
    fi
    say "Installing from PyPI into $tools:" "$(grep -oE '^[a-z-]+==[0-9.]+' "$requirements")"
    [ -z "$dry_run" ] || return 0
    rm -rf "$tools"
    python3 -m venv "$tools"
    local errors
    if ! errors=$("$tools/bin/pip" install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r "$requirements" 2>&1); then
        say "$errors"
        # Somebody may have replaced the file: no reason to build in another way.
        [[ "$errors" != *"DO NOT MATCH THE HASHES"* ]] || fail "A file from PyPI does not have the hash that $requirements has for it."
        return 1
    fi
    cp "$requirements" "$tools/requirements"
}

provide_target() {
    [ -d "$(rustc --print target-libdir --target "$target" 2>/dev/null)" ] && return
    say "Rust's standard library for $target is missing. Installing with: rustup target add $target"
    [ -z "$dry_run" ] || return 0
    command -v rustup >/dev/null && rustup target add "$target" && return
    fail "Rust's standard library for $target is missing and cannot be installed here." \
        "Where the network allows it: rustup target add $target. Or build --arch $(uname -m | sed s/aarch64/arm64/) here," \
        "or let the GitHub workflow \`publish\` build it."
}

# The build -----------------------------------------------------------------------------------------------------------

build_with_zig() {
    local bin
    bin=$(absolute "$tools/bin")
    # ziglang is found through the python of its own environment.
    PATH="$bin:$PATH" CARGO_ZIGBUILD_PYTHON_PATH="$bin/python" \
        cargo zigbuild --locked --profile lambda --no-default-features --bin refresh-worker --target "$target.$glibc_build"
}

build_without_zig() {
    [ "$(uname -s)-$(uname -m)" = "Linux-$rust_arch" ] ||
        fail "zig could not be installed, and without it only packages for this machine ($(uname -s) $(uname -m)) can be built." \
            "Install cargo-zigbuild and zig yourself: pip install cargo-zigbuild ziglang"
    say "zig could not be installed: building with this machine's own C library. The check below says whether Lambda can load it."
    cargo build --locked --profile lambda --no-default-features --bin refresh-worker --target "$target"
}

build() {
    command -v cargo >/dev/null || fail "Rust is missing. Install it from https://rustup.rs, then run this again."
    provide_compiler
    provide_target
    # No path of this machine may get into the binary. In this form of RUSTFLAGS paths may have spaces.
    local home=${CARGO_HOME:-$HOME/.cargo} built sysroot map flag=--remap-path-prefix
    sysroot=$(rustc --print sysroot)
    built=$(absolute "${CARGO_TARGET_DIR:-target}")
    printf -v map '%s\x1f' "$flag=$PWD=/build" "$flag=$home=/cargo" "$flag=$sysroot=/rust" "$flag=$built=/built"
    export SOURCE_DATE_EPOCH=$commit_time CARGO_ENCODED_RUSTFLAGS=${map%?} CARGO_INCREMENTAL=0
    export CC_SHELL_ESCAPED_FLAGS=1
    export CFLAGS="'-ffile-prefix-map=$home=/cargo' '-ffile-prefix-map=$PWD=/build' '-ffile-prefix-map=$built=/built'"
    if [ -n "$dry_run" ]; then
        provide_zigbuild
        say "would run: cargo zigbuild --locked --profile lambda --no-default-features --target $target.$glibc_build"
        return
    fi
    if provide_zigbuild; then build_with_zig; else build_without_zig; fi
}

# The newest version of glibc that a binary requires.
glibc_floor() { grep -aoE 'GLIBC_2\.[0-9]+' "$1" | sort -uV | tail -1 | cut -d_ -f2; }

check_binary() {
    local floor
    floor=$(glibc_floor "$1")
    [ "$(printf '%s\n' "$floor" "$glibc_limit" | sort -V | tail -1)" = "$glibc_limit" ] ||
        fail "The binary needs glibc $floor, but AWS Lambda has $glibc_limit. Build where zig can be installed, or on Debian 12 or older."
    ! grep -aq FAILPOINT "$1" || fail "The binary was built with the feature failpoints, which is for tests only."
    if [ "$(uname -s)-$(uname -m)" = "Linux-$rust_arch" ]; then
        # Outside Lambda it says what it is and exits with 2.
        local status=0
        env -u AWS_LAMBDA_RUNTIME_API "$1" >/dev/null 2>&1 || status=$?
        [ "$status" = 2 ] || [ "$status" = 1 ] || fail "The binary does not start here (status $status)."
    fi
}

fetch_ca_bundle() {
    case $ca_bundle in
        none) say "CA bundle of Amazon RDS: left out" && return ;;
        '' | required)
            if ! curl --fail --silent --location --max-time 60 --retry 3 --output "$1" "$ca_bundle_url"; then
                rm -f "$1"
                [ "$ca_bundle" != required ] || fail "The CA bundle of Amazon RDS could not be downloaded: $ca_bundle_url"
                say "CA bundle of Amazon RDS: NOT in the package, because it could not be downloaded." \
                    "  With PostgreSQL on RDS, download $ca_bundle_url and run this again with --ca-bundle FILE."
                return
            fi
            ;;
        *) cp "$ca_bundle" "$1" ;;
    esac
    grep -q 'BEGIN CERTIFICATE' "$1" || fail "The CA bundle contains no certificate. Its source is ${ca_bundle:-$ca_bundle_url}"
    say "CA bundle of Amazon RDS: $(grep -c 'BEGIN CERTIFICATE' "$1") certificates, at /var/task/rds-global-bundle.pem"
}

# Order, times, permissions and compression are fixed, so that every build gives the same bytes.
write_zip() {
    python3 - "$1" "$2" "$commit_time" <<'PYTHON'
import pathlib, sys, time, zipfile
folder, target, seconds = pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
date = time.gmtime(max(seconds, 315532800))[:6]  # Zip knows no time before 1980.
with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as package:
    for file in sorted(folder.iterdir()):
        entry = zipfile.ZipInfo(file.name, date)
        entry.create_system, entry.compress_type = 3, zipfile.ZIP_DEFLATED
        entry.external_attr = (0o100755 if file.name == "bootstrap" else 0o100644) << 16
        package.writestr(entry, file.read_bytes())
PYTHON
}

# The architecture of the package's bootstrap, in Lambda's terms.
package_arch() {
    python3 - "$1" <<'PYTHON'
import sys, zipfile
header = zipfile.ZipFile(sys.argv[1]).open("bootstrap").read(20)
machine = int.from_bytes(header[18:20], "little") if header[:4] == b"\x7fELF" else None
print({62: "x86_64", 183: "arm64"}.get(machine, "unknown"))
PYTHON
}

report() {
    python3 - "$1" "$zip_limit_mb" "$unzipped_limit_mb" <<'PYTHON'
import base64, hashlib, os, sys, zipfile
path, zip_limit, unzipped_limit = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
digest = hashlib.sha256(open(path, "rb").read())
entries = zipfile.ZipFile(path).infolist()
size, unzipped = os.path.getsize(path), sum(entry.file_size for entry in entries)
for entry in entries:
    print(f"  {entry.filename:<24} {entry.file_size / 1e6:8.2f} MB")
print(f"  zip                      {size / 1e6:8.2f} MB, of {zip_limit} MB that AWS allows")
print(f"  sha256                   {digest.hexdigest()}")
print(f"  sha256, base64           {base64.b64encode(digest.digest()).decode()}  (package_sha256 of infra/)")
if "bootstrap" not in [entry.filename for entry in entries]:
    sys.exit("The package has no bootstrap.")
if size > zip_limit << 20 or unzipped > unzipped_limit << 20:
    sys.exit(f"The package is larger than AWS allows: {zip_limit} MB, {unzipped_limit} MB unzipped.")
PYTHON
}

make_package() {
    local dirty='' binary=${CARGO_TARGET_DIR:-target}/$target/lambda/refresh-worker folder
    commit=$(git rev-parse HEAD)
    commit_time=$(git log -1 --format=%ct)
    if [ -n "$(git status --porcelain --untracked-files=no)" ]; then
        [ -n "$allow_dirty" ] || [ -n "$dry_run" ] ||
            fail "Files differ from commit ${commit:0:12}, the name of the package. Commit them, or use --allow-dirty."
        dirty=-dirty
    fi
    package=$output/refresh-worker-$commit$dirty.zip
    provide_python
    say "Building $package for $arch ($target) with $(rustc --version 2>/dev/null || say 'rustc missing')"
    if [ -n "$dry_run" ]; then
        build
        say "would write: $package"
        return
    fi
    folder=$(mktemp -d)
    # shellcheck disable=SC2064  # The value of now is meant.
    trap "rm -rf '$folder'" EXIT
    # Before the build, which takes minutes, since a missing bundle may be an error.
    fetch_ca_bundle "$folder/rds-global-bundle.pem"
    build
    check_binary "$binary"
    cp "$binary" "$folder/bootstrap"
    python3 .github/scripts/third_party.py notices --lambda --target "$target" >"$folder/THIRD-PARTY-NOTICES.txt"
    mkdir -p "$output"
    rm -f "$package"
    write_zip "$folder" "$package"
    say "$package, in $SECONDS s"
    report "$package"
    say "  glibc                    $(glibc_floor "$binary") or newer; Lambda has $glibc_limit"
}

# To AWS --------------------------------------------------------------------------------------------------------------

aws_call() {
    AWS_PAGER='' aws ${AWS_ENDPOINT_URL:+--endpoint-url "$AWS_ENDPOINT_URL"} "$@"
}

require_aws() {
    local where="https://aws.amazon.com/cli/" then="then run this again with --package $package" version
    [ -z "$dry_run" ] || return 0
    command -v aws >/dev/null || fail "The AWS command line is missing. Install version 2: $where, $then"
    # aws-cli/2.23.6 Python/3.13.5 ...; old ones print it to standard error.
    version=$(aws --version 2>&1 | sed -n 's|^aws-cli/\([0-9.]*\).*|\1|p')
    [ "$(printf '%s\n' "$aws_oldest" "${version:-0}" | sort -V | head -1)" = "$aws_oldest" ] ||
        fail "The AWS command line has version ${version:-unknown} ($(command -v aws)), but $aws_oldest or newer is needed." \
            "pip and older distributions install version 1 or an early 2. Install the current one: $where, $then"
}

# In base64, as S3, Lambda and infra/ use it.
sha256() { python3 -c 'import base64, hashlib, sys; print(base64.b64encode(hashlib.sha256(sys.stdin.buffer.read()).digest()).decode())'; }

upload_package() {
    local path=${upload#s3://} key there ours
    bucket=${path%%/*} key=${path#"$bucket"}
    key=${key#/} key=${key:+$key/}${package##*/}
    object_key=$key
    if [ -z "$dry_run" ] && there=$(aws_call s3api head-object --bucket "$bucket" --key "$key" --checksum-mode ENABLED \
        --query ChecksumSHA256 --output text 2>/dev/null); then
        # An object from another program may have no SHA-256.
        [ "$there" != None ] || there=$(aws_call s3 cp "s3://$bucket/$key" - | sha256)
        ours=$(sha256 <"$package")
        [ "$there" = "$ours" ] ||
            fail "s3://$bucket/$key is there already and is another package: its SHA-256 is $there, this one's $ours." \
                "It stays as it is, because functions may run it. Was it built for another architecture, with another Rust, or" \
                "without the CA bundle? Use the one that is there, or delete it first if nothing runs it."
        say "s3://$bucket/$key is there already, with the same bytes."
        return
    fi
    act aws_call s3api put-object --bucket "$bucket" --key "$key" --body "$package" --if-none-match '*' \
        --checksum-algorithm SHA256 >/dev/null
    say "s3://$bucket/$key ${dry_run:+(not }uploaded${dry_run:+)}"
}

deploy_to() {
    local function=$1 source=(--zip-file "fileb://$package") version former function_arch
    [ -z "$upload" ] || source=(--s3-bucket "$bucket" --s3-key "$object_key")
    if [ -n "$dry_run" ]; then
        say "would deploy $package to $function: update-function-code, publish-version, update-alias $alias"
        return
    fi
    former=$(aws_call lambda get-alias --function-name "$function" --name "$alias" --query FunctionVersion --output text) ||
        fail "$function has no alias $alias, which infra/ creates."
    # The code could change the architecture, too, but infra/ decides that together with the layer.
    function_arch=$(aws_call lambda get-function-configuration --function-name "$function" --query 'Architectures[0]' --output text)
    [ "$function_arch" = "$package_is_for" ] ||
        fail "$function runs on $function_arch, but this package is for $package_is_for." \
            "Build it with --arch $function_arch, or set architecture = \"$package_is_for\" in infra/ and apply."
    aws_call lambda update-function-code --function-name "$function" "${source[@]}" >/dev/null
    aws_call lambda wait function-updated --function-name "$function"
    version=$(aws_call lambda publish-version --function-name "$function" --description "${package##*/}" --query Version --output text)
    aws_call lambda update-alias --function-name "$function" --name "$alias" --function-version "$version" >/dev/null
    say "$function: $alias is version $version now. At once back to what it was, until the next apply of infra/:" \
        "aws lambda update-alias --function-name $function --name $alias --function-version $former"
}

if [ -n "$package" ]; then
    provide_python
    say "$package"
    report "$package"
else
    make_package
fi
if [ -n "$upload" ] || [ ${#deploy[@]} -gt 0 ]; then require_aws; fi
if [ ${#deploy[@]} -gt 0 ] && [ -f "$package" ]; then package_is_for=$(package_arch "$package"); fi
[ -z "$upload" ] || upload_package
for function in ${deploy[@]+"${deploy[@]}"}; do deploy_to "$function"; done
if [ ${#deploy[@]} -gt 0 ] && [ -z "$dry_run" ]; then
    say "infra/ does not know about this version, and its next apply may make another one live." \
        "Set its commit_sha (and package_sha256, if you use it) to this commit, and apply."
fi
