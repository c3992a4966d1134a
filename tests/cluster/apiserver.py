"""An API server with nothing behind it: etcd and kube-apiserver on loopback ports.

No controllers, no nodes; so any user on any Linux can run it, once the programs are built. Must
not know who asks for it.
"""

import datetime
import json
import os
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml

from . import addons, certificates, gobuild, kubeconfig, lock
from .certificates import Pair

_CRDS: Final = Path(__file__).parents[2] / "crds"
_READY_SECONDS: Final = 90


@dataclass(frozen=True, slots=True)
class ApiServer:
    """A server that serves our kinds and jobs."""

    folder: Path
    url: str
    authority: Pair
    now: datetime.datetime

    def kubeconfig(self, user: str, *groups: str) -> Path:
        """Path of a kubeconfig for a user, whom the server knows by a certificate."""
        path = self.folder / f"{user.replace(':', '-')}.kubeconfig"
        pair = certificates.signed(self.authority, user, now=self.now, groups=groups)
        kubeconfig.write(path, server=self.url, authority=self.authority, user=pair)
        return path


@contextmanager
def serving(folder: Path) -> Iterator[ApiServer]:
    """Start one in an empty folder, and end it."""
    with lock.building(print):
        gobuild.build_all(print)
        addons.build(print)
    now = datetime.datetime.now(datetime.UTC)
    authority = certificates.authority("test-apiserver", now=now)
    admin = certificates.signed(authority, "admin", now=now, groups=("system:masters",))
    etcd, peer, secure = _free_ports(3)
    server = f"https://127.0.0.1:{secure}"
    _write_certificates(folder, authority, now)
    admin.write(folder, "admin")
    programs = [
        _start(
            folder,
            "etcd",
            f"--data-dir={folder}/etcd",
            "--unsafe-no-fsync",
            f"--listen-client-urls=http://127.0.0.1:{etcd}",
            f"--advertise-client-urls=http://127.0.0.1:{etcd}",
            f"--listen-peer-urls=http://127.0.0.1:{peer}",
            "--log-level=warn",
        ),
        _start(
            folder,
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{etcd}",
            "--bind-address=127.0.0.1",
            "--endpoint-reconciler-type=none",  # it takes no loopback address
            f"--secure-port={secure}",
            f"--cert-dir={folder}",
            f"--tls-cert-file={folder}/server.crt",
            f"--tls-private-key-file={folder}/server.key",
            f"--client-ca-file={folder}/ca.crt",
            f"--service-account-key-file={folder}/ca.key",
            f"--service-account-signing-key-file={folder}/ca.key",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--service-cluster-ip-range=10.96.0.0/24",
            "--authorization-mode=RBAC",
            # There is no controller that makes service accounts, and none that lifts taints.
            "--disable-admission-plugins=ServiceAccount,TaintNodesByCondition,Priority",
            "--profiling=false",
        ),
    ]
    try:
        context = ssl.create_default_context(cafile=str(folder / "ca.crt"))
        context.load_cert_chain(folder / "admin.crt", folder / "admin.key")
        _wait(f"{server}/readyz", context, programs, folder)
        _install(server, context)
        yield ApiServer(folder, server, authority, now)
    finally:
        for program in reversed(programs):
            program.terminate()
            try:
                program.wait(10)
            except subprocess.TimeoutExpired:
                program.kill()
                program.wait()


def _install(server: str, context: ssl.SSLContext) -> None:
    """Our CRDs and the PyTorchJob's, and the namespace of the plays; returns when all serve."""
    crds = [yaml.safe_load(path.read_text()) for path in sorted(_CRDS.glob("*.yaml"))]
    theirs = json.loads(addons.crds_file().read_text())["items"]
    crds += [crd for crd in theirs if crd["spec"]["names"]["kind"] == "PyTorchJob"]
    url = f"{server}/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    for crd in crds:
        _call(url, context, crd)
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "research"}}
    _call(f"{server}/api/v1/namespaces", context, namespace)
    for crd in crds:
        spec = crd["spec"]
        version = spec["versions"][0]["name"]
        path = f"{server}/apis/{spec['group']}/{version}/{spec['names']['plural']}"
        _wait(path, context, [], Path())


def _wait(
    url: str, context: ssl.SSLContext, programs: list[subprocess.Popen[bytes]], folder: Path
) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while True:
        try:
            _call(url, context)
            return
        except (urllib.error.URLError, OSError) as error:
            ended = [program.args for program in programs if program.poll() is not None]
            if ended or time.monotonic() > deadline:
                logs = "\n".join(log.read_text()[-3000:] for log in folder.glob("*.log"))
                raise RuntimeError(f"{url}: {error}; ended: {ended}\n{logs}") from error
        time.sleep(0.1)


def _call(url: str, context: ssl.SSLContext, body: Mapping[str, object] | None = None) -> None:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, context=context, timeout=20) as answer:
        answer.read()


def _start(folder: Path, name: str, *arguments: str) -> subprocess.Popen[bytes]:
    with (folder / f"{name}.log").open("wb") as log:
        return subprocess.Popen(
            [str(gobuild.binary(name)), *arguments],
            env=os.environ | {"GOGC": "400"},  # memory there is: collect it less often
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )


def _write_certificates(folder: Path, authority: Pair, now: datetime.datetime) -> None:
    authority.write(folder, "ca")
    server = certificates.signed(
        authority, "server", now=now, addresses=("127.0.0.1",), hosts=("localhost",)
    )
    server.write(folder, "server")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
