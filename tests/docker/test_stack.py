"""`make test-docker`: docker/compose.yaml brought up, trained in, scaled, broken, watched and taken down."""

import json
import os
import re
import secrets
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid

import pytest

from tests.cli.run_cli import ROOT
from tpo_dist.watch.grafana import UID, dashboard

pytestmark = pytest.mark.skipif(
    "TPO_DIST_DOCKER" not in os.environ, reason="make test-docker runs it; it takes minutes"
)

PORTS = {"JOBS": 18265, "TENSORBOARD": 16006, "PROMETHEUS": 19090, "GRAFANA": 13000}
UP_SECONDS, TRAIN_SECONDS, SETTLE_SECONDS = 300.0, 600.0, 180.0
LONG = ("steps=1000000", "stream.max_staleness=2", "rollout.groups_per_step=16", "rollout.block_size=2")


class Stack:
    """The services, under a name and with ports of the test's own."""

    def __init__(self, folder, images):
        self.name = f"tpo-test-{uuid.uuid4().hex[:8]}"
        self.token = secrets.token_hex(32)
        self.grafana = bool(images.get("TPO_GRAFANA_IMAGE"))
        settings = {
            **{name: value for name, value in images.items() if value},
            **{f"TPO_{name}_PORT": str(port) for name, port in PORTS.items()},
            "COMPOSE_PROJECT_NAME": self.name,
            "RAY_AUTH_TOKEN": self.token,
            "GRAFANA_PASSWORD": "of-the-test",
        }
        self._file = folder / "env"
        self._file.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        v2 = subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0
        self._compose = [*(["docker", "compose"] if v2 else ["docker-compose"]), "--env-file", str(self._file)]
        self._compose += ["-f", str(ROOT / "docker" / "compose.yaml")]

    def compose(self, *arguments, seconds=UP_SECONDS, check=True):
        command = [*self._compose, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, stdin=subprocess.DEVNULL)
        assert done.returncode == 0 or not check, f"{' '.join(arguments)}: {done.stdout[-3000:]} {done.stderr[-3000:]}"
        return done

    def containers(self, service, *, running=True):
        every = [] if running else ["-a"]
        filters = [f"label=com.docker.compose.project={self.name}", f"label=com.docker.compose.service={service}"]
        command = ["docker", "ps", "-q", *every, *(part for each in filters for part in ("--filter", each))]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.split()

    def inspect(self, container, form):
        command = ["docker", "inspect", "--format", form, container]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()

    def well(self, service):
        """How many of its containers say that they are well."""
        states = [self.inspect(each, "{{.State.Health.Status}}") for each in self.containers(service)]
        return states.count("healthy")

    def on_head(self, *arguments, seconds=SETTLE_SECONDS, check=True):
        return self.compose("exec", "-T", "head", *arguments, seconds=seconds, check=check)

    def status(self, run):
        """What its driver says of it; empty before it has said anything."""
        look = json.loads(self.on_head("tpo-dist", "status", run, "--runs-dir", "/runs", "--json").stdout)
        return look["status"] or {}

    def query(self, expression):
        asked = urllib.parse.urlencode({"query": expression})
        address = f"http://127.0.0.1:{PORTS['PROMETHEUS']}/api/v1/query?{asked}"
        with urllib.request.urlopen(address, timeout=10) as answer:
            return json.loads(answer.read())["data"]["result"]

    def number(self, expression):
        """The one number that it comes to; None where there is none."""
        found = self.query(expression)
        return float(found[0]["value"][1]) if found else None


def until(what, there, seconds):
    """Wait for it. Fails, saying for what, where it takes longer."""
    deadline = time.monotonic() + seconds
    while not (found := there()):
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}"
        time.sleep(1.0)
    return found


def volumes():
    """Those of no name as well, which no label tells."""
    return set(
        subprocess.run(["docker", "volume", "ls", "-q"], capture_output=True, text=True, check=True).stdout.split()
    )


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    built = subprocess.run([ROOT / "docker" / "test" / "images.sh"], capture_output=True, text=True, timeout=1800)
    assert built.returncode == 0, built.stderr[-3000:]
    images = dict(line.split("=", 1) for line in built.stdout.split())
    it = Stack(tmp_path_factory.mktemp("stack"), images)
    it.before = volumes()
    shown = ["head", "learner", "rollout", "job", "tensorboard", "prometheus", *(["grafana"] if it.grafana else [])]
    try:
        it.compose("up", "-d", *shown, seconds=UP_SECONDS)
        yield it
    finally:
        it.compose("down", "--volumes", "--timeout", "20", check=False)


