"""New weights on their way into vLLM, at both ends: as they are handed over, and in the processes that hold its model.

Those import this module for `Registration`, and so know the transfer engines.
"""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from tpo_dist.records import Array
from tpo_dist.rollout.generation import Adapters
from tpo_dist.rollout.incoming import borrow
from tpo_dist.rollout.vllm.group_fetch import Fetching, Taking
from tpo_dist.rollout.vllm.library import (
    LoRARequest,
    ParallelLMHead,
    WeightTransferEngine,
    WeightTransferEngineFactory,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
    finalize_layerwise_reload,
    initialize_layerwise_reload,
    punica_cpu,
)
from tpo_dist.rollout.vllm.owner import follow_owner
from tpo_dist.weight_buckets import Entry

TRANSFER, GROUP_TRANSFER = "tpo_dist", "tpo_dist_group"
"""The names of our transfer engines in vLLM's factory."""


@contextmanager
def in_memory(arrays: Mapping[str, Array]) -> Iterator[dict[str, Any]]:
    """What `update_weights` takes where other processes hold the model: a file in memory that they can read.

    It has no name in any folder, so it is gone afterwards even where this process is killed.
    """
    with os.fdopen(os.memfd_create("weights"), "wb") as file:
        for array in arrays.values():
            np.save(file, array, allow_pickle=False)
        file.flush()
        yield {"path": f"/proc/{os.getpid()}/fd/{file.fileno()}", "names": list(arrays)}


@contextmanager
def adapter_folder(adapters: Adapters, arrays: Mapping[str, Array]) -> Iterator[Any]:
    """The request that has vLLM read these adapters, once, from a folder which is gone afterwards; those that it has of
    that name are replaced."""
    modules = sorted({name.split(".lora_")[0].rpartition(".")[2] for name in arrays})
    config = {"r": adapters.rank, "lora_alpha": adapters.scale * adapters.rank, "target_modules": modules}
    place = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="tpo-weights-", dir=place) as name:
        (Path(name) / "adapter_config.json").write_text(json.dumps({**config, "peft_type": "LORA"}))
        save_file(dict(arrays), Path(name) / "adapter_model.safetensors")
        yield LoRARequest("policy", 1, name, load_inplace=True)


def adapted(loaded: Any) -> Any:
    """What completions name to be sampled with the adapters that were loaded."""
    return LoRARequest(loaded.lora_name, loaded.lora_int_id, loaded.lora_path)


class _OneAdapter(punica_cpu.PunicaWrapperCPU):  # type: ignore[misc]  # vLLM may not be installed where types are checked
    """One adapter for all tokens is a matrix product; vLLM's own kernels copy its matrices for every token."""

    def add_lora_linear(
        self, y: Any, x: Any, lora_a_stacked: Any, lora_b_stacked: Any, scale: float, output_slices: Any, **_: Any
    ) -> None:
        """y += scale x A B, slice by slice."""
        start = 0
        for a, b, width in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
            y[:, start : start + width] += scale * (x @ a[0, 0].t()) @ b[0, 0].t()
            start += width

    def add_lora_logits(self, y: Any, x: Any, lora_a_stacked: Any, lora_b_stacked: Any, scale: float, **_: Any) -> None:
        """y += scale x A B. vLLM's own expects a row for each sequence, and fails for a probe's, one for each token."""
        a, b = lora_a_stacked[0, 0], lora_b_stacked[0, 0]
        y[:, : len(b)] += scale * (x @ a.t()) @ b.t()  # the rest of y is padding


@dataclass
class _NoInfo(WeightTransferInitInfo):  # type: ignore[misc]  # as above
    """There is nothing to agree on."""


@dataclass
class _Weights(WeightTransferUpdateInfo):  # type: ignore[misc]  # as above
    """Arrays by the names of Hugging Face checkpoints, or the file that has them."""

    weights: dict[str, Array] = field(default_factory=dict)
    path: str | None = None
    """Of arrays one after another, as `numpy.save` writes them."""
    names: Sequence[str] = ()
    """Those of the arrays in the file."""

    def arrays(self) -> Iterator[tuple[str, Array]]:
        """Name and array, one at a time."""
        yield from self.weights.items()
        if self.path is not None:
            with open(self.path, "rb") as file:
                for name in self.names:
                    yield name, np.load(file, allow_pickle=False)


class ArrayTransfer(WeightTransferEngine):  # type: ignore[misc]  # as above
    """Weights from arrays in shared memory, such as Ray's object store hands out, read in place, or from a file."""

    init_info_cls: Any = _NoInfo
    update_info_cls: Any = _Weights

    def init_transfer_engine(self, init_info: _NoInfo) -> None:
        """Nothing to do."""

    def start_weight_update(self) -> None:
        """Layers get back the form in which a checkpoint fills them."""
        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: _Weights) -> None:
        """Fill the layers; each takes its own form again when it is complete."""
        self.model.load_weights((name, borrow(array)) for name, array in update_info.arrays())

    def finish_weight_update(self) -> None:
        """Layers that got nothing take back what they had.

        The output layer is one of them where it is tied to the embedding. On CPUs it keeps a packed copy of its own,
        which would stay behind silently: vLLM makes that copy anew only for layers that were loaded.
        """
        finalize_layerwise_reload(self.model, self.model_config)
        for module in self.model.modules():
            if isinstance(module, ParallelLMHead):
                module.quant_method.process_weights_after_loading(module)

    def shutdown(self) -> None:
        """Nothing to release."""


@dataclass
class _Coming(_Weights):
    """Or what the learner sends."""

    entries: Sequence[Entry] = ()


class GroupTransfer(Taking, ArrayTransfer):
    """Weights from the learner's process by a process group: beside those in use, until all of them are here.

    vLLM's own NCCL engine waits without end for a learner that died, and fills layers while weights come.
    """

    update_info_cls: Any = _Coming

    def finish_weight_update(self) -> None:
        """Fill the layers."""
        ArrayTransfer.start_weight_update(self)
        ArrayTransfer.receive_weights(self, _Weights(weights=self.arrival.arrays))
        ArrayTransfer.finish_weight_update(self)
        self.arrival.drop()


class Registration(Fetching):
    """What vLLM's workers inherit from, as it asks for the name of a class to import."""


WeightTransferEngineFactory.register_engine(TRANSFER, ArrayTransfer)
WeightTransferEngineFactory.register_engine(GROUP_TRANSFER, GroupTransfer)
punica_cpu.PunicaWrapperCPU = _OneAdapter
follow_owner()
