"""Loading models of transformers, adding adapters with peft, and making sure that they are scored as they are meant.

Both packages are imported when they are needed, and not before.
"""

import importlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from tpo_dist.components import nearest
from tpo_dist.errors import UsageError
from tpo_dist.policies.contract import CandidateBatch, Policy
from tpo_dist.policies.packed_attention import NAME, packed_attention

_WEIGHTS = "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"
"""Where transformers looks for them, in its order."""

_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.25}
"""Of log-probs: far above rounding, and far below what an unknown architecture does to them."""


def require(module: str) -> Any:
    """A module of an optional package. Raises UsageError, naming the extra, where it cannot be imported."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(f"import {module}", str(error), "pip install 'tpo-dist[llm]'") from None


def refuse_missing_weights(path: str) -> None:
    """Raise UsageError where a model folder lacks weights, or has them in part. Nothing is loaded, and no hub asked."""
    folder, where = Path(path), f"policy.path = {path!r}"
    if not folder.is_dir():
        if folder.is_absolute():
            raise UsageError(where, "there is no such folder", "put the model back, or give another folder")
        return
    found = next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)
    if found is None:
        reason = f"this folder has a model's configuration and none of its weights ({_WEIGHTS[0]})"
        raise UsageError(where, reason, "copy the weights into it, or download the model again")
    files = [found]
    try:
        if found.suffix == ".json":
            names = json.loads(found.read_text(encoding="utf-8"))["weight_map"].values()
            files = [folder / name for name in sorted(set(names))]
        for file in files:
            if file.suffix == ".safetensors":
                with safe_open(file, "numpy"):
                    pass
            elif not file.is_file():
                raise FileNotFoundError("it is not there")
    except (OSError, ValueError, KeyError, AttributeError, TypeError, SafetensorError) as error:
        reason = f"its weights cannot be read: {file.name if found.suffix != '.json' else found.name}"
        raise UsageError(where, f"{reason} ({error})", "download the model again") from None


def refuse_architecture(path: str, revision: str | None, modules: str | list[str], rank: int | None) -> None:
    """Raise UsageError where the model writes no text, has not the linear layers named or none as large as adapters of
    that rank, or its weights are another model's. No weights are loaded."""
    transformers = require("transformers")
    config = transformers.AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=False)
    try:
        with torch.device("meta"), _silent(transformers):
            model = transformers.AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except (ValueError, KeyError, ImportError) as error:
        reason = f"a model of type {config.model_type!r} is no causal language model ({str(error).splitlines()[0]})"
        raise UsageError(f"policy.path = {path!r}", reason, "give a model that goes on with a text") from None
    if any(getattr(module, "is_causal", None) is False for module in model.modules()):
        reason = f"a model of type {config.model_type!r} reads a text in both directions, and does not go on with it"
        raise UsageError(f"policy.path = {path!r}", reason, "give a model that does, such as Qwen3 or Llama")
    if getattr(config, "quantization_config", None) is None:
        _refuse_other_weights(path, model)
    _refuse_modules(model, modules)
    if rank is not None:
        _refuse_rank(model, modules, rank)


def _refuse_other_weights(path: str, model: nn.Module) -> None:
    """By the heads of the files: names and shapes. Where most names differ, transformers knows how to read them."""
    found = _shapes(Path(path))
    wanted = {name: list(parameter.shape) for name, parameter in model.named_parameters()}
    for name in sorted(found.keys() & wanted.keys()):
        if found[name] != wanted[name]:
            reason = f"{name} has shape {found[name]} in its weights, and {wanted[name]} by its config.json"
            raise UsageError(f"policy.path = {path!r}", reason, "put the config.json there that belongs to the weights")
    missing = sorted(wanted.keys() - found.keys())
    if missing and 2 * len(missing) < len(wanted):
        reason = f"its weights lack {missing[0]!r}, which its config.json asks for, and {len(missing) - 1} more"
        raise UsageError(f"policy.path = {path!r}", reason, "put the config.json there that belongs to the weights")