def test_the_example_job_trains_through_the_job_server(stack):
    (job,) = until("the job's container", lambda: stack.containers("job", running=False), UP_SECONDS)
    until("the job to end", lambda: stack.inspect(job, "{{.State.Status}}") == "exited", TRAIN_SECONDS)
    said = stack.compose("logs", "--no-color", "job").stdout
    assert stack.inspect(job, "{{.State.ExitCode}}") == "0", said[-3000:]
    assert "completed at step 300 of 300" in said
    runs = stack.on_head("ls", "/runs").stdout.split()
    (run,) = [name for name in runs if name.startswith("token_reversal-")]
    summary = json.loads(stack.on_head("cat", f"/runs/{run}/summary.json").stdout)
    assert (summary["status"], summary["step"]) == ("completed", 300)
    assert summary["error"] < 0.1
    assert json.loads(stack.on_head("tpo-dist", "ledger", run, "--runs-dir", "/runs", "--json").stdout)["clean"]
    print(f"\ntrained: error {summary['error']:.4f}, {summary['steps_per_second']} steps per second")


def test_every_service_is_well_and_nobody_is_root(stack):
    for service in ("head", "learner", "rollout", "tensorboard", "prometheus", *(["grafana"] if stack.grafana else [])):
        until(f"{service} to be well", lambda service=service: stack.well(service) == 1, UP_SECONDS)
        user = stack.compose("exec", "-T", service, "id", "-u").stdout.strip()
        assert user != "0", service


