"""Made-up gangs: sound nodes and bad ones, measured by the schedule."""

from collections.abc import Collection, Mapping
from random import Random

from curriculum_api.preflight import schedule
from curriculum_api.preflight.figures import Check, Figures, Measured, NodeFigures, PairFigures
from curriculum_api.wire import Precision

SOUND: Figures = {
    Check.MATMUL: 91.0,
    Check.CLOCK: 2400.0,
    Check.MEMORY: 100.0,
    Check.SPEED: 200.0,
    Check.MTU: 9000.0,
    Check.ERRORS: 0.0,
    Check.WRITE: 1.0,
    Check.READ: 1.0,
}
LINK, LATENCY = 20.0, 0.05


def name(number: int) -> str:
    """`spark-1` is the first."""
    return f"spark-{number + 1}"


def gang(
    nodes: int,
    *,
    slow: Mapping[int, float] | None = None,
    lossy: Collection[int] = (),
    own: Mapping[int, Figures] | None = None,
    rounds: int = 3,
    start: int = 0,
    noise: Mapping[tuple[int, int], float] | None = None,
    random: Random | None = None,
) -> Measured:
    """What the schedule sees where nodes have a share of a sound link (`slow`), lose packets, or
    differ in figures of their own; `noise` is a factor on the link of a pair, `random` gives one
    from 0.75 to 1 to every pair: a sound link is never under half of another."""
    slow, own, noise = slow or {}, own or {}, noise or {}
    pairs = []
    for met in schedule.rounds(nodes, rounds, start=start):
        for pair in met:
            disturbed = random.uniform(0.75, 1.0) if random else 1.0
            share = disturbed * min(slow.get(node, 1.0) for node in pair) * noise.get(pair, 1.0)
            loses = any(node in lossy for node in pair)
            pairs.append(
                PairFigures(
                    nodes=(name(pair[0]), name(pair[1])),
                    figures={
                        Check.LINK: LINK * share * (0.05 if loses else 1.0),
                        Check.LATENCY: LATENCY,
                        Check.LOSS: 2.0 if loses else 0.0,
                    },
                )
            )
    return Measured(
        precision=Precision.BF16,
        nodes=tuple(
            NodeFigures(node=name(number), figures=SOUND | own.get(number, {}))
            for number in range(nodes)
        ),
        pairs=tuple(pairs),
    )
