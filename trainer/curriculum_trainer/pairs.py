"""Preference pairs from a source of text: a prompt, its true continuation, and a wrong one.

In turn, the wrong one is a continuation from another place, or the true one with its words in
another order. Each turn draws its own chances, so the pairs can be made from any turn on.
"""

import random
import re
from collections.abc import Iterator, Sequence

import numpy as np

from curriculum_trainer import failures
from curriculum_trainer.source import Source
from curriculum_trainer.tokenizing import Encoder

DRAWS = 16
"""Other places that are tried before a pair is left out, where texts repeat themselves."""

_WORD = re.compile(r"\S+\s*|\s+")
"""A word with the space after it, so that all of them together are the text."""


class Spots:
    """The places of a source that a prompt and its completion fill, one after another."""

    def __init__(self, source: Source, *, cut: tuple[int, int]) -> None:
        self._source = source
        self._prompt, self._completion = cut
        self._size = sum(cut)
        # every document ends with a token that is no text
        per_document = np.maximum(np.diff(source.offsets) - 1, 0) // self._size
        self._ends = np.cumsum(per_document)
        if len(self) < 2:
            raise failures.data_error(
                f"the input gives {len(self)} pairs of {self._prompt} and {self._completion} "
                "tokens, at least 2 are needed: give more text or cut shorter"
            )

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def prompt(self, number: int) -> list[int]:
        """The tokens of one place's prompt."""
        start = self._start(number)
        return self._tokens(start, start + self._prompt)

    def completion(self, number: int) -> list[int]:
        """The tokens that follow it."""
        start = self._start(number) + self._prompt
        return self._tokens(start, start + self._completion)

    def _start(self, number: int) -> int:
        document = int(np.searchsorted(self._ends, number, side="right"))
        before = int(self._ends[document - 1]) if document else 0
        return int(self._source.offsets[document]) + (number - before) * self._size

    def _tokens(self, start: int, end: int) -> list[int]:
        read: list[int] = self._source.tokens(start, end).tolist()
        return read


def triples(
    spots: Spots, encoder: Encoder, *, seed: int, first: int, last: int
) -> Iterator[tuple[Sequence[int], Sequence[int], Sequence[int]]]:
    """Prompt, chosen and rejected of places `first` to `last`, where there is a wrong one."""
    for turn in range(first, last):
        chosen = spots.completion(turn)
        rejected = _rejected(spots, encoder, chosen, turn=turn, seed=seed)
        if rejected is not None:
            yield spots.prompt(turn), chosen, rejected


def _rejected(
    spots: Spots, encoder: Encoder, chosen: Sequence[int], *, turn: int, seed: int
) -> Sequence[int] | None:
    chance = random.Random(f"{seed}/{turn}")
    if turn % 2:
        words = _WORD.findall(encoder.decode(list(chosen)))
        chance.shuffle(words)
        shuffled = encoder.encode("".join(words))[: len(chosen)]
        if shuffled and shuffled != chosen:
            return shuffled
    for _ in range(DRAWS):
        other = spots.completion(chance.randrange(len(spots)))
        if other != chosen:
            return other
    return None
