"""Reading IDX files, the format in which MNIST was published (http://yann.lecun.com/exdb/mnist).

A header of big-endian 32-bit words: the magic number (0x08 for unsigned bytes, then the number of axes), the length of
each axis; then the bytes themselves. Files that end in .gz are decompressed.
"""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tpo_dist.errors import UsageError

_UNSIGNED_BYTE = 0x08


def read_idx(path: Path, axes: int) -> NDArray[np.uint8]:
    """The array of unsigned bytes in the file. Raises UsageError where it is anything but one whole array of `axes`."""
    data = _bytes(path)
    header = 4 * (1 + axes)
    if len(data) < header:
        raise _refuse(path, f"has {len(data)} bytes, fewer than the header of {axes} axes")
    words = np.frombuffer(data[:header], dtype=">u4")
    wanted = _UNSIGNED_BYTE << 8 | axes
    if int(words[0]) != wanted:
        raise _refuse(path, f"starts with {int(words[0]):#010x}; {axes} axes of unsigned bytes are {wanted:#010x}")
    shape = tuple(int(word) for word in words[1:])
    if len(data) - header != math.prod(shape):
        raise _refuse(path, f"holds {len(data) - header} values; its header says {'x'.join(map(str, shape))}")
    return np.frombuffer(data, dtype=np.uint8, offset=header).reshape(shape)


def _bytes(path: Path) -> bytes:
    try:
        if path.suffix == ".gz":
            with gzip.open(path) as file:
                return file.read()
        return path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise _refuse(path, f"cannot be read ({error})") from None


def _refuse(path: Path, reason: str) -> UsageError:
    return UsageError(str(path), reason, "give the files as published, .gz or not")
