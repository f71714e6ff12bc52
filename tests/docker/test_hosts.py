"""The entry scripts on two hosts with addresses of their own: network namespaces, where this user may make them."""

import os
import secrets
import shutil
import subprocess
import tempfile

import pytest

from tests.cli.run_cli import PROGRAM, ROOT
from tests.clusters.nodes import ENTRY, clean_environment, end_nodes
from tests.processes import wait_for

pytestmark = [
    pytest.mark.skipif("TPO_DIST_DOCKER" not in os.environ, reason="make test-docker runs it"),
    pytest.mark.skipif(os.geteuid() != 0 or shutil.which("ip") is None, reason="needs root and ip for namespaces"),
]

HEAD, NODE = "10.77.0.1", "10.77.0.2"
SMALL = ("steps=6", "task.length=4", "rollout.workers=1", "rollout.groups_per_step=16", "rollout.block_size=4",
         "rollout.group_size=8", "learner.resources.learner=0.001", "rollout.resources.rollout=0.001",
         "log.sinks=[]", "log.plot=false")  # fmt: skip


def ip(*words):
    subprocess.run(["ip", *words], check=True, timeout=30)


@pytest.fixture
def hosts():
    """The names of two of them, a wire between."""
    names = [f"tpo-{secrets.token_hex(3)}" for _ in range(2)]
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", "wire", "netns", names[0], "type", "veth", "peer", "name", "wire", "netns", names[1])
        for name, own, other in zip(names, (HEAD, NODE), (NODE, HEAD), strict=True):
            ip("-n", name, "addr", "add", f"{own}/24", "dev", "wire")
            ip("-n", name, "link", "set", "wire", "up")
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "route", "add", "default", "via", other)  # Ray asks the routes for its address
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, timeout=30)


def test_a_job_trains_on_two_hosts_and_the_dashboard_is_the_head_s_alone(hosts, tmp_path):
    folders = [tempfile.mkdtemp(prefix="tpo") for _ in hosts]  # short: sockets are below them
    shared = clean_environment(RAY_AUTH_TOKEN=secrets.token_hex(16), TPO_OBJECT_STORE_MB="128", TPO_CPUS="1")
    shared |= {"TPO_DIST_RUNS": str(tmp_path / "runs"), "TPO_HEAD": f"{HEAD}:6379"}
    started = []

    def start(host, script, **settings):
        log = (tmp_path / script).open("w")
        command = ["ip", "netns", "exec", host, str(ENTRY / script)]
        node = subprocess.Popen(command, env={**shared, **settings}, stdout=log, stderr=log, start_new_session=True)
        log.close()
        started.append(node)

    def on(host, *command):
        words = ["ip", "netns", "exec", host, *map(str, command)]
        return subprocess.run(words, env=shared, capture_output=True, text=True, check=False, timeout=300)

    try:
        start(hosts[0], "head.sh", TPO_NODE_IP=HEAD, TPO_TEMP_DIR=folders[0], TPO_ROLE="learner")
        start(hosts[1], "worker.sh", TPO_NODE_IP=NODE, TPO_TEMP_DIR=folders[1], TPO_ROLE="rollout")
        wait_for(lambda: on(hosts[1], ENTRY / "healthy.sh", "worker").returncode == 0, "the node to be well", 120)
        cpus = ("learner.cpus=0.5", "rollout.cpus=0.5")
        done = on(hosts[0], *PROGRAM, "submit", ROOT / "jobs" / "token_reversal.yaml", *SMALL, *cpus, "--follow")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "completed at step 6 of 6" in done.stdout
        elsewhere = on(hosts[1], *PROGRAM, "submit", "--list", "--address", f"http://{HEAD}:8265")
        assert "nothing answers there (Connection refused)" in elsewhere.stderr
    finally:
        end_nodes(started)
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
