"""Ragged values in flat arrays with lengths, as they travel: padded, flattened, selected, checked. numpy only."""

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

ScalarT = TypeVar("ScalarT", bound=np.generic)


def pad(flat: NDArray[ScalarT], lengths: NDArray[np.int32]) -> NDArray[ScalarT]:
    """Flat ragged values as [*lengths.shape, longest], zeros behind each row's end."""
    longest = int(lengths.max(initial=0))
    padded = np.zeros((*lengths.shape, longest), dtype=flat.dtype)
    padded[np.arange(longest) < lengths[..., None]] = flat
    return padded


def flatten(padded: NDArray[ScalarT], lengths: NDArray[np.int32]) -> NDArray[ScalarT]:
    """The inverse of `pad`: the values within each row's length, in order."""
    return padded[np.arange(padded.shape[-1]) < lengths[..., None]]


def ragged_index(lengths: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions, in a flat ragged array with these row lengths, of the given rows one after another."""
    ends = np.cumsum(lengths, dtype=np.int64)
    pieces = [np.arange(ends[row] - lengths[row], ends[row]) for row in rows]
    return np.concatenate(pieces) if pieces else np.empty(0, dtype=np.int64)


def check_lengths(what: str, flat: NDArray[Any], lengths: NDArray[Any], rows: int) -> None:
    """Raise ValueError unless there are that many rows of lengths, and they add up to the flat array's."""
    if lengths.shape[0] != rows:
        raise ValueError(f"{what} lengths have {lengths.shape[0]} rows for {rows} groups")
    if lengths.size and int(lengths.min()) < 0:
        raise ValueError(f"a {what} length is {int(lengths.min())}; lengths are 0 or more")
    if flat.ndim != 1 or len(flat) != int(lengths.sum()):
        raise ValueError(f"{what} lengths add up to {int(lengths.sum())} tokens but {list(flat.shape)} are given")


def frozen(array: NDArray[Any]) -> NDArray[Any]:
    """The array itself where nobody can write to its memory, else a read-only copy."""
    at: object = array
    while isinstance(at, np.ndarray):
        if at.flags.writeable:
            array = array.copy()
            array.setflags(write=False)
            return array
        at = at.base
    return array
