"""What the tests on real kubelets see and wait for."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster.cluster import Cluster
from tests.demo import follow, site

LOOK_SECONDS = 1.0
OPERATOR = (
    "--namespace=curriculum-system",
    "--selector=app.kubernetes.io/name=curriculum-operator",
)


@dataclass(frozen=True, slots=True)
class Site:
    """The cluster, and the folders that its volumes are."""

    cluster: Cluster
    data: Path
    checkpoints: Path
    environment: Path

    def namespace(self, name: str) -> Path:
        """Make a namespace with the claims; the folder of its checkpoints."""
        folder = self.checkpoints / name
        site.add_namespace(
            self.cluster,
            name,
            data=self.data,
            checkpoints=folder,
            environment=self.environment,
        )
        return folder

    def apply(self, namespace: str, file: Path) -> None:
        """`kubectl apply -f`."""
        self.cluster.kubectl("apply", f"--namespace={namespace}", "-f", str(file))

    def look(self, namespace: str, name: str) -> follow.Snapshot:
        """The curriculum now."""
        return follow.look(self.cluster, namespace, name)

    def wait(
        self,
        namespace: str,
        name: str,
        what: str,
        until: Callable[[follow.Snapshot], bool],
        seconds: float,
    ) -> follow.Snapshot:
        """The first snapshot that shows it; a failure that shows the last one otherwise."""
        deadline = time.monotonic() + seconds
        while True:
            snapshot = self.look(namespace, name)
            if until(snapshot):
                return snapshot
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {seconds} s: {what}; status {snapshot.status}")
            time.sleep(LOOK_SECONDS)

    def kill_operator(self) -> None:
        """Kill its process with no warning, as a node's memory pressure would."""
        self.cluster.kubectl("delete", "pods", *OPERATOR, "--grace-period=0", "--force")

    def worker_process(self, namespace: str, pod: str) -> int:
        """The host's number of a training process in a pod: the newest one."""
        return self.cluster.container_pids(namespace, pod)["pytorch"][-1]

    def jobs(self, namespace: str) -> list[str]:
        """Names of the PyTorchJobs, in order of their making."""
        found = self.cluster.get("pytorchjobs", f"--namespace={namespace}")["items"]
        ordered = sorted(found, key=lambda job: str(job["metadata"]["creationTimestamp"]))
        return [str(job["metadata"]["name"]) for job in ordered]


def phase(snapshot: follow.Snapshot, name: str) -> Mapping[str, Any]:
    """The status of one phase; empty before it has any."""
    return next((each for each in snapshot.phases if each["name"] == name), {})


def steps_done(status: Mapping[str, Any]) -> int:
    """Finished optimizer steps that the newest attempt reported, those of earlier ones included."""
    return int(_metrics(status).get("step", 0))


def has_stepped(status: Mapping[str, Any]) -> bool:
    """Whether the newest attempt reported a step of its own."""
    return "step_seconds" in _metrics(status)


def _metrics(status: Mapping[str, Any]) -> Mapping[str, str]:
    told = (status.get("progress") or {}).get("metrics") or []
    return {metric["name"]: metric["value"] for metric in told}


def runs(number: int) -> Callable[[follow.Snapshot], bool]:
    """Whether the phase of that place, from 0, runs."""

    def answer(seen: follow.Snapshot) -> bool:
        return len(seen.phases) > number and seen.phases[number]["state"] == "Running"

    return answer


def set_preflight(cluster: Cluster, preflight: Mapping[str, object]) -> None:
    """What the Sparks' class asks of its nodes."""
    patch = json.dumps({"spec": {"preflight": preflight}})
    cluster.kubectl("patch", "accel/gb10-sm121", "--type=merge", f"--patch={patch}")
