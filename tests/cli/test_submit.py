"""`tpo-dist submit` where there is no cluster: mistakes in one line, before anything is sent."""

import http.server
import json
import socket
import threading

import pytest
import ray

from tests.cli.run_cli import call

JOB = "name: t\nsteps: 3\ntask: {name: token_reversal, length: 3}\n"


@pytest.fixture
def job(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(JOB)
    return path


@pytest.fixture
def submit(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)

    def run(*arguments):
        code, out, err = call(monkeypatch, capsys, "submit", *arguments)
        assert (code, out) == (2, "")
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        return err

    return run


@pytest.fixture
def web(request):
    """An ordinary web server that answers everything with this code and this text."""
    code, text = request.param

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(code)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_two_errands_and_none(submit, job):
    assert "JOB: no job file was given. Fix: name one" in submit()
    assert "JOB and --stop: are two errands" in submit(job, "--stop", "x")
    assert "--status and --list: are two errands" in submit("--status", "x", "--list")


def test_what_cannot_be_meant(submit, job):
    assert "--resources [1]: is no mapping" in submit(job, "--resources", "[1]")
    assert "--resources {gpu: 0}: is no mapping of names to amounts above 0" in submit(job, "--resources", "{gpu: 0}")
    assert "--metadata team: is no key with its value" in submit(job, "--metadata", "team")
    assert "--working-dir nowhere: there is no such folder" in submit(job, "--working-dir", "nowhere")
    assert "--id a/b c: has other characters than letters" in submit(job, "--id", "a/b c")
    assert "steps = 0" in submit(job, "steps=0")
    assert "there is no such file" in submit("nothing.yaml")


@pytest.mark.parametrize("address", ["auto", "127.0.0.1:8265", "ray://127.0.0.1:10001", "http://", "http://h:port"])
def test_an_address_of_another_form(submit, job, address):
    assert f"--address {address}: is not the address of a job server. Fix: give http://" in submit(
        job, "--address", address
    )


def test_an_address_where_nobody_answers(submit, job, monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")  # which Ray would ask instead
        words = submit(job, "--address", address)
    assert f"--address {address}: nothing answers there (Connection refused). Fix: start a head" in words


@pytest.mark.parametrize(
    ("web", "words"),
    [
        ((200, "<html>"), "gives no answer of a job server"),
        ((500, "oops"), "gives no answer of a job server"),
        ((404, "nothing"), "is a job server of another Ray"),
        ((200, '{"ray_version": "1.0.0", "version": "1"}'), "is a job server of another Ray"),
        ((500, "Traceback (most recent call last):\n  conversion\nValueError: no."), "gives no answer of a job server"),
        ((401, "no"), "the cluster asks for a token, and none was shown. Fix: set RAY_AUTH_MODE=token, and RAY_AUTH"),
    ],
    indirect=["web"],
)
def test_something_else_answers(submit, job, web, words):
    assert f"--address {web}: {words}" in submit(job, "--address", web)


@pytest.mark.parametrize("web", [(403, "no")], indirect=True)
def test_another_token(submit, job, web, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "mine")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert "the token in RAY_AUTH_TOKEN is not that of the cluster" in submit(job, "--address", web)


def test_a_head_that_is_lost_on_the_way_is_said_in_one_line(monkeypatch, capsys):
    from tpo_dist.runtime import job_server

    seen = []

    class Head(http.server.BaseHTTPRequestHandler):
        """Knows its version, and a job for as long as it is asked once."""

        def do_GET(self):
            seen.append(self.path)
            details = {"type": "SUBMISSION", "submission_id": "long", "status": "RUNNING", "entrypoint": "train"}
            version = {"version": "4", "ray_version": ray.__version__, "ray_commit": ray.__commit__}
            lost = len([path for path in seen if path.endswith("/long")]) > 1 or self.path.endswith("/tail")
            self.send_response(500 if lost else 200)
            self.end_headers()
            self.wfile.write(json.dumps(version if "version" in self.path else details).encode())

        def log_message(self, *_):
            pass

    monkeypatch.setattr(job_server, "_SILENCE_SECONDS", 0.0)
    with http.server.HTTPServer(("127.0.0.1", 0), Head) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        code, _, err = call(monkeypatch, capsys, "submit", "--status", "long", "--follow", "--address", address)
        server.shutdown()
    assert code == 1, err
    assert err.startswith(f"error: --address {address}: ")
    assert err.endswith("; the job may go on. Look again with: tpo-dist submit --status long\n")
    assert err.count("\n") == 1
