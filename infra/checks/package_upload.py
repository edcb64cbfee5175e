#!/usr/bin/env python3
"""package-lambda.sh --package ZIP --upload --deploy, against moto's server in the place of AWS."""
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
import zipfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOOLS = pathlib.Path(sys.executable).parent
FUNCTION, BUCKET = "refresh-worker-refresh", "packages"


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
        "PATH": f"{TOOLS}:{os.environ['PATH']}", "AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}

    def run(*command, expect=0):
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == expect, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def aws(*command):
        text = run("aws", "--endpoint-url", url, "--output", "json", *command)
        return json.loads(text) if text.strip() else {}

    server = subprocess.Popen([TOOLS / "moto_server", "-H", "127.0.0.1", "-p", str(port)], env=environment,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(port)
        with tempfile.TemporaryDirectory() as folder:
            package = pathlib.Path(folder) / f"refresh-worker-{'0' * 40}.zip"
            with zipfile.ZipFile(package, "w") as file:
                file.writestr("bootstrap", "stands in for the binary")
            aws("s3api", "create-bucket", "--bucket", BUCKET)
            trust = {"Version": "2012-10-17", "Statement": [
                {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}]}
            role = aws("iam", "create-role", "--role-name", "worker", "--assume-role-policy-document", json.dumps(trust))["Role"]["Arn"]
            aws("lambda", "create-function", "--function-name", FUNCTION, "--runtime", "provided.al2023", "--handler", "refresh",
                "--role", role, "--zip-file", f"fileb://{package}", "--publish")
            aws("lambda", "create-alias", "--function-name", FUNCTION, "--name", "live", "--function-version", "1")

            script = ["./package-lambda.sh", "--package", str(package), "--upload", f"s3://{BUCKET}"]
            said = run(*script, "--deploy", FUNCTION, "--dry-run")
            assert "not uploaded" in said and "Contents" not in aws("s3api", "list-objects-v2", "--bucket", BUCKET), said

            run(*script)
            keys = [entry["Key"] for entry in aws("s3api", "list-objects-v2", "--bucket", BUCKET)["Contents"]]
            assert keys == [package.name], keys
            assert "there already" in run(*script), "a second upload leaves the first alone"

            said = run(*script, "--deploy", FUNCTION)
            alias = aws("lambda", "get-alias", "--function-name", FUNCTION, "--name", "live")
            assert alias["FunctionVersion"] == "2" and "--function-version 1" in said, (alias, said)
            run(*script, "--deploy", "no-such-function", expect=1)

            (pathlib.Path(folder) / "empty.zip").write_bytes(b"PK\x05\x06" + bytes(18))
            run("./package-lambda.sh", "--package", f"{folder}/empty.zip", expect=1)
        print("dry run, upload, second upload, deployment, unknown function, empty package: as they should be")
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
