"""From a global sequence number to one packed row of tokens; knows nothing of ranks or devices.

A row holds `context_length` tokens, cut into samples of the source's own length, and those into
documents: positions restart at each document and nothing is predicted across its end.

    Split: samples follow one another in the source and cut documents where they end. Every token
           is an input once per epoch, but for the rest of the source, shorter than one sample.
    Whole: no document that fits a sample is cut (`packing`). Every token is an input once per
           epoch; padding, a document of its own that predicts nothing, fills what is left.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from curriculum_api.run import PhaseRun, RunSource
from curriculum_api.wire import Objective, Packing
from curriculum_trainer import failures, order, packing
from curriculum_trainer.order import Shuffled
from curriculum_trainer.packing import Plan
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
    shuffled: Shuffled
    plan: Plan | None
    """Which documents fill which sample, where they are kept whole."""


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
            member.shuffled.sample(pick.ordinal * per_row + place) for place in range(per_row)
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
    whole = entry.packing is Packing.WHOLE and kind is Kind.TEXT
    plan = packing.plan(source.offsets, length) if whole else None
    count = plan.count if plan else _num_samples(source, length)
    if count < 1:
        raise failures.data_error(
            f'phase "{run.phase}": source "{entry.source}" has {source.index.tokens} tokens, '
            f"too few for one sample of {length}: prepare more or shorten its contextLength"
        )
    return _Member(
        source=source,
        weight=entry.weight,
        length=length,
        count=count,
        shuffled=Shuffled(run.seed, source.name, count=count),
        plan=plan,
    )


def _num_samples(source: Source, length: int) -> int:
    if source.index.kind is Kind.PREFERENCE:
        return source.index.documents // 3
    # the last token of a sample predicts the one after it
    return (source.index.tokens - 1) // length


def _text_sample(member: _Member, number: int) -> Row:
    if member.plan is not None:
        return _whole_sample(member.source, member.plan, number)
    start = number * member.length
    end = start + member.length
    tokens = member.source.tokens(start, end + 1)
    lengths = member.source.document_lengths(start, end)
    targets = tokens[1:].copy()
    ends = np.cumsum(lengths) - 1
    # the sample's own last token still predicts, unless a document ends exactly there
    inner = ends if member.source.starts_document(end) else ends[:-1]
    targets[inner] = IGNORED
    return Row(tokens=tokens[:-1], targets=targets, lengths=lengths)


def _whole_sample(source: Source, plan: Plan, number: int) -> Row:
    tokens = np.zeros(plan.length, np.int64)
    targets = np.full(plan.length, IGNORED, np.int64)
    lengths = []
    filled = 0
    for start, end, ends_document in plan.pieces(number):
        # the last token of a piece predicts the next one, where its document goes on
        size = end - start
        read = source.tokens(start, end if ends_document else end + 1)
        tokens[filled : filled + size] = read[:size]
        targets[filled : filled + len(read) - 1] = read[1:]
        lengths.append(size)
        filled += size
    if filled < plan.length:
        lengths.append(plan.length - filled)
    return Row(tokens=tokens, targets=targets, lengths=tuple(lengths))


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
    if len(rows) == 1:
        return rows[0]
    return Row(
        tokens=np.concatenate([row.tokens for row in rows]),
        targets=np.concatenate([row.targets for row in rows]),
        lengths=tuple(length for row in rows for length in row.lengths),
        pairs=tuple(pair for row in rows for pair in row.pairs),
    )
