"""Starts one node: its own containerd, kubelet and kube-proxy in a machine of its own.

The nodes differ only in what `Node` says. Must not start pods.
"""

import json
import os
import shutil
import signal
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import yaml

from . import certificates, cgroups, golden, namespaces, network, paths
from .controlplane import Authority
from .errors import ClusterError
from .gobuild import binary
from .namespaces import Machine

GPU: Final = "nvidia.com/gpu"
# Places that programs know by heart. They must exist on the host for a machine to lay its own
# over them; `made_folders` remembers which of them were not there.
_FIXED_PLACES: Final = {
    "kubelet": Path("/var/lib/kubelet"),
    "cni": Path("/var/lib/cni"),
    "log": Path("/var/log"),
}
_CONTAINERD_SECONDS: Final = 60
_MADE: Final = paths.RUN / "made-folders.json"


@dataclass(frozen=True, slots=True)
class Node:
    """What a node claims to be; its GPUs are numbers in its status and nothing else."""

    name: str
    index: int
    gpus: int
    labels: dict[str, str] = field(hash=False)
    taints: tuple[tuple[str, str, str], ...] = ()
    spare: bool = False
    """Prepared, and off until `Cluster.start_node`."""

    @property
    def machine(self) -> Machine | None:
        for machine in namespaces.alive():
            if machine.name == self.name:
                return machine
        return None


def make_fixed_places() -> None:
    """Make the folders that machines need on the host, noted before they are made."""
    made = [str(path) for path in _FIXED_PLACES.values() if not path.exists()]
    _MADE.write_text(json.dumps(made))
    for path in made:
        Path(path).mkdir(parents=True)


def remove_fixed_places() -> None:
    if not _MADE.exists():
        return
    for path in map(Path, json.loads(_MADE.read_text())):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def prepare(node: Node, authority: Authority, *, root: Path) -> None:
    """Write a node's configuration and give it the images of ``root``, a golden one."""
    folder = paths.node_run(node.name)
    (folder / "cni").mkdir(parents=True)
    (folder / "cni" / "10-pods.conflist").write_text(network.cni_config(node.index))
    (folder / "containerd.toml").write_text(_containerd_config(node))
    (folder / "resolv.conf").write_text(f"nameserver {network.CONTROL_PLANE}\n")
    user = f"system:node:{node.name}"
    authority.kubeconfig(folder / "kubelet.kubeconfig", user, "system:nodes")
    certificates.signed(
        authority.pair,
        user,
        now=authority.now,
        groups=("system:nodes",),
        addresses=(network.node_address(node.index),),
        hosts=(node.name,),
    ).write(folder, "kubelet")
    (folder / "kubelet.yaml").write_text(yaml.safe_dump(_kubelet_config(node)))
    (folder / "proxy.yaml").write_text(yaml.safe_dump(_proxy_config(node)))
    golden.copy(root, _data(node) / "containerd")


def boot(node: Node, control_plane: Machine, *, num_nodes: int) -> Machine:
    """Start a prepared node's machine and its containerd; also one that lost its power."""
    cgroups.create(node.name)
    data = _data(node)
    binds = [(data / name, place) for name, place in _FIXED_PLACES.items()]
    machine = namespaces.start(node.name, scratch=data / "machine", binds=binds)
    network.connect_node(machine, control_plane, index=node.index, num_nodes=num_nodes)
    paths.containerd_socket(node.name).unlink(missing_ok=True)
    machine.spawn(
        _containerd(),
        f"--config={paths.node_run(node.name)}/containerd.toml",
        log=_log(node, "containerd"),
    )
    return machine


def start(node: Node, machine: Machine) -> None:
    """Start what talks to the API server, once containerd answers: a kubelet ends without it."""
    machine.spawn(
        binary("kube-proxy"),
        f"--config={paths.node_run(node.name)}/proxy.yaml",
        log=_log(node, "kube-proxy"),
    )
    deadline = time.monotonic() + _CONTAINERD_SECONDS
    while not _answers(paths.containerd_socket(node.name)):
        if time.monotonic() > deadline:
            raise ClusterError(
                f"containerd of {node.name} does not answer: see {_log(node, 'containerd')}"
            )
        time.sleep(0.05)
    start_kubelet(node, machine)


