"""Where the cluster keeps things: a cache that lasts, a run folder and a live folder that do not.

This module must not create anything; it only names places.
"""

import os
from pathlib import Path
from typing import Final

# One per machine, whoever starts it: sockets, certificates, kubeconfig, logs.
RUN: Final = Path("/run/curriculum-cluster")
LOCK: Final = Path("/run/curriculum-cluster.lock")
KUBECONFIG: Final = RUN / "kubeconfig"
PKI: Final = RUN / "pki"
LOGS: Final = RUN / "logs"
# `up` wrote this when it was asked to outlive its process: the next `up` must not clean it away.
KEPT: Final = RUN / "kept"
# Where containers' layers really lie: a link, since the cache may be another one at `down`.
LIVE_LINK: Final = RUN / "live"

HERE: Final = Path(__file__).resolve().parent
GO_MODULES: Final = HERE / "go"
CGROUP: Final = "curriculum-cluster"


def cache() -> Path:
    """The folder that a fresh clone finds again."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "curriculum-operator" / "cluster"


def binaries() -> Path:
    return cache() / "bin"


def images() -> Path:
    return cache() / "images"


def live() -> Path:
    """Nodes' containerd and kubelet data: beside the cache, to hard-link image layers from it."""
    return cache() / "live"


def node_run(node: str) -> Path:
    return RUN / node


def containerd_socket(node: str) -> Path:
    return node_run(node) / "containerd.sock"
