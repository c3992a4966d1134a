"""What a phase optimises, as a sum over this rank's share, whatever the sharding.

An objective turns token scores into a surrogate: a scalar whose gradient, summed over all ranks
and divided by the total `weight`, is the gradient of the loss. Sums, never means: ranks hold
different numbers of targets, and a mean of means trains another model without a word.
"""

from dataclasses import dataclass, field
from typing import Protocol

import torch
import torch.distributed as dist

from curriculum_trainer.batch import Layout, MicroBatch
from curriculum_trainer.dpo import Reference, pair_loss


@dataclass(frozen=True, slots=True)
class Share:
    """This rank's share of a loss: `surrogate` to differentiate, sums to add over ranks."""

    surrogate: torch.Tensor
    loss: float
    sums: dict[str, float] = field(default_factory=dict)


class Objective(Protocol):
    """A loss over token scores."""

    metrics: tuple[str, ...]
    """Names of the sums that each share carries."""

    def weight(self, batch: MicroBatch) -> float:
        """This rank's share of what the loss is averaged over."""
        ...

    def share(self, scores: torch.Tensor, batch: MicroBatch) -> Share:
        """This rank's share of the loss of one micro-batch."""
        ...


class NextToken:
    """Cross entropy of the next token, averaged over all targets of the global batch."""

    metrics: tuple[str, ...] = ()

    def weight(self, batch: MicroBatch) -> float:
        """Targets of this rank."""
        return float(batch.num_targets)

    def share(self, scores: torch.Tensor, _batch: MicroBatch) -> Share:
        """Sum of the negative log-probabilities."""
        loss = -scores.sum()
        return Share(surrogate=loss, loss=float(loss.detach()))


class DirectPreference:
    """DPO (Rafailov et al. 2023, arXiv 2305.18290), averaged over all pairs of the global batch.

    A pair's log-probabilities are spread over the sequence-parallel ranks. They are summed
    without a graph; the loss gives each document's sum a coefficient, and the coefficient times
    the rank's own sum has exactly the rank's share of the gradient.
    """

    metrics: tuple[str, ...] = ("reward_margin", "reward_accuracy")

    def __init__(
        self, reference: Reference, *, beta: float, layout: Layout, group: dist.ProcessGroup | None
    ) -> None:
        self._reference = reference
        self._beta = beta
        self._degree = layout.sequence_parallel
        self._group = group

    def weight(self, batch: MicroBatch) -> float:
        """Pairs; each sequence-parallel rank counts its part of them."""
        return len(batch.pairs) / self._degree

    def share(self, scores: torch.Tensor, batch: MicroBatch) -> Share:
        """Sum of the pair losses."""
        own = document_sums(scores, batch)
        whole = own.detach().clone()
        if self._group is not None:
            dist.all_reduce(whole, group=self._group)
        whole.requires_grad_(True)
        loss, margin = pair_loss(
            whole.view(-1, 3), self._reference.scores(batch.pairs).to(whole), beta=self._beta
        )
        (coefficients,) = torch.autograd.grad(loss.sum(), whole)
        return Share(
            surrogate=(coefficients * own).sum(),
            loss=float(loss.detach().sum()) / self._degree,
            sums={
                "reward_margin": float(margin.sum()) / self._degree,
                "reward_accuracy": float((margin > 0).sum()) / self._degree,
            },
        )


def document_sums(scores: torch.Tensor, batch: MicroBatch) -> torch.Tensor:
    """Scores summed by document over this rank's positions; shape [documents]."""
    sums = torch.zeros(batch.num_documents, dtype=scores.dtype, device=scores.device)
    return sums.index_add(0, batch.documents.flatten(), scores.flatten())