def test_without_the_token_nothing_is_obeyed(stack):
    order = json.dumps({"entrypoint": "true"}).encode()
    asked = urllib.request.Request(
        f"http://127.0.0.1:{PORTS['JOBS']}/api/jobs/", data=order, headers={"Content-Type": "application/json"}
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(asked, timeout=10)
    refused.value.close()
    assert refused.value.code in (401, 403)
    asked.add_header("Authorization", f"Bearer {stack.token}")
    with urllib.request.urlopen(asked, timeout=30) as answer:
        assert json.loads(answer.read())["submission_id"]


@pytest.fixture(scope="module")
def run(stack):
    """A long one, which trains while the tests below look at it; ended in order."""
    order = stack.on_head(
        "tpo-dist", "submit", "/jobs/token_reversal.yaml", *LONG, "name=long", "rollout.workers=1", "rollout.cpus=1",
        "learner.resources.learner=0.001", "rollout.resources.rollout=0.001", "--id", "long", "--json",
    )  # fmt: skip
    assert json.loads(order.stdout.splitlines()[-1])["id"] == "long"

    def training():
        names = [name for name in stack.on_head("ls", "/runs").stdout.split() if name.startswith("long-")]
        return names[0] if names and stack.status(names[0]).get("step") else None

    return until("the long run to train", training, UP_SECONDS)


def test_rollouts_follow_the_containers_from_1_to_3(stack, run):
    stack.compose("up", "-d", "--no-recreate", "--scale", "rollout=3", "rollout")
    until("three rollout nodes", lambda: stack.well("rollout") == 3, UP_SECONDS)
    stack.on_head("tpo-dist", "scale", run, "--rollouts", "3", "--runs-dir", "/runs", "--wait", str(SETTLE_SECONDS))
    status = stack.status(run)
    assert (status["rollouts"]["wanted"], status["rollouts"]["alive"]) == (3, 3)
    places = {worker["node"] for worker in status["rollouts"]["workers"]}
    assert places == {stack.inspect(each, "{{.Config.Hostname}}") for each in stack.containers("rollout")}
    name = f'ray_tpo_dist_workers_alive{{run="{run}"}}'
    until("Prometheus to see three workers", lambda: stack.number(f"max({name})") == 3, SETTLE_SECONDS)
    until("Prometheus to see five nodes", lambda: stack.number('sum(up{job="ray"})') == 5, SETTLE_SECONDS)


def test_a_rollout_container_is_killed_and_the_run_goes_on(stack, run):
    before = stack.status(run)
    victim = stack.containers("rollout")[0]
    subprocess.run(["docker", "kill", victim], check=True, capture_output=True, timeout=30)
    until("its worker to be missed", lambda: stack.status(run)["faults"].get("rollout died", 0) > 0, SETTLE_SECONDS)
    after = until(
        "50 steps more",
        lambda: status if (status := stack.status(run))["step"] >= before["step"] + 50 else None,
        SETTLE_SECONDS,
    )
    assert after["status"] == "running"
    assert after["learner"]["restarts"] == 0
    counted = f'sum(ray_tpo_dist_faults_total{{run="{run}", kind="rollout died"}})'
    until("Prometheus to count the fault", lambda: (stack.number(counted) or 0) >= 1, SETTLE_SECONDS)


def test_every_panel_of_the_dashboard_can_be_asked(stack, run):
    asked = [target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", ())]

    def empty():
        found = {each: stack.query(each.replace("$run", run).replace("$__rate_interval", "1m")) for each in asked}
        return {re.search(r"ray_(tpo_dist_\w+)", each)[1] for each, series in found.items() if not series}

    # Not in this run: language models only, and what has not failed.
    absent = {
        "tpo_dist_cut_off", "tpo_dist_reference_kl", "tpo_dist_mismatch_token", "tpo_dist_groups_failed_total",
        "tpo_dist_blocks_failed_total", "tpo_dist_blocks_dropped_total", "tpo_dist_learner_restarts_total",
    }  # fmt: skip
    until("every panel to have something", lambda: empty() <= absent, SETTLE_SECONDS)
    seen = stack.number(f'sum(ray_tpo_dist_groups_trained_total{{run="{run}"}})')
    print(f"\nPrometheus: {seen:.0f} groups trained, reward {stack.number('max(ray_tpo_dist_reward)'):.3f}")


def test_rollouts_go_back_to_1(stack, run):
    stack.on_head("tpo-dist", "scale", run, "--rollouts", "1", "--runs-dir", "/runs", "--wait", str(SETTLE_SECONDS))
    stack.compose("up", "-d", "--no-recreate", "--scale", "rollout=1", "rollout")
    until("one rollout node", lambda: len(stack.containers("rollout")) == 1, SETTLE_SECONDS)

    def settled():
        status = stack.status(run)["rollouts"]
        return (status["wanted"], status["alive"]) == (1, 1) and status["workers"][0]["state"] in ("idle", "working")

    until("one worker at work", settled, SETTLE_SECONDS)
    step = stack.status(run)["step"]
    until("20 steps more", lambda: stack.status(run)["step"] >= step + 20, SETTLE_SECONDS)


def test_the_boards_show_the_runs(stack, run):
    with urllib.request.urlopen(f"http://127.0.0.1:{PORTS['TENSORBOARD']}/data/runs", timeout=60) as answer:
        assert f"{run}/tensorboard" in json.loads(answer.read())
    if stack.grafana:
        asked = urllib.request.Request(f"http://127.0.0.1:{PORTS['GRAFANA']}/api/dashboards/uid/{UID}")
        asked.add_header("Authorization", "Basic YWRtaW46b2YtdGhlLXRlc3Q=")  # admin:of-the-test
        with urllib.request.urlopen(asked, timeout=30) as answer:
            assert json.loads(answer.read())["dashboard"]["title"] == "tpo_dist"


def test_the_run_ends_in_order_and_its_ledger_is_clean(stack, run):
    stack.on_head("tpo-dist", "submit", "--stop", "long")
    summary = json.loads(stack.on_head("cat", f"/runs/{run}/summary.json").stdout)
    assert summary["status"] == "interrupted"
    assert summary["checkpoint"] is not None
    account = json.loads(stack.on_head("tpo-dist", "ledger", run, "--runs-dir", "/runs", "--json").stdout)
    assert account["clean"], account
    assert account["steps"] == summary["step"]
    print(f"\nended at step {summary['step']}; draws {account['draws']}")


def test_nothing_is_left(stack):
    stack.compose("down", "--volumes", "--timeout", "20")
    for what in (["ps", "-a", "-q"], ["network", "ls", "-q"]):
        command = ["docker", *what, "--filter", f"label=com.docker.compose.project={stack.name}"]
        assert subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout == "", what
    assert volumes() <= stack.before
