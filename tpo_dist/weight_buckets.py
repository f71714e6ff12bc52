"""Arrays as bytes that travel together, so that a model of many small arrays is a few large transfers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tpo_dist.records import Array

Entry = tuple[str, str, tuple[int, ...]]
"""Name, dtype (as numpy writes it) and shape of an array."""

BUCKET_BYTES = 32 * 1024**2
"""Small arrays travel together, up to this size; a larger one travels alone."""
_ALIGNED = 64


@dataclass(frozen=True, slots=True)
class Bucket:
    """Arrays that travel together, and where each begins (bytes)."""

    entries: tuple[tuple[Entry, int], ...]
    size: int
    """Bytes."""


def buckets(entries: Sequence[Entry]) -> list[Bucket]:
    """The same at both ends, from what arrays there are."""
    found: list[Bucket] = []
    gathered: list[tuple[Entry, int]] = []
    size = 0
    for entry in entries:
        length = _length(entry)
        if gathered and size + length > BUCKET_BYTES:
            found.append(Bucket(tuple(gathered), size))
            gathered, size = [], 0
        gathered.append((entry, size))
        size += -(-length // _ALIGNED) * _ALIGNED
    return [*found, Bucket(tuple(gathered), size)] if gathered else found


def _length(entry: Entry) -> int:
    _, dtype, shape = entry
    return int(np.dtype(dtype).itemsize * np.prod(shape, dtype=np.int64))


def packed(bucket: Bucket, arrays: Mapping[str, Array]) -> Tensor:
    """Its bytes, copied."""
    content = np.empty(bucket.size, dtype=np.uint8)
    for (name, dtype, shape), start in bucket.entries:
        length = _length((name, dtype, shape))
        content[start : start + length] = np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8)
    return torch.from_numpy(content)


def unpacked(bucket: Bucket, content: Array) -> Iterator[tuple[str, Array]]:
    """Its arrays, in the memory of its bytes."""
    for (name, dtype, shape), start in bucket.entries:
        part = content[start : start + _length((name, dtype, shape))]
        yield name, part.view(dtype).reshape(shape)
