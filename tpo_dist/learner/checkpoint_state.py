"""The files of a checkpoint, and what its state has to look like before anything of it is used."""

import re
from pathlib import Path
from typing import Any

MODEL, OPTIMIZER, ROWS, PUBLISHED = "model.safetensors", "optimizer.safetensors", "rows.jsonl", "published.safetensors"
HEADER = "header.safetensors"
"""In place of the first two where each rank of the learner wrote a part of its own, into shards/."""
COUNTERS = ("step", "draws_trained")
PREFIX = "step-"
AGAIN = "start the run again"


def check_state(state: dict[str, Any]) -> None:
    """Raises ValueError, KeyError or TypeError where it is not what `save_checkpoint` writes."""
    for name in COUNTERS:
        if type(state[name]) is not int or state[name] < 0:
            raise ValueError(f"{name} is {state[name]!r}, not a number of 0 or more")
    _check_published(state["published"], state["step"])
    _check_settled(state["settled"])
    files = state["files"]
    names = files.keys() - {PUBLISHED} if isinstance(files, dict) else set()
    shards = {name for name in names if re.fullmatch(r"shards/[\w-]+\.safetensors", name)}
    if names != ({HEADER, ROWS, *shards} if shards else {MODEL, OPTIMIZER, ROWS}):
        raise ValueError(f"files has to list {MODEL}, {OPTIMIZER} and {ROWS}, or {HEADER} and shards")
    if PUBLISHED in state["files"] and not state["published"]:
        raise ValueError(f"files lists {PUBLISHED}, and published is empty")
    for name, expected in state["files"].items():
        if not isinstance(expected, dict) or expected.keys() != {"bytes", "blake2b"}:
            raise ValueError(f"{name} has to have its size and its checksum")


def headed(state: dict[str, Any]) -> str:
    """The file with the header that the state is compared with: HEADER where the tensors are in shards."""
    return HEADER if HEADER in state["files"] else MODEL


def _check_published(published: Any, step: int) -> None:
    if not isinstance(published, dict):
        raise ValueError(f"published is {published!r}, not a digest for each version")
    for version, digest in published.items():
        if not re.fullmatch(r"0|[1-9]\d*", version, re.ASCII) or int(version) > step:
            raise ValueError(f"published holds version {version!r}, and the step is {step}")
        if not isinstance(digest, str) or not re.fullmatch("[0-9a-f]{32}", digest):
            raise ValueError(f"published holds {digest!r} for version {version}, not 32 hexadecimal digits")


def _check_settled(settled: Any) -> None:
    if not isinstance(settled, dict) or settled.keys() != {"below", "beyond"}:
        raise ValueError(f"settled is {settled!r}, not an object with below and beyond")
    below, beyond = settled["below"], settled["beyond"]
    if type(below) is not int or below < 0:
        raise ValueError(f"settled.below is {below!r}, not a number of 0 or more")
    if not isinstance(beyond, list) or any(type(block) is not int for block in beyond):
        raise ValueError(f"settled.beyond is {beyond!r}, not a list of numbers")
    if beyond != sorted({block for block in beyond if block >= below}):
        raise ValueError(f"settled.beyond is {beyond}, not rising numbers from {below} on")


def list_checkpoints(parent: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first."""
    found = [path for path in parent.glob(f"{PREFIX}*") if re.fullmatch(rf"{PREFIX}\d{{8,}}", path.name)]
    return sorted((path for path in found if path.is_dir()), key=lambda path: int(path.name.removeprefix(PREFIX)))


def remedy(checkpoint: Path) -> str:
    """What to do about a damaged one."""
    others = [path.name for path in list_checkpoints(checkpoint.parent) if path != checkpoint]
    if others:
        return f"remove the folder {checkpoint.name} to go on from {others[-1]}"
    return f"{AGAIN}; it has no other checkpoint"