def _answers(address: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(address)) == 0


def ended(node: Node, machine: Machine) -> list[Path]:
    """Logs of the node's programs that no longer run."""
    programs = (_containerd(), binary("kube-proxy"), binary("kubelet"))
    names = ("containerd", "kube-proxy", "kubelet")
    return [
        _log(node, name)
        for name, program in zip(names, programs, strict=True)
        if not machine.processes(program)
    ]


def start_kubelet(node: Node, machine: Machine) -> None:
    folder = paths.node_run(node.name)
    labels = ",".join(f"{key}={value}" for key, value in sorted(node.labels.items()))
    machine.spawn(
        binary("kubelet"),
        f"--config={folder}/kubelet.yaml",
        f"--kubeconfig={folder}/kubelet.kubeconfig",
        f"--hostname-override={node.name}",
        f"--node-ip={network.node_address(node.index)}",
        f"--node-labels={labels}",
        log=_log(node, "kubelet"),
    )


def stop_kubelet(machine: Machine) -> None:
    """End the kubelet as a crash would; containers run on."""
    for pid in machine.processes(binary("kubelet")):
        os.kill(pid, signal.SIGKILL)


def _containerd() -> Path:
    return Path(shutil.which("containerd") or "/usr/bin/containerd")


def _data(node: Node) -> Path:
    return paths.live() / node.name


def _log(node: Node, program: str) -> Path:
    return paths.LOGS / f"{node.name}.{program}.log"


def _containerd_config(node: Node) -> str:
    folder = paths.node_run(node.name)
    return golden.containerd_config(
        root=_data(node) / "containerd",
        address=paths.containerd_socket(node.name),
        cni=folder / "cni",
    )


def _kubelet_config(node: Node) -> dict[str, object]:
    folder = paths.node_run(node.name)
    taints = [{"key": k, "value": v, "effect": e} for k, v, e in node.taints]
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": network.node_address(node.index),
        "authentication": {
            "anonymous": {"enabled": False},
            "x509": {"clientCAFile": str(paths.PKI / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": f"{folder}/kubelet.crt",
        "tlsPrivateKeyFile": f"{folder}/kubelet.key",
        "containerRuntimeEndpoint": f"unix://{paths.containerd_socket(node.name)}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": cgroups.of_node(node.name),
        "failCgroupV1": False,
        "failSwapOn": False,
        "clusterDNS": [network.CONTROL_PLANE],
        "clusterDomain": network.DOMAIN,
        "resolvConf": f"{folder}/resolv.conf",
        "volumePluginDir": "/run/volume-plugins",
        "nodeStatusUpdateFrequency": "5s",
        "nodeStatusReportFrequency": "5s",  # also when nothing changed: a heartbeat to wait for
        "nodeLeaseDurationSeconds": 16,  # renewed four times in that
        "registerWithTaints": taints,
        "serializeImagePulls": False,
        "imageGCHighThresholdPercent": 100,  # there is no registry to get one back from
        "oomScoreAdj": 0,  # lowering it needs CAP_SYS_RESOURCE
        "maxPods": 50,
        # All nodes see the whole machine's memory and disk.
        "evictionHard": {
            "memory.available": "50Mi",
            "nodefs.available": "1%",
            "nodefs.inodesFree": "1%",
            "imagefs.available": "1%",
            "imagefs.inodesFree": "1%",
        },
    }


def _proxy_config(node: Node) -> dict[str, object]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": str(paths.PKI / "proxy.kubeconfig")},
        "hostnameOverride": node.name,
        "mode": "iptables",
        "clusterCIDR": network.PODS,
        "oomScoreAdj": 0,
        # The limits are the host's, not a namespace's.
        "conntrack": {
            "maxPerCore": 0,
            "min": 0,
            "tcpEstablishedTimeout": "0s",
            "tcpCloseWaitTimeout": "0s",
        },
    }
