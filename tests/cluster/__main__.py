"""`python -m tests.cluster COMMAND`, from the repository's root."""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

from . import namespaces, paths, selftest
from .cluster import Cluster
from .errors import ClusterError


def main() -> int:
    """Run one command; a problem is one line on stderr and status 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("build", "make every part that the cache lacks"),
        ("up", "start the cluster and leave it running"),
        ("down", "end the cluster, also one that crashed"),
        ("status", "say what is running"),
        ("kubeconfig", "print the path of the kubeconfig"),
        ("selftest", "up, a PyTorchJob on two nodes, down, and a look for what is left"),
    ):
        commands.add_parser(name, help=text)
    load = commands.add_parser("load-image", help="give docker-archives to every node")
    load.add_argument("tar", type=Path, nargs="+")
    arguments = parser.parse_args()
    try:
        return _run(arguments)
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _run(arguments: argparse.Namespace) -> int:
    cluster = Cluster(say=_timed())
    match arguments.command:
        case "build":
            cluster.build()
        case "up":
            cluster.up()
            cluster.keep()
            print(f"export KUBECONFIG={paths.KUBECONFIG} PATH={cluster.binaries}:$PATH")
        case "down":
            cluster.down()
        case "status":
            return _status(cluster)
        case "kubeconfig":
            print(_of_running(cluster).kubeconfig)
        case "load-image":
            _of_running(cluster).load_image(*arguments.tar)
        case "selftest":
            return selftest.run(cluster)
    return 0


def _of_running(cluster: Cluster) -> Cluster:
    if not cluster.is_up:
        raise ClusterError("no cluster is up: `python -m tests.cluster up` starts one")
    return cluster


def _status(cluster: Cluster) -> int:
    if not cluster.is_up:
        print("down")
        return 1
    for machine in namespaces.alive():
        print(f"{machine.name}: process {machine.pid}, {len(machine.processes())} more in it")
    print(cluster.kubectl("get", "nodes", "--output=wide"), end="")
    return 0


def _timed() -> Callable[[str], None]:
    started = time.monotonic()
    return lambda text: print(f"[{time.monotonic() - started:6.1f} s] {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
