"""How long the operator takes to label many nodes, how often it writes, how much memory it needs.

    etcd + kube-apiserver ◀── nodes (kwok keeps them Ready, where its path is given)
            ▲
            └── python -m curriculum_operator, by the chart's own rights and policy

The writes are those that the API server counted. Nodes carry the labels that GPU Feature Discovery
gives, and as many images as a kubelet reports, because these are most of a node's size.
"""

import argparse
import asyncio
import contextlib
import json
import os
import re
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import yaml
from tests.cluster import gobuild
from tests.cluster.apiserver import ApiServer, serving
from tests.helm import lint

from curriculum_operator import cluster, kinds, names
from curriculum_operator.cluster import ApiCluster, Raw

NAMESPACE: Final = "curriculum-system"
ACCOUNT: Final = "curriculum-operator"
INSTALLED: Final = (
    "AcceleratorClass",
    "ClusterRole",
    "ClusterRoleBinding",
    "Role",
    "RoleBinding",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
)
SPARK: Final = {
    "kubernetes.io/arch": "arm64",
    "nvidia.com/gpu.compute.major": "12",
    "nvidia.com/gpu.compute.minor": "1",
    "nvidia.com/gpu.product": "NVIDIA-GB10",
    "nvidia.com/gpu.machine": "NVIDIA_DGX_Spark",
}
B200: Final = {
    "kubernetes.io/arch": "amd64",
    "nvidia.com/gpu.compute.major": "10",
    "nvidia.com/gpu.compute.minor": "0",
    "nvidia.com/gpu.product": "NVIDIA-B200",
    "nvidia.com/gpu.memory": "183359",
}
COMMON: Final = {
    "kubernetes.io/os": "linux",
    "nvidia.com/gpu.family": "blackwell",
    "nvidia.com/gpu.present": "true",
    "nvidia.com/cuda.driver-version.full": "580.142",
    "nvidia.com/cuda.runtime-version.full": "13.0",
    "feature.node.kubernetes.io/custom-rdma.available": "true",
    "feature.node.kubernetes.io/custom-rdma.capable": "true",
    "feature.node.kubernetes.io/kernel-version.full": "6.17.0-1031-nvidia",
    "feature.node.kubernetes.io/pci-15b3.present": "true",
    "feature.node.kubernetes.io/system-os_release.ID": "ubuntu",
}
QUIET_SECONDS: Final = 15.0
"""Nothing may be written for so long before a pass counts as over."""

POLL_SECONDS: Final = 1.0
"""How often the counts are read, and so how exact times are; printing them costs the server CPU."""

DEADLINE_SECONDS: Final = 600.0
CREATES_AT_ONCE: Final = 32


def node(number: int, images: int) -> Raw:
    """One node in ten is a B200 machine, the others are Sparks."""
    name = f"node-{number:05d}"
    rented = number % 10 == 0
    labels = {**COMMON, **(B200 if rented else SPARK), "kubernetes.io/hostname": name}
    gpus, memory = ("8", "1937332Mi") if rented else ("1", "125506464Ki")
    resources = {"cpu": "20", "memory": memory, "pods": "110", "nvidia.com/gpu": gpus}
    stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "ready"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": labels,
            "annotations": {"kwok.x-k8s.io/node": "fake"},
        },
        "spec": {},
        "status": {
            "capacity": resources,
            "allocatable": resources,
            "conditions": [{**ready, "lastHeartbeatTime": stamp, "lastTransitionTime": stamp}],
            "images": [
                {
                    "names": [
                        f"registry.example.com/team/image-{image}@sha256:{image:064x}",
                        f"registry.example.com/team/image-{image}:v1.{image}",
                    ],
                    "sizeBytes": 10**9 + image,
                }
                for image in range(images)
            ],
        },
    }


@dataclass(frozen=True, slots=True)
class Row:
    """What one pass took."""

    what: str
    seconds: float
    first: float
    writes: dict[str, int]
    resident_mib: float
    peak_mib: float
    cpu_seconds: float


class Counts:
    """Patches of nodes that the API server answered, by status; kubelets patch the status only."""

    _LINE = re.compile(r"^apiserver_request_total\{(.*)\} (\S+)$", re.MULTILINE)

    def __init__(self, server: ApiServer) -> None:
        self._url = f"{server.url}/metrics"
        self._context = ssl.create_default_context(cafile=str(server.folder / "ca.crt"))
        self._context.load_cert_chain(server.folder / "admin.crt", server.folder / "admin.key")

    def now(self) -> Counter[str]:
        with urllib.request.urlopen(self._url, context=self._context, timeout=30) as answer:
            text = answer.read().decode()
        found: Counter[str] = Counter()
        for said, value in self._LINE.findall(text):
            of = dict(re.findall(r'(\w+)="([^"]*)"', said))
            if (of["resource"], of["subresource"], of["verb"]) == ("nodes", "", "PATCH"):
                found[of["code"]] += int(float(value))
        return found


