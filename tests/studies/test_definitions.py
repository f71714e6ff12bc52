"""Every study of the paper, held against the paper: who competes, at which sizes, and the figures beside ours."""

from collections import Counter

import pytest

from tpo_dist.objective import OBJECTIVES
from tpo_dist.studies.catalogue import STUDIES
from tpo_dist.studies.definition import Setting
from tpo_dist.studies.engines.training import training_config
from tpo_dist.studies.runs import fingerprint
from tpo_dist.studies.sequences import OWN_EPOCHS

# Seeds; settings; then, over all settings of transformers, the values of each key that the paper gives.
PAPER = {
    "one_context": (100, 4, {}),
    "many_contexts": (100, 5, {}),
    "digits": (20, 5, {}),
    "vocabulary": (20, 16, {"steps": {1000}, "length": {10}, "vocab": {2, 4, 8, 16}, "reward": {"bag_of_tokens"}}),
    "variants": (10, 32, {"steps": {1000}, "length": {10}, "vocab": {2}, "reward": {"bag_of_tokens", "sequential"}}),
    "terminal": (20, 40, {"steps": {2000}, "length": {7, 8, 9, 10}, "vocab": {2}, "reward": {"terminal"}}),
    "ablations": (20, 12, {"steps": {2000}, "length": {7, 8, 10}, "vocab": {2}, "reward": {"terminal"}}),
    "gradients": (10, 6, {"steps": {2000}, "length": {8}, "prompts": {256}, "size": {1, 32}, "reward": {"terminal"}}),
    "group_sizes": (30, 10, {"steps": {2000}, "length": {8}, "prompts": {256}, "size": {4, 8, 16, 32, 64}}),
    "epochs": (30, 10, {"steps": {2000}, "length": {8}, "prompts": {256}, "size": {32}, "epochs": {1, 2, 4, 8, 16}}),
    "masking": (30, 3, {"steps": {2000}, "length": {8}, "prompts": {256}, "size": {32}, "epochs": {4}}),
    "temperature": (10, 5, {"steps": {1000}, "length": {10}, "reward": {"bag_of_tokens"}, "size": {8}, "epochs": {4}}),
    "dg_epochs": (10, 18, {"length": {5, 10}, "epochs": {1, 4}, "size": {1}, "prompts": {100}}),
}
OWN = {"dg": 1, "reinforce": 1}
GROUPED = {"tpo", "tpo_no_anchor", "group_pg", "grpo", "grpo_no_kl", "grpo_masked", "tpo_token", "grpo_token"}


def values(setting: Setting) -> dict[str, object]:
    """What a run does, after every default."""
    config = training_config(setting.options, setting.steps)
    task = config.task.options
    return {
        "steps": config.steps,
        "length": task["length"],
        "vocab": task.get("vocab", 2),
        "reward": task.get("reward"),
        "prompts": config.rollout.groups_per_step,
        "size": config.rollout.group_size,
        "lr": config.learner.optimizer.lr,
        "epochs": config.learner.epochs or OBJECTIVES[config.objective.name].kind.epochs,
        "optimizer": (config.learner.optimizer.name, config.learner.schedule.name),
        "staleness": config.stream.max_staleness,
    }


@pytest.mark.parametrize("name", PAPER)
def test_sizes_are_the_paper_s(name):
    seeds, count, wanted = PAPER[name]
    study = STUDIES[name]
    assert (study.seeds, len(study.settings)) == (seeds, count)
    for key, held in wanted.items():
        assert {values(setting)[key] for setting in study.settings} == held, key


@pytest.mark.parametrize("name", [name for name in PAPER if STUDIES[name].settings[0].engine == "training"])
def test_every_setting_is_the_paper_s_but_for_what_it_varies(name):
    for setting in STUDIES[name].settings:
        found, method = values(setting), setting.options["objective.name"]
        assert found["optimizer"] == ("muon", "constant")
        assert found["staleness"] == 0
        assert method == setting.labels["method"]
        matched = setting.labels.get("match") == "interactions" and method not in GROUPED
        assert found["lr"] == pytest.approx(1e-3 * 8**0.5 if matched else 1e-3)
        prompts = 256 if name in ("gradients", "group_sizes", "epochs", "masking") else 100
        assert found["prompts"] == (800 if matched else prompts)
        assert (found["size"] == 1) == (method not in GROUPED)
        assert found["epochs"] == setting.labels.get("epochs", OWN.get(method, 4))
        for label, key in {"vocab": "vocab", "length": "length", "reward": "reward", "group size": "size"}.items():
            assert label not in setting.labels or found[key] == setting.labels[label]
        for label in ("variant", "eta"):
            place = {"variant": "task.variant", "eta": "objective.eta"}[label]
            assert label not in setting.labels or setting.options[place] == setting.labels[label]


