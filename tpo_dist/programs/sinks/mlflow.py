"""MLflow. MLFLOW_TRACKING_URI says where; without it, `mlflow.db` beside the folders of the runs."""

import os
import re
import time
from collections.abc import Mapping

from mlflow.entities import Metric, Param, Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from tpo_dist.config.section import flat
from tpo_dist.metrics import Metrics
from tpo_dist.programs.sinks.contract import Sink, Subject
from tpo_dist.programs.sinks.identity import known_as, remember

_STATUS = {"completed": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}
_PARAMS = 100  # at most in one call
_LONGEST = 500  # characters of a parameter, as older servers take them


class MLflow:
    """One run there, which a resumed one goes on with."""

    def __init__(self, subject: Subject) -> None:
        runs = subject.folder.parent
        here = not os.environ.get("MLFLOW_TRACKING_URI")
        os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # with the password that may be in it
        self._client = MlflowClient(tracking_uri=f"sqlite:///{runs / 'mlflow.db'}" if here else None)
        run = self._known(known_as(subject, "mlflow"))
        if run is None:
            artifacts = (runs / "mlflow").as_uri() if here else None
            run = self._client.create_run(self._experiment(subject.project, artifacts), run_name=subject.name)
            params = [Param(key, str(value)[:_LONGEST]) for key, value in flat(subject.config)]
            for start in range(0, len(params), _PARAMS):
                self._client.log_batch(run.info.run_id, params=params[start : start + _PARAMS])
        else:
            self._client.update_run(run.info.run_id, status="RUNNING")
        self._id = run.info.run_id
        remember(subject, "mlflow", self._id)

    def _known(self, name: str | None) -> Run | None:
        try:
            return None if name is None else self._client.get_run(name)
        except MlflowException:
            return None  # removed since, or another server is asked now

    def _experiment(self, project: str, artifacts: str | None) -> str:
        known = self._client.get_experiment_by_name(project)
        if known is not None:
            return str(known.experiment_id)
        return str(self._client.create_experiment(project, artifact_location=artifacts))

    def write(self, row: Mapping[str, float], metrics: Metrics) -> None:
        """One step."""
        now, step = int(time.time() * 1000), int(row["step"])
        numbers = [Metric(_allowed(name), float(value), now, step) for name, value in row.items() if name != "step"]
        self._client.log_batch(self._id, metrics=numbers)

    def go_back(self, step: int) -> None:
        """Steps that are done again show twice."""

    def close(self, status: str) -> None:
        """Mark it as finished, killed or failed."""
        self._client.set_terminated(self._id, _STATUS[status])


def open_sink(subject: Subject) -> Sink:
    """Raises MlflowException where it cannot be reached."""
    return MLflow(subject)


def _allowed(name: str) -> str:
    """MLflow's names have no other characters."""
    return re.sub(r"[^\w\-. /]", "_", name)
