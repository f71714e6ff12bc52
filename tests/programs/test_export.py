"""What is exported is what was trained, and others load it as any model."""

import json

import numpy as np
import pytest
import torch

from tests.cli.run_cli import call
from tests.learner.test_language_model import roll
from tests.rollout.language_models import about
from tests.tiny import tiny_model
from tpo_dist.config import RunConfig
from tpo_dist.learner.checkpoint import save_checkpoint
from tpo_dist.policies.contract import CandidateBatch
from tpo_dist.programs.job import configure
from tpo_dist.programs.parts import make_learner
from tpo_dist.programs.run import create_run
from tpo_dist.rollout.vllm_sampler import VLLMSampling

transformers = pytest.importorskip("transformers")

JOB = {
    "name": "words",
    "task": {"name": "gsm8k"},
    "sampler": {"name": "transformers"},
    "policy": {"name": "causal_lm"},
    "learner": {"optimizer": {"name": "adamw", "lr": 0.01}},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(tiny_model(tmp_path_factory.mktemp("model"), spread=0.2))


def trained(tmp_path, folder, task, **options):
    """The run's folder, with checkpoints of steps 1 and 2, and its learner."""
    job = {**JOB, "runs_dir": str(tmp_path / "runs"), "policy": {"name": "causal_lm", "path": folder, **options}}
    run = create_run(configure({**job, "task": task}))
    assert isinstance(run.config, RunConfig)
    learner = make_learner(run.config)
    for seed in range(2):
        learner.update(roll(learner, seed))
        save_checkpoint(run.folder / "checkpoints", learner, keep=2)
    return run.folder, learner


@pytest.fixture
def task(tmp_path):
    """Rows of the user's own."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"{n}", "answer": f"{n}"}) + "\n" for n in range(20)))
    return {"name": "text", "path": str(rows), "scorer": "answer_tag"}


@pytest.mark.parametrize("options", [{}, {"lora_rank": 4, "lora_alpha": 12.0}, {"dtype": "bfloat16"}])
def test_an_exported_folder_scores_as_the_learner_does(tmp_path, folder, task, options, monkeypatch, capsys):
    run, learner = trained(tmp_path, folder, task, **options)
    code, out, err = call(monkeypatch, capsys, "export", run, tmp_path / "out", "--json")
    assert code == 0, err
    told = json.loads(out)
    assert (told["folder"], told["step"]) == (str(tmp_path / "out"), 2)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.dtype == getattr(torch, options.get("dtype", "float32"))
    tokens = torch.randint(0, 250, (1, 9), generator=torch.Generator().manual_seed(0))
    batch = CandidateBatch(
        prompts_GP=tokens[:, :3], tokens_GKT=tokens[None, :, 3:], mask_GKT=torch.ones(1, 1, 6, dtype=torch.bool)
    )
    logps = model(input_ids=tokens).logits.float().log_softmax(-1)[0, 2:-1].gather(1, tokens[0, 3:, None])[:, 0]
    tolerance = 0.1 if "dtype" in options else 1e-4
    torch.testing.assert_close(learner.policy.scorer(batch)()[0, 0], logps, rtol=0, atol=tolerance)
    untrained = transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert any(not np.array_equal(a.detach().float(), b.detach().float()) for a, b in
               zip(model.parameters(), untrained.parameters(), strict=True))  # fmt: skip
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    ours = transformers.AutoTokenizer.from_pretrained(folder)
    assert theirs.chat_template == ours.chat_template
    assert theirs("2 + 2").input_ids == ours("2 + 2").input_ids
    assert "tpo" not in (tmp_path / "out" / "config.json").read_text()  # nor how the learner computes attention


@pytest.mark.vllm
@pytest.mark.filterwarnings("ignore")
def test_vllm_computes_with_an_exported_folder(tmp_path, folder, task, monkeypatch, capsys):
    pytest.importorskip("vllm")
    run, learner = trained(tmp_path, folder, task, lora_rank=4)
    assert call(monkeypatch, capsys, "export", run, tmp_path / "out")[0] == 0
    sampler = VLLMSampling(max_sequences=4).build(about(tmp_path / "out"))
    tokens, logps = learner.policy.probe()
    np.testing.assert_allclose(sampler.engine.logps(tokens.tolist()), logps.numpy(), rtol=0, atol=1e-4)
    sampler.close()


def test_what_cannot_be_exported_is_said_in_one_line(tmp_path, folder, task, monkeypatch, capsys, small_config):
    run, _ = trained(tmp_path, folder, task)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    toy = create_run(small_config())
    bare = create_run(configure(json.loads((run / "config.json").read_text())))
    cases = [
        ((run, tmp_path / "full"), "is there already, and is not empty"),
        ((run, tmp_path / "full" / "file"), "is there already, and is not empty"),
        ((run, tmp_path / "full" / "file" / "out"), "cannot be written"),
        ((run, tmp_path / "out", "--step", 7), "--step 7: the checkpoints of this run are of [1, 2]"),
        ((bare.folder, tmp_path / "out"), "this run has no checkpoint yet"),
        ((toy.folder, tmp_path / "out"), "its policy 'transformer' is no language model"),
        (("nothing", tmp_path / "out"), "there is no such run"),
    ]
    for arguments, complaint in cases:
        code, out, err = call(monkeypatch, capsys, "export", *arguments)
        assert (code, out) == (2, "")
        assert complaint in err
        assert err.count("\n") == 1
        assert not (tmp_path / "out").exists()
