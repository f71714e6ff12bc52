"""What a learner needs to go on, on disk: written whole or not at all, checked before it is used, never a pickle.

A checkpoint is a folder with `model.safetensors`, `optimizer.safetensors`, `rows.jsonl` (what was reported of the steps
since the checkpoint before) and `state.json` (counters, the digests of published versions, which blocks of the stream
are settled, and size and checksum of the other files). Between two publications there is also `published.safetensors`,
the snapshot that workers sample from. All of the state but the checksums also stands in the header of the model, under
its checksum. There is no random state: every random number is a function of the seed and the number of its draw.

Where the learner has ranks, model and optimizer are in `shards/`, a file of each rank, and the header is in
`header.safetensors`. Any number of ranks goes on from either form.
"""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from tpo_dist.errors import RunFailed, UsageError
from tpo_dist.learner.checkpoint_state import AGAIN, COUNTERS, PREFIX, PUBLISHED, ROWS, check_state, headed, remedy
from tpo_dist.learner.checkpoint_state import list_checkpoints as list_checkpoints
from tpo_dist.learner.checkpoint_tensors import (
    optimizer_state,
    put_optimizer,
    put_weights,
    read_file,
    save_tensors,
    write_file,
)
from tpo_dist.learner.learner import Learner
from tpo_dist.policies.contract import Policy
from tpo_dist.policies.weights import to_array
from tpo_dist.records import Snapshot, weights_digest

FORMAT = 5
_STATE = "state.json"
_HEADER = (*COUNTERS, "published", "settled")


