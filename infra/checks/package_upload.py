#!/usr/bin/env python3
"""package-lambda.sh --package ZIP --upload --deploy, against moto's server in the place of AWS.

    package_upload.py FOLDER_OF_THE_AWS_COMMAND_LINE
"""
import base64
import hashlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
import zipfile

import boto3

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOOLS = pathlib.Path(sys.executable).parent
FUNCTION, BUCKET = "refresh-worker-refresh", "packages"
MACHINES = {"x86_64": 62, "arm64": 183}


def write_package(path, arch, content):
    """A zip whose bootstrap has the first bytes of a program for that architecture."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("bootstrap", b"\x7fELF" + bytes(14) + MACHINES[arch].to_bytes(2, "little") + content)
    return path


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(port):
    for _ in range(300):
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    sys.exit("the pretended AWS did not start")


def main():
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")} | {
        "PATH": f"{sys.argv[1]}:{os.environ['PATH']}", "AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}

    def run(*command, expect=0):
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == expect, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout + (done.stderr if expect else "")

    # What the check itself does there; the script has the command line.
    session = boto3.Session(aws_access_key_id="test", aws_secret_access_key="test", region_name="us-east-1")
    s3, iam, functions = (session.client(name, endpoint_url=url) for name in ("s3", "iam", "lambda"))

    def keys():
        return [entry["Key"] for entry in s3.list_objects_v2(Bucket=BUCKET).get("Contents", [])]

    version_used = run("aws", "--version").split()[0]
    server = subprocess.Popen([TOOLS / "moto_server", "-H", "127.0.0.1", "-p", str(port)], env=environment,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(port)
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            former = write_package(folder / f"refresh-worker-{'f' * 40}.zip", "arm64", b"former")
            package = write_package(folder / f"refresh-worker-{'0' * 40}.zip", "arm64", b"new")
            other = folder / "other" / package.name
            other.parent.mkdir()
            write_package(other, "x86_64", b"new")
            s3.create_bucket(Bucket=BUCKET)
            trust = {"Version": "2012-10-17", "Statement": [
                {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}]}
            role = iam.create_role(RoleName="worker", AssumeRolePolicyDocument=json.dumps(trust))["Role"]["Arn"]
            functions.create_function(FunctionName=FUNCTION, Runtime="provided.al2023", Handler="refresh", Role=role,
                                      Code={"ZipFile": former.read_bytes()}, Architectures=["arm64"], Publish=True)
            functions.create_alias(FunctionName=FUNCTION, Name="live", FunctionVersion="1")

            def runs(alias="live"):
                """The version that the alias runs, and the SHA-256 of its code."""
                found = functions.get_function_configuration(FunctionName=FUNCTION, Qualifier=alias)
                return found["Version"], found["CodeSha256"], found["Architectures"]

            def sha256(path):
                return base64.b64encode(hashlib.sha256(path.read_bytes()).digest()).decode()

            script = ["./package-lambda.sh", "--package", str(package), "--upload", f"s3://{BUCKET}"]
            said = run(*script, "--deploy", FUNCTION, "--dry-run")
            assert "not uploaded" in said and not keys(), said

            run(*script)
            assert keys() == [package.name], keys()
            assert "with the same bytes" in run(*script), "a second upload leaves the first alone"
            said = run("./package-lambda.sh", "--package", str(other), "--upload", f"s3://{BUCKET}", expect=1)
            assert "another package" in said and sha256(package) in said and sha256(other) in said, said
            s3.put_object(Bucket=BUCKET, Key=former.name, Body=former.read_bytes(), ChecksumAlgorithm="CRC32")
            assert "with the same bytes" in run("./package-lambda.sh", "--package", str(former), "--upload", f"s3://{BUCKET}")
            there = s3.head_object(Bucket=BUCKET, Key=package.name, ChecksumMode="ENABLED")
            assert there["ChecksumSHA256"] == sha256(package), there

            said = run(*script, "--deploy", FUNCTION)
            assert runs() == ("2", sha256(package), ["arm64"]), runs()
            assert "its commit_sha" in said, said
            run(*script, "--deploy", "no-such-function", expect=1)

            # The command that goes back at once; then the other way back, which lasts until the next apply and beyond.
            back = next(line for line in said.splitlines() if line.startswith("aws lambda update-alias "))
            run("bash", "-c", back.replace("aws ", f"aws --endpoint-url {url} ", 1))
            assert runs()[0] == "1", runs()
            run("./package-lambda.sh", "--package", str(former), "--deploy", FUNCTION)
            assert runs() == ("3", sha256(former), ["arm64"]), runs()

            for arch in MACHINES:
                said = run("./package-lambda.sh", "--package", str(other), "--deploy", FUNCTION, "--arch", arch, expect=1)
                assert "runs on arm64, but this package is for x86_64" in said, said
            assert runs() == ("3", sha256(former), ["arm64"]), "what does not fit changes nothing"

            # Too old a command line, before anything is uploaded.
            for version in ("1.46.3", "2.9.19", "2.17.33"):
                (folder / "aws").write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "aws-cli/{version} Python/3.11.2 Linux/6.1" && exit\nexit 99\n')
                (folder / "aws").chmod(0o755)
                said = run("env", f"PATH={folder}:{environment['PATH']}", *script, expect=1)
                assert f"has version {version}" in said and "2.17.34 or newer" in said and "aws.amazon.com/cli" in said, said
            (folder / "aws").unlink()

            # No download, no package: before anything is built.
            (folder / "curl").write_text("#!/bin/sh\nexit 6\n")
            (folder / "curl").chmod(0o755)
            said = run("env", f"PATH={folder}:{environment['PATH']}", "./package-lambda.sh", "--allow-dirty", "--output",
                       f"{folder}/out", "--ca-bundle", "required", expect=1)
            assert "could not be downloaded" in said and not (folder / "out").exists(), said

            (folder / "empty.zip").write_bytes(b"PK\x05\x06" + bytes(18))
            run("./package-lambda.sh", "--package", f"{folder}/empty.zip", expect=1)
        print("dry run, upload, second upload, another package of that name, deployment, both ways back, unknown function,"
              f" wrong architecture, old command lines, required CA bundle, empty package: as they should be, with {version_used}")
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