class Operator:
    """The operator's process."""

    def __init__(self, kubeconfig: Path, log: Path) -> None:
        environment = {
            **os.environ,
            "KUBECONFIG": str(kubeconfig),
            "CURRICULUM_LEASE_NAMESPACE": NAMESPACE,
            "CURRICULUM_PROGRESS_PORT": str(free_port()),
            "CURRICULUM_LIVENESS_PORT": str(free_port()),
        }
        with log.open("ab") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "curriculum_operator"],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
            )
        self._log, self._read = log, log.stat().st_size

    def expect_decided(self) -> None:
        """Fail where it wrote nothing because it never came to deciding."""
        if b"deciding for" not in self._log.read_bytes()[self._read :]:
            raise SystemExit(f"the operator did not begin: {self._log.read_text()[-2000:]}")

    def memory(self) -> tuple[float, float]:
        """Resident now and at most, in MiB."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        sizes = dict(re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB$", text, re.MULTILINE))
        return int(sizes["VmRSS"]) / 1024, int(sizes["VmHWM"]) / 1024

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def check(self) -> None:
        if self.process.poll() is not None:
            raise SystemExit(f"the operator ended: {self._log.read_text()[-2000:]}")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)


def measure(what: str, operator: Operator, counts: Counts, before: Counter[str]) -> Row:
    """Wait until the operator has written nothing for a while; times are from its last write."""
    began = time.monotonic()
    last, first, seen = began, 0.0, before
    deadline = began + DEADLINE_SECONDS
    while time.monotonic() - last < QUIET_SECONDS:
        if time.monotonic() > deadline:
            raise SystemExit(f"{what}: still writing after {DEADLINE_SECONDS:.0f} s")
        time.sleep(POLL_SECONDS)
        operator.check()
        now = counts.now()
        if now != seen:
            seen, last = now, time.monotonic()
            first = first or last - began
    resident, peak = operator.memory()
    return Row(
        what=what,
        seconds=last - began,
        first=first,
        writes=dict(seen - before),
        resident_mib=resident,
        peak_mib=peak,
        cpu_seconds=operator.cpu_seconds(),
    )


def install(admin: Path, *options: str) -> None:
    """The chart's rights, policy and classes, but not its Deployment: that runs here."""
    done = lint.helm("template", ACCOUNT, str(lint.CHART), f"--namespace={NAMESPACE}", *options)
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    documents = [one for one in yaml.safe_load_all(done.stdout) if one]
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    kubectl(admin, "apply", stdin=json.dumps(namespace))
    for one in documents:
        if one["kind"] in INSTALLED:
            kubectl(admin, "apply", "--server-side", "--force-conflicts", stdin=json.dumps(one))


def kubectl(admin: Path, *words: str, stdin: str) -> None:
    command = [str(gobuild.binary("kubectl")), f"--kubeconfig={admin}", *words, "--filename=-"]
    done = subprocess.run(command, input=stdin, text=True, capture_output=True, check=False)
    if done.returncode != 0:
        raise SystemExit(done.stderr)


async def fill(admin: Path, number: int, images: int) -> None:
    """Create the nodes."""
    slots = asyncio.Semaphore(CREATES_AT_ONCE)

    async def create(api: ApiCluster, index: int) -> None:
        async with slots:
            await api.create(kinds.NODES, node(index, images))

    async with await connected(admin) as api, asyncio.TaskGroup() as group:
        for index in range(number):
            group.create_task(create(api, index))


async def labels(admin: Path) -> Counter[str]:
    """How many nodes say which class, and are Ready."""
    async with await connected(admin) as api:
        nodes, _ = await api.list(kinds.NODES)
    return Counter(raw["metadata"]["labels"].get(names.CLASS_LABEL, "") for raw in nodes)


async def connected(admin: Path) -> ApiCluster:
    os.environ["KUBECONFIG"] = str(admin)
    return await cluster.connect()


