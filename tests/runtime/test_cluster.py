"""Starting Ray on a machine that is overrun, and joining what is not Ray: no cluster is needed."""

import socket
import subprocess
import sys
import threading

import pytest
import ray
import ray._private.node

from tpo_dist.config import ClusterConfig
from tpo_dist.errors import RunFailed, UsageError
from tpo_dist.runtime import cluster as module
from tpo_dist.runtime.cluster import cluster, patiently

LATE = "The current node timed out during startup."


class Node(ray._private.node.Node):
    """A node with one process, which does not come up in time."""

    def __init__(self):
        self.process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        try:
            raise Exception(LATE)  # as Ray does
        finally:
            nodes.append(self)

    def kill_all_processes(self, check_alive=True, allow_graceful=False, wait=False):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()


nodes: list[Node] = []


@pytest.fixture(autouse=True)
def _no_nodes():
    nodes.clear()


class Starts:
    """Starts that fail so many times."""

    def __init__(self, failures):
        self.left = failures

    def __call__(self, **options):
        if self.left:
            self.left -= 1
            Node()
        return options


def test_a_start_that_was_late_is_tried_again_and_what_it_left_is_ended(monkeypatch, caplog):
    monkeypatch.setattr(ray, "init", Starts(1))
    with cluster(ClusterConfig(num_cpus=1), 0.0):
        pass
    (node,) = nodes
    assert node.process.returncode < 0
    assert f"Ray did not start ({LATE}); it is tried again" in caplog.text


def test_a_start_that_is_late_every_time_says_so_and_what_to_do():
    with pytest.raises(RunFailed, match=r"^Ray did not start in 0 s and 2 attempts \(The current node timed out"):
        patiently(Starts(9), 0.0, "Ray")
    assert len(nodes) == 2
    assert patiently(Starts(4), 60.0, "Ray") == {}  # it has more attempts where it has the time


def test_a_head_that_is_gone_is_not_waited_for_where_ray_s_notes_still_have_it(monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{unused.getsockname()[1]}")
        monkeypatch.setattr(ray, "init", lambda **options: pytest.fail("Ray would try for minutes"))
        with (
            pytest.raises(UsageError, match=r"nothing answers there \(Connection refused\)"),
            cluster(ClusterConfig(address="auto"), 5.0),
        ):
            pass


def test_a_start_that_can_never_be_is_not_tried_again():
    calls = []

    def start():
        calls.append("once")
        raise ValueError("object_store_memory must be at least")

    with pytest.raises(ValueError, match="must be at least"):
        patiently(start, 60.0, "Ray")
    assert calls == ["once"]


def answering(words):
    """The port of a server that says this to everybody who comes."""

    def serve():
        connection, _ = server.accept()
        with connection, server:
            connection.recv(64)
            connection.sendall(words)
            connection.recv(64)  # until the other one leaves

    server = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=serve, daemon=True).start()
    return server.getsockname()[1]


@pytest.mark.parametrize(
    ("says", "words"),
    [
        (b"", r"nothing answers there in 0.2 s \(deadlines.connect_seconds\)"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "what listens there is not Ray"),
    ],
)
def test_a_server_that_is_not_ray_is_found_out_in_time(says, words):
    with pytest.raises(UsageError, match=words), cluster(ClusterConfig(address=f"127.0.0.1:{answering(says)}"), 0.2):
        pass


def test_a_server_of_grpc_may_be_ray():
    module._probe(f"127.0.0.1:{answering(bytes([0, 0, 6, 4, 0, 0, 0, 0, 0]))}", 5.0)
