"""Several Ray nodes on this machine, any of which can be killed: for trying what a run survives."""

import logging
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import ray

from tpo_dist.runtime.cluster import leave_standard_output_alone, patiently

_START_SECONDS = 120.0


class Nodes:
    """A head node, which has the driver and the stream, and others that come and go."""

    def __init__(self, others: int, cpus: float, object_store_mb: int) -> None:
        """`cpus`: of each node."""
        from ray.cluster_utils import Cluster  # meant for tests, and slow to import

        self._options: dict[str, Any] = {"num_cpus": cpus, "object_store_memory": object_store_mb * 1024**2}
        leave_standard_output_alone()
        self._cluster: Any = Cluster()
        self._add()  # the first is the head
        ray.init(address=self._cluster.address, namespace="tpo_dist", logging_level=logging.ERROR, log_to_driver=False)
        self._wanted = others
        self._others = [self._add() for _ in range(others)]

    @property
    def killable(self) -> int:
        """Nodes that may be killed now."""
        return len(self._others)

    def kill(self, draw: random.Random) -> str:
        """SIGKILL the raylet of one of the others, and with it every process on its node; the id of the node."""
        node = self._others.pop(draw.randrange(len(self._others)))
        name = str(node.node_id)
        self._cluster.remove_node(node, allow_graceful=False)
        return name

    def fill_up(self) -> None:
        """New nodes in place of those that were killed. Ray can start them in the main thread only."""
        while len(self._others) < self._wanted:
            self._others.append(self._add())

    def _add(self) -> Any:
        """One more node."""
        return patiently(partial(self._cluster.add_node, **self._options), _START_SECONDS, "a node of Ray")

    def end(self) -> None:
        """Leave and end the cluster."""
        ray.shutdown()
        self._cluster.shutdown()


@contextmanager
def several_nodes(others: int = 2, cpus: float = 2, object_store_mb: int = 128) -> Iterator[Nodes]:
    """A cluster of that many nodes beside the head, joined by this process, that ends with the block."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    nodes = Nodes(others, cpus, object_store_mb)
    try:
        yield nodes
    finally:
        nodes.end()
