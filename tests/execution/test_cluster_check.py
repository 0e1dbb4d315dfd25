"""`cluster check` names what is missing, and what to do, for everything that can be missing."""

from __future__ import annotations

import http.server
import json
import platform
import re
import sys
import threading
from importlib.metadata import version
from pathlib import Path

import pytest
from click.testing import CliRunner

from ldru_study.cli import main
from ldru_study.execution.cluster_check import (
    check_boto3,
    check_credentials,
    check_file,
    check_head,
    check_placeholders,
    check_python,
    check_store,
    check_token,
)
from ldru_study.execution.cluster_file import read_cluster_file

ROOT = Path(__file__).parent.parent.parent
HERE = ".".join(platform.python_version_tuple()[:2])
WHO = """<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
<GetCallerIdentityResult><Arn>arn:aws:iam::1:user/me</Arn></GetCallerIdentityResult>
</GetCallerIdentityResponse>"""
REFUSED = """<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
<Error><Code>ExpiredToken</Code><Message>no</Message></Error></ErrorResponse>"""


class Web(http.server.BaseHTTPRequestHandler):
    """A head that knows one token, and AWS, as far as they are asked here."""

    def do_GET(self):
        given = self.headers["Authorization"]
        if self.server.token is None or given == f"Bearer {self.server.token}":
            return self.answer(self.server.status, self.server.body)
        return self.answer(403 if given else 401, "no")

    def do_POST(self):
        # AWS is asked by POST; its credentials are no token
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(self.server.status, self.server.body)

    def answer(self, status, body):
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *args):
        pass


