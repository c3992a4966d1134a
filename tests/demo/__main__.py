"""`make demo`: four phases on a Kubernetes of this machine's own, from nothing to a picture.

    build ─▶ data, images ─▶ cluster up ─▶ helm install ─▶ kubectl apply ─▶ follow ─▶ facts ─▶ down

KEEP=1 leaves the cluster up. Whatever goes wrong, one line says why, and the logs lie beside the
results.
"""

import json
import os
import signal
import sys
import time
from typing import Final

from rich.console import Console
from tests.cluster.cluster import Cluster
from tests.cluster.errors import ClusterError
from tests.demo import corpus, facts, follow, picture, site
from tests.demo.errors import DemoError
from tests.demo.screen import Screen
from tests.images import build

EXAMPLE: Final = site.ROOT / "examples/demo.yaml"
RESULTS: Final = site.ROOT / "build/demo"
CURRICULUM: Final = "demo"
NAMESPACE: Final = "demo"
LOOK_SECONDS: Final = 2.0
PATIENCE_SECONDS: Final = 40 * 60.0
TABLE_COLUMNS: Final = 160


def main() -> int:
    """Run the demo; the exit status."""
    signal.signal(signal.SIGTERM, _interrupt)
    console = Console()
    if not console.is_terminal:
        # A log has no width: rich would assume 80 columns and cut the last table's cells.
        console = Console(width=TABLE_COLUMNS)
    screen = Screen(console)
    RESULTS.mkdir(parents=True, exist_ok=True)
    cluster = Cluster(say=screen.say)
    try:
        prepare(cluster, screen)
        snapshot = _follow(cluster, screen)
        found = facts.result(snapshot)
        (RESULTS / "result.json").write_text(json.dumps(found, indent=2) + "\n")
        picture.draw(_lines(cluster, snapshot), RESULTS / "loss.png")
        screen.close()
        console.print(facts.table(found))
        wrong = facts.problems(found)
        if wrong:
            raise DemoError("; ".join(wrong))
        done = sum(1 for phase in snapshot.phases if phase["state"] == "Succeeded")
        total = len(found["phases"])
        console.print(f"curriculum Succeeded: {done} of {total} phases", highlight=False)
        screen.say(f"results in {RESULTS.relative_to(site.ROOT)}: result.json, loss.png")
    except (ClusterError, DemoError) as error:
        screen.close()
        print(f"demo: {error}", file=sys.stderr)
        _dump(cluster)
        return 1
    except KeyboardInterrupt:
        screen.close()
        print("demo: interrupted", file=sys.stderr)
        return 130
    finally:
        screen.close()
        _end(cluster, screen)
    return 0


def prepare(cluster: Cluster, screen: Screen) -> None:
    """Everything up to a running operator and the applied curriculum."""
    cluster.build()
    cache = site.cache()
    corpus.prepare(cache / "demo-data", screen.say)
    environment = site.trainer_environment_folder(screen.say)
    tars = [build.image(cluster, target) for target in build.REPOSITORY_OF]
    screen.say("starting the cluster: a control plane and three nodes")
    cluster.up(images=tars)
    screen.say("helm install curriculum-operator")
    site.install_operator(cluster)
    site.add_namespace(
        cluster,
        NAMESPACE,
        data=cache / "demo-data",
        checkpoints=site.fresh(RESULTS / "checkpoints"),
        environment=environment,
    )
    screen.say(f"kubectl apply -f {EXAMPLE.relative_to(site.ROOT)}")
    cluster.kubectl("apply", f"--namespace={NAMESPACE}", "-f", str(EXAMPLE))


def _follow(cluster: Cluster, screen: Screen) -> follow.Snapshot:
    deadline = time.monotonic() + PATIENCE_SECONDS
    snapshot = follow.Snapshot({}, ())
    while time.monotonic() < deadline:
        snapshot = follow.look(cluster, NAMESPACE, CURRICULUM).after(snapshot)
        screen.show(snapshot)
        if snapshot.state == "Succeeded":
            return snapshot
        stalled = snapshot.condition("Stalled")
        if snapshot.state == "Failed":
            raise DemoError(f"the curriculum failed: {stalled.get('message')}")
        time.sleep(LOOK_SECONDS)
    raise DemoError(f"the curriculum did not end within {PATIENCE_SECONDS / 60:.0f} minutes")


def _lines(cluster: Cluster, snapshot: follow.Snapshot) -> list[picture.Line]:
    specs = {phase["name"]: phase for phase in snapshot.curriculum["spec"]["phases"]}
    lines = []
    for name, spec in specs.items():
        attempts = [
            follow.steps(cluster, NAMESPACE, pod.name)
            for pod in snapshot.pods
            if pod.phase == name and pod.leads
        ]
        steps = picture.joined(attempts)
        subtitle = f"{spec['strategy']}, {spec['contextLength']}"
        lines.append(picture.Line(name, subtitle, steps, spec["objective"] == "DPO"))
    return lines


def _dump(cluster: Cluster) -> None:
    try:
        cluster.dump_logs(RESULTS / "logs")
    except (ClusterError, OSError) as error:
        print(f"demo: the logs could not be kept: {error}", file=sys.stderr)
        return
    print(f"demo: logs in {(RESULTS / 'logs').relative_to(site.ROOT)}", file=sys.stderr)


def _end(cluster: Cluster, screen: Screen) -> None:
    if not cluster.is_up:
        return
    if os.environ.get("KEEP") == "1":
        cluster.keep()
        screen.say(f"the cluster stays up: export KUBECONFIG={cluster.kubeconfig}")
        return
    screen.say("taking the cluster down")
    cluster.down()


def _interrupt(number: int, _frame: object) -> None:
    raise KeyboardInterrupt(f"signal {number}")


if __name__ == "__main__":
    sys.exit(main())
