"""Tensors that ranks share, on disk: each rank writes and reads its own part, through torch.distributed.checkpoint.

The files are safetensors, one for each rank. Any number of ranks reads what any other number wrote, one alone too.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

Kind = tuple[torch.Size, torch.dtype]
"""Whole shape and precision of a tensor."""
_FOLDER = "shards"
"""Where they are in a checkpoint."""


def write_shards(tensors: Mapping[str, Tensor], checkpoint: Path) -> None:
    """Write this rank's part; all ranks call it. Raises OSError on each of them where any cannot write."""
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    writer = HuggingFaceStorageWriter(str(checkpoint / _FOLDER), save_distributed=True)
    try:
        save({name: tensor.detach() for name, tensor in tensors.items()}, storage_writer=writer)
    except CheckpointException as error:
        raise OSError("; ".join(str(each[0]) for each in error.failures.values())) from error


def written_shards(checkpoint: Path) -> dict[str, Kind]:
    """What was written, by name."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

    metadata = HuggingFaceStorageReader(str(checkpoint / _FOLDER)).read_metadata().state_dict_metadata
    return {name: (each.size, each.properties.dtype) for name, each in metadata.items()}  # type: ignore[union-attr]


def read_shards(tensors: Mapping[str, Tensor], checkpoint: Path) -> None:
    """Fill these tensors, whole ones or a rank's part of them; where they are shared, all ranks call it."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    reader = HuggingFaceStorageReader(str(checkpoint / _FOLDER))
    shared = any(hasattr(tensor, "full_tensor") for tensor in tensors.values())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # it is what is meant
        load({name: tensor.detach() for name, tensor in tensors.items()}, storage_reader=reader, no_dist=not shared)
