"""Which pieces of which documents fill which sample, where no document that fits is cut. Pure.

    document longer than a sample  -> pieces of a sample's length, each a sample; and a rest
    rests and shorter documents    -> best fit by decreasing length: the longest first, each into
                                      the sample with the least room that still holds it

The plan is a function of the documents' lengths and the sample's length alone, so every process
makes the same one, and makes it anew at each start: nothing is kept on the disk. Documents of one
length are placed together, so the work grows with the number of different lengths, not with that
of documents (best-fit packing: Ding et al. 2024, arXiv 2404.10830).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

WORD_BITS = 1024
"""Bits of one word of the index of rooms; two levels of it reach over a million."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Every sample of one epoch: first those that one document fills, then the packed ones."""

    length: int
    offsets: NDArray[np.int64]
    """Where each document starts in the source, and the end of the last."""

    long: NDArray[np.int64]
    """The documents that fill samples of their own."""

    long_ends: NDArray[np.int64]
    """How many samples they fill, summed up to and with each of them."""

    packed: NDArray[Any]
    """The documents whose rest, or whole, is packed, sample by sample; integers."""

    bounds: NDArray[np.int64]
    """Where in `packed` each packed sample starts, and the end of the last."""

    @property
    def count(self) -> int:
        """Samples of one epoch."""
        return self._num_filled + len(self.bounds) - 1

    @property
    def padding(self) -> float:
        """The share of all samples' tokens that is padding."""
        held = int(self.offsets[-1] - self.offsets[0])
        return 1 - held / (self.count * self.length) if self.count else 0.0

    def pieces(self, number: int) -> Iterator[tuple[int, int, bool]]:
        """Start, end and "the document ends there" of each piece of sample `number`, in order."""
        if number < self._num_filled:
            place = int(np.searchsorted(self.long_ends, number, side="right"))
            before = int(self.long_ends[place - 1]) if place else 0
            document = self.long[place]
            start = int(self.offsets[document]) + (number - before) * self.length
            end = start + self.length
            yield start, end, end == int(self.offsets[document + 1])
            return
        first, last = self.bounds[number - self._num_filled :][:2]
        documents = self.packed[first:last]
        ends = self.offsets[documents + 1]
        rests = (ends - self.offsets[documents]) % self.length
        for end, rest in zip(ends.tolist(), rests.tolist(), strict=True):
            yield end - rest, end, True

    @property
    def _num_filled(self) -> int:
        return int(self.long_ends[-1]) if len(self.long_ends) else 0


def plan(offsets: NDArray[np.int64], length: int) -> Plan:
    """The samples of `length` tokens of documents that start at `offsets`."""
    filled, rests = np.divmod(np.diff(offsets), length)
    long = np.flatnonzero(filled)
    long_ends = np.cumsum(filled[long])
    del filled
    rests = rests.astype(np.int32)
    index: type[np.signedinteger[Any]] = np.int32 if len(rests) < 1 << 31 else np.int64
    documents = np.flatnonzero(rests).astype(index)
    documents = documents[np.argsort(-rests[documents], kind="stable")]
    counts = np.bincount(rests, minlength=1)
    counts[0] = 0
    sizes = np.flatnonzero(counts)[::-1]
    samples = _samples(sizes.tolist(), counts[sizes].tolist(), length)
    bounds = np.concatenate([[0], np.cumsum(np.bincount(samples))]) if len(samples) else [0]
    return Plan(
        length=length,
        offsets=offsets,
        long=long,
        long_ends=long_ends,
        packed=documents[np.argsort(samples, kind="stable")],
        bounds=np.asarray(bounds, np.int64),
    )


def _samples(sizes: list[int], counts: list[int], length: int) -> NDArray[np.int32]:
    """The packed sample of each piece, where pieces come by decreasing size."""
    placed, per_sample, firsts = [], [], []
    rooms = _Rooms(length)
    num_samples = 0
    for size, count in zip(sizes, counts, strict=True):
        left = count
        while left:
            room = rooms.least(size)
            if room is None:
                room, first, num = length, num_samples, -(-left // (length // size))
                num_samples += num
            else:
                first, num = rooms.take(room)
            # what is left of a sample's room is smaller than the room of any other that would do,
            # so the best fit of the next piece of this size is the same sample again
            each = room // size
            used = min(num, -(-left // each))
            here = min(left, used * each)
            in_last = here - (used - 1) * each
            rooms.put(room - each * size, first, used - 1)
            rooms.put(room - in_last * size, first + used - 1, 1)
            rooms.put(room, first + used, num - used)
            placed.append(here)
            per_sample.append(each)
            firsts.append(first)
            left -= here
    turns = np.asarray(placed, np.int64)
    within = np.arange(int(turns.sum()), dtype=np.int64)
    within -= np.repeat(np.cumsum(turns) - turns, turns)
    within //= np.repeat(np.asarray(per_sample, np.int64), turns)
    within += np.repeat(np.asarray(firsts, np.int64), turns)
    return within.astype(np.int32)


class _Rooms:
    """Samples by the room they have left, in ranges of neighbours; finds the least that fits."""

    def __init__(self, length: int) -> None:
        self._ranges: dict[int, list[tuple[int, int]]] = {}
        self._words = [0] * (length // WORD_BITS + 1)
        self._filled_words = 0

    def least(self, size: int) -> int | None:
        """The least room of at least `size` that any sample has."""
        number, bit = divmod(size, WORD_BITS)
        word = self._words[number] >> bit
        if word:
            return size + _lowest(word)
        words = self._filled_words >> (number + 1)
        if not words:
            return None
        number += 1 + _lowest(words)
        return number * WORD_BITS + _lowest(self._words[number])

    def take(self, room: int) -> tuple[int, int]:
        """Remove one range of samples with this room: the first, and how many."""
        ranges = self._ranges[room]
        taken = ranges.pop()
        if not ranges:
            number, bit = divmod(room, WORD_BITS)
            self._words[number] ^= 1 << bit
            if not self._words[number]:
                self._filled_words ^= 1 << number
        return taken

    def put(self, room: int, first: int, num: int) -> None:
        """Add a range of samples; a full sample needs no place here."""
        if not room or not num:
            return
        ranges = self._ranges.setdefault(room, [])
        if not ranges:
            number, bit = divmod(room, WORD_BITS)
            self._words[number] |= 1 << bit
            self._filled_words |= 1 << number
        ranges.append((first, num))


def _lowest(word: int) -> int:
    return (word & -word).bit_length() - 1
