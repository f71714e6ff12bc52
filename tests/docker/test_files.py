"""Every file in docker/ passes its validator, and holds to the rules: loopback, no privileges, a token, no secrets."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.cli.run_cli import ROOT
from tpo_dist.watch.grafana import UID, dashboard

DOCKER = ROOT / "docker"
DOCKERFILES = [DOCKER / "cpu.Dockerfile", DOCKER / "cuda.Dockerfile"]
COMPOSE = DOCKER / "compose.yaml"
SCRIPTS = sorted(DOCKER.rglob("*.sh"))
OURS = ("head", "learner", "rollout", "job", "tensorboard")


def program(name):
    """Of this environment, which need not be active; else of the machine."""
    here = Path(sys.executable).with_name(name)
    return str(here) if here.exists() else shutil.which(name)


def read(path):
    return YAML(typ="safe", pure=True).load(path.read_text())


def services():
    return read(COMPOSE)["services"]


@pytest.mark.skipif(program("hadolint") is None, reason="no hadolint")
def test_hadolint_finds_nothing():
    files = [*DOCKERFILES, *(DOCKER / "test").glob("*.Dockerfile")]
    found = subprocess.run([program("hadolint"), "--no-color", *files], capture_output=True, text=True, timeout=60)
    assert (found.returncode, found.stdout) == (0, "")


@pytest.mark.skipif(program("shellcheck") is None, reason="no shellcheck")
def test_shellcheck_finds_nothing():
    found = subprocess.run([program("shellcheck"), *SCRIPTS], capture_output=True, text=True, timeout=60)
    assert (found.returncode, found.stdout) == (0, "")


@pytest.mark.skipif(program("check-jsonschema") is None, reason="no check-jsonschema")
def test_compose_files_have_the_published_schema():
    command = [program("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", *DOCKER.rglob("compose*.yaml")]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert found.returncode == 0, found.stdout


def test_an_index_that_pip_s_variable_names_reaches_the_installer_which_does_not_read_it(tmp_path):
    index = "https://download.pytorch.org/whl/cpu"
    command = ["make", "-n", "-C", str(ROOT), "train", f"VENV={tmp_path}"]
    found = subprocess.run(
        command, capture_output=True, text=True, timeout=60, env={**os.environ, "PIP_EXTRA_INDEX_URL": index}
    )
    assert re.search(rf"uv pip install .*--extra-index-url {index} --index-strategy unsafe-best-match ", found.stdout)


COMPOSE_PROGRAMS = [
    command
    for command in (["docker", "compose"], ["docker-compose"])
    if shutil.which(command[0]) and subprocess.run([*command, "version"], capture_output=True).returncode == 0
]


def resolve(command, environment, empty, *files):
    given = {name: value for name, value in os.environ.items() if name not in ("RAY_AUTH_TOKEN", "GRAFANA_PASSWORD")}
    arguments = [part for file in files for part in ("-f", str(file))]
    command = [*command, "--env-file", str(empty), *arguments, "config"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env={**given, **environment})


@pytest.mark.skipif(not COMPOSE_PROGRAMS, reason="no docker-compose")
@pytest.mark.parametrize("command", COMPOSE_PROGRAMS, ids=" ".join)
def test_compose_resolves_with_a_token_and_refuses_without(command, tmp_path):
    empty = tmp_path / "empty"
    empty.touch()
    keys = {"RAY_AUTH_TOKEN": "of-the-test", "GRAFANA_PASSWORD": "of-the-test"}
    for files in ([COMPOSE], [COMPOSE, DOCKER / "compose.gpu.yaml"]):
        found = resolve(command, keys, empty, *files)
        assert found.returncode == 0, found.stderr
    for missing in keys:
        found = resolve(command, {name: value for name, value in keys.items() if name != missing}, empty, COMPOSE)
        assert found.returncode != 0
        assert "run docker/prepare.sh first" in found.stderr


def test_ports_are_those_of_this_machine_only():
    published = [port for service in services().values() for port in service.get("ports", ())]
    assert len(published) == 4
    for port in published:
        assert re.fullmatch(r"127\.0\.0\.1:\$\{TPO_[A-Z]+_PORT:-\d+}:\d+", port), port


def test_no_service_has_privileges():
    for name, service in services().items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not {"privileged", "cap_add", "network_mode", "pid", "user"} & set(service), name
        assert not any("docker.sock" in str(volume) for volume in service.get("volumes", ())), name


def test_every_node_shows_the_token_and_is_watched():
    every = services()
    for name in ("head", "learner", "rollout", "job"):
        environment = every[name]["environment"]
        assert environment["RAY_AUTH_MODE"] == "token"
        assert environment["RAY_AUTH_TOKEN"].startswith("${RAY_AUTH_TOKEN:?"), "it has no default"
    for name, service in every.items():
        if name != "job":
            assert service["healthcheck"]["test"][0] == "CMD", name
            assert service["healthcheck"]["retries"] > 0, name


def test_images_are_pinned():
    for name, service in services().items():
        if name not in OURS:
            assert re.search(r":-[a-z]+/[a-z]+:v?\d+\.\d+\.\d+}$", service["image"]), name
    for path in DOCKERFILES:
        base = re.search(r"^ARG BASE=(\S+)$", path.read_text(), re.MULTILINE)
        assert re.search(r":\d+\.\d+", base[1]), "a version, not whatever is newest"
        assert "-c constraints-cpu.txt" in path.read_text()


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_images_run_as_a_user_without_privileges(path):
    last = path.read_text().rpartition("\nFROM ")[2]
    users = re.findall(r"^USER (\S+)$", last, re.MULTILINE)
    assert users == ["10001"]
    assert last.index("USER 10001") < last.index("CMD [")
    assert "HEALTHCHECK" in last


def test_what_images_and_services_start_exists_and_can_be_run():
    told = "".join(path.read_text() for path in [*DOCKERFILES, COMPOSE])
    scripts = {ROOT / name.removeprefix("/") for name in re.findall(r"/clusters/entry/[a-z]+\.sh", told)}
    assert {path.name for path in scripts} == {"head.sh", "worker.sh", "healthy.sh"}
    for path in [*scripts, *SCRIPTS]:
        assert os.access(path, os.X_OK), path
        assert subprocess.run(["bash", "-n", path], timeout=10).returncode == 0
    jobs = {ROOT / name.removeprefix("/") for name in re.findall(r"/jobs/[a-z_]+\.yaml", told)}
    assert jobs
    assert all(path.exists() for path in jobs)


def test_nothing_of_the_machine_that_builds_is_in_an_image():
    for path in DOCKERFILES:
        for name, default in re.findall(r"^ARG (\w+)=(.*)$", path.read_text(), re.MULTILINE):
            assert name in ("BASE", "EXTRAS", "TORCH_INDEX", "FIND_LINKS")
            assert name != "FIND_LINKS" or default == '""'
        assert not re.search(r"^(ARG|ENV).*(TOKEN|PASSWORD|SECRET|KEY)", path.read_text(), re.MULTILINE)


def test_only_what_is_named_reaches_the_engine():
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*", "everything is left out unless it is named"
    let_in = {rule.removeprefix("!").split("/")[0] for rule in rules if rule.startswith("!")}
    assert let_in == {"pyproject.toml", "constraints-cpu.txt", "tpo_dist", "jobs", "clusters"}
    for path in DOCKERFILES:
        copied = re.findall(r"^COPY (?!--from)(.*)$", path.read_text(), re.MULTILINE)
        sources = {source.split("/")[0] for line in copied for source in line.split()[:-1]}
        assert sources <= let_in


def test_the_token_is_made_once_and_is_for_its_owner(tmp_path):
    script = tmp_path / "prepare.sh"
    shutil.copy(DOCKER / "prepare.sh", script)
    for _ in range(2):
        subprocess.run([script], check=True, capture_output=True, timeout=10)
        kept = (tmp_path / ".env").read_text()
    settings = dict(line.split("=") for line in kept.splitlines())
    assert set(settings) == {"COMPOSE_PROJECT_NAME", "RAY_AUTH_TOKEN", "GRAFANA_PASSWORD"}
    assert re.fullmatch("[0-9a-f]{64}", settings["RAY_AUTH_TOKEN"])
    assert settings["RAY_AUTH_TOKEN"] != settings["GRAFANA_PASSWORD"]
    assert (tmp_path / ".env").stat().st_mode & 0o777 == 0o600
    assert "docker/.env" in (ROOT / ".gitignore").read_text().splitlines()


def test_prometheus_finds_every_node():
    settings = read(DOCKER / "prometheus" / "prometheus.yml")
    ((found,),) = [scrape["dns_sd_configs"] for scrape in settings["scrape_configs"]]
    entry = (ROOT / "clusters" / "entry" / "settings.sh").read_text()
    assert f'--metrics-export-port "${{TPO_METRICS_PORT:-{found["port"]}}}"' in entry
    nodes = [name for name, service in services().items() if "TPO_OBJECT_STORE_MB" in service.get("environment", ())]
    assert set(found["names"]) == set(nodes) - {"job"}
    if program("promtool") is not None:
        path = DOCKER / "prometheus" / "prometheus.yml"
        checked = subprocess.run(
            [program("promtool"), "check", "config", path], capture_output=True, text=True, timeout=60
        )
        assert checked.returncode == 0, checked.stderr


def test_grafana_is_provisioned_with_the_dashboard():
    provisioning = DOCKER / "grafana" / "provisioning"
    (source,) = read(provisioning / "datasources" / "prometheus.yaml")["datasources"]
    assert source["type"] == "prometheus"
    assert source["url"] == "http://prometheus:9090"
    assert source["isDefault"]
    (provider,) = read(provisioning / "dashboards" / "tpo_dist.yaml")["providers"]
    grafana = services()["grafana"]
    assert f"./grafana/dashboards:{provider['options']['path']}:ro" in grafana["volumes"]
    assert "./grafana/provisioning:/etc/grafana/provisioning:ro" in grafana["volumes"]
    home = Path(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    board = json.loads((DOCKER / "grafana" / "dashboards" / home.name).read_text())
    assert board == dashboard()
    assert board["uid"] == UID


def test_the_dashboard_is_one_in_grafana_s_own_model():
    """Read and written by Grafana's own types, nothing of it is lost."""
    models = pytest.importorskip("grafana_foundation_sdk.models.dashboard")
    encoder = pytest.importorskip("grafana_foundation_sdk.cog.encoder").JSONEncoder
    once = json.loads(encoder(sort_keys=True).encode(models.Dashboard.from_json(dashboard())))
    kept = [panel for panel in once["panels"] if panel["type"] == "timeseries"]
    assert [target["expr"] for panel in kept for target in panel["targets"]] == [
        target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", ())
    ]
    assert lost(dashboard(), once) == []


