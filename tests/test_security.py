"""What the threat model (docs/security.md) promises, read from the source and seen in what a run leaves behind."""

import ast
import os
import re
import subprocess

import pytest

from tests.cli.run_cli import PROGRAM, ROOT
from tests.conftest import SMALL
from tests.test_architecture import FILES, PACKAGE
from tpo_dist.programs.submission import Luggage, pack

SECRETS = {
    "RAY_AUTH_TOKEN": "canary-ray-0f3a",
    "HF_TOKEN": "canary-hub-1b7c",
    "WANDB_API_KEY": "canary-wandb-2d9e",
    "MLFLOW_TRACKING_PASSWORD": "canary-mlflow-3e11",
    "AWS_SECRET_ACCESS_KEY": "canary-aws-4f22",
    "MLFLOW_TRACKING_URI": "canary-user:canary-of-the-address",
}
ADDRESS = {"MLFLOW_TRACKING_URI": f"http://{SECRETS['MLFLOW_TRACKING_URI']}@127.0.0.1:1"}
"""Of a server that takes its password so, and is not there."""
UNPICKLES = {"torch.load", "pickle.load", "pickle.loads", "pickle.Unpickler", "joblib.load", "dill.load", "dill.loads",
             "cloudpickle.load", "cloudpickle.loads", "marshal.load", "marshal.loads", "shelve.open"}  # fmt: skip
OWN_MESSAGES = {"runtime/messages.py", "learner/other_rank.py"}
"""Bytes that one process of a run hands to another, through Ray or over a socket it was born with, never a file."""


def calls(path):
    """Every call of a file as dotted text, and its keywords."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {each.arg: ast.unparse(each.value) for each in node.keywords}


def name(path):
    return str(path.relative_to(PACKAGE))


def test_nothing_is_unpickled_but_messages_between_processes_of_a_run():
    found = {name(path) for path in FILES for call, _ in calls(path) if call in UNPICKLES}
    assert found == OWN_MESSAGES
    assert not [name(path) for path in FILES for call, words in calls(path) if words.get("allow_pickle") == "True"]


def test_no_name_of_an_unpickler_is_imported_alone():
    short = {call.rpartition(".")[2]: call.rpartition(".")[0] for call in UNPICKLES}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert not [each.name for each in node.names if short.get(each.name) == node.module], name(path)


def test_code_that_comes_with_a_model_is_never_run():
    told = [words["trust_remote_code"] for path in FILES for _, words in calls(path) if "trust_remote_code" in words]
    assert told
    assert set(told) == {"False"}
    for path in FILES:
        for call, words in calls(path):
            if call.endswith(".from_pretrained") and "GenerationConfig" not in call:  # which is numbers alone
                assert "trust_remote_code" in words, f"{name(path)}: {call} does not say so"


def test_nothing_listens_on_all_addresses():
    everywhere = re.compile(r"""["'](0\.0\.0\.0|::)["']|--(dashboard-)?host[= ](0\.0\.0\.0|::)""")
    files = [*FILES, *(path for path in (ROOT / "clusters").rglob("*") if path.is_file())]
    assert not [str(path) for path in files if everywhere.search(path.read_text())]


def test_every_cluster_file_asks_for_a_token():
    for file in ("entry/settings.sh", "slurm/train.sbatch", "launcher/aws.yaml", "launcher/gcp.yaml",
                 "launcher/on_premise.yaml"):  # fmt: skip
        assert re.search(r"RAY_AUTH_MODE=\"?(\$\{RAY_AUTH_MODE:-)?token", (ROOT / "clusters" / file).read_text()), file
    assert "mode: token" in (ROOT / "clusters" / "kuberay" / "cluster.yaml").read_text()


def canaries(data):
    return [key for key, value in SECRETS.items() if value.encode() in data]


RUNS = {
    "trains": ("steps=3",),
    "may fail": ("steps=3", "objective.eta=1e-30"),
    "a sink fails": ("steps=3", "log.sinks=[mlflow]"),
}


@pytest.mark.parametrize("overrides", RUNS.values(), ids=RUNS.keys())
def test_secrets_of_the_environment_are_in_nothing_that_a_run_writes_or_says(overrides, tmp_path):
    if "log.sinks=[mlflow]" in overrides:
        pytest.importorskip("mlflow", exc_type=ImportError)
    job = tmp_path / "job.yaml"
    job.write_text("name: secret\ntask: {name: token_reversal, length: 4}\n")
    command = [*PROGRAM, "train", str(job), "--local", *SMALL, "log.sinks=[tensorboard]", *overrides]
    done = subprocess.run(
        [*command, f"runs_dir={tmp_path / 'runs'}"],
        env={**os.environ, **SECRETS, **ADDRESS, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"},
        capture_output=True,
        check=False,
    )
    assert not canaries(done.stdout + done.stderr)
    if "log.sinks=[mlflow]" in overrides:
        [log] = (tmp_path / "runs").glob("*/run.log")
        assert "API request to http://…@127.0.0.1:1/api" in log.read_text()
    written = [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert {"config.json", "metrics.jsonl", "summary.json"} <= {path.name for path in written}
    assert not {path: canaries(path.read_bytes()) for path in written if canaries(path.read_bytes())}


def test_secrets_of_the_environment_do_not_travel_with_a_job(tmp_path, monkeypatch):
    for key, value in SECRETS.items():
        monkeypatch.setenv(key, value)
    job = tmp_path / "job.yaml"
    job.write_text("name: secret\n")
    made = tmp_path / "made"
    made.mkdir()
    parcel = pack(job, ["steps=3"], Luggage(packages=("einops",)), made)
    travelling = repr(parcel).encode() + b"".join(path.read_bytes() for path in made.iterdir())
    assert not canaries(travelling)
