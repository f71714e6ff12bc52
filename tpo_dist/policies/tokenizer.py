"""The tokenizer of a model folder: prompts to token ids, completions to text, and the tokens that end one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from tpo_dist.errors import UsageError

_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tekken.json", "spiece.model")
_UNKNOWN = "\N{REPLACEMENT CHARACTER}"
_FOLDER = "give a folder with a model and its tokenizer, such as one of tpo-dist fetch-model, or a name on the hub"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TextTokenizer:
    """What a model reads and writes, in words."""

    path: str
    tokenizer: Any
    """As transformers loads it."""
    end_tokens: tuple[int, ...]
    """Each of them ends a completion; the first is the tokenizer's own."""
    vocab_size: int
    """Rows of the model's embedding: token ids that can be sampled, of which the tokenizer may know fewer."""
    context: int | None
    """Tokens that the model can read at most; None where its configuration does not say."""

    @property
    def has_template(self) -> bool:
        """Whether it comes with a chat template."""
        return bool(self.tokenizer.chat_template)

    def encode(
        self,
        prompt: str | Sequence[Mapping[str, str]],
        system: str | None = None,
        *,
        chat: bool | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """The token ids of a prompt, up to where the model is to go on.

        `chat`: through the chat template, with its `options`; None: where there is one. Without it, the contents of
        system prompt and messages stand one after another, an empty line between them. Raises UsageError where the
        template refuses them.
        """
        said = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [dict(each) for each in prompt]
        if system is not None and said[0]["role"] != "system":
            said = [{"role": "system", "content": system}, *said]
        if not (self.has_template if chat is None else chat):
            return list(self.tokenizer("\n\n".join(each["content"] for each in said)).input_ids)
        try:
            text = self.tokenizer.apply_chat_template(
                said, tokenize=False, add_generation_prompt=True, **dict(options or {})
            )
        except Exception as error:  # noqa: BLE001  # a template is a program of its own, and raises what it likes
            where = f"the chat template of {self.path}"
            reason = f"refuses the prompt ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
            fix = "set text.chat=false, another text.system_prompt, or other text.chat_options"
            raise UsageError(where, reason, fix) from None
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text by itself, without template; hundreds of times faster than to encode prompts."""
        return [len(ids) for ids in self.tokenizer(list(texts), add_special_tokens=False).input_ids] if texts else []

    def decode(self, ids: Sequence[int]) -> str:
        """The text of a completion, less the end token behind it; ids that the tokenizer does not know are U+FFFD."""
        if len(ids) and int(ids[-1]) in self.end_tokens:
            ids = ids[:-1]
        known, pieces, run = len(self.tokenizer), [], []
        for token in ids:
            if token < known:
                run.append(int(token))
                continue
            pieces += [self._text(run), _UNKNOWN]
            run = []
        return "".join([*pieces, self._text(run)])

    def _text(self, ids: list[int]) -> str:
        text: str = self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text if ids else ""


def load_tokenizer(path: str, revision: str | None = None) -> TextTokenizer:
    """The tokenizer of a model folder, or of a model on the hub. Code that comes with a model is never run.

    Raises UsageError where there is no such model, it has no tokenizer or no end token, the tokenizer does not fit the
    model, or transformers is not installed.
    """
    return _load(str(Path(path).resolve()) if Path(path).is_dir() else path, revision)


@lru_cache(maxsize=8)
def _load(path: str, revision: str | None) -> TextTokenizer:
    where = f"policy.path = {path!r}"
    try:
        import transformers
    except ImportError as error:
        reason = f"a language model needs transformers, which is not installed ({error})"
        raise UsageError(where, reason, "pip install 'tpo-dist[llm]'") from None
    folder = Path(path)
    if folder.is_dir():
        _refuse_other_folders(where, folder)
    elif folder.is_file():
        raise UsageError(where, "is a file, and a model is a folder of several", _FOLDER)
    elif folder.is_absolute() or path.startswith(("./", "../", "~")) or path.count("/") != 1:
        raise UsageError(where, "there is no such folder", _FOLDER)
    config = _loaded(transformers.AutoConfig, where, "configuration", path, revision)
    tokenizer = _loaded(transformers.AutoTokenizer, where, "tokenizer", path, revision)
    rows = int(config.get_text_config().vocab_size)
    if len(tokenizer) > rows:
        reason = f"its tokenizer has {len(tokenizer)} tokens, and the model embeds {rows}"
        raise UsageError(where, reason, "put the tokenizer there that the model was trained with")
    return TextTokenizer(
        path=path,
        tokenizer=tokenizer,
        end_tokens=_end_tokens(transformers, where, tokenizer, config, path, revision),
        vocab_size=rows,
        context=getattr(config.get_text_config(), "max_position_embeddings", None),
    )


def _refuse_other_folders(where: str, folder: Path) -> None:
    if (folder / "config.json").is_file():
        if not any((folder / name).is_file() for name in _FILES):
            raise UsageError(where, "this folder has a model and no tokenizer", "copy the model's tokenizer into it")
    elif (folder / "adapter_config.json").is_file():
        reason = "this folder holds adapters, and not the model that they are for"
        raise UsageError(where, reason, "give the model's folder, or merge them into it first (peft: merge_and_unload)")
    elif any(folder.glob("*.gguf")):
        reason = "this folder holds a model as GGUF, which is not trained here"
        raise UsageError(where, reason, "give the folder of that model with config.json and model.safetensors")
    else:
        raise UsageError(where, "this folder has no config.json, so it holds no model", _FOLDER)


def _loaded(kind: Any, where: str, what: str, path: str, revision: str | None) -> Any:
    try:
        return kind.from_pretrained(path, revision=revision, trust_remote_code=False)
    except Exception as error:  # noqa: BLE001  # transformers raises of all kinds for files that are not there or broken
        said = " ".join(str(error).split())[:300]
        reason = f"its {what} cannot be loaded ({said})"
        if not Path(path).is_dir():
            reason = f"there is no such folder here, and its {what} cannot be had of the hub ({said})"
        raise UsageError(where, reason, _FOLDER) from None


def _end_tokens(
    transformers: Any, where: str, tokenizer: Any, config: Any, path: str, revision: str | None
) -> tuple[int, ...]:
    """The tokenizer's end token, then those of the generation settings, or else of the model's configuration."""
    try:
        settings = transformers.GenerationConfig.from_pretrained(path, revision=revision)
    except OSError:  # a model need not have any
        settings = config.get_text_config()
    listed = settings.eos_token_id
    found = [tokenizer.eos_token_id, *(listed if isinstance(listed, list | tuple) else [listed])]
    ends = tuple(dict.fromkeys(int(token) for token in found if token is not None))
    if not ends:
        reason = "neither its tokenizer nor its configuration names a token that ends a text"
        raise UsageError(where, reason, "set eos_token in tokenizer_config.json")
    return ends
