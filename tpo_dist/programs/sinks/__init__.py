"""Where the steps of a run are shown beside its own folder: `log.sinks` names them."""

import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from netrc import NetrcParseError, netrc
from urllib.parse import urlsplit

from tpo_dist.components import nearest
from tpo_dist.errors import UsageError
from tpo_dist.programs.sinks.apart import Apart
from tpo_dist.programs.sinks.contract import Sink, Subject
from tpo_dist.programs.sinks.tensorboard import TensorBoard

__all__ = ["SINKS", "Sink", "SinkKind", "Subject", "refuse_sinks", "refuse_unready_sinks"]


@dataclass(frozen=True, slots=True)
class SinkKind:
    """One kind of sink."""

    open: Callable[[Subject, Callable[[str], None]], Sink]
    """The second argument hears of what goes wrong later."""
    packages: tuple[str, ...] = ()
    """What has to be installed for it, by the extra of its name."""
    lacking: Callable[[], UsageError | None] = lambda: None
    """What else is missing."""


def _no_key_for_wandb() -> UsageError | None:
    """Without a key W&B would ask for one, on the terminal, while the run goes on."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_MODE") in ("offline", "dryrun", "disabled"):
        return None
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        known = netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, NetrcParseError):
        known = False
    if known:
        return None
    reason = f"there is no key for {host}: neither in WANDB_API_KEY nor in ~/.netrc"
    return UsageError(
        "log.sinks: wandb", reason, "set WANDB_API_KEY, or WANDB_MODE=offline to write to the run's folder"
    )


SINKS: Mapping[str, SinkKind] = {
    "tensorboard": SinkKind(lambda subject, _: TensorBoard(subject)),
    "wandb": SinkKind(partial(Apart, "wandb"), ("wandb",), _no_key_for_wandb),
    "mlflow": SinkKind(partial(Apart, "mlflow"), ("mlflow", "sqlalchemy", "alembic")),
    "trackio": SinkKind(partial(Apart, "trackio"), ("trackio",)),
}
"""Every sink by name."""


def refuse_sinks(names: Sequence[str]) -> None:
    """Raises UsageError for a name that is no sink, or given twice."""
    for name in names:
        if name not in SINKS:
            raise UsageError(f"log.sinks: {name!r}", "there is no such sink", nearest(name, SINKS))
        if names.count(name) > 1:
            raise UsageError(f"log.sinks: {name!r}", "is named twice", "name it once")


def refuse_unready_sinks(names: Sequence[str]) -> None:
    """Raises UsageError where the package of a sink is not installed here, or its key is missing."""
    for name in names:
        kind = SINKS[name]
        missing = [package for package in kind.packages if importlib.util.find_spec(package) is None]
        if missing:
            reason = f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed"
            raise UsageError(f"log.sinks: {name}", reason, f"pip install 'tpo-dist[{name}]', or leave it out")
        lacking = kind.lacking()
        if lacking is not None:
            raise lacking
