"""What vLLM needs of the process that imports it; nothing here does."""

import multiprocessing
import os
import sys

import torch

from tpo_dist.errors import UsageError
from tpo_dist.rollout.vllm.owner import OWNER


def refuse_unless_processes_start() -> None:
    """Raise UsageError in a process that cannot have the asynchronous engine beside it."""
    where = "sampler.engine = 'async'"
    if sys.platform != "linux":
        raise UsageError(where, "only on Linux does its process end with the worker", "give sampler.engine=inproc")
    if OWNER in os.environ:
        reason = "its process has run the script anew that started it, and has come to the same place"
        raise UsageError(where, reason, "put what starts training under `if __name__ == '__main__':`")
    if multiprocessing.current_process().daemon:
        reason = "it needs a process of its own, and this one is a daemon of multiprocessing, which may start none"
        raise UsageError(where, reason, "give sampler.engine=inproc, or start it from another process")


def set_environment(device: str) -> None:
    """What vLLM reads from the environment, unless it is set already; before the first import of vLLM."""
    settings = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the model is in the process that steps: this one, or the engine's own
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # threads of this process may hold what a fork would wait for
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_LOGGING_STREAM": "ext://sys.stderr",
        "VLLM_NO_USAGE_STATS": "1",
    }
    if device == "cpu":
        settings |= {
            "OMP_NUM_THREADS": str(torch.get_num_threads()),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # other processes of the run are on these cores too
            "TORCHDYNAMO_DISABLE": "1",  # compiling the sampling of each new batch size would stall it for seconds
        }
        os.environ.pop("VLLM_CPU_KVCACHE_SPACE", None)  # it would override the size of the cache
    for name, value in settings.items():
        os.environ.setdefault(name, value)
