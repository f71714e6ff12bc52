"""Pages of runs: what is read of a folder, what of it is not believed, and what the page may do."""

import base64
import gzip
import html
import json
import re
import subprocess
import sys

import pytest

from tpo_dist.bench.report_page import make_folder
from tpo_dist.cli.report import report
from tpo_dist.errors import UsageError
from tpo_dist.programs.control import Fault, FaultLog
from tpo_dist.programs.group_log import GROUPS
from tpo_dist.report.gather import gather
from tpo_dist.report.groups import GroupFile, parse, spread
from tpo_dist.report.page import escape, render, render_sections


@pytest.fixture
def folder(tmp_path):
    """A run with a hundred groups."""
    make_folder(tmp_path / "run", 100)
    return tmp_path / "run"


def unpacked(page, name):
    found = re.search(rf'<script type="application/octet-stream" id="{name}">([^<]*)</script>', page)
    return json.loads(gzip.decompress(base64.b64decode(found[1])))


def test_a_page_has_every_group_and_nothing_from_elsewhere(folder):
    page = render([gather(folder)])
    index = unpacked(page, "index-0")
    assert (len(index["step"]), index["sources"]) == (100, ["copy", "reversal"])
    lines = (folder / GROUPS).read_text().splitlines()[1:]
    assert [*unpacked(page, "chunk-0-0"), *unpacked(page, "chunk-0-1")] == [json.loads(line) for line in lines]
    bare = html.unescape(page[: page.index('<script type="application/json" id="about">')])
    assert not re.search(r'(src|href)="(?!#|data:)', bare)
    assert "default-src 'none'" in bare
    assert "unsafe-inline" not in re.search(r"script-src ([^;]*);", bare)[1]


def test_a_page_of_many_groups_is_thinned_out_evenly_and_says_so(folder):
    page = render([gather(folder)], 10)
    assert unpacked(page, "index-0")["draw"] == list(range(0, 100, 10))
    assert "10 of 100 groups are in this page" in page
    assert spread([], 10) == []


def test_lines_that_are_no_groups_are_counted_and_left_out(folder):
    good = json.loads((folder / GROUPS).read_text().splitlines()[1])
    bad = (
        {**good, "step": -1},
        {**good, "scores": good["scores"][:-1]},
        {**good, "p_old": ["<b>"] * 8},
        {**good, "stops": ["exploded"] * 8},
        {**good, "texts": []},
        {**good, "extra": 1},
        {**good, "step": 1e300},
        {**good, "prompt": "x" * 60_000},
        [],
    )
    with (folder / GROUPS).open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in bad)
        file.write(json.dumps({**good, "distance": float("nan")}) + "\n" + "[" * 50_000 + "\nnot JSON\n\0\n")
        file.write(json.dumps(good) + "\n" + '{"step": 7, "dr')
    picture = gather(folder)
    assert (len(picture.groups.entries), picture.groups.damaged) == (101, 13)
    assert any("13 lines are no groups" in problem for problem in picture.problems)
    assert parse(json.dumps(good).encode()).texts == tuple(good["texts"])


def test_a_growing_file_is_taken_in_by_and_by_and_a_rewritten_one_anew(folder):
    file, path = GroupFile(folder / GROUPS), folder / GROUPS
    file.refresh()
    lines = path.read_bytes().splitlines(keepends=True)
    with path.open("ab") as more:
        more.write(lines[5] + lines[6][:40])
    file.refresh()
    assert (len(file.entries), file.generation, file.damaged) == (101, 1, 0)
    with path.open("ab") as more:
        more.write(lines[6][40:])
    file.refresh()
    assert (len(file.entries), file.entries[-1].draw) == (102, json.loads(lines[6])["draw"])
    (folder / "new").write_bytes(b"".join(lines[:11]))
    old = file.entries[50]
    (folder / "new").replace(path)
    assert list(file.rows([old])) == [None]
    file.refresh()
    assert (len(file.entries), file.generation) == (10, 2)
    path.unlink()
    file.refresh()
    assert file.entries == []


