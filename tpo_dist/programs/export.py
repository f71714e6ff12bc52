"""A run's language model as an ordinary Hugging Face folder: what `from_pretrained` and vLLM load."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from tpo_dist.errors import UsageError
from tpo_dist.learner.checkpoint import list_checkpoints, load_weights
from tpo_dist.policies import TextPolicyOptions
from tpo_dist.policies.causal_lm import CausalLM
from tpo_dist.policies.model_folders import open_to_others
from tpo_dist.policies.tokenizer import load_tokenizer
from tpo_dist.programs.folder import find_run
from tpo_dist.programs.job import configure
from tpo_dist.programs.parts import make_policy, policy_options


def export_run(name: str, target: Path, runs_dir: str, step: int | None = None) -> dict[str, Any]:
    """Write model, tokenizer and configuration, adapters merged, from the newest checkpoint or that of `step`.

    The folder appears under its name when all of it is written. Raises UsageError where there is no such run or
    checkpoint, its policy is no language model, or the folder is taken or cannot be written.
    """
    folder = find_run(name, runs_dir, "export")
    config = configure(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    options = policy_options(config)
    if not isinstance(options, TextPolicyOptions):
        reason = f"its policy {config.policy.name!r} is no language model"
        raise UsageError(name, reason, f"take the weights from {folder / 'checkpoints'}, model.safetensors of each")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(str(target), "is there already, and is not empty", "give the name of a new folder")
    checkpoint = _chosen(name, folder / "checkpoints", step)
    policy = make_policy(config)
    assert isinstance(policy, CausalLM)
    state = load_weights(checkpoint, policy)
    partial = target.with_name(f".{target.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        policy.save_pretrained(str(partial))
        open_to_others(partial)
        load_tokenizer(options.path, config.policy.options.get("revision")).tokenizer.save_pretrained(partial)
        os.replace(partial, target)
    except OSError as error:
        reason = f"cannot be written ({error.strerror or error})"
        raise UsageError(str(target), reason, "make room on that disk, or give another folder") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    size = sum(path.stat().st_size for path in target.iterdir())
    return {"folder": str(target), "checkpoint": str(checkpoint), "step": state["step"], "bytes": size}


def _chosen(name: str, parent: Path, step: int | None) -> Path:
    found = {int(path.name.rpartition("-")[2]): path for path in list_checkpoints(parent)}
    if not found:
        raise UsageError(name, "this run has no checkpoint yet", "wait for its first")
    if step is not None and step not in found:
        raise UsageError(f"--step {step}", f"the checkpoints of this run are of {sorted(found)}", "give one of them")
    return found[max(found) if step is None else step]
