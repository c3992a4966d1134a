"""How long planning takes: `curriculum plan` with its start, `--optimize`, and the operator's part.

The operator looks at 1,500 waiting curricula, each with numbers of its own: once with nothing kept,
then again as at every later wake, and once more with no plan at all.

Run with bytecode caches written (no PYTHONDONTWRITEBYTECODE) on a machine that does nothing else.
"""

import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from unittest import mock

from curriculum_api.classes import CLASSES
from curriculum_api.v1alpha1.accelerator_class import AcceleratorClassSpec
from curriculum_api.v1alpha1.status import Plan
from curriculum_cli import documents
from curriculum_operator import observe, plan, step

ARTICLE = Path(__file__).parent.parent / "examples" / "article-8b.yaml"
RUNS = 9
CURRICULA = 1500
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def seconds(*arguments: str) -> list[float]:
    """Wall times of some runs, after one that fills the caches."""
    command = [sys.executable, "-m", "curriculum_cli.start", *arguments]
    taken = []
    for _ in range(RUNS + 1):
        start = time.perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        taken.append(time.perf_counter() - start)
    return taken[1:]


def waiting() -> tuple[Sequence[observe.Curriculum], observe.World]:
    """Curricula that are all alike and all different, on a cluster without nodes."""
    given = documents.read([ARTICLE])
    (one,) = given.curricula
    many = []
    for number in range(CURRICULA):
        phases = tuple(
            phase.model_copy(update={"tokens": phase.tokens + number}) for phase in one.spec.phases
        )
        spec = one.spec.model_copy(update={"phases": phases})
        many.append(replace(one, name=f"c{number}", uid=f"uid-{number}", spec=spec))
    claims = {
        (one.namespace, name): observe.Claim(one.namespace, name, ("ReadWriteMany",))
        for name in (
            one.spec.storage.data.claim_name,
            one.spec.storage.checkpoints.claim_name,
        )
    }
    world = observe.World(
        curricula={},
        classes={
            name: observe.AcceleratorClass(
                name, AcceleratorClassSpec.model_validate({"image": "trainer", **spec})
            )
            for name, spec in CLASSES.items()
        },
        pools=given.pools,
        nodes={},
        claims=claims,
        profiles={},
        jobs={},
        verifications={},
        pods={},
        occupants={},
        beats={},
        assumed={},
        clashes={},
        listening_since=NOW,
    )
    return many, world


def look(many: Sequence[observe.Curriculum], world: observe.World) -> float:
    """CPU milliseconds of one step."""
    start = time.process_time()
    rules = {step.step(one, world, NOW, observe.Policy()).rule for one in many}
    taken = time.process_time() - start
    assert rules == {"short"}, rules
    return taken / len(many) * 1e3


def operator() -> None:
    """Print what the plan adds to the operator's steps."""
    many, world = waiting()
    before = peak()
    print(f"step, estimates made   {look(many, world):.2f} ms, {peak() - before:.0f} MiB more")
    print(f"step, estimates kept   {look(many, world):.2f} ms")
    with mock.patch.multiple(plan, of=lambda *_: Plan(), obstacle=lambda *_: None):
        print(f"step, without a plan   {look(many, world):.2f} ms")


def peak() -> float:
    """MiB that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> int:
    """Print the medians."""
    operator()
    for name, arguments in (
        ("plan", ("plan", "-f", str(ARTICLE))),
        ("plan --optimize cost", ("plan", "-f", str(ARTICLE), "--optimize", "cost")),
    ):
        taken = seconds(*arguments)
        print(
            f"{name:22} median {statistics.median(taken):.2f} s,"
            f" {min(taken):.2f} to {max(taken):.2f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
