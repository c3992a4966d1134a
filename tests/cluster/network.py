"""The cluster's network: one bridge in the control plane's namespace, a cable to every node.

                     host
                      | curriculum0 10.243.0.254
    +-----------------+------------------+   the control plane's namespace,
    | bridge 10.243.0.1: API server, DNS |   bridge "cluster"
    +-----+-----------+------------+-----+
          | .11       | .12        | .13      eth0 of each node (spark-3 has .14)
       spark-1     spark-2      b200-1
     10.244.1/24  10.244.2/24  10.244.3/24   its pods, on its own bridge cni0

The host gets one interface and routes to the pods, which go when the control plane's namespace
goes. No rule of the host's firewall and none of its sysctls is changed. There is no way out of
the cluster: a pod that asks for the internet is told at once that there is none.
"""

import ipaddress
import json
from pathlib import Path
from typing import Final

from .errors import ClusterError
from .namespaces import Machine
from .shell import run

HOST_INTERFACE: Final = "curriculum0"
CONTROL_PLANE: Final = "10.243.0.1"
_HOST: Final = "10.243.0.254"
_MACHINES: Final = "10.243.0.0/24"
PODS: Final = "10.244.0.0/16"
SERVICES: Final = "10.96.0.0/16"
API_SERVICE: Final = "10.96.0.1"
DOMAIN: Final = "cluster.local"
_LOSS: Final = "CURRICULUM-LOSS"


def node_address(index: int) -> str:
    """``index`` counts from 1."""
    return f"10.243.0.{10 + index}"


def pod_range(index: int) -> str:
    return f"10.244.{index}.0/24"


def check_free() -> None:
    """Raise where the host already has a route into one of the cluster's ranges."""
    ours = [ipaddress.ip_network(text) for text in (_MACHINES, PODS, SERVICES)]
    for route in json.loads(run("ip", "-json", "-4", "route").stdout or "[]"):
        if route["dst"] == "default":
            continue
        taken = ipaddress.ip_network(route["dst"], strict=False)
        for network in ours:
            if taken.overlaps(network):
                raise ClusterError(
                    f"network {network} is taken by the route {route['dst']} "
                    f"of {route.get('dev', '?')}: end what made it"
                )


def connect_control_plane(machine: Machine, *, num_nodes: int) -> None:
    """Lay the bridge and the host's cable."""
    machine.inside(
        *_ip_batch(),
        stdin="link add cluster type bridge forward_delay 0\n"
        f"address add {CONTROL_PLANE}/24 dev cluster\n"
        "link set cluster up\n" + _pod_routes(num_nodes),
    )
    run(
        *_ip_batch(),
        stdin=f"link add {HOST_INTERFACE} type veth peer name host netns {machine.pid}\n"
        f"address add {_HOST}/24 dev {HOST_INTERFACE}\n"
        f"link set {HOST_INTERFACE} up\n",
    )
    machine.inside(*_ip_batch(), stdin="link set host master cluster up\n")
    run(*_ip_batch(), stdin=_pod_routes(num_nodes))


def connect_node(node: Machine, control_plane: Machine, *, index: int, num_nodes: int) -> None:
    """Lay a node's cable and its routes to the other nodes' pods."""
    cable = f"node{index}"
    run(
        *_ip_batch(),
        stdin=f"link add eth0 netns {node.pid} type veth peer name {cable} "
        f"netns {control_plane.pid}\n",
    )
    control_plane.inside(*_ip_batch(), stdin=f"link set {cable} master cluster up\n")
    node.inside(
        *_ip_batch(),
        stdin=f"address add {node_address(index)}/24 dev eth0\n"
        "link set eth0 up\n" + _pod_routes(num_nodes, without=index),
    )
    # Of the node's own network namespace. The second lets a service's address work between two
    # pods on one bridge.
    for key in ("net/ipv4/ip_forward", "net/bridge/bridge-nf-call-iptables"):
        node.inside("sh", "-c", f"[ ! -e /proc/sys/{key} ] || echo 1 > /proc/sys/{key}")


def limit(node: Machine, control_plane: Machine, index: int, megabits: int | None) -> None:
    """Let a node's cable carry no more than this, each way; None lets it carry what it can."""
    for machine, end in ((node, "eth0"), (control_plane, f"node{index}")):
        machine.inside("tc", "qdisc", "delete", "dev", end, "root", check=False)
        if megabits is not None:
            # A bucket of 10 ms: less is not refilled in time, more is no limit to a short burst.
            # The queue is longer than TCP's windows: a slow cable is not to be a lossy one, too.
            bucket = max(64, megabits * 10 // 8)
            shaped = f"tbf rate {megabits}mbit burst {bucket}kb latency 1s".split()
            machine.inside("tc", "qdisc", "add", "dev", end, "root", *shaped)


def lose(node: Machine, share: float) -> None:
    """Lose this share of the packets that a node passes on between its pods and others.

    By the firewall's dice: this kernel has no netem.
    """
    node.inside("iptables", "-D", "FORWARD", "-j", _LOSS, check=False)
    node.inside("iptables", "-F", _LOSS, check=False)
    node.inside("iptables", "-X", _LOSS, check=False)
    if not share:
        return
    node.inside("iptables", "-N", _LOSS)
    for way in ("-i", "-o"):
        chance = f"-m statistic --mode random --probability {share} -j DROP".split()
        node.inside("iptables", "-A", _LOSS, way, "eth0", *chance)
    node.inside("iptables", "-I", "FORWARD", "-j", _LOSS)


def cni_config(index: int) -> str:
    """What containerd's CNI reads for one node."""
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "dataDir": "/run/cni-addresses",  # the machine's own /run
            "ranges": [[{"subnet": pod_range(index)}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    return json.dumps({"cniVersion": "1.0.0", "name": "pods", "plugins": [bridge]}, indent=1)


def disconnect_host() -> None:
    """Take the host's cable away; the kernel would too, a moment after the machines ended."""
    if left_over():
        run("ip", "link", "delete", HOST_INTERFACE, check=False)


def left_over() -> list[str]:
    """Interfaces of ours on the host."""
    return [HOST_INTERFACE] if Path("/sys/class/net", HOST_INTERFACE).exists() else []


def _pod_routes(num_nodes: int, *, without: int = 0) -> str:
    nodes = [index for index in range(1, num_nodes + 1) if index != without]
    return "".join(f"route add {pod_range(i)} via {node_address(i)}\n" for i in nodes)


def _ip_batch() -> tuple[str, ...]:
    return ("ip", "-batch", "-")