def save_checkpoint(parent: Path, learner: Learner, keep: int) -> Path:
    """Write the learner under `parent` as `step-NNNNNNNN`, then drop all but the newest `keep`.

    The folder appears under its name only when every byte is on disk; a crash or a full disk on the way leaves the
    older ones as they were. Raises OSError where it cannot be written.
    """
    final = parent / f"{PREFIX}{learner.version:08d}"
    temporary = parent / f".{final.name}.partial"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        header = {
            "step": learner.version,
            "draws_trained": learner.draws_trained,
            "published": {str(version): digest for version, digest in learner.published.items()},
            "settled": learner.settled,
        }
        texts = {name: _text(value) for name, value in header.items()}
        save_tensors(learner, temporary, texts)
        (temporary / ROWS).write_text("".join(json.dumps(row) + "\n" for row in learner.rows), encoding="utf-8")
        if learner.standing is not None:
            write_file(
                {name: torch.tensor(array) for name, array in learner.standing.arrays.items()}, temporary / PUBLISHED
            )
        written = sorted(path for path in temporary.rglob("*") if path.is_file())
        files = {path.relative_to(temporary).as_posix(): _fingerprint(path) for path in written}
        state = {"format": FORMAT, **header, "files": files}
        (temporary / _STATE).write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
        for path in (*temporary.rglob("*"), temporary):
            _flush(path)
        if final.exists():
            shutil.rmtree(final)
        temporary.rename(final)
        _flush(parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # gone already where it was renamed
    for old in list_checkpoints(parent)[:-keep]:
        shutil.rmtree(old)
    return final


@dataclass(frozen=True, slots=True)
class Saved:
    """What came of saving after a step."""

    path: str | None = None
    """The folder written, if any."""
    problem: str | None = None
    """Why none was written where one was due; the older ones are as they were."""


@dataclass(frozen=True, slots=True)
class Checkpointer:
    """When to save, where, and how many to keep."""

    folder: Path
    every_steps: int
    keep: int

    def after_step(self, learner: Learner, *, last: bool) -> Saved:
        """Save if it is time, or if this was the last step.

        Training can go on without a checkpoint, but not end without one: raises RunFailed where the last step's cannot
        be written.
        """
        if not last and learner.version % self.every_steps:
            return Saved()
        try:
            path = save_checkpoint(self.folder, learner, self.keep)
            learner.rows.clear()
            return Saved(path=str(path))
        except OSError as error:
            problem = f"no checkpoint could be written to {self.folder} ({error.strerror or error})"
        if not last:
            return Saved(problem=f"{problem}; training goes on, and the next one is tried in {self.every_steps} steps")
        older = [path.name for path in list_checkpoints(self.folder)]
        kept = f"the newest there is {older[-1]}" if older else "there is none"
        then = "go on with --resume" if older else AGAIN
        fix = f"make room on that disk, or the folder writable, and {then}"
        raise RunFailed(f"{problem} after the last step, {learner.version}; {kept}. Fix: {fix}.")


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The state of a checkpoint, tensors aside, whose files are all there and undamaged.

    Raises UsageError, naming the file and what is wrong with it.
    """
    path = checkpoint / _STATE
    try:
        state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        written = int(state["format"])
        if written == FORMAT:
            check_state(state)
    except FileNotFoundError:
        raise UsageError(str(path), "the checkpoint lacks this file", remedy(checkpoint)) from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(str(path), f"is damaged ({type(error).__name__}: {error})", remedy(checkpoint)) from None
    if written != FORMAT:
        raise UsageError(
            str(path), f"has format {written}; this version reads {FORMAT}", "use the version that wrote it"
        )
    for name, expected in state["files"].items():
        _check_file(checkpoint, name, expected)
    _check_header(checkpoint, state)
    return state


def _check_file(checkpoint: Path, name: str, expected: dict[str, Any]) -> None:
    file = checkpoint / name
    if not file.is_file():
        raise UsageError(str(file), "the checkpoint lacks this file", remedy(checkpoint))
    if file.stat().st_size != expected["bytes"]:
        reason = f"has {file.stat().st_size} bytes where {expected['bytes']} were written"
        raise UsageError(str(file), reason, remedy(checkpoint))
    if _fingerprint(file) != expected:
        raise UsageError(str(file), "its checksum is not the one that was written", remedy(checkpoint))


def _check_header(checkpoint: Path, state: dict[str, Any]) -> None:
    """The state against the model's header and the folder's name."""
    file = headed(state)
    with safe_open(checkpoint / file, framework="pt") as model:
        header = model.metadata() or {}
    for name in _HEADER:
        if header.get(name) != _text(state[name]):
            reason = f"says {name} {state[name]} where {file} was written with {header.get(name)}"
            raise UsageError(str(checkpoint / _STATE), reason, remedy(checkpoint))
    if checkpoint.name != f"{PREFIX}{state['step']:08d}":
        reason = f"holds step {state['step']}, which another folder name belongs to"
        raise UsageError(str(checkpoint), reason, f"name it {PREFIX}{state['step']:08d} again")


def load_checkpoint(checkpoint: Path, learner: Learner) -> None:
    """Put a learner into the state that was saved. Raises UsageError for a damaged one, or one of another model."""
    learner.team.run(_restore, learner, checkpoint, read_state(checkpoint))


def _restore(learner: Learner, checkpoint: Path, state: dict[str, Any]) -> None:
    """On each rank, its part of the tensors."""
    standing = read_file(checkpoint / PUBLISHED) if PUBLISHED in state["files"] and learner.team.rank == 0 else None
    put_weights(checkpoint, state, learner.policy)
    put_optimizer(checkpoint, state, learner)
    learner.version, learner.draws_trained = state["step"], state["draws_trained"]
    learner.published = {int(version): digest for version, digest in state["published"].items()}
    learner.settled = state["settled"]
    learner.newest = None
    if standing is not None:
        version, arrays = max(learner.published), {name: tensor.numpy() for name, tensor in standing.items()}
        learner.newest = Snapshot(version=version, arrays=arrays, digest=learner.published[version])


def read_rows(checkpoint: Path) -> list[Any]:
    """What was reported of the last steps before it, one row each; none where that cannot be read."""
    try:
        return [json.loads(line) for line in (checkpoint / ROWS).read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError, RecursionError):
        return []


def load_weights(checkpoint: Path, policy: Policy) -> dict[str, Any]:
    """Put saved weights into a policy; the checkpoint's state. Raises UsageError as `load_checkpoint` does."""
    state = read_state(checkpoint)
    put_weights(checkpoint, state, policy)
    return state


def state_digests(learner: Learner) -> dict[str, str]:
    """Checksum of each parameter and of each tensor that the optimizer keeps: equal where two are, bit for bit."""
    digests: dict[str, str] = learner.team.run(_state_digests, learner)
    return digests


def _state_digests(learner: Learner) -> dict[str, str]:
    tensors = {**learner.policy.published_parameters(), **optimizer_state(learner)}
    return {name: weights_digest({name: to_array(tensor)}) for name, tensor in tensors.items()}


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "blake2b": hashlib.file_digest(file, "blake2b").hexdigest()}


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