def lost(one, other, at=""):
    if isinstance(one, dict) and isinstance(other, dict):
        return [
            each
            for key in one
            for each in (lost(one[key], other[key], f"{at}.{key}") if key in other else [f"{at}.{key}"])
        ]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return [
            each for number, pair in enumerate(zip(one, other, strict=True)) for each in lost(*pair, f"{at}[{number}]")
        ]
    return [] if one == other else [at]


def test_shared_memory_is_larger_than_the_object_store_in_it_and_each_gpu_has_one_service():
    plain, gpu = services(), read(DOCKER / "compose.gpu.yaml")["services"]
    for name in ("head", "learner", "rollout"):
        default = re.fullmatch(r"\$\{TPO_OBJECT_STORE_MB:-(\d+)}", plain[name]["environment"]["TPO_OBJECT_STORE_MB"])
        assert int(default[1]) < int(plain[name]["shm_size"].removesuffix("m")), name
    devices = []
    for name in ("learner", "rollout"):
        store = int(gpu[name]["environment"]["TPO_OBJECT_STORE_MB"])
        assert store * 1024**2 < int(gpu[name]["shm_size"].removesuffix("gb")) * 1024**3, name
        [device] = gpu[name]["deploy"]["resources"]["reservations"]["devices"]
        devices += [re.fullmatch(r"\$\{TPO_[A-Z]+_GPU:-(\d+)}", each)[1] for each in device["device_ids"]]
    assert len(set(devices)) == len(devices) == 2  # with `count: 1`, Docker gives all of them the first
