"""Ways out of memory that does not suffice: each was computed before it is named."""

from collections.abc import Iterator
from dataclasses import dataclass

from curriculum_api.estimate import hardware, memory
from curriculum_api.estimate import phase as phases
from curriculum_api.estimate.hardware import GIB
from curriculum_api.estimate.shape import Shape
from curriculum_api.v1alpha1.accelerator_class import AcceleratorClassSpec
from curriculum_api.v1alpha1.curriculum import Phase
from curriculum_api.wire import OptimizerName, Strategy

MOST = 3
"""Ways that are named."""


@dataclass(frozen=True, slots=True)
class Way:
    """A change that fits: what to write, and the GiB that it then needs."""

    words: str
    gib: float


def out(phase: Phase, shape: Shape, kind: AcceleratorClassSpec) -> tuple[Way, ...]:
    """The ways that change least, smallest change first; none where nothing fits."""
    singles = list(_changes(phase))
    found = _fitting([(change,) for change in singles], phase, shape, kind)
    if len(found) < MOST:
        pairs: list[tuple[_Change, ...]] = [
            (one, two)
            for place, one in enumerate(singles)
            for two in singles[place + 1 :]
            if one.field != two.field
        ]
        found += _fitting(pairs, phase, shape, kind)
    if not found:
        # the lightest of each kind together: where even that is too much, only nodes help
        lightest = {change.field: change for change in singles}
        found = _fitting([tuple(lightest.values())], phase, shape, kind)
    return tuple(found[:MOST])


@dataclass(frozen=True, slots=True)
class _Change:
    field: str
    words: str
    phase: Phase


def _changes(phase: Phase) -> Iterator[_Change]:
    """Single changes, those that cost least time first."""
    for name in (OptimizerName.ADAMW_8BIT, OptimizerName.ADAMW_4BIT):
        if _smaller(name, phase.optimizer.name):
            optimizer = phase.optimizer.model_copy(update={"name": name})
            yield _Change("optimizer", name, phase.model_copy(update={"optimizer": optimizer}))
    known = list(Strategy)
    for strategy in known[known.index(phase.strategy) + 1 :]:
        yield _Change("strategy", strategy, phase.model_copy(update={"strategy": strategy}))
    for field, words in (
        ("activation_checkpointing", "activationCheckpointing"),
        ("tiled_mlp", "tiledMLP"),
    ):
        if not getattr(phase.memory, field):
            asked = phase.memory.model_copy(update={field: True})
            yield _Change(field, words, phase.model_copy(update={"memory": asked}))
    if phase.micro_batch_size > 1:
        yield _Change(
            "micro_batch_size",
            "microBatchSize 1",
            phase.model_copy(update={"micro_batch_size": 1}),
        )


def _fitting(
    tries: list[tuple[_Change, ...]],
    phase: Phase,
    shape: Shape,
    kind: AcceleratorClassSpec,
) -> list[Way]:
    found, room = [], hardware.room_of(kind)
    for changes in tries:
        made = phase
        for change in changes:
            made = _merged(made, change)
        need = memory.of(shape, phases.bytes_each(made), phases.layout(made, kind), room)
        if need.total <= room.memory:
            words = " with ".join(change.words for change in changes)
            found.append(Way(words=words, gib=need.total / GIB))
    return found


def _merged(phase: Phase, change: _Change) -> Phase:
    """`phase` with one more field of `change`'s."""
    if change.field in ("activation_checkpointing", "tiled_mlp"):
        asked = phase.memory.model_copy(update={change.field: True})
        return phase.model_copy(update={"memory": asked})
    return phase.model_copy(update={change.field: getattr(change.phase, change.field)})


def _smaller(name: OptimizerName, than: OptimizerName) -> bool:
    order = list(OptimizerName)
    return order.index(name) > order.index(than)
