"""Starts etcd, the API server, the controller manager, the scheduler and DNS in one machine.

Must not know the nodes, beyond how many there are.
"""

import datetime
import ssl
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from . import certificates, kubeconfig, namespaces, network, paths
from .certificates import Pair
from .errors import ClusterError
from .gobuild import binary
from .namespaces import Machine

NAME: Final = "control-plane"
SERVER: Final = f"https://{network.CONTROL_PLANE}:6443"
# How long a node may be silent before it counts as not ready; kubelets report every few seconds.
NODE_GRACE_SECONDS: Final = 20
_READY_SECONDS: Final = 90
_PROGRAMS: Final = (
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "coredns",
)
_ETCD: Final = "http://127.0.0.1:2379"  # the loopback of the machine's own network namespace

_COREFILE: Final = f"""\
{network.DOMAIN}:53 in-addr.arpa:53 {{
    bind {network.CONTROL_PLANE}
    errors
    ready 127.0.0.1:8181
    kubernetes {network.DOMAIN} in-addr.arpa {{
        kubeconfig {paths.PKI}/coredns.kubeconfig
        pods insecure
        ttl 1
    }}
}}
.:53 {{
    bind {network.CONTROL_PLANE}
    errors
    template ANY ANY {{
        rcode NXDOMAIN
    }}
}}
"""


@dataclass(frozen=True, slots=True)
class Authority:
    """The cluster's certificate authority, and the users it made kubeconfigs for."""

    pair: Pair
    now: datetime.datetime

    def kubeconfig(self, path: Path, user: str, *groups: str, server: str = SERVER) -> None:
        pair = certificates.signed(self.pair, user, now=self.now, groups=groups)
        kubeconfig.write(path, server=server, authority=self.pair, user=pair)


def make_authority(*, now: datetime.datetime) -> Authority:
    """Make the authority, the servers' certificates and everybody's kubeconfig."""
    authority = Authority(certificates.authority("curriculum-cluster", now=now), now)
    pki = paths.PKI
    authority.pair.write(pki, "ca")
    server = certificates.signed(
        authority.pair,
        "kube-apiserver",
        now=now,
        addresses=(network.CONTROL_PLANE, network.API_SERVICE, "127.0.0.1"),
        hosts=(
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            f"kubernetes.default.svc.{network.DOMAIN}",
        ),
    )
    server.write(pki, "apiserver")
    client = certificates.signed(
        authority.pair, "kube-apiserver-kubelet-client", now=now, groups=("system:masters",)
    )
    client.write(pki, "kubelet-client")
    service_accounts = certificates.authority("service-accounts", now=now)
    service_accounts.write(pki, "service-accounts")
    (pki / "service-accounts.pub").write_bytes(service_accounts.public_key_pem)
    authority.kubeconfig(paths.KUBECONFIG, "kubernetes-admin", "system:masters")
    for user, name in (
        ("system:kube-controller-manager", "controller-manager"),
        ("system:kube-scheduler", "scheduler"),
        ("system:kube-proxy", "proxy"),
        ("curriculum-cluster:coredns", "coredns"),
    ):
        authority.kubeconfig(pki / f"{name}.kubeconfig", user)
    return authority


def start(*, num_nodes: int) -> Machine:
    """Start the machine and its programs; gives it at once, `wait_until_ready` waits."""
    machine = namespaces.start(NAME, scratch=paths.live() / NAME)
    network.connect_control_plane(machine, num_nodes=num_nodes)
    pki = paths.PKI
    _spawn(
        machine,
        "etcd",
        "--data-dir=/run/etcd",  # the machine's own tmpfs
        "--unsafe-no-fsync",
        f"--listen-client-urls={_ETCD}",
        f"--advertise-client-urls={_ETCD}",
        "--listen-peer-urls=http://127.0.0.1:2380",
        "--log-level=warn",
    )
    _spawn(
        machine,
        "kube-apiserver",
        f"--etcd-servers={_ETCD}",
        "--bind-address=0.0.0.0",
        f"--advertise-address={network.CONTROL_PLANE}",
        "--secure-port=6443",
        f"--tls-cert-file={pki}/apiserver.crt",
        f"--tls-private-key-file={pki}/apiserver.key",
        f"--client-ca-file={pki}/ca.crt",
        f"--service-account-key-file={pki}/service-accounts.pub",
        f"--service-account-signing-key-file={pki}/service-accounts.key",
        f"--service-account-issuer=https://kubernetes.default.svc.{network.DOMAIN}",
        f"--service-cluster-ip-range={network.SERVICES}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        f"--kubelet-client-certificate={pki}/kubelet-client.crt",
        f"--kubelet-client-key={pki}/kubelet-client.key",
        f"--kubelet-certificate-authority={pki}/ca.crt",
        "--kubelet-preferred-address-types=InternalIP",
        # Webhooks are called at their pods' addresses: no kube-proxy is needed here.
        "--enable-aggregator-routing=true",
        "--allow-privileged=true",
        "--profiling=false",
    )
    return machine


def start_controllers(machine: Machine) -> None:
    """Start what only works on a server that answers; sooner they wait in long backoffs."""
    pki = paths.PKI
    _spawn(
        machine,
        "kube-controller-manager",
        f"--kubeconfig={pki}/controller-manager.kubeconfig",
        "--bind-address=127.0.0.1",
        "--leader-elect=false",
        "--use-service-account-credentials=true",
        f"--root-ca-file={pki}/ca.crt",
        f"--service-account-private-key-file={pki}/service-accounts.key",
        f"--cluster-signing-cert-file={pki}/ca.crt",
        f"--cluster-signing-key-file={pki}/ca.key",
        f"--node-monitor-grace-period={NODE_GRACE_SECONDS}s",
        "--node-monitor-period=2s",
        "--kube-api-qps=100",
        "--kube-api-burst=200",
        "--profiling=false",
    )
    _spawn(
        machine,
        "kube-scheduler",
        f"--kubeconfig={pki}/scheduler.kubeconfig",
        "--bind-address=127.0.0.1",
        "--leader-elect=false",
        "--profiling=false",
    )
    corefile = paths.PKI / "Corefile"
    corefile.write_text(_COREFILE)
    _spawn(machine, "coredns", "-conf", str(corefile))


def wait_until_ready() -> None:
    """Wait until the API server says it is ready, bootstrap roles included."""
    context = ssl.create_default_context(cafile=str(paths.PKI / "ca.crt"))
    deadline = time.monotonic() + _READY_SECONDS
    answer = "no answer"
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{SERVER}/readyz", context=context, timeout=2) as reply:
                if reply.status == 200:
                    return
        except (urllib.error.URLError, OSError) as error:
            answer = str(error)
        time.sleep(0.1)
    raise ClusterError(
        f"API server not ready after {_READY_SECONDS} s ({answer}): see {_log('kube-apiserver')}"
    )


def ended(machine: Machine) -> list[Path]:
    """Logs of the control plane's programs that no longer run."""
    return [_log(name) for name in _PROGRAMS if not machine.processes(binary(name))]


def _spawn(machine: Machine, name: str, *arguments: str) -> None:
    machine.spawn(binary(name), *arguments, log=_log(name))


def _log(name: str) -> Path:
    return paths.LOGS / f"{name}.log"