def held(name: str, reported: str, **labels: object) -> dict[object, float]:
    """The paper's figures of one study and number where these labels hold, by what is left of the labels."""
    return {
        tuple(value for label, value in setting.labels.items() if label not in labels): setting.paper[reported]
        for setting in STUDIES[name].settings
        if reported in setting.paper and all(setting.labels.get(label) == value for label, value in labels.items())
    }


def test_figures_are_the_paper_s():
    """A row or a column of each table, as printed."""
    never = float("inf")
    steps, error = "steps to 1 % error", "final error"
    assert held("vocabulary", steps, method="tpo_token") == {(2,): 58, (4,): 74, (8,): 103, (16,): 102}
    assert held("vocabulary", steps, vocab=2) == {
        ("tpo_token",): 58,
        ("grpo_token",): 904,
        ("dg",): 199,
        ("ppo",): 872,
    }
    assert list(held("variants", steps, reward="sequential", method="tpo_token").values()) == [295, 321, 159, 276]
    assert held("variants", steps, reward="bag_of_tokens", variant="reverse_copy") == {
        ("tpo_token",): 55,
        ("grpo_token",): 352,
        ("dg",): 202,
        ("ppo",): never,
    }
    assert set(held("variants", steps, reward="sequential", method="ppo").values()) == {never}
    assert list(held("terminal", error, method="tpo", match="prompts").values()) == [6.9, 8.6, 6.1, 7.4]
    assert list(held("terminal", error, method="tpo", match="interactions").values()) == [1.8, 2.8, 5.3, 19.0]
    assert list(held("terminal", error, method="grpo", match="interactions").values()) == [9.6, 23.2, 36.2, 48.7]
    assert held("terminal", error, match="prompts", length=7) == {
        ("tpo",): 6.9,
        ("grpo",): 14.5,
        ("grpo_no_kl",): 66.6,
        ("ppo",): 12.0,
        ("dg",): 33.8,
    }
    assert list(held("terminal", error, match="interactions", method="ppo").values()) == [38.6, 62.1, 66.2]
    assert list(held("terminal", error, match="interactions", method="dg").values()) == [47.7, 69.4]
    assert held("ablations", error, length=10, match="prompts") == {("tpo",): 7.4}
    assert list(held("group_sizes", error, method="tpo").values()) == [8.9, 5.2, 5.1, 2.6, 0.36]
    assert list(held("group_sizes", error, method="grpo").values()) == [19.4, 19.8, 9.2, 4.4, 5.6]
    assert list(held("epochs", error, method="grpo").values()) == [4.3, 37.6, 6.3, 3.3, 1.1]
    assert held("masking", error) == {("tpo",): 0.05, ("grpo",): 6.3, ("grpo_masked",): 29.7}
    assert held("gradients", "error at step 400") == {("tpo", 4): 0.2, ("tpo", 1): 1.1}
    assert list(held("temperature", steps).values()) == [72, 67, 96, 141, 260]
    assert held("dg_epochs", error, task="terminal reverse_copy") == {("dg", 1): 2.0, ("dg", 4): 48.3}
    assert held("digits", "final test error") == {("tpo",): 2.9, ("pg",): 5.3, ("grpo",): 5.9, ("group_pg",): 7.2}
    assert held("digits", "steps to 5 % test error") == {("tpo",): 1600, ("dg",): 2200}


def test_own_epochs_are_the_methods():
    assert {name: OBJECTIVES[name].kind.epochs for name in OWN_EPOCHS} == OWN_EPOCHS


def test_studies_share_the_runs_that_are_the_same():
    """However they write them down; and DG's two epochs are not compared on a task that table 3 knows otherwise."""
    shared = Counter(fingerprint(s) for name in ("epochs", "gradients", "masking") for s in STUDIES[name].settings)
    assert sorted(shared.values(), reverse=True)[:3] == [3, 3, 2]  # tpo and grpo with 4 epochs, tpo with 1
    variants = {fingerprint(setting) for setting in STUDIES["variants"].settings}
    assert sum(fingerprint(setting) in variants for setting in STUDIES["dg_epochs"].settings) == 8
    terminal = {fingerprint(setting) for setting in STUDIES["terminal"].settings}
    assert not any(fingerprint(setting) in terminal for setting in STUDIES["dg_epochs"].settings)
