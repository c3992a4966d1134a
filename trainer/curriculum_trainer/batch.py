"""Rows as tensors: the share of one rank of a micro-batch, and how a phase is cut over ranks."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from curriculum_api.run import PhaseRun
from curriculum_trainer import failures, order
from curriculum_trainer.data import IGNORED, Mixture, Pair, Row


@dataclass(frozen=True, slots=True)
class Layout:
    """How one step is cut: `batch` rows over data-parallel ranks, rows over sequence ranks."""

    world_size: int
    rank: int
    sequence_parallel: int
    batch: int
    """Rows of one optimizer step over all ranks."""

    micro_batch: int
    """Rows of one forward pass of one data-parallel rank."""

    @property
    def data_parallel(self) -> int:
        """Ranks that see different rows."""
        return self.world_size // self.sequence_parallel

    @property
    def data_rank(self) -> int:
        """Which rows this rank sees."""
        return self.rank // self.sequence_parallel

    @property
    def sequence_rank(self) -> int:
        """Which part of its rows this rank sees."""
        return self.rank % self.sequence_parallel

    @property
    def passes(self) -> int:
        """Forward passes per step and rank (gradient accumulation)."""
        return self.batch // (self.micro_batch * self.data_parallel)


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """One forward pass of one rank; the tensors are [rows, context_length / sequence_parallel]."""

    tokens: torch.Tensor
    positions: torch.Tensor
    targets: torch.Tensor
    documents: torch.Tensor
    """Number of each position's document, counted over the rows of the micro-batch."""

    lengths: tuple[tuple[int, ...], ...]
    """Per row, the lengths of its documents over the whole row."""

    pairs: tuple[Pair, ...]
    num_targets: int
    """Positions of this rank that predict something."""

    @property
    def inputs(
        self,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, tuple[tuple[int, ...], ...]]:
        """What `TokenScores` takes."""
        return self.tokens, self.positions, self.targets, self.lengths

    def to(self, device: str) -> "MicroBatch":
        """The same on another device."""
        return replace(
            self,
            tokens=self.tokens.to(device),
            positions=self.positions.to(device),
            targets=self.targets.to(device),
            documents=self.documents.to(device),
        )

    @property
    def num_documents(self) -> int:
        """Documents over the rows of the micro-batch."""
        return sum(len(row) for row in self.lengths)


def layout(run: PhaseRun, *, rank: int) -> Layout:
    """The cut of this phase; refuses what does not divide, naming the numbers."""
    where = f'phase "{run.phase}"'
    if run.world_size % run.sequence_parallel:
        raise failures.user_error(
            f"{where}: {run.world_size} processes are not divisible by sequenceParallel "
            f"{run.sequence_parallel}: change one of them"
        )
    if run.context_length % run.sequence_parallel:
        raise failures.user_error(
            f"{where}: contextLength {run.context_length} is not divisible by sequenceParallel "
            f"{run.sequence_parallel}: change one of them"
        )
    if run.global_batch_tokens % run.context_length:
        raise failures.user_error(
            f"{where}: globalBatchTokens {run.global_batch_tokens} is not a multiple of "
            f"contextLength {run.context_length}: change one of them"
        )
    rows = run.global_batch_tokens // run.context_length
    if rows % run.data_parallel:
        raise failures.user_error(
            f"{where}: globalBatchTokens {run.global_batch_tokens} is {rows} sequences of "
            f"{run.context_length}, not divisible by {run.data_parallel} data-parallel ranks: "
            f"make it a multiple of {run.context_length * run.data_parallel}"
        )
    share = rows // run.data_parallel
    return Layout(
        world_size=run.world_size,
        rank=rank,
        sequence_parallel=run.sequence_parallel,
        batch=rows,
        micro_batch=_largest_divisor(share, limit=run.micro_batch_size),
    )


def micro_batches(mixture: Mixture, layout: Layout, *, step: int, device: str) -> list[MicroBatch]:
    """Everything this rank computes in one step."""
    groups = order.rank_sequences(
        step=step,
        batch=layout.batch,
        micro_batch=layout.micro_batch,
        data_parallel=layout.data_parallel,
        rank=layout.data_rank,
    )
    return [
        micro_batch([mixture.row(sequence) for sequence in group], layout, device=device)
        for group in groups
    ]


def micro_batch(rows: Sequence[Row], layout: Layout, *, device: str) -> MicroBatch:
    """This rank's slice of some rows."""
    width = len(rows[0].tokens) // layout.sequence_parallel
    part = slice(layout.sequence_rank * width, (layout.sequence_rank + 1) * width)
    targets = np.stack([row.targets[part] for row in rows])
    lengths = np.concatenate([row.lengths for row in rows])
    starts = np.cumsum(lengths) - lengths
    # over the rows laid end to end; a document never goes over a row's end
    positions = np.arange(lengths.sum()) - np.repeat(starts, lengths)
    documents = np.repeat(np.arange(len(lengths)), lengths)

    def tensor(values: NDArray[np.int64]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(device)

    return MicroBatch(
        tokens=tensor(np.stack([row.tokens[part] for row in rows])),
        positions=tensor(positions.reshape(len(rows), -1)[:, part]),
        targets=tensor(targets),
        documents=tensor(documents.reshape(len(rows), -1)[:, part]),
        lengths=tuple(row.lengths for row in rows),
        pairs=tuple(pair for row in rows for pair in row.pairs),
        num_targets=int(np.count_nonzero(targets != IGNORED)),
    )


def _largest_divisor(number: int, *, limit: int) -> int:
    return max(size for size in range(1, min(number, limit) + 1) if number % size == 0)
