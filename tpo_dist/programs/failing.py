"""The end of a run in which too many groups fail, for the program in one process."""

from tpo_dist.errors import RunFailed
from tpo_dist.programs.run import Run
from tpo_dist.supervision import FAILURE_STEPS, FailureShare


class FailingGroups:
    """Counts groups that could not be scored beside those that could."""

    def __init__(self, run: Run) -> None:
        faults, groups = run.config.faults, run.config.rollout.groups_per_step
        self._folder, self._share = run.folder, FailureShare(faults.failed_fraction, FAILURE_STEPS * groups)
        self._good = self._failed = 0

    def refuse_too_many(self, draws: int, failed: int) -> None:
        """Count a block. Raises RunFailed where the share of failed groups is above `faults.failed_fraction`."""
        self._good, self._failed = self._good + draws - failed, self._failed + failed
        share = self._share.too_many(self._good, self._failed)
        if share is not None:
            where = self._folder / "quarantine"
            raise RunFailed(f"{share:.0%} of the latest groups failed, more than faults.failed_fraction; see {where}")
