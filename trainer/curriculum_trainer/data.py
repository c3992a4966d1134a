"""From a global sequence number to one packed row of tokens; knows nothing of ranks or devices.

A row holds `context_length` tokens, cut into samples of the source's own length, and those into
documents: positions restart at each document and nothing is predicted across its end. Every
token of a source is an input exactly once per epoch, but for the rest shorter than one sample.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from curriculum_api.run import PhaseRun, RunSource
from curriculum_api.wire import Objective
from curriculum_trainer import failures, order
from curriculum_trainer.source import Kind, Source

IGNORED = -100
"""The target of a position that predicts nothing, as torch's cross entropy spells it."""

DOCUMENTS_PER_PAIR = 3
"""Chosen, rejected, and the padding that fills the cell; any of them may be empty."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One preference pair: pair `number` of source `source` of the mixture."""

    source: int
    number: int


@dataclass(frozen=True, slots=True)
class Row:
    """One packed sequence: `tokens` and `targets` of shape [context_length]."""

    tokens: NDArray[np.int64]
    targets: NDArray[np.int64]
    lengths: tuple[int, ...]
    """Lengths of its documents, in order; they add up to context_length."""

    pairs: tuple[Pair, ...] = ()
    """The preference pairs it holds; pair i is documents 3i (chosen) and 3i + 1 (rejected)."""


@dataclass(frozen=True, slots=True)
class _Member:
    """A source within a mixture: samples of `length` tokens, `count` of them per epoch."""

    source: Source
    weight: int
    length: int
    count: int


class Mixture:
    """The phase's data as one endless sequence of rows."""

    def __init__(self, run: PhaseRun) -> None:
        self.seed = run.seed
        self.context_length = run.context_length
        self.kind = Kind.PREFERENCE if run.objective is Objective.DPO else Kind.TEXT
        self.members = tuple(_member(run, entry, self.kind) for entry in run.data)
        self.weights = tuple(member.weight for member in self.members)

    def row(self, sequence: int) -> Row:
        """Row number `sequence` of the phase."""
        source, numbers = self.samples(sequence)
        if self.kind is Kind.PREFERENCE:
            return self.pair_row([Pair(source, number) for number in numbers])
        return _joined([_text_sample(self.members[source], number) for number in numbers])

    def samples(self, sequence: int) -> tuple[int, list[int]]:
        """The source that fills a row, and the numbers of its samples, in order."""
        pick = order.pick(self.weights, seed=self.seed, sequence=sequence)
        member = self.members[pick.source]
        per_row = self.context_length // member.length
        return pick.source, [
            order.sample(
                self.seed,
                member.source.name,
                ordinal=pick.ordinal * per_row + place,
                count=member.count,
            )
            for place in range(per_row)
        ]

    def pair_row(self, pairs: Sequence[Pair]) -> Row:
        """A row of the given pairs of one source, in this order."""
        return _joined([_pair_sample(self.members[pair.source], pair) for pair in pairs])

    def pairs_per_row(self, source: int) -> int:
        """How many pairs of one source fill a row."""
        return self.context_length // self.members[source].length


def _member(run: PhaseRun, entry: RunSource, kind: Kind) -> _Member:
    length = entry.context_length or run.context_length
    if length > run.context_length or run.context_length % length:
        raise failures.user_error(
            f'phase "{run.phase}": source "{entry.source}" has contextLength {length}, which does '
            f"not divide the phase's {run.context_length}: choose one that does"
        )
    source = Source(Path(run.data_dir) / entry.source, entry.source)
    if source.index.kind is not kind:
        raise failures.data_error(
            f'phase "{run.phase}": source "{entry.source}" holds {source.index.kind}, objective '
            f"{run.objective} needs {kind}: name another source"
        )
    count = _num_samples(source, length)
    if count < 1:
        raise failures.data_error(
            f'phase "{run.phase}": source "{entry.source}" has {source.index.tokens} tokens, '
            f"too few for one sample of {length}: prepare more or shorten its contextLength"
        )
    return _Member(source=source, weight=entry.weight, length=length, count=count)


def _num_samples(source: Source, length: int) -> int:
    if source.index.kind is Kind.PREFERENCE:
        return source.index.documents // 3
    # the last token of a sample predicts the one after it
    return (source.index.tokens - 1) // length


def _text_sample(member: _Member, number: int) -> Row:
    start = number * member.length
    end = start + member.length
    tokens = member.source.tokens(start, end + 1)
    lengths = member.source.document_lengths(start, end)
    targets = tokens[1:].copy()
    ends = np.cumsum(lengths) - 1
    # the sample's own last token still predicts, unless a document ends exactly there
    inner = ends if end in _starts(member.source, end) else ends[:-1]
    targets[inner] = IGNORED
    return Row(tokens=tokens[:-1], targets=targets, lengths=lengths)


def _starts(source: Source, offset: int) -> tuple[int, ...]:
    place = int(np.searchsorted(source.offsets, offset))
    return tuple(int(start) for start in source.offsets[place : place + 1])


def _pair_sample(member: _Member, pair: Pair) -> Row:
    prompt, chosen, rejected = (member.source.document(3 * pair.number + i) for i in range(3))
    half = member.length // 2
    answers = [_answer(prompt, completion, half) for completion in (chosen, rejected)]
    rest = member.length - sum(len(tokens) for tokens, _ in answers)
    padding = np.zeros(rest, np.int64)
    return Row(
        tokens=np.concatenate([*(tokens for tokens, _ in answers), padding]),
        targets=np.concatenate([*(targets for _, targets in answers), padding + IGNORED]),
        lengths=(*(len(tokens) for tokens, _ in answers), rest),
        pairs=(pair,),
    )


def _answer(
    prompt: NDArray[np.int64], completion: NDArray[np.int64], limit: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Prompt and completion within `limit` tokens: the prompt's end, the completion's start."""
    completion = completion[: limit - min(len(prompt), limit // 2)]
    prompt = prompt[max(0, len(prompt) + len(completion) - limit) :]
    tokens = np.concatenate([prompt, completion])
    targets = np.append(tokens[1:], IGNORED)
    targets[: max(0, len(prompt) - 1)] = IGNORED
    return tokens, targets


def _joined(rows: Sequence[Row]) -> Row:
    return Row(
        tokens=np.concatenate([row.tokens for row in rows]),
        targets=np.concatenate([row.targets for row in rows]),
        lengths=tuple(length for row in rows for length in row.lengths),
        pairs=tuple(pair for row in rows for pair in row.pairs),
    )
