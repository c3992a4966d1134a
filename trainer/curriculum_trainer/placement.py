"""Where this pod stands in its gang, from the environment the training-operator sets.

Its RANK and WORLD_SIZE count pods, not processes, and are never read. Without its variables the
run is a single node on this machine.
"""

import socket
from collections.abc import Mapping
from dataclasses import dataclass

from curriculum_api.run import PhaseRun
from curriculum_trainer import failures, machine

DEFAULT_PORT = 23456
"""The training-operator's own default."""

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Placement:
    """One pod's place: its number, and where all processes meet."""

    node_rank: int
    nodes: int
    processes_per_node: int
    master_address: str
    master_port: int

    def worker_environment(self, local_rank: int, environment: Mapping[str, str]) -> dict[str, str]:
        """The environment of one process: this pod's own, and its place."""
        place = {
            "RANK": str(self.node_rank * self.processes_per_node + local_rank),
            "LOCAL_RANK": str(local_rank),
            "WORLD_SIZE": str(self.nodes * self.processes_per_node),
            "LOCAL_WORLD_SIZE": str(self.processes_per_node),
            "MASTER_ADDR": self.master_address,
            "MASTER_PORT": str(self.master_port),
        }
        threads = max(1, machine.cpus() // self.processes_per_node)
        defaults = {
            "OMP_NUM_THREADS": str(threads),
            # threads that spin for their next task starve the processes they wait for
            "OMP_WAIT_POLICY": "PASSIVE",
            "TOKENIZERS_PARALLELISM": "false",
        }
        if self.nodes == 1:
            # the host name of a laptop need not resolve to an address of its own
            defaults["GLOO_SOCKET_IFNAME"] = "lo"
        return {**defaults, **environment, **place}


def placement(run: PhaseRun, environment: Mapping[str, str]) -> Placement:
    """This pod's place, by its environment."""
    if run.nodes == 1:
        return Placement(
            node_rank=0,
            nodes=1,
            processes_per_node=run.processes_per_node,
            master_address=LOOPBACK,
            master_port=_free_port(),
        )
    node_rank = environment.get("PET_NODE_RANK", "")
    address = environment.get("PET_MASTER_ADDR") or environment.get("MASTER_ADDR")
    if not node_rank.isdigit() or not address:
        raise failures.user_error(
            f'phase "{run.phase}" has {run.nodes} nodes, but PET_NODE_RANK is "{node_rank}" and '
            f'MASTER_ADDR is "{address or ""}": start it as a PyTorchJob, or with 1 node'
        )
    if int(node_rank) >= run.nodes:
        raise failures.user_error(
            f'phase "{run.phase}" has {run.nodes} nodes, but PET_NODE_RANK is {node_rank}: the '
            "job and the run disagree"
        )
    return Placement(
        node_rank=int(node_rank),
        nodes=run.nodes,
        processes_per_node=run.processes_per_node,
        master_address=address,
        master_port=int(
            environment.get("PET_MASTER_PORT") or environment.get("MASTER_PORT") or DEFAULT_PORT
        ),
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])
