"""A process with vLLM that takes weights from the learner, and dies in the middle of the second transfer."""

import os
import signal
import warnings
from pathlib import Path
from typing import Any

import torch

BUCKET = 65_536
"""Bytes: so the small model's weights do not go in one piece. Both ends have to have it."""


def run(folder: Path, orders: Any) -> None:
    """`orders`: a connection over which announcements come, and where to send them to and what came of it go back."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    from tests.rollout.language_models import about
    from tpo_dist import weight_buckets, weight_group
    from tpo_dist.rollout.vllm_sampler import VLLMSampling
    from tpo_dist.weight_group import Wire

    class Sender:
        """Tells the parent where to send to."""

        host = "127.0.0.1"

        def send(self, meeting):  # type: ignore[no-untyped-def]
            orders.send(meeting)
            return orders.recv

    weight_buckets.BUCKET_BYTES = BUCKET
    sampler = VLLMSampling(max_sequences=4).build(about(folder, wire=Wire("gloo", 60.0)))
    orders.send("ready")
    sampler.fetch(orders.recv(), Sender())
    orders.send(sampler.version)

    receive = weight_group.WeightGroup.receive

    def die(self: Any, entries: Any) -> Any:
        yield next(receive(self, entries))
        os.kill(os.getpid(), signal.SIGKILL)

    weight_group.WeightGroup.receive = die  # type: ignore[method-assign]
    sampler.fetch(orders.recv(), Sender())
