"""What a step trains on depends on the step alone: not on ranks, threads, or where it resumed."""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from curriculum_trainer import batch, order
from curriculum_trainer.batch import Layout, MicroBatch
from curriculum_trainer.data import Mixture, Row
from curriculum_trainer.prefetch import Prefetcher

from .corpus import VOCAB, write_source
from .phases import CONTEXT, Phases

DATA = [
    {"source": "short", "weight": 2, "packing": "Whole"},
    {"source": "text", "weight": 1, "context_length": CONTEXT // 4},
]
WORLDS = st.sampled_from([1, 2, 4, 8])


@pytest.fixture
def mixture(phases: Phases) -> Mixture:
    return Mixture(phases.run(data=DATA))


def _layout(
    *, ranks: int, rank: int = 0, micro: int = 1, passes: int = 1, parts: int = 1
) -> Layout:
    return Layout(
        world_size=ranks * parts,
        rank=rank,
        sequence_parallel=parts,
        batch=ranks * micro * passes,
        micro_batch=micro,
    )


@settings(deadline=None)
@given(step=st.integers(0, 1000), micro=st.integers(1, 4), passes=st.integers(1, 4), ranks=WORLDS)
def test_pass_by_pass_and_rank_by_rank_a_step_is_in_order(
    step: int, micro: int, passes: int, ranks: int
) -> None:
    size = ranks * micro * passes
    by_rank = [
        order.rank_sequences(
            step=step, batch=size, micro_batch=micro, data_parallel=ranks, rank=rank
        )
        for rank in range(ranks)
    ]

    seen = [n for number in range(passes) for groups in by_rank for n in groups[number]]
    assert seen == list(range(step * size, (step + 1) * size))


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None
)
@given(first=WORLDS, second=WORLDS, share=st.sampled_from([1, 2]), resumed=st.integers(0, 5))
def test_other_ranks_from_any_step_on_train_on_the_same_rows(
    mixture: Mixture, first: int, second: int, share: int, resumed: int
) -> None:
    """One world runs to the end; the other takes over at a step. Row by row they are the same."""

    def rows(ranks: int, step: int) -> list[list[int]]:
        layouts = [
            _layout(ranks=ranks, rank=rank, micro=share, passes=16 // (ranks * share))
            for rank in range(ranks)
        ]
        parts = [
            batch.micro_batches(mixture, layout, step=step, device="cpu") for layout in layouts
        ]
        return [
            row for group in zip(*parts, strict=True) for p in group for row in p.tokens.tolist()
        ]

    whole = [rows(first, step) for step in range(6)]
    assert [rows(second, step) for step in range(resumed, 6)] == whole[resumed:]


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 100), min_size=CONTEXT + 1, max_size=90),
    packing=st.sampled_from(["Split", "Whole"]),
    bucket=st.sampled_from([CONTEXT, CONTEXT // 2, CONTEXT // 8]),
    seed=st.integers(0, 2**31),
)
def test_no_sample_comes_twice_or_is_lost_within_an_epoch(
    tmp_path_factory: pytest.TempPathFactory,
    lengths: list[int],
    packing: str,
    bucket: int,
    seed: int,
) -> None:
    folder = tmp_path_factory.mktemp("epoch")
    tokens = iter(range(1, sum(lengths) + 1))
    write_source(folder / "own", ([next(tokens) for _ in range(length)] for length in lengths))
    data = [{"source": "own", "weight": 3, "packing": packing, "context_length": bucket}]
    phases = Phases(data=folder, root=folder)
    mixture = Mixture(phases.run(data=data, seed=seed))
    (member,) = mixture.members
    per_row = CONTEXT // bucket
    rows = -(-member.count // per_row)

    samples = [number for row in range(rows) for number in mixture.samples(row)[1]]
    assert sorted(samples[: member.count]) == list(range(member.count))
    inputs = np.concatenate([mixture.row(row).tokens for row in range(rows)])
    epoch = inputs[: member.count * bucket]
    held = sum(lengths) if packing == "Whole" else member.count * bucket
    assert sorted(epoch[epoch > 0].tolist()) == list(range(1, held + 1))


def test_long_and_short_contexts_share_a_phase_by_rows(phases: Phases) -> None:
    """512K mixed with 4K at 80 to 20, a thousand times smaller."""
    data = [
        {"source": "long", "weight": 80},
        {"source": "text", "weight": 20, "context_length": CONTEXT // 16},
    ]
    mixture = Mixture(phases.run(data=data, context_length=CONTEXT))
    picked = [mixture.samples(sequence) for sequence in range(500)]
    rows = [mixture.row(sequence) for sequence in range(500)]

    for start in range(0, 500, 5):
        assert sorted(source for source, _ in picked[start : start + 5]) == [0, 0, 0, 0, 1]
    for (source, numbers), row in zip(picked, rows, strict=True):
        assert len(numbers) == (1, 16)[source]
        assert len(row.tokens) == sum(row.lengths) == CONTEXT
        assert source == 0 or max(row.lengths) <= CONTEXT // 16


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None
)
@given(parts=st.sampled_from([1, 2, 4, 8]), first=st.integers(0, 3000), micro=st.integers(1, 3))
def test_sequence_parallel_slices_join_to_the_row(
    mixture: Mixture, parts: int, first: int, micro: int
) -> None:
    rows = [mixture.row(first + number) for number in range(micro)]
    slices = [
        batch.micro_batch(rows, _layout(ranks=1, rank=rank, micro=micro, parts=parts), device="cpu")
        for rank in range(parts)
    ]

    def joined(name: str) -> list[list[int]]:
        whole: list[list[int]] = torch.cat([getattr(s, name) for s in slices], dim=1).tolist()
        return whole

    assert joined("tokens") == [row.tokens.tolist() for row in rows]
    assert joined("targets") == [row.targets.tolist() for row in rows]
    assert joined("positions") == [[i for n in row.lengths for i in range(n)] for row in rows]
    assert joined("documents") == _numbered(rows)
    assert sum(s.num_targets for s in slices) == sum((row.targets >= 0).sum() for row in rows)


def _numbered(rows: list[Row]) -> list[list[int]]:
    """Each position's document, counted over all rows."""
    numbers = iter(range(VOCAB))
    return [[n for length in row.lengths for n in [next(numbers)] * length] for row in rows]


@pytest.fixture
def prefetchers(mixture: Mixture) -> Iterator[list[Prefetcher]]:
    made: list[Prefetcher] = []
    yield made
    for prefetcher in made:
        prefetcher.close()


@pytest.mark.parametrize("workers", [0, 1, 2, 5])
def test_any_number_of_workers_gives_the_same_batches(
    mixture: Mixture, prefetchers: list[Prefetcher], workers: int
) -> None:
    layout = _layout(ranks=2, rank=1, micro=2, passes=2)
    made = Prefetcher(mixture, layout, device="cpu", first_step=3, workers=workers)
    prefetchers.append(made)

    # in order, then back, as after a skipped step, and far ahead
    for step in (3, 4, 5, 6, 7, 4, 5, 90, 91):
        expected = batch.micro_batches(mixture, layout, step=step, device="cpu")
        assert _values(made.take(step)) == _values(expected)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_a_worker_s_failure_is_the_taker_s(
    mixture: Mixture,
    prefetchers: list[Prefetcher],
    monkeypatch: pytest.MonkeyPatch,
    workers: int,
) -> None:
    layout = _layout(ranks=1)
    good = mixture.row

    def row(sequence: int) -> Row:
        if sequence == 2:
            raise OSError("the disk is gone")
        return good(sequence)

    monkeypatch.setattr(mixture, "row", row)
    made = Prefetcher(mixture, layout, device="cpu", first_step=0, workers=workers)
    prefetchers.append(made)

    assert made.take(0)
    assert made.take(1)
    with pytest.raises(OSError, match="the disk is gone"):
        made.take(2)
    assert _values(made.take(3)) == _values([batch.micro_batch([good(3)], layout, device="cpu")])


def test_no_thread_outlives_a_closed_prefetcher(mixture: Mixture, tmp_path: Path) -> None:
    before = threading.active_count()
    made = Prefetcher(mixture, _layout(ranks=1), device="cpu", first_step=0, workers=3)
    assert threading.active_count() > before
    made.close()

    assert threading.active_count() == before


def _values(parts: list[MicroBatch]) -> list[object]:
    return [
        (p.tokens.tolist(), p.positions.tolist(), p.targets.tolist(), p.documents.tolist(),
         p.lengths, p.pairs, p.num_targets)
        for p in parts
    ]  # fmt: skip
