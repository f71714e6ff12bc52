"""The ledger of a run: opened by its driver, kept by its stream."""

from pathlib import Path

from tpo_dist.blocks import Settled
from tpo_dist.config import RunConfig
from tpo_dist.errors import UsageError
from tpo_dist.learner.checkpoint import read_state
from tpo_dist.ledger import Ledger
from tpo_dist.programs.folder import LEDGER
from tpo_dist.programs.parts import make_stream
from tpo_dist.programs.run import Run
from tpo_dist.stream import GroupStream


def begin_ledger(run: Run) -> None:
    """Write into the run's ledger that a driver starts, or goes on from a checkpoint.

    Raises UsageError where ledger and checkpoint are not of one run.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    with Ledger.open(run.folder / LEDGER) as ledger:
        if run.resumed:
            state = None if run.checkpoint is None else read_state(run.checkpoint)
            ledger.resume(run.first_step, Settled() if state is None else Settled.from_json(state["settled"]))
        ledger.begin_session(run.config.model_dump(mode="json"), run.first_step)


def open_stream(config: RunConfig, folder: Path) -> GroupStream:
    """The stream as its ledger has it: at the start of a driver, or after the stream's process died.

    Raises UsageError where the ledger is damaged, or gone: an empty one would begin with the first prompt again.
    """
    path = folder / LEDGER
    if not path.is_file():
        fix = "go on with --resume, from the newest checkpoint, and let nothing remove it meanwhile"
        raise UsageError(str(path), "is gone, and with it the account of every prompt", fix)
    ledger = Ledger.open(path)
    return make_stream(config, ledger.history(), ledger)
