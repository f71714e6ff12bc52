"""What the object store of this cluster holds."""

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Store:
    """Contents of all nodes' object stores."""

    objects: int
    megabytes: float


def object_store() -> Store | None:
    """Objects and their size as Ray counts them; None where Ray does not say."""
    from ray._private.internal_api import memory_summary  # the only place that has it without a dashboard

    try:
        text: str = memory_summary(stats_only=True)  # type: ignore[no-untyped-call]
    except Exception:  # noqa: BLE001
        return None  # a machine that is overrun does not answer in time; that is no reason to end what is measured
    found = re.search(r"Plasma memory usage ([\d.]+) MiB, (\d+) objects", text)
    return None if found is None else Store(int(found[2]), float(found[1]))
