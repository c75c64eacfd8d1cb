"""A Ray cluster of two nodes on this machine, with a token, in a process of its own.

Each node declares one GPU, which the machine need not have. The process prints the cluster's
address; when it reads a line it kills the second node, and it ends when its stdin closes.
"""

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

MEMORY = 80_000_000
"""Of each node's object store, in bytes: hardly anything travels through it."""


@dataclass(frozen=True)
class RayNodes:
    """The cluster while it runs."""

    address: str
    process: "subprocess.Popen[str]"

    def kill_second(self) -> None:
        """Kill the node that no driver is connected to, as a power cut does."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("kill\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "killed\n"


@contextmanager
def two_nodes(environment: Mapping[str, str]) -> Iterator[RayNodes]:
    """Start the nodes with this environment, which trainings inherit; stop them in the end."""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", __file__],
        env=dict(environment),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address, f"Ray did not start (exit code {process.wait()})"
        yield RayNodes(address, process)
    finally:
        process.communicate(timeout=120)


def main() -> None:
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "num_gpus": 1, "object_store_memory": MEMORY}
    head = node | {"include_dashboard": False, "no_monitor": True}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    second = cluster.add_node(**node)
    _say(cluster.address)
    for _ in sys.stdin:
        cluster.remove_node(second, allow_graceful=False)
        _say("killed")
    cluster.shutdown()


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
