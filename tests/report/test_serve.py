"""The live page: it follows a run, answers to loopback's names alone, and can do nothing but read."""

import asyncio
import http.client
import json
import re
import socket
import threading
from urllib.parse import quote

import pytest

from tpo_dist.bench.report_page import make_folder
from tpo_dist.errors import UsageError
from tpo_dist.programs.group_log import GROUPS
from tpo_dist.report import serve as module
from tpo_dist.report.serve import serve


class Served:
    """A site in a thread of its own."""

    def __init__(self, folders):
        self.loop, self.ready, self.address = asyncio.new_event_loop(), threading.Event(), ""
        self.task = self.loop.create_task(serve(folders, 0, self.hear))
        self.thread = threading.Thread(target=self.run)
        self.thread.start()
        assert self.ready.wait(30)

    def hear(self, address):
        self.address = address
        self.ready.set()

    def run(self):
        with pytest.raises(asyncio.CancelledError):
            self.loop.run_until_complete(self.task)
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()

    @property
    def port(self):
        return int(re.fullmatch(r"http://127\.0\.0\.1:(\d+)/", self.address)[1])

    def ask(self, path, method="GET", **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer, body

    def json(self, path):
        answer, body = self.ask(path)
        assert answer.status == 200, (path, body)
        return json.loads(body)

    def close(self):
        self.loop.call_soon_threadsafe(self.task.cancel)
        self.thread.join(30)


@pytest.fixture
def folder(tmp_path):
    make_folder(tmp_path / "run", 120)
    return tmp_path / "run"


@pytest.fixture
def served(folder, monkeypatch):
    monkeypatch.setattr(module, "_REST_SECONDS", 0.0)
    site = Served([folder])
    yield site
    site.close()


def test_the_page_follows_a_run_that_writes_on(served, folder):
    before = served.json("/state")
    assert before["runs"] == [{"word": "not started", "step": 30, "groups": 120, "generation": 1}]
    index = served.json("/groups/0/index")
    rows = [row for number in range(3) for row in served.json(f"/groups/0/chunk/{number}")]
    assert [row["draw"] for row in rows] == index["draw"] == list(range(120))
    lines = (folder / GROUPS).read_text().splitlines()
    marked = {**json.loads(lines[-1]), "draw": 999, "prompt": "ein GRÜNER Vogel"}
    with (folder / GROUPS).open("a") as file:
        file.write(json.dumps(marked) + "\n")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 31, "error": 0.25, "step_seconds": 1.0}) + "\n")
    after = served.json("/state")
    assert after["stamp"] != before["stamp"]
    assert after["runs"][0] == {"word": "not started", "step": 31, "groups": 121, "generation": 1}
    assert served.json(f"/groups/0/search?text={quote('grüner')}") == [120]
    assert served.json("/charts")[0][0]["error"][-1] == 0.25
    assert served.json("/charts")[1][0]["target_distance"][-1] is None
    assert served.json("/charts/0")["target_id"] is None
    (folder / "new").write_text("\n".join(lines[:41]) + "\n")
    (folder / "new").replace(folder / GROUPS)
    assert served.json("/state")["runs"][0] == {"word": "not started", "step": 31, "groups": 40, "generation": 2}
    page, sections = served.ask("/")[1].decode(), served.ask("/sections")[1].decode()
    assert "<dt>groups kept</dt><dd>40</dd>" in sections
    assert re.findall(r'<script[^>]* src="([^"]*)"', page) == ["page.js", "bokeh.js"]
    assert all(served.ask(f"/{name}")[0].status == 200 for name in ("page.js", "page.css", "bokeh.js"))


def test_it_only_reads_and_only_for_names_of_loopback(served, folder):
    answer, _ = served.ask("/")
    for header, value in module._HEADERS.items():
        assert answer.headers[header] == value
    assert "unsafe-inline" not in answer.headers["Content-Security-Policy"].split("style-src")[0]
    assert "Access-Control-Allow-Origin" not in answer.headers
    assert served.ask("/state", Host=f"localhost:{served.port}")[0].status == 200
    for host in ("evil.example", f"evil.example:{served.port}", "127.0.0.1", "127.0.0.1.evil.example", ""):
        answer, body = served.ask("/groups/0/index", Host=host)
        assert answer.status == 403, host
        assert b"draw" not in body
    for method in ("POST", "PUT", "DELETE"):
        assert served.ask("/state", method)[0].status == 405
    for path in ("/groups/1/index", "/groups/0/chunk/9", "/groups/-1/index", "/groups/0/chunk/%C2%B2", "/charts/99",
                 "/../config.json", "/%2e%2e/config.json", "/groups/0/index/..%2f..%2fconfig.json"):  # fmt: skip
        assert served.ask(path)[0].status == 404, path
    for text in ("", "x" * 201):
        assert served.ask(f"/groups/0/search?text={text}")[0].status == 400
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", GROUPS, "metrics.jsonl"]


def test_a_port_that_is_taken_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UsageError, match=r"--port \d+: cannot be listened on"):
            asyncio.run(serve([], taken.getsockname()[1], print))
