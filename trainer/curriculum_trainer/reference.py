"""Which preference pairs a phase will use, and their reference scores under its first weights.

Computed once, before the first step, over all processes; a third of the phase's own arithmetic,
and no second copy of the model.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist

from curriculum_api.run import PhaseRun
from curriculum_trainer import batch, collective, dpo, result
from curriculum_trainer.batch import Layout
from curriculum_trainer.data import Mixture, Pair
from curriculum_trainer.dpo import Reference
from curriculum_trainer.objective import document_sums
from curriculum_trainer.precision import Device
from curriculum_trainer.sharding import Sharding


def load(
    run: PhaseRun, mixture: Mixture, layout: Layout, *, device: Device, config: str
) -> Reference | None:
    """The kept reference, or None on every process where any process lacks it."""
    pairs = used_pairs(run, mixture, layout)
    known = dpo.load(result.phase_folder(run), pairs, identity=_identity(run, pairs, config=config))
    (missing,) = collective.total([known is None], device=device)
    return None if missing else known


def compute(
    run: PhaseRun,
    mixture: Mixture,
    layout: Layout,
    sharding: Sharding,
    *,
    device: Device,
    config: str,
) -> Reference:
    """Score every pair with `sharding`, which holds the phase's first weights, and keep it."""
    pairs = used_pairs(run, mixture, layout)
    place = {pair: number for number, pair in enumerate(pairs)}
    scores = torch.zeros(len(pairs), 2, dtype=torch.float64, device=device.name)
    rows = _rows(mixture, pairs)
    with torch.no_grad():
        for first in range(0, len(rows), layout.data_parallel):
            # every rank takes part in every pass; where rows run out, it repeats one, uncounted
            mine = first + layout.data_rank
            counts = mine < len(rows)
            row = mixture.pair_row(rows[mine] if counts else rows[-1])
            part = batch.micro_batch([row], layout, device=device.name)
            answer = sharding.scores(*part.inputs)
            sums = document_sums(answer, part).view(-1, 3)[:, :2]
            if counts:
                scores[[place[pair] for pair in part.pairs]] = sums.double()
    # a row's sequence-parallel ranks each hold a part of its sums
    dist.all_reduce(scores)
    kept = scores.float().cpu()
    if layout.rank == 0:
        identity = _identity(run, pairs, config=config)
        dpo.save(result.phase_folder(run), kept, identity=identity)
    return Reference(pairs, kept)


def used_pairs(run: PhaseRun, mixture: Mixture, layout: Layout) -> list[Pair]:
    """Every pair that the phase will see, once, sorted."""
    steps = -(-run.tokens // run.global_batch_tokens)
    everything = sum(member.count for member in mixture.members)
    used: set[Pair] = set()
    for sequence in range(steps * layout.batch):
        source, numbers = mixture.samples(sequence)
        used.update(Pair(source, number) for number in numbers)
        if len(used) == everything:
            break
    return sorted(used, key=lambda pair: (pair.source, pair.number))


def _rows(mixture: Mixture, pairs: Sequence[Pair]) -> list[list[Pair]]:
    rows = []
    for source in range(len(mixture.members)):
        own = [pair for pair in pairs if pair.source == source]
        size = mixture.pairs_per_row(source)
        for first in range(0, len(own), size):
            row = own[first : first + size]
            rows.append(row + [row[-1]] * (size - len(row)))
    return rows


def _identity(run: PhaseRun, pairs: Sequence[Pair], *, config: str) -> str:
    return dpo.identity(init=run.init_digest or "none", pairs=pairs, config=config)
