"""Every job file of the repository: it resolves without hubs, and says what it takes."""

import json
from pathlib import Path

import pytest

from tests.tiny import tiny_model
from tpo_dist.programs.job import load_job, read_job

JOBS = Path(__file__).parents[2] / "jobs"
FILES = [path for path in sorted(JOBS.rglob("*.yaml")) if path.parent.name != "parts"]
PAPER = {path.stem: path for path in FILES if path.parent.name == "paper"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model that reads bytes, and data in the form of GSM8K."""
    folder = tmp_path_factory.mktemp("jobs")
    (folder / "data").mkdir()
    for split in ("train", "test"):
        rows = [{"question": f"What is {n} + 1?", "answer": f"One more. #### {n + 1}"} for n in range(300)]
        (folder / f"data/{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tiny_model(folder / "model", context=16384)
    return folder


def at_hand(path, place):
    """Overrides that put what is at hand in the place of what would be downloaded. Bytes are more than tokens."""
    settings = read_job(path)
    if settings["policy"]["name"] != "causal_lm":
        return []
    text, limit = settings["text"], settings["learner"].get("micro_batch_tokens")
    assert limit is None or limit >= text["max_prompt_tokens"] + text["max_completion_tokens"]
    overrides = [f"policy.path={place / 'model'}", "text.max_prompt_tokens=1800", "learner.micro_batch_tokens=null"]
    return [*overrides, f"task.path={place / 'data'}"] if settings["task"]["name"] == "gsm8k" else overrides


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_job_is_valid_and_named_after_its_file(path, place):
    assert load_job(path, at_hand(path, place)).name == path.stem


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_job_says_what_it_takes(path):
    said = "\n".join(line for line in path.read_text().splitlines() if line.startswith("#")).lower()
    assert "core" in said
    assert "minute" in said or "hour" in said
    assert "gb of memory" in said


def test_the_paper_has_two_models_three_tasks_and_two_methods():
    assert set(PAPER) == {
        f"{model}_{task}_{method}"
        for model in ("qwen3", "r1_distill")
        for task in ("gsm8k", "graph_color", "knights_knaves")
        for method in ("tpo", "grpo")
    }


@pytest.mark.parametrize("name", [name for name in PAPER if name.endswith("_tpo")])
def test_pairs_differ_in_the_objective_alone(name):
    tpo, grpo = read_job(PAPER[name]), read_job(PAPER[name.replace("_tpo", "_grpo")])
    assert {key for key in {*tpo, *grpo} if tpo.get(key) != grpo.get(key)} == {"name", "objective"}
    assert (tpo["objective"]["name"], grpo["objective"]["name"]) == ("tpo", "grpo_no_kl")


@pytest.mark.parametrize("path", PAPER.values(), ids=PAPER)
def test_the_papers_hyper_parameters(path, place):
    """Section 3.8 and appendix G of arXiv 2604.06159."""
    config = load_job(path, at_hand(path, place))
    assert (config.steps, config.rollout.groups_per_step, config.rollout.group_size) == (300, 16, 16)
    assert (config.learner.optimizer.name, config.learner.optimizer.lr) == ("adamw", 1e-5)
    assert config.stream.max_staleness == 0
    gsm8k = "gsm8k" in path.stem
    assert config.policy.options["lora_rank"] == (32 if gsm8k else None)
    assert config.learner.reference_kl == (1e-3 if gsm8k else 0.0)
    assert config.learner.reference == ("initial" if gsm8k else "snapshot")
    assert config.objective.options.get("beta", 0.0) == 0.0  # a KL of GRPO's own would be a second one
    assert config.task.options.get("parameters") is None  # Reasoning Gym's own
    models = {"qwen3": "Qwen/Qwen3-1.7B", "r1_distill": "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"}
    assert read_job(path)["policy"]["path"] == next(models[each] for each in models if path.stem.startswith(each))