def _shapes(folder: Path) -> dict[str, list[int]]:
    """Of each weight in the folder's safetensors; none for other files."""
    found: dict[str, list[int]] = {}
    single = folder / _WEIGHTS[0]
    for file in [single] if single.is_file() else sorted(folder.glob("model-*.safetensors")):
        with safe_open(file, "numpy") as weights:
            found |= {name: list(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118
    return found


def _refuse_rank(model: Any, modules: str | list[str], rank: int) -> None:
    head = model.get_output_embeddings()
    layers = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and module is not head
        and (modules == "all-linear" or name.rpartition(".")[2] in modules)
    ]
    largest = max((min(layer.in_features, layer.out_features) for layer in layers), default=rank)
    if rank > largest:
        reason = f"no matrix that is adapted has a rank above {largest}"
        raise UsageError(f"policy.lora_rank = {rank}", reason, "give less; 8 to 64 are usual")


def load_model(path: str, revision: str | None, dtype: torch.dtype) -> Any:
    """A causal language model in training mode, without dropout, set up for packed rows.

    Raises UsageError where there is none at `path`, or its weights are not all there.
    """
    transformers = require("transformers")
    transformers.AttentionInterface.register(NAME, packed_attention)
    transformers.utils.logging.disable_progress_bar()
    try:
        with _silent(transformers):  # of weights that are missing, too
            model, report = transformers.AutoModelForCausalLM.from_pretrained(
                path,
                revision=revision,
                dtype=dtype,
                attn_implementation=NAME,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        fix = "give a folder with config.json and model.safetensors, or the name of a model on the hub"
        raise UsageError(
            f"policy.path = {path!r}", f"no causal language model can be loaded: {lines[0]}", fix
        ) from None
    if report["missing_keys"] or report["mismatched_keys"]:
        key = min([str(each) for each in (*report["missing_keys"], *report["mismatched_keys"])])
        reason = f"its files lack {key!r}, or have it in another shape, and random weights would take its place"
        raise UsageError(f"policy.path = {path!r}", reason, "give a folder with all weights of the model")
    return _without_dropout(model)


@contextmanager
def _silent(transformers: Any) -> Iterator[None]:
    """What it warns of is a mistake that is refused, or none."""
    told = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers.utils.logging.set_verbosity(told)


def shaped_model(config: Any, dtype: torch.dtype) -> Any:
    """A model of that configuration with random weights, set up for packed rows."""
    transformers = require("transformers")
    transformers.AttentionInterface.register(NAME, packed_attention)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=NAME, dtype=dtype)
    return _without_dropout(model)


def _without_dropout(model: Any) -> Any:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model.train()


def add_lora(model: Any, rank: int, scale: float, modules: str | list[str], seed: int) -> Any:
    """The model with fresh adapters, a pure function of the seed; only they are trained.

    Raises UsageError where layers are named that the model does not have.
    """
    peft = require("peft")
    _refuse_modules(model, modules)
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=scale * rank,
        lora_dropout=0.0,
        target_modules=modules,
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return peft.get_peft_model(model, config).train()


def _refuse_modules(model: Any, modules: str | list[str]) -> None:
    linear = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    head = model.get_output_embeddings()
    linear -= {name.rpartition(".")[2] for name, module in model.named_modules() if module is head}
    if modules != "all-linear":
        for name in modules:
            if name not in linear:
                reason = "the model has no such linear layer inside its blocks"
                raise UsageError(f"policy.lora_modules = {modules}", f"{name}: {reason}", nearest(name, sorted(linear)))


@torch.no_grad()
def check_logps(policy: Policy, model: Any, path: str) -> None:
    """Score a few tokens through the policy, packed, and through the model's own forward pass.

    Raises UsageError where they differ: the model does something between tokens and log-probs that packing does not
    know, such as a recurrent layer, or logits that are scaled.
    """
    size = min(1000, model.config.vocab_size)
    tokens = torch.randint(0, size, (2, 12), generator=torch.Generator().manual_seed(0))
    batch = CandidateBatch(
        prompts_GP=tokens[:1, :5], tokens_GKT=tokens[None, :, 5:], mask_GKT=torch.ones(1, 2, 7, dtype=torch.bool)
    )
    tokens[:, :5] = tokens[0, :5]
    packed = policy.scorer(batch)()[0]
    model.set_attn_implementation("sdpa")
    try:
        logits = model(input_ids=tokens, use_cache=False).logits.float() / getattr(policy, "temperature", 1.0)
    finally:
        model.set_attn_implementation(NAME)
    plain = logits.log_softmax(-1)[:, 4:-1].gather(2, tokens[:, 5:, None]).squeeze(-1)
    difference = float((packed - plain).abs().max())
    if not difference <= _TOLERANCE[model.dtype]:
        raise UsageError(
            f"policy.path = {path!r}",
            f"packed rows give other log-probs than the model's own forward pass, by {difference:.2g} nats: "
            f"{type(model).__name__} is no plain transformer",
            "choose a model whose layers are softmax attention and feed-forward alone, such as Qwen3 or Llama",
        )