@contextlib.contextmanager
def kwok(program: Path | None, admin: Path, folder: Path) -> Iterator[None]:
    """Have kwok send what kubelets would: leases, heartbeats and conditions."""
    if program is None:
        yield
        return
    with (folder / "kwok.log").open("wb") as log:
        running = subprocess.Popen(
            [str(program), f"--kubeconfig={admin}", "--manage-all-nodes=true"],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        yield
    finally:
        running.terminate()
        running.wait(30)


def run(server: ApiServer, options: argparse.Namespace) -> Iterator[Row]:
    """All passes."""
    admin = server.kubeconfig("admin", "system:masters")
    user = f"system:serviceaccount:{NAMESPACE}:{ACCOUNT}"
    groups = ("system:serviceaccounts", f"system:serviceaccounts:{NAMESPACE}")
    account = server.kubeconfig(user, *groups)
    counts, log = Counts(server), server.folder / "operator.log"
    install(admin)
    began = time.monotonic()
    asyncio.run(fill(admin, options.nodes, options.images))
    print(f"{options.nodes} nodes created in {time.monotonic() - began:.1f} s", flush=True)
    with kwok(options.kwok, admin, server.folder):
        time.sleep(options.settle)

        def started(what: str) -> tuple[Operator, Row]:
            before = counts.now()
            operator = Operator(account, log)
            row = measure(what, operator, counts, before)
            operator.expect_decided()
            return operator, row

        operator, row = started("label all, from the process's start")
        yield row
        expect(admin, {"b200-sm100": -(-options.nodes // 10)}, options.nodes)
        yield again("a class's price changes", operator, counts, lambda: install(admin, PRICE))
        operator.stop()
        operator, row = started("a new process finds all labelled")
        yield row
        yield again("Sparks change their class", operator, counts, lambda: rename(admin))
        expect(admin, {"spark": options.nodes - -(-options.nodes // 10)}, options.nodes)
        operator.stop()
    print(f"the operator's last words: {log.read_text().splitlines()[-1]}")


PRICE: Final = "--set-string=acceleratorClasses.classes.gb10-sm121.ownership.priceUSD=3999"


def again(what: str, operator: Operator, counts: Counts, act: Callable[[], None]) -> Row:
    """A pass of a process that runs already; its CPU time is what the pass took."""
    before, spent = counts.now(), operator.cpu_seconds()
    act()
    row = measure(what, operator, counts, before)
    return replace(row, cpu_seconds=row.cpu_seconds - spent)


def rename(admin: Path) -> None:
    """The Sparks' class under another name, which asks for more: all of them are to follow."""
    values = yaml.safe_load((lint.CHART / "values.yaml").read_text())
    spec = values["acceleratorClasses"]["classes"]["gb10-sm121"]
    match = [{"computeCapability": "12.1", "product": "NVIDIA-GB10"}]
    document = {
        "apiVersion": "curriculum.dev/v1alpha1",
        "kind": "AcceleratorClass",
        "metadata": {"name": "spark"},
        "spec": {"image": "trainer", **spec, "match": match},
    }
    kubectl(admin, "apply", "--server-side", stdin=json.dumps(document))


def expect(admin: Path, wanted: dict[str, int], total: int) -> None:
    found = asyncio.run(labels(admin))
    if found[""] or found.total() != total or any(found[k] != n for k, n in wanted.items()):
        raise SystemExit(f"labels are not as they should be: {dict(found)}")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table."""
    parser = argparse.ArgumentParser(prog="benchmarks.labelling", description=__doc__)
    parser.add_argument("--nodes", type=int, default=5000)
    parser.add_argument("--images", type=int, default=50, help="images that a node reports")
    parser.add_argument("--kwok", type=Path, help="kwok's program; without it nodes are silent")
    parser.add_argument("--settle", type=float, default=20.0, help="seconds before the operator")
    options = parser.parse_args(arguments)
    heads = ("pass", "seconds", "first", "writes", "MiB", "peak", "CPU s")
    print("{:38} {:>8} {:>6} {:>18} {:>5} {:>5} {:>6}".format(*heads))
    with (
        tempfile.TemporaryDirectory(prefix="labelling-") as folder,
        serving(Path(folder)) as server,
    ):
        for row in run(server, options):
            writes = ", ".join(f"{n} x {code}" for code, n in row.writes.items()) or "0"
            print(
                f"{row.what:38} {row.seconds:8.1f} {row.first:6.1f} {writes:>18}"
                f" {row.resident_mib:5.0f} {row.peak_mib:5.0f} {row.cpu_seconds:6.1f}",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
