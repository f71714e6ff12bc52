"""The tensors of a checkpoint: weights and the optimizer's state, in two files or a part of each rank in its own."""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tpo_dist.errors import UsageError
from tpo_dist.learner.checkpoint_state import HEADER, MODEL, OPTIMIZER, headed, remedy
from tpo_dist.learner.learner import Learner
from tpo_dist.learner.sharded import Kind, read_shards, write_shards, written_shards
from tpo_dist.policies.contract import Policy
from tpo_dist.policies.weights import fill, import_weights, to_array

_OF_OPTIMIZER = "optimizer/"


def save_tensors(learner: Learner, folder: Path, header: dict[str, str]) -> None:
    """Weights and optimizer into a new checkpoint. Raises OSError where they cannot be written."""
    if learner.team.size > 1:
        write_file({}, folder / HEADER, header)
        learner.team.run(_write_shards, learner, folder)
        return
    weights = {name: p.detach().contiguous() for name, p in learner.policy.published_parameters().items()}
    write_file(weights, folder / MODEL, header)
    state = {name: value.clone().contiguous() for name, value in optimizer_state(learner).items()}
    write_file(state, folder / OPTIMIZER)


def put_weights(checkpoint: Path, state: dict[str, Any], policy: Policy) -> None:
    """Saved weights into a policy. Raises UsageError where they are another's."""
    file = headed(state)
    try:
        if file == MODEL:
            weights = read_file(checkpoint / MODEL)
            import_weights(policy, {name: to_array(tensor) for name, tensor in weights.items()})
            return
        kept, saved = policy.published_parameters(), written_shards(checkpoint)
        found = {name for name in saved if not name.startswith(_OF_OPTIMIZER)}
        for name in sorted(kept.keys() ^ found):
            raise ValueError(f"the weights {'lack' if name in kept else 'have the unknown'} parameter {name!r}")
        for name, parameter in kept.items():
            if saved[name] != _kind(parameter):
                raise ValueError(f"parameter {name!r} has shape or precision {saved[name]}, not {_kind(parameter)}")
        read_shards(kept, checkpoint)
    except ValueError as error:
        fix = "resume with the task and policy that the run was started with"
        raise UsageError(str(checkpoint / file), f"holds another model: {error}", fix) from None


def put_optimizer(checkpoint: Path, state: dict[str, Any], learner: Learner) -> None:
    """Saved state into the optimizer. Raises UsageError where it is another's."""
    kept = optimizer_state(learner)
    if headed(state) == MODEL:
        saved = read_file(checkpoint / OPTIMIZER)
        _refuse_other_optimizer(kept, {name: _kind(value) for name, value in saved.items()}, checkpoint / OPTIMIZER)
        for name, value in kept.items():
            fill(value, saved[name])
        return
    found = {name: kind for name, kind in written_shards(checkpoint).items() if name.startswith(_OF_OPTIMIZER)}
    _refuse_other_optimizer(kept, found, checkpoint)
    read_shards(kept, checkpoint)


def _write_shards(learner: Learner, folder: Path) -> None:
    write_shards({**learner.policy.published_parameters(), **optimizer_state(learner)}, folder)


def optimizer_state(learner: Learner) -> dict[str, Tensor]:
    """Every tensor that the optimizer keeps, by name."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in learner.policy.published_parameters().items()}
    return {
        f"{_OF_OPTIMIZER}{names[parameter]}/{key}": value.detach()
        for parameter, state in learner.optimizer.state.items()
        for key, value in state.items()
    }


def _kind(tensor: Tensor) -> Kind:
    return tensor.shape, tensor.dtype


def _refuse_other_optimizer(kept: dict[str, Tensor], saved: dict[str, Kind], where: Path) -> None:
    """Raises UsageError, before any state is touched, unless every tensor is one that this optimizer keeps."""
    for name in sorted(kept.keys() | saved.keys()):
        if name in kept and name in saved and kept[name].shape == saved[name][0]:
            continue
        side = "lacks" if name not in saved else "holds" if name not in kept else "has another shape of"
        reason = f"{side} {name!r}: it is the state of another optimizer"
        fix = "resume with the optimizer that the run was started with"
        raise UsageError(str(where), reason, fix)


def write_file(tensors: dict[str, Tensor], path: Path, header: dict[str, str] | None = None) -> None:
    """One safetensors file. Raises OSError where it cannot be written."""
    try:
        save_file(tensors, path, header)
    except SafetensorError as error:  # also where the disk is full
        raise OSError(str(error)) from error


def read_file(path: Path) -> dict[str, Tensor]:
    """All of a safetensors file. Raises UsageError where it cannot be read."""
    try:
        return load_file(path)
    except SafetensorError as error:
        raise UsageError(str(path.parent), f"cannot be read ({error})", remedy(path.parent)) from None
