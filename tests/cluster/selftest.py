"""Shows that the cluster is real: a PyTorchJob over two nodes, logs, exec, DNS, faults, down.

Every step fails with one line. It needs the machine's lock, and leaves the cluster down.
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from . import images, remove
from .cluster import Cluster
from .errors import ClusterError
from .shell import run as run_program

_NAMESPACE: Final = "selftest"
_PORT: Final = 23456  # what training-operator tells the workers as MASTER_PORT

# Both ends meet by the master's service name, as torch.distributed would.
_TALK: Final = f"""\
import os, socket, time
rank, host = int(os.environ["RANK"]), os.environ["MASTER_ADDR"]
if rank == 0:
    server = socket.create_server(("0.0.0.0", {_PORT}))
    connection, _ = server.accept()
    print("heard", connection.recv(100).decode(), flush=True)
    connection.sendall(b"welcome")
else:
    deadline = time.monotonic() + 60
    while True:
        try:
            connection = socket.create_connection((host, {_PORT}), timeout=5)
            break
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
    connection.sendall(f"rank {{rank}} of {{os.environ['WORLD_SIZE']}}".encode())
    print("heard", connection.recv(100).decode(), flush=True)
"""


def run(cluster: Cluster) -> int:
    """Run every step; gives the exit status."""
    before = _host_state()
    try:
        _step("up", cluster.up)
        cluster.kubectl("create", "namespace", _NAMESPACE)
        _step("PyTorchJob over two nodes", lambda: _pytorchjob(cluster))
        _step("server pod and its service", lambda: _server(cluster))
        _step("logs, exec, DNS, port-forward", lambda: _reach(cluster))
        _step("image built and loaded", lambda: _image(cluster))
        _step("volume shared by two nodes", lambda: _volume(cluster))
        _step("kubelet stopped and started", lambda: _kubelet(cluster))
        _step("node without power and back", lambda: _power(cluster))
    except BaseException:
        cluster.dump_logs(Path("build/selftest"))
        print("logs are in build/selftest", flush=True)
        raise
    finally:
        _step("down", cluster.down)
    left = remove.left_over() + _differences(before, _host_state())
    if left:
        raise ClusterError(f"left on the machine: {'; '.join(left)}")
    print("nothing is left: processes, mounts, interfaces, routes, iptables, control groups")
    return 0


def _step(name: str, action: Callable[[], object]) -> None:
    started = time.monotonic()
    action()
    print(f"{time.monotonic() - started:6.1f} s  {name}", flush=True)


def _pytorchjob(cluster: Cluster) -> None:
    cluster.apply(_job("talk"))
    _wait(
        lambda: _condition(cluster, "talk", "Succeeded"),
        what="PyTorchJob talk Succeeded",
        seconds=120,
    )
    pods = cluster.get("pods", f"--namespace={_NAMESPACE}")["items"]
    nodes = sorted(pod["spec"]["nodeName"] for pod in pods)
    _expect(nodes == ["spark-1", "spark-2"], f"the job's pods ran on {nodes}")
    said = cluster.kubectl("logs", "talk-master-0", f"--namespace={_NAMESPACE}")
    _expect(said.strip() == "heard rank 1 of 2", f"the master said {said!r}")


def _server(cluster: Cluster) -> None:
    command = ["python3", "-m", "http.server", "8000", "--directory", "/etc"]
    cluster.apply(_pod("server", command, node="spark-1"), _service())
    _wait_for_pod(cluster, "server", "Running")


def _reach(cluster: Cluster) -> None:
    _wait_for_pod(cluster, "server", "Running")
    in_pod = ("exec", "server", f"--namespace={_NAMESPACE}", "--")
    # By the service's name from its own node, and the API server by its: DNS and kube-proxy.
    _wait(
        lambda: "root:" in cluster.kubectl(*in_pod, *_fetch("http://web/passwd"), check=False),
        what="the service http://web to answer in its own pod",
        seconds=30,
    )
    who = cluster.kubectl(*in_pod, *_fetch("https://kubernetes.default.svc/version"))
    _expect('"gitVersion"' in who, f"https://kubernetes.default.svc answered {who!r}")
    unknown = cluster.kubectl(*in_pod, "sh", "-c", "getent hosts no.such.name || echo none")
    _expect(unknown.strip() == "none", f"an unknown name resolved to {unknown!r}")
    _port_forward(cluster)


def _port_forward(cluster: Cluster) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    forward = subprocess.Popen(
        [
            cluster.binaries / "kubectl",
            f"--kubeconfig={cluster.kubeconfig}",
            f"--namespace={_NAMESPACE}",
            *("port-forward", "pod/server", f"{port}:8000"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def answers() -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/passwd", timeout=5) as reply:
                return bool(reply.status == 200)
        except OSError:
            return False

    try:
        _wait(answers, what="kubectl port-forward to answer", seconds=20)
    finally:
        forward.terminate()
        forward.wait()


def _image(cluster: Cluster) -> None:
    with tempfile.TemporaryDirectory() as folder:
        dockerfile = Path(folder) / "Dockerfile"
        dockerfile.write_text(
            "ARG BASE\nFROM ${BASE} AS first\nRUN echo built > /made\n"
            "FROM first AS second\nCOPY Dockerfile /copied\n"
        )
        tar = cluster.build_image(
            dockerfile,
            target="second",
            tag="localhost/selftest:1",
            build_args={"BASE": images.BASE},
        )
    cluster.load_image(tar)
    cluster.apply(
        _pod("built", ["cat", "/made", "/copied"], node="spark-2", image="localhost/selftest:1")
    )
    _wait_for_pod(cluster, "built", "Succeeded")
    said = cluster.kubectl("logs", "built", f"--namespace={_NAMESPACE}")
    _expect(said.startswith("built\nARG BASE"), f"the built image said {said!r}")


def _volume(cluster: Cluster) -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        cluster.volume("shared", _NAMESPACE, folder)
        write = ["sh", "-c", "echo from spark-1 > /shared/file"]
        cluster.apply(_pod("writer", write, node="spark-1", claim="shared"))
        _wait_for_pod(cluster, "writer", "Succeeded")
        cluster.apply(_pod("reader", ["cat", "/shared/file"], node="spark-2", claim="shared"))
        _wait_for_pod(cluster, "reader", "Succeeded")
        said = cluster.kubectl("logs", "reader", f"--namespace={_NAMESPACE}")
        _expect(said == "from spark-1\n", f"the reader found {said!r}")
        _expect((folder / "file").exists(), f"nothing was written to {folder}")
    finally:
        shutil.rmtree(folder)


def _kubelet(cluster: Cluster) -> None:
    pids = cluster.container_pids(_NAMESPACE, "server")["main"]
    cluster.stop_kubelet("spark-1")
    _wait(lambda: not _ready(cluster, "spark-1"), what="spark-1 NotReady", seconds=60)
    _expect(Path(f"/proc/{pids[0]}").exists(), "the container ended with its kubelet")
    cluster.start_kubelet("spark-1")
    _wait_for_pod(cluster, "server", "Running")
    again = cluster.container_pids(_NAMESPACE, "server")["main"]
    _expect(again == pids, f"the container's processes were {pids} and are {again}")
    os.kill(pids[0], signal.SIGKILL)
    _wait(
        lambda: _restarts(cluster, "server") == 1,
        what="the killed container started again",
        seconds=60,
    )


def _power(cluster: Cluster) -> None:
    cluster.stop_node("spark-2")
    _wait(lambda: not _ready(cluster, "spark-2"), what="spark-2 NotReady", seconds=60)
    cluster.start_node("spark-2")
    cluster.apply(_pod("after", ["true"], node="spark-2"))
    _wait_for_pod(cluster, "after", "Succeeded")


def _job(name: str) -> dict[str, Any]:
    container = {
        "name": "pytorch",
        "image": images.BASE,
        "command": ["python3", "-c", _TALK],
        "resources": {"limits": {"nvidia.com/gpu": 1}},
    }
    replica = {
        "replicas": 1,
        "restartPolicy": "Never",
        "template": {"spec": {"containers": [container]}},
    }
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {"name": name, "namespace": _NAMESPACE},
        "spec": {"pytorchReplicaSpecs": {"Master": replica, "Worker": replica}},
    }


def _pod(
    name: str,
    command: list[str],
    *,
    node: str,
    image: str = images.BASE,
    claim: str | None = None,
) -> dict[str, Any]:
    container: dict[str, Any] = {"name": "main", "image": image, "command": command}
    spec: dict[str, Any] = {
        "nodeSelector": {"kubernetes.io/hostname": node},
        "restartPolicy": "Always" if name == "server" else "Never",
        "containers": [container],
        "terminationGracePeriodSeconds": 1,
    }
    if claim:
        container["volumeMounts"] = [{"name": "volume", "mountPath": f"/{claim}"}]
        spec["volumes"] = [{"name": "volume", "persistentVolumeClaim": {"claimName": claim}}]
    metadata = {"name": name, "namespace": _NAMESPACE, "labels": {"app": name}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _service() -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": _NAMESPACE},
        "spec": {"selector": {"app": "server"}, "ports": [{"port": 80, "targetPort": 8000}]},
    }


def _fetch(url: str) -> tuple[str, ...]:
    program = (
        "import ssl, sys, urllib.request as u;"
        "c = ssl.create_default_context("
        "cafile='/var/run/secrets/kubernetes.io/serviceaccount/ca.crt');"
        "print(u.urlopen(sys.argv[1], timeout=5, context=c).read().decode())"
    )
    return ("python3", "-c", program, url)


def _condition(cluster: Cluster, name: str, kind: str) -> bool:
    job = cluster.get("pytorchjob", name, f"--namespace={_NAMESPACE}")
    conditions = job.get("status", {}).get("conditions", ())
    held = {each["type"] for each in conditions if each["status"] == "True"}
    if "Failed" in held:
        raise ClusterError(f"PyTorchJob {name!r} failed")
    return kind in held


def _wait_for_pod(cluster: Cluster, name: str, phase: str) -> None:
    def reached() -> bool:
        pod = cluster.get("pod", name, f"--namespace={_NAMESPACE}")
        return bool(pod["status"].get("phase") == phase)

    _wait(reached, what=f"pod {name} {phase}", seconds=60)


def _ready(cluster: Cluster, name: str) -> bool:
    conditions = cluster.get("node", name)["status"]["conditions"]
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def _restarts(cluster: Cluster, name: str) -> int:
    pod = cluster.get("pod", name, f"--namespace={_NAMESPACE}")
    return int(pod["status"]["containerStatuses"][0]["restartCount"])


def _wait(reached: Callable[[], bool], *, what: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        if time.monotonic() > deadline:
            raise ClusterError(f"waited {seconds:.0f} s in vain for {what}")
        time.sleep(0.3)


def _expect(held: bool, otherwise: str) -> None:
    if not held:
        raise ClusterError(otherwise)


def _host_state() -> dict[str, list[str]]:
    """What a cluster could leave on the machine, as lines."""
    cgroups = sorted(str(path) for path in Path("/sys/fs/cgroup").rglob("*") if path.is_dir())
    return {
        "mounts": Path("/proc/self/mountinfo").read_text().splitlines(),
        "interfaces": sorted(path.name for path in Path("/sys/class/net").iterdir()),
        "routes": run_program("ip", "route").stdout.splitlines(),
        "iptables": _iptables(),
        "control groups": cgroups,
        "folders": sorted(
            str(path)
            for top in ("/run", "/var/lib", "/etc", "/opt", "/var/log")
            for path in Path(top).iterdir()
        ),
    }


def _iptables() -> list[str]:
    saved = run_program("iptables-save", check=False).stdout.splitlines()
    return [line for line in saved if line.startswith(("-A", ":KUBE"))]


def _differences(before: dict[str, list[str]], after: dict[str, list[str]]) -> list[str]:
    return [
        f"{kind}: {line}"
        for kind, lines in after.items()
        for line in lines
        if line not in before[kind]
    ]
