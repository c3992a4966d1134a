"""Which sample comes when: a pure function of the seed and the global sequence number.

Nothing here knows of ranks, workers, files or time, so the order is the same for every world
size and after every resume. Built on raw bits of PCG64, whose stream NumPy promises to keep;
`Generator.permutation` carries no such promise.
"""

import functools
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LONGEST_CYCLE = 4096
"""Sequences after which a mixture repeats its proportions; finer weights are rounded to it."""


def permutation(seed: int, name: str, epoch: int, count: int) -> NDArray[np.signedinteger[Any]]:
    """A permutation of `range(count)` that depends on nothing but the arguments."""
    key = hashlib.sha256(f"{seed}/{name}/{epoch}".encode()).digest()
    bits = np.random.PCG64(int.from_bytes(key[:16], "big")).random_raw(count)
    kind: type[np.signedinteger[Any]] = np.int32 if count < 1 << 31 else np.int64
    return np.argsort(bits, kind="stable").astype(kind)


@dataclass(frozen=True, slots=True)
class Pick:
    """The `ordinal`-th sequence that source number `source` of a mixture has to give."""

    source: int
    ordinal: int


def cycle_weights(weights: Sequence[int]) -> tuple[int, ...]:
    """The weights as counts of one cycle of at most `LONGEST_CYCLE`; none falls to zero."""
    divisor = math.gcd(*weights)
    reduced = [weight // divisor for weight in weights]
    total = sum(reduced)
    if total <= LONGEST_CYCLE:
        return tuple(reduced)
    return tuple(max(1, round(weight * LONGEST_CYCLE / total)) for weight in reduced)


def pick(weights: tuple[int, ...], *, seed: int, sequence: int) -> Pick:
    """Which source gives global sequence number `sequence`, and how many it gave before.

    Within each cycle the sources come in a seeded order, so the mixture holds its proportions
    over every cycle and not only in the long run.
    """
    counts = cycle_weights(weights)
    if len(counts) == 1:
        return Pick(source=0, ordinal=sequence)
    cycle, place = divmod(sequence, sum(counts))
    arranged = _arranged(counts, seed, cycle)
    source = int(arranged[place])
    before = int(np.count_nonzero(arranged[:place] == source))
    return Pick(source=source, ordinal=cycle * counts[source] + before)


@functools.lru_cache(maxsize=16)
def _arranged(counts: tuple[int, ...], seed: int, cycle: int) -> NDArray[np.int64]:
    slots: NDArray[np.int64] = np.repeat(np.arange(len(counts)), counts)
    return slots.take(permutation(seed, "mixture", cycle, len(slots)))


class Shuffled:
    """A source's samples: every one once, then all again, anew.

    The latest two epochs' orders are kept, so that rows on both sides of an epoch's end are quick,
    however many sources there are and epochs have passed.
    """

    def __init__(self, seed: int, name: str, *, count: int) -> None:
        self._count = count
        self._order = functools.lru_cache(maxsize=2)(
            lambda epoch: permutation(seed, name, epoch, count)
        )

    def sample(self, ordinal: int) -> int:
        """The `ordinal`-th sample that the source gives."""
        epoch, place = divmod(ordinal, self._count)
        return int(self._order(epoch)[place])


def rank_sequences(
    *, step: int, batch: int, micro_batch: int, data_parallel: int, rank: int
) -> list[list[int]]:
    """The global sequence numbers of one data-parallel rank in one step, by micro-batch.

    Over all ranks they are `step * batch` to `(step + 1) * batch - 1`, each once.
    """
    first = step * batch
    per_pass = micro_batch * data_parallel
    return [
        [first + start + rank * micro_batch + i for i in range(micro_batch)]
        for start in range(0, batch, per_pass)
    ]