def test_a_broken_run_still_has_a_page_that_says_what_is_missing(folder):
    (folder / "config.json").write_text("{")
    (folder / "summary.json").write_text("[]")
    (folder / "ledger.db").write_text("no database")
    (folder / "faults.jsonl").write_text("{}\n")
    (folder / "evaluations.jsonl").write_text('{"step": 1, "eval/pass@1": 0.5}\n{"step"')
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": "<script>"}\n{"st')
    (folder / GROUPS).unlink()
    picture = gather(folder)
    page = render([picture])
    told = " ".join(picture.problems)
    for name in ("config.json", "summary.json", "ledger.db", "faults.jsonl", GROUPS, "2 lines", "1 line"):
        assert name in told, name
    assert "Missing or damaged" in page
    assert "eval/pass@1" in page


@pytest.mark.parametrize("number", [10**400, -(10**400), 2**60, 1e300, True])
def test_numbers_that_cannot_be_leave_a_line_out_and_not_the_page(folder, number):
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": number, "error": 0.5}) + "\n")
        file.write(json.dumps({"step": 31, "error": 10**400, "reward": 1}) + "\n")
    fault = {"at": 1.0, "role": "worker", "name": "rollout-0", "what": "died", "reason": "x", "step": 3}
    for key in ("at", "step"):
        (folder / "faults.jsonl").write_text(json.dumps({**fault, key: number}) + "\n")
        picture = gather(folder)
        assert render([picture])
        told = " ".join(picture.problems)
        assert "metrics.jsonl: 1 line is torn" in told
        assert picture.rows[-1] == {"step": 31, "reward": 1}
        assert ("faults.jsonl" in told) == (picture.faults == ())


def test_several_runs_show_what_differs_and_no_secrets(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "only-the-environment-knows")
    make_folder(tmp_path / "other", 20)
    settings = json.loads((tmp_path / "other" / "config.json").read_text())
    settings["objective"]["name"], settings["seed"] = "grpo<i>", 7
    settings["task"]["judge_api_key"] = "sk-12345"
    (tmp_path / "other" / "config.json").write_text(json.dumps(settings))
    FaultLog(folder).append(Fault(at=1.0, role="worker", name="rollout-0", what="died", reason="<img src=x>", step=3))
    pictures = [gather(folder), gather(tmp_path / "other")]
    page = render(pictures)
    part = page[page.index("What differs") : page.index("All ")]
    keys = re.findall(r'<th scope="row">([a-z_.]+)', part)
    assert keys == ["name", "seed", "objective.name", "task.judge_api_key"]
    assert "sk-12345" not in page
    assert "only-the-environment-knows" not in page
    assert "&lt;img src=x&gt;" in render_sections(pictures)
    assert "<img" not in page
    assert "grpo&lt;i&gt;" in page
    assert unpacked(page, "index-1")["draw"] == list(range(20))


def test_json_in_a_page_cannot_end_its_element():
    text = escape({"a": "</script><!--&\u2028\0"})
    assert not set("<>&") & set(text)
    assert json.loads(text) == {"a": "</script><!--&\u2028\0"}


def test_the_command_writes_one_file(folder, tmp_path):
    path = tmp_path / "page.html"
    command = (sys.executable, "-m", "tpo_dist", "report", str(folder), "--out", str(path), "--json")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["bytes"] == path.stat().st_size
    assert (told["runs"][0]["groups"], told["page"]) == (100, str(path))


def test_what_cannot_be_written_or_shown_is_refused_clearly(folder, tmp_path):
    for runs, out, reason in (
        ([tmp_path / "none"], None, "there is no such run"),
        ([folder, folder], None, "named twice"),
        ([folder] * 9, None, "at most 8"),
        ([folder], tmp_path / "no" / "page.html", "cannot be written"),
    ):
        with pytest.raises(UsageError, match=reason):
            report([str(run) for run in runs], out)