@pytest.fixture
def web():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Web)
    server.status, server.token = 200, None
    server.body = json.dumps({"version": "4", "ray_version": version("ray")})
    server.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Return a home without a token and without AWS credentials, and stand in the checkout."""
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "LDRU_STORE", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(ROOT)
    return tmp_path


def file_with(tmp_path, old="", new=""):
    """Return our file, for the Python that runs the tests, with ``old`` replaced."""
    text = (ROOT / "cluster.yaml").read_text().replace("--python 3.11", f"--python {HERE}")
    assert old in text
    path = tmp_path / "cluster.yaml"
    path.write_text(text.replace(old, new))
    return read_cluster_file(path)


def save_token(home, text="secret", mode=0o600):
    (home / ".ray").mkdir(exist_ok=True)
    (home / ".ray" / "auth_token").write_text(text)
    (home / ".ray" / "auth_token").chmod(mode)


def test_the_file(tmp_path):
    assert check_file(file_with(tmp_path)).state == "ok"
    assert check_file(file_with(tmp_path, "us-west-2", "us-wset-2")).state == "missing"


def test_placeholders(tmp_path):
    found = check_placeholders(file_with(tmp_path))
    assert found.state == "missing"
    assert re.match(r"write your own in setup_commands\[1\] \(line \d+\)$", found.message)
    assert check_placeholders(file_with(tmp_path, "CHANGE-ME", "mine")).state == "ok"


def test_boto3(monkeypatch):
    assert check_boto3().state == "ok"
    monkeypatch.setitem(sys.modules, "boto3", None)
    found = check_boto3()
    assert (found.state, "pip install -e '.[aws]'" in found.message) == ("missing", True)


def test_python(tmp_path):
    assert check_python(file_with(tmp_path)).state == "ok"
    found = check_python(file_with(tmp_path, f"--python {HERE}", "--python 2.7"))
    assert found.state == "missing"
    assert found.message.startswith(f"2.7 there, {HERE} here. Write --python {HERE} in")
    assert check_python(file_with(tmp_path, f"--python {HERE}", "")).state == "cannot tell"


class TestCredentials:
    @pytest.fixture
    def keys(self, monkeypatch, web):
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", web.address)

    def test_none(self, tmp_path):
        found = check_credentials(file_with(tmp_path))
        assert (found.state, found.message[:30]) == ("missing", "none found. Run `aws configure")

    def test_a_profile_that_does_not_exist(self, tmp_path, monkeypatch):
        monkeypatch.setenv("AWS_PROFILE", "nobody")
        found = check_credentials(file_with(tmp_path))
        assert found.state == "missing"
        assert "(nobody) could not be found. Mend ~/.aws" in found.message

    def test_good(self, tmp_path, keys, web):
        web.body = WHO
        found = check_credentials(file_with(tmp_path))
        assert (found.state, found.message) == ("ok", "arn:aws:iam::1:user/me in us-west-2")

    def test_refused(self, tmp_path, keys, web):
        web.status, web.body = 403, REFUSED
        found = check_credentials(file_with(tmp_path))
        assert found.state == "missing"
        assert found.message.startswith("AWS refuses them (ExpiredToken). Renew them:")

    def test_out_of_reach(self, tmp_path, keys, monkeypatch):
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", "http://127.0.0.1:1")
        found = check_credentials(file_with(tmp_path))
        assert (found.state, found.message[:24]) == ("cannot tell", "AWS does not answer (Cou")

    def test_without_boto3(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "boto3", None)
        assert check_credentials(file_with(tmp_path)).state == "cannot tell"


class TestToken:
    def test_none(self, home):
        found = check_token()
        assert found.state == "missing"
        assert (
            "none there, or not readable. Make one: `ray get-auth-token --generate" in found.message
        )

    def test_an_empty_file_is_none(self, home):
        save_token(home, "\n")
        assert check_token().state == "missing"

    def test_readable_by_others(self, home):
        save_token(home, mode=0o644)
        found = check_token()
        assert found.state == "missing"
        where = home / ".ray" / "auth_token"
        assert found.message == f"{where}: others can read it (644). Run: chmod 600 {where}"

    def test_good(self, home):
        save_token(home)
        assert check_token().state == "ok"

    def test_in_the_environment(self, monkeypatch):
        monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
        assert check_token().state == "ok"

    def test_no_file(self, home):
        (home / ".ray" / "auth_token").mkdir(parents=True)
        found = check_token()
        assert (found.state, "or not readable" in found.message) == ("missing", True)


class TestStore:
    def test_not_given(self):
        assert "Give --store s3://" in check_store(None).message

    def test_a_placeholder(self):
        found = check_store("s3://CHANGE-ME/ldru-study")
        assert (found.state, "write your own bucket" in found.message) == ("missing", True)

    def test_a_uri_nothing_is_left_behind(self, tmp_path):
        found = check_store(f"file://{tmp_path}/store")
        assert found.state == "ok"
        assert list((tmp_path / "store").iterdir()) == []

    def test_a_folder_may_be_this_machines_alone(self, tmp_path):
        found = check_store(str(tmp_path / "store"))
        assert found.state == "cannot tell"
        assert "a cluster needs it on every node at the same path" in found.message

    def test_no_permission(self, tmp_path):
        # also for root: a file is no folder
        (tmp_path / "store").write_text("")
        found = check_store(f"file://{tmp_path}/store")
        assert (found.state, "cannot be written" in found.message) == ("missing", True)

    def test_no_such_kind(self):
        found = check_store("s4://bucket")
        assert (found.state, "cannot be opened" in found.message) == ("missing", True)


class TestHead:
    def test_good(self, web, home):
        web.token = "secret"
        save_token(home)
        found = check_head(f"{web.address}/")
        assert found.state == "ok"
        assert f"answers, Ray {version('ray')} as here" in found.message

    def test_another_version(self, web):
        web.body = json.dumps({"ray_version": "2.9.3"})
        found = check_head(web.address)
        assert (found.state, found.is_unreachable) == ("missing", True)
        assert f"runs Ray 2.9.3, this machine {version('ray')}" in found.message

    def test_wrong_token(self, web, home):
        web.token = "another"
        save_token(home)
        found = check_head(web.address)
        assert (found.state, found.is_unreachable) == ("missing", True)
        assert "refuses the token that was sent. Copy the token of the head" in found.message

    def test_no_token(self, web):
        web.token = "secret"
        found = check_head(web.address)
        assert (found.state, found.is_unreachable) == ("missing", True)
        assert "wants a token, and none was found" in found.message

    @pytest.mark.parametrize("address", ["http://127.0.0.1:1", "head:8265", "127.0.0.1"])
    def test_nobody_there(self, address):
        found = check_head(address)
        assert (found.state, found.is_unreachable) == ("missing", True)
        assert found.message.startswith(f"--address {address}: no answer (")

    @pytest.mark.parametrize(("status", "body"), [(404, ""), (200, "<html>"), (200, "{}")])
    def test_somebody_else(self, web, status, body):
        web.status, web.body = status, body
        found = check_head(web.address)
        assert (found.state, found.is_unreachable) == ("missing", True)
        assert "answers, but not as a Ray dashboard does" in found.message


class TestCommand:
    def run(self, *arguments):
        return CliRunner().invoke(main, ["cluster", "check", *arguments])

    def test_what_is_missing_fails(self, tmp_path):
        done = self.run(str(file_with(tmp_path).path), "--store", f"file://{tmp_path}/store")
        states = [line.split("  ")[0] for line in done.stdout.splitlines()]
        assert (done.exit_code, done.stderr) == (4, "3 of 7 checks failed.\n")
        assert states == ["ok", "missing", "ok", "missing", "ok", "missing", "ok"]

    def test_the_files_own_store_is_looked_at(self, tmp_path):
        store = f"file://{tmp_path}/store"
        path = file_with(tmp_path, "s3://CHANGE-ME/ldru-study", store).path
        assert f"store: {store}: written, read and deleted" in self.run(str(path)).stdout

    def test_all_is_well(self, web, home):
        save_token(home)
        store = f"file://{home}/store"
        done = self.run("--address", web.address, "--store", store, "--json", "missing.yaml")
        assert (done.exit_code, json.loads(done.stdout)[0]["state"]) == (4, "missing")
        with pytest.MonkeyPatch.context() as patch:
            # where no cluster.yaml is, the cluster is not one of `ray up`
            patch.chdir(home)
            done = self.run("--address", web.address, "--store", store, "--json")
        assert done.exit_code == 0, done.output
        found = json.loads(done.stdout)
        assert [(c["check"], c["state"]) for c in found] == [
            ("token", "ok"),
            ("store", "ok"),
            ("head", "ok"),
        ]

    def test_a_cluster_that_does_not_answer(self, home):
        save_token(home)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(home)
            done = self.run("--address", "http://127.0.0.1:1", "--store", f"file://{home}/s")
        assert done.exit_code == 6, done.output
