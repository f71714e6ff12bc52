"""`tpo-dist objectives` for people, for pipes and for programs."""

import json

from tests.cli.run_cli import ROOT, call
from tpo_dist.cli.keys import describe_keys
from tpo_dist.objective import OBJECTIVES


def test_json_is_a_list_of_methods_whose_names_come_first(monkeypatch, capsys):
    code, out, _ = call(monkeypatch, capsys, "objectives", "--json")
    assert code == 0
    entries = json.loads(out)
    assert [entry["name"] for entry in entries] == list(OBJECTIVES)
    for entry in entries:
        keys = list(entry)
        assert keys[0] == "name"
        assert {"paper", "rule", "group", "reference", "epochs", "when", "options"} <= set(keys)
    (dapo,) = (entry for entry in entries if entry["name"] == "dapo")
    assert (dapo["options"]["clip_low"], dapo["options"]["clip_high"]) == (0.2, 0.28)


def test_the_table_fits_80_columns_and_loses_nothing(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = call(monkeypatch, capsys, "objectives")
    assert code == 0
    assert max(len(line) for line in out.splitlines()) <= 80
    assert "…" not in out
    assert "\x1b" not in out
    for name, method in OBJECTIVES.items():
        assert any(line.split()[:1] == [name] for line in out.splitlines())
        assert " ".join(method.rule.split()[:3]) in out


def test_refresh_rewrites_the_table(tmp_path, monkeypatch, capsys):
    page = tmp_path / "page.md"
    original = (ROOT / "docs" / "objectives.md").read_text()
    page.write_text(original.replace("q ∝ exp(u/η)", "something else"))
    assert call(monkeypatch, capsys, "objectives", "--refresh", page)[0] == 0
    assert page.read_text() == original


def test_a_page_that_cannot_be_refreshed_is_one_line(tmp_path, monkeypatch, capsys):
    code, _, err = call(monkeypatch, capsys, "objectives", "--refresh", tmp_path / "none.md")
    assert code == 2
    assert "Fix: name docs/objectives.md" in err
    assert len(err.splitlines()) == 1


def test_keys_say_whose_default_is_which():
    keys = {entry["key"]: entry for entry in describe_keys()}
    assert keys["objective.eta"]["default"] == 1.0
    beta = keys["objective.beta"]
    assert beta["default"] is None
    for owner in ("grpo, grpo_masked, grpo_token (default 0.04)", "grpo_no_kl (default 0.0)", "awr (default 1.0)"):
        assert owner in beta["meaning"]
