"""The cluster as tests and the demo use it: up, down, kubectl, volumes, images and faults."""

import datetime
import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from . import (
    addons,
    buildah,
    built,
    cgroups,
    controlplane,
    debian,
    gobuild,
    golden,
    lock,
    machine,
    namespaces,
    network,
    node,
    paths,
    remove,
    volumes,
)
from . import images as own_images
from .errors import ClusterError
from .gobuild import binary
from .node import Node
from .nodes import NODES
from .shell import run

_READY_SECONDS: Final = 180


def silent(_: str) -> None:
    """Say nothing."""


class Cluster:
    """The one cluster of this machine.

    The process that starts it holds the machine's lock; what it leaves behind when it dies is
    cleaned by the next `up`. `keep` lets the cluster outlive it.
    """

    def __init__(self, *, say: Callable[[str], None] = silent) -> None:
        self._say = say
        self._lock = lock.MachineLock()

    # ------------------------------------------------------------------ life

    def build(self) -> None:
        """Make every part that the cache lacks; cold this takes about 25 minutes on two cores."""
        machine.check()
        with lock.building(self._say):
            debian.install_missing(self._say)
            gobuild.build_all(self._say)
            own_images.build_all(self._say)
            addons.build(self._say)
            golden.plain(self._say)

    def up(self, *, images: Sequence[Path] = ()) -> None:
        """Start, after cleaning what a crashed one left; ready when this returns.

        Every node has ``images`` (docker-archives) from the start. They are unpacked once and
        kept for the next start, where `load_image` unpacks on every node anew.
        """
        self.build()
        self._lock.acquire()
        if paths.KEPT.exists() and namespaces.alive():
            self._lock.release()
            raise ClusterError(
                f"a cluster is up already (kubeconfig {paths.KUBECONFIG}): "
                "`python -m tests.cluster down` ends it"
            )
        try:
            remove.everything()
            network.check_free()
            with lock.building(self._say):
                root = golden.with_images(images, self._say)
            self._start(root, images)
        except BaseException:
            self._keep_logs()
            self.down()
            raise

    def keep(self) -> None:
        """Let the cluster outlive this process; `down` of any process ends it."""
        paths.KEPT.touch()

    def down(self) -> None:
        """End the cluster, whatever state it is in, without a trace."""
        self._lock.acquire()
        remove.everything()
        self._lock.release()

    def __enter__(self) -> Self:
        self.up()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.down()

    # ------------------------------------------------------------------ use

    @property
    def kubeconfig(self) -> Path:
        return paths.KUBECONFIG

    @property
    def nodes(self) -> tuple[Node, ...]:
        return NODES

    @property
    def binaries(self) -> Path:
        """A folder with kubectl, helm and kubeconform, for PATH."""
        return paths.RUN / "bin"

    @property
    def is_up(self) -> bool:
        return paths.KUBECONFIG.exists() and bool(namespaces.alive())

    def kubectl(self, *words: str | Path, stdin: str | None = None, check: bool = True) -> str:
        """Run kubectl as the cluster's administrator; gives stdout."""
        return self._run("kubectl", *words, stdin=stdin, check=check)

    def helm(self, *words: str | Path, check: bool = True) -> str:
        """Run helm as the cluster's administrator; gives stdout."""
        return self._run("helm", *words, check=check)

    def get(self, *words: str) -> dict[str, Any]:
        """An object or a list, as `kubectl get WORDS` finds it."""
        found: dict[str, Any] = json.loads(self.kubectl("get", *words, "--output=json"))
        return found

    def apply(self, *objects: Mapping[str, Any]) -> None:
        """Server-side apply ``objects``."""
        document = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self.kubectl("apply", "--server-side", "--filename=-", stdin=json.dumps(document))

    def volume(
        self, name: str, namespace: str, host_path: Path, *, read_only: bool = False
    ) -> None:
        """Make a ReadWriteMany volume of a folder of this machine, and its bound claim ``name``.

        The folder is used as it is and never removed. ``read_only`` makes it ReadOnlyMany, which
        Kubernetes does not enforce on a hostPath: a pod says ``readOnly`` where it mounts it.
        """
        self.apply(*volumes.pair(name, namespace, host_path, read_only=read_only))

    def build_image(
        self,
        dockerfile: Path,
        *,
        tag: str,
        target: str | None = None,
        build_args: Mapping[str, str] | None = None,
        context: Path | None = None,
    ) -> Path:
        """Build ``target`` of ``dockerfile`` in ``context`` (its folder); gives a docker-archive.

        ``localhost/base:1`` and ``localhost/base-cxx:1`` are there to build on. A tag that does
        not end in ``:latest`` is never pulled by a kubelet.
        """
        buildah.load_base(own_images.base(), own_images.BASE)
        buildah.load_base(own_images.base_cxx(), own_images.BASE_CXX)
        digest = buildah.build(
            dockerfile,
            tag=tag,
            context=context or dockerfile.parent,
            target=target,
            build_args=build_args,
        )
        return built.saved(digest, tag=tag)

    def load_image(self, *tars: Path) -> None:
        """Give docker-archives to every node, but for what it has already."""
        live = [each for each in NODES if each.machine]

        def load(name: str) -> None:
            for tar in tars:
                built.load(name, tar)

        with ThreadPoolExecutor(len(NODES)) as pool:
            list(pool.map(load, [each.name for each in live]))

    # ------------------------------------------------------------------ faults

    def stop_kubelet(self, name: str) -> None:
        """Kill a node's kubelet; its containers run on and it becomes NotReady in 20 s."""
        node.stop_kubelet(_machine(name))

    def start_kubelet(self, name: str) -> None:
        """Start a stopped kubelet; returns when the node is Ready and has its GPUs."""
        node.start_kubelet(_node(name), _machine(name))
        self._wait_for_nodes([_node(name)], since=_now())

    def stop_node(self, name: str) -> None:
        """Cut a node's power: its kubelet, its containers and its network end at once."""
        _machine(name).kill()

    def remove_node(self, name: str) -> None:
        """Cut a node's power and forget it: also one that was not there at the start."""
        self.stop_node(name)
        self.kubectl("delete", "node", name)

    def limit_link(self, name: str, megabits: int | None) -> None:
        """Let a node's cable carry no more, each way; None lets it carry what it can."""
        network.limit(_machine(name), _machine(controlplane.NAME), _node(name).index, megabits)

    def lose_packets(self, name: str, share: float) -> None:
        """Lose this share of the packets between a node's pods and others; 0 loses none."""
        network.lose(_machine(name), share)

    def limit_processors(self, name: str, share: float | None) -> None:
        """Give all pods of a node together this share of one processor; None gives all there is."""
        cgroups.limit_processors(name, share)

    def start_node(self, name: str) -> None:
        """Power on a stopped node, or a spare one; returns when it is Ready."""
        since = _now()
        boot = _machine(controlplane.NAME)
        node.start(_node(name), node.boot(_node(name), boot, num_nodes=len(NODES)))
        self._wait_for_nodes([_node(name)], since=since)

    def container_pids(self, namespace: str, pod: str) -> dict[str, list[int]]:
        """The processes of a pod's running containers as pids of this machine, by container.

        The first of each list is the container's number 1.
        """
        found = self.get("pod", pod, f"--namespace={namespace}")
        pids: dict[str, list[int]] = {}
        for status in found["status"].get("containerStatuses", ()):
            container = str(status.get("containerID", "")).removeprefix("containerd://")
            if container and "running" in status["state"]:
                processes = cgroups.processes(found["spec"]["nodeName"], container)
                pids[status["name"]] = sorted(
                    processes, key=lambda pid: namespaces.namespace_pids(pid)[-1:]
                )
        return pids

    def dump_logs(self, folder: Path) -> None:
        """Write what tells why a test failed: objects, events, pods' and components' logs."""
        volumes_and_all = "nodes,namespaces,persistentvolumes"
        folder.mkdir(parents=True, exist_ok=True)
        for file, words in {
            "cluster.txt": ("get", volumes_and_all, "--output=wide"),
            "objects.txt": ("get", "all,configmaps,pvc,leases", "-A", "--output=wide"),
            "jobs.yaml": ("get", "pytorchjobs", "-A", "--output=yaml"),
            "curricula.yaml": ("get", "trainingcurricula", "-A", "--output=yaml"),
            "pods.yaml": ("get", "pods", "-A", "--output=yaml"),
            "events.txt": ("get", "events", "-A", "--sort-by=.lastTimestamp"),
        }.items():
            (folder / file).write_text(self.kubectl(*words, check=False))
        copy_logs(folder)

    # ------------------------------------------------------------------ within

    def _start(self, root: Path, images: Sequence[Path]) -> None:
        now = _now()
        for folder in (paths.RUN, paths.LOGS, paths.PKI, paths.live(), self.binaries):
            folder.mkdir(parents=True)
        paths.LIVE_LINK.symlink_to(paths.live())
        for name in ("kubectl", "helm", "kubeconform"):
            (self.binaries / name).symlink_to(binary(name))
        node.make_fixed_places()
        self._say("starting the control plane")
        authority = controlplane.make_authority(now=now)
        boot = controlplane.start(num_nodes=len(NODES))
        machines = {}
        for each in NODES:
            node.prepare(each, authority, root=root)
            built.note(each.name, images)
            if each.spare:
                continue
            machines[each] = node.boot(each, boot, num_nodes=len(NODES))
        controlplane.wait_until_ready()
        self._say(f"starting nodes {', '.join(each.name for each in machines)}")
        controlplane.start_controllers(boot)
        for each, live in machines.items():
            node.start(each, live)
        self.kubectl("create", "--filename=-", stdin=addons.objects(now=now))
        self._wait_for_nodes([*machines], since=now)
        self._say("waiting for training-operator")
        self.kubectl(
            *("rollout", "status", f"deployment/{addons.DEPLOYMENT}"),
            *(f"--namespace={addons.NAMESPACE}", f"--timeout={_READY_SECONDS}s"),
        )
        self._check_programs([*machines])

    def _wait_for_nodes(self, nodes: Sequence[Node], *, since: datetime.datetime) -> None:
        """Wait until each is Ready, as its kubelet said after ``since``, and has its GPUs."""
        waiting = {each.name: each for each in nodes}
        deadline = time.monotonic() + _READY_SECONDS
        while waiting:
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"nodes {sorted(waiting)} not Ready after {_READY_SECONDS} s: see {paths.LOGS}"
                )
            for found in self.get("nodes")["items"]:
                each = waiting.get(found["metadata"]["name"])
                if each and _is_ready(found, since=since):
                    if found["status"]["allocatable"].get(node.GPU) == str(each.gpus):
                        del waiting[each.name]
                    else:
                        self._give_gpus(each)
            if waiting:
                self._check_programs([*waiting.values()])
                time.sleep(0.2)

    def _check_programs(self, nodes: Sequence[Node]) -> None:
        """Raise, with its last words, where a program ended that should run."""
        logs = controlplane.ended(_machine(controlplane.NAME))
        for each in nodes:
            logs += node.ended(each, _machine(each.name))
        for log in logs:
            words = log.read_text().splitlines()[-1:] if log.exists() else []
            raise ClusterError(f"{log.stem} ended: {''.join(words)}")

    def _give_gpus(self, each: Node) -> None:
        gpus = {node.GPU: str(each.gpus)}
        patch = {"status": {"capacity": gpus, "allocatable": gpus}}
        self.kubectl(
            *("patch", "node", each.name, "--subresource=status", "--type=merge"),
            f"--patch={json.dumps(patch)}",
        )

    def _run(
        self, program: str, *words: str | Path, stdin: str | None = None, check: bool = True
    ) -> str:
        env = {"KUBECONFIG": str(paths.KUBECONFIG)}
        return run(binary(program), *words, stdin=stdin, env=env, check=check).stdout

    def _keep_logs(self) -> None:
        """What a start that failed said, where `down` does not take it away."""
        folder = paths.cache() / "last-failure"
        copy_logs(folder)
        self._say(f"the components' logs are in {folder}")


def copy_logs(folder: Path) -> None:
    """Copy the logs of every component and every pod to ``folder``."""
    for source, name in ((paths.LOGS, "components"), *_pod_logs()):
        if source.exists():
            target = folder / name
            target.mkdir(parents=True, exist_ok=True)
            run("cp", "--recursive", "--dereference", f"{source}/.", target, check=False)


def _pod_logs() -> list[tuple[Path, str]]:
    return [(paths.live() / each.name / "log" / "pods", f"pods/{each.name}") for each in NODES]


def _is_ready(found: Mapping[str, Any], *, since: datetime.datetime) -> bool:
    for condition in found["status"].get("conditions", ()):
        if condition["type"] == "Ready":
            said = datetime.datetime.fromisoformat(condition["lastHeartbeatTime"])
            return bool(condition["status"] == "True") and said > since.replace(microsecond=0)
    return False


def _node(name: str) -> Node:
    for each in NODES:
        if each.name == name:
            return each
    raise ClusterError(f"no node {name!r}: there are {', '.join(each.name for each in NODES)}")


def _machine(name: str) -> namespaces.Machine:
    for found in namespaces.alive():
        if found.name == name:
            return found
    raise ClusterError(f"machine {name!r} is not running")


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
