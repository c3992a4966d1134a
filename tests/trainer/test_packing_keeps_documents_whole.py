"""Packing "Whole": no document that fits a sample is cut, nothing is lost, little is padding."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curriculum_trainer import packing, texts
from curriculum_trainer.data import IGNORED, Mixture

from .corpus import write_source
from .phases import CONTEXT, Phases

WHOLE = [{"source": "short", "weight": 1, "packing": "Whole"}]
LENGTHS = st.lists(st.integers(0, 70), max_size=60)


def _plan(lengths: list[int], length: int) -> packing.Plan:
    return packing.plan(np.cumsum([0, *lengths], dtype=np.int64), length)


@settings(deadline=None)
@given(lengths=LENGTHS, length=st.integers(1, 40))
def test_every_token_is_in_one_sample_and_no_document_that_fits_is_cut(
    lengths: list[int], length: int
) -> None:
    plan = _plan(lengths, length)
    samples = [list(plan.pieces(number)) for number in range(plan.count)]

    assert all(0 < sum(end - start for start, end, _ in sample) <= length for sample in samples)
    pieces = sorted(piece for sample in samples for piece in sample)
    covered = [token for start, end, _ in pieces for token in range(start, end)]
    assert covered == list(range(sum(lengths)))
    documents = {(a, b) for a, b in pairwise(plan.offsets.tolist()) if b > a}
    ends = {end for _, end in documents}
    assert {(a, b) for a, b in documents if b - a <= length} <= {(a, b) for a, b, _ in pieces}
    assert all(ends_document == (end in ends) for _, end, ends_document in pieces)


@settings(deadline=None)
@given(lengths=LENGTHS, length=st.integers(1, 40))
def test_a_long_document_gives_pieces_of_the_sample_s_length_and_one_rest(
    lengths: list[int], length: int
) -> None:
    plan = _plan(lengths, length)
    pieces = sorted(piece for number in range(plan.count) for piece in plan.pieces(number))

    for start, end in pairwise(plan.offsets.tolist()):
        sizes = [b - a for a, b, _ in pieces if start <= a and b <= end]
        whole, rest = divmod(end - start, length)
        assert sizes == [length] * whole + [rest] * (rest > 0)


@settings(deadline=None)
@given(
    lengths=st.one_of(
        st.lists(st.integers(0, 3000), max_size=200),
        # few sizes, so that many documents have the same and share ranges of samples
        st.lists(st.sampled_from([3, 5, 7, 11, 12, 20]), max_size=200),
    ),
    length=st.one_of(st.integers(1, 2500), st.integers(20, 25)),
)
def test_it_is_best_fit_by_decreasing_length(lengths: list[int], length: int) -> None:
    """The fast way by ranges of like samples gives what the plain one gives, piece by piece."""
    rooms: list[int] = []
    for size in sorted((rest for n in lengths if (rest := n % length)), reverse=True):
        fitting = [room for room in rooms if room >= size]
        if fitting:
            rooms[rooms.index(min(fitting))] -= size
        else:
            rooms.append(length - size)

    plan = _plan(lengths, length)
    filled = sum(n // length for n in lengths)
    held = [sum(b - a for a, b, _ in plan.pieces(n)) for n in range(filled, plan.count)]
    assert sorted(length - tokens for tokens in held) == sorted(rooms)


@pytest.mark.parametrize("length", [512, 2048, 8192, 32768])
def test_little_of_a_real_corpus_is_padding(length: int) -> None:
    """Python's own library, where every byte is a token."""
    files = texts.find([texts.STDLIB], pattern="*.py")
    plan = _plan([file.stat().st_size for file in files], length)

    assert plan.padding < 0.01, f"{plan.padding:.3%} padding in {plan.count} samples of {length}"


def test_a_row_holds_its_documents_and_predicts_within_them(phases: Phases) -> None:
    mixture = Mixture(phases.run(data=WHOLE))
    (member,) = mixture.members
    assert member.plan is not None

    for number in range(member.count):
        row = mixture.row(number)
        _, (sample,) = mixture.samples(number)
        documents = [
            member.source.tokens(start, end).tolist()
            for start, end, _ in member.plan.pieces(sample)
        ]
        tokens, targets, lengths = row.tokens.tolist(), row.targets.tolist(), list(row.lengths)
        for document in documents:
            size = lengths.pop(0)
            assert [tokens.pop(0) for _ in range(size)] == document
            assert [targets.pop(0) for _ in range(size)] == [*document[1:], IGNORED]
        assert sum(lengths) == len(tokens) == len(targets)
        assert len(lengths) <= 1
        assert set(targets) <= {IGNORED}


def test_a_cut_document_predicts_over_its_cuts(tmp_path: Path, phases: Phases) -> None:
    write_source(tmp_path / "long", [range(2 * CONTEXT + 10), range(200, 250)])
    data = [{"source": "long", "weight": 1, "packing": "Whole"}]
    mixture = Mixture(phases.run(data=data, data_dir=str(tmp_path)))
    rows = sorted((mixture.row(n) for n in range(3)), key=lambda row: int(row.tokens[0]))

    assert rows[0].targets.tolist() == list(range(1, CONTEXT + 1))
    assert rows[1].targets.tolist() == list(range(CONTEXT + 1, 2 * CONTEXT + 1))
    assert rows[2].lengths == (50, 10, 4)
    assert rows[2].targets.tolist()[50:] == [*range(2 * CONTEXT + 1, 2 * CONTEXT + 10), *[-100] * 5]


def test_every_token_is_an_input_exactly_once_per_epoch(phases: Phases) -> None:
    mixture = Mixture(phases.run(data=WHOLE))
    (member,) = mixture.members
    source = member.source

    for epoch in range(2):
        rows = [mixture.row(epoch * member.count + number) for number in range(member.count)]
        padding = member.count * CONTEXT - source.index.tokens
        found = np.sort(np.concatenate([row.tokens for row in rows]))
        expected = np.append(np.zeros(padding, int), source.tokens(0, source.index.tokens))
        assert np.array_equal(found, np.sort(expected))


def test_the_plan_is_this_one_for_ever() -> None:
    """A change here would train on other rows after an upgrade, in the middle of a phase."""
    plan = _plan([5, 3, 9, 4, 2, 0, 7, 1], 8)

    assert [list(plan.pieces(n)) for n in range(plan.count)] == [
        [(8, 16, False)],
        [(23, 30, True), (16, 17, True)],
        [(0, 5, True), (5, 8, True)],
        [(17, 21, True), (21, 23, True), (30, 31, True)],
    ]
