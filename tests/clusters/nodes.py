"""Ray nodes started by the entry scripts, as a container or a batch system starts them, and ended by their ids."""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.cli.run_cli import PROGRAM, ROOT
from tests.processes import wait_for

ENTRY = ROOT / "clusters" / "entry"
PROGRAMS = Path(sys.executable).parent
UP_SECONDS = 300.0
_TRIES = 3  # Ray gives a node 30 s to join, which a machine under load may miss; containers would be started again


def free_ports(count):
    """So many ports that nobody listens on at this moment."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("", 0))
        return [each.getsockname()[1] for each in sockets]


def clean_environment(**more):
    """This process's, without what it says of Ray and of clusters."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "TPO_"))}
    return {**mine, "OMP_NUM_THREADS": "1", "TPO_RAY": str(PROGRAMS / "ray"), **more}


def end_nodes(nodes):
    """SIGTERM to each node, the head, which is the first, last; SIGKILL to the group of one that does not obey."""
    for node in reversed(nodes):
        node.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            node.wait(40)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(node.pid, signal.SIGKILL)
        node.wait()


class Cluster:
    """A head and what joins it, on ports and in a folder of their own, with a token."""

    def __init__(self, folder):
        self.folder, self.token = folder, secrets.token_hex(16)
        self.temporary = Path(tempfile.mkdtemp(prefix="tpo"))  # short: sockets are below it
        gcs, dashboard, client = free_ports(3)
        self.head, self.address = f"127.0.0.1:{gcs}", f"http://127.0.0.1:{dashboard}"
        self.environment = clean_environment(
            RAY_AUTH_TOKEN=self.token,
            TPO_PORT=str(gcs),
            TPO_DASHBOARD_PORT=str(dashboard),
            TPO_CLIENT_PORT=str(client),
            TPO_HEAD=self.head,
            TPO_TEMP_DIR=str(self.temporary),
            TPO_OBJECT_STORE_MB="128",
            TPO_DIST_RUNS=str(folder / "runs"),
        )
        self.nodes = []

    def start(self, kind, **settings):
        """A node that is up; its metrics' port. `kind`: head or worker."""
        for attempt in range(_TRIES):
            agent, metrics = free_ports(2)
            ports = {"TPO_AGENT_PORT": str(agent), "TPO_METRICS_PORT": str(metrics)}
            log = self.folder / f"{kind}-{len(self.nodes)}.log"
            if self._is_up(kind, {**self.environment, **ports, **settings}, log):
                return metrics
            if "timed out during startup" not in log.read_text() or attempt == _TRIES - 1:
                break
        raise AssertionError(f"{kind}.sh ended; the end of its log:\n{log.read_text()[-3000:]}")

    def _is_up(self, kind, environment, log):
        """Start a node: whether it came up, or ended before."""
        with log.open("w") as file:
            command = [str(ENTRY / f"{kind}.sh")]
            node = subprocess.Popen(command, env=environment, stdout=file, stderr=file, start_new_session=True)
        self.nodes.append(node)

        def well():
            time.sleep(0.5)
            check = subprocess.run([ENTRY / "healthy.sh", kind], env=environment, check=False)
            return node.poll() is not None or check.returncode == 0

        try:
            wait_for(well, f"{kind} node to be well", UP_SECONDS)
        except AssertionError as error:
            raise AssertionError(f"{error}; the end of its log:\n{log.read_text()[-3000:]}") from None
        return node.poll() is None

    def spawn(self, *arguments, **environment):
        """A `tpo-dist` of a user who has the token."""
        return subprocess.Popen(
            [*PROGRAM, *map(str, arguments)],
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def call(self, *arguments, **environment):
        """The same until it ends: exit code, standard output, standard error."""
        process = self.spawn(*arguments, **environment)
        try:
            out, err = process.communicate(timeout=UP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            raise AssertionError(f"tpo-dist {arguments} had not ended after {UP_SECONDS:g} s") from None
        return process.returncode, out, err

    def end(self):
        """End the nodes, and remove what they left."""
        end_nodes(self.nodes)
        shutil.rmtree(self.temporary, ignore_errors=True)
