"""What a phase came to on held-out text: perplexity by position, and needles in a haystack.

All ranks take part in every pass and sums are taken over all of them, so the figures are the
same under every layout. The perplexity at the phase's start is measured once and kept beside the
checkpoints: a resumed attempt no longer has the weights it is of.
"""

import json
import os
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from curriculum_api.run import PhaseRun, RunSource
from curriculum_api.wire import Objective
from curriculum_trainer import batch, collective, needles, result
from curriculum_trainer.batch import Layout, MicroBatch
from curriculum_trainer.collective import Place
from curriculum_trainer.data import IGNORED, Mixture, Row
from curriculum_trainer.precision import Device
from curriculum_trainer.sharding import Sharding
from curriculum_trainer.tokenizing import Encoder

BEFORE_FILE = "evaluation.json"
"""What the phase's first weights came to."""

FIRST_BUCKET = 256
DEPTHS = 11
"""Most depths that needles are counted by; a needle counts for the nearest."""

Beat = Callable[[], None]
"""Called between passes: a sign of life, and the place to end early."""

Tally = Callable[[torch.Tensor, MicroBatch, int], None]
"""Takes the model's answer to a batch of one row, and the row's number."""


class Evaluation:
    """The measuring of one phase; `run.evaluation` says what."""

    def __init__(self, run: PhaseRun, layout: Layout, place: Place, device: Device) -> None:
        assert run.evaluation is not None
        self._run = run
        self._layout = layout
        self._place = place
        self._device = device
        self._asked = run.evaluation
        # whatever the phase's own order, these are the same samples for every seed and objective
        source = RunSource(source=run.evaluation.source, weight=1)
        held_out = {"objective": Objective.PRETRAIN, "data": (source,), "seed": 0}
        self.mixture = Mixture(run.model_copy(update=held_out))
        self._encoder = Encoder(Path(run.data_dir) / run.tokenizer)
        self.before: float | None = None
        if self._asked.needles:
            # refuses a context too short for them now, not at the phase's end
            self._needle(0, 0.0)

    def recall(self, identity: str) -> bool:
        """Take the perplexity at the phase's start from the disk, where it is known."""
        self.before = collective.from_leader(lambda: _read(self._file, identity), self._place)
        return self.before is not None

    def measure_before(self, sharding: Sharding, identity: str, *, beat: Beat) -> None:
        """Measure the perplexity of the phase's first weights, and keep it."""
        self.before = self._perplexities(sharding, beat)["perplexity"]
        if self._place.leads:
            _write(self._file, identity, self.before)

    def figures(self, sharding: Sharding, *, beat: Beat) -> dict[str, float]:
        """Everything that was asked for, by name."""
        found = self._perplexities(sharding, beat)
        if self.before is not None:
            found["perplexity_before"] = self.before
        if self._asked.needles:
            found |= self._needles(sharding, beat)
        return found

    @property
    def _file(self) -> Path:
        return result.phase_folder(self._run) / BEFORE_FILE

    def _perplexities(self, sharding: Sharding, beat: Beat) -> dict[str, float]:
        edges = buckets(self._run.context_length)
        rows = min(self._asked.sequences, self.mixture.members[0].count)
        limits = torch.tensor(edges[1:], device=self._device.name)
        sums = torch.zeros(2, len(edges) - 1, dtype=torch.float64, device=self._device.name)

        def tally(scores: torch.Tensor, part: MicroBatch, _number: int) -> None:
            counted = part.targets != IGNORED
            place = torch.bucketize(part.positions[counted], limits, right=True)
            lost = -scores[counted].double()
            sums[0].index_add_(0, place, lost)
            sums[1].index_add_(0, place, torch.ones_like(lost))

        self._pass_over(sharding, rows, self.mixture.row, tally, hits=False, beat=beat)
        dist.all_reduce(sums)
        found = {"perplexity": float(torch.exp(sums[0].sum() / sums[1].sum()))}
        for (low, high), lost, count in zip(pairwise(edges), sums[0], sums[1], strict=True):
            if count:
                found[f"perplexity/{low}-{high}"] = float(torch.exp(lost / count))
        return found

    def _needles(self, sharding: Sharding, beat: Beat) -> dict[str, float]:
        depths = needles.depths(self._asked.needles)
        right = torch.zeros(len(depths), dtype=torch.float64, device=self._device.name)
        asked = torch.zeros_like(right)

        def tally(hits: torch.Tensor, part: MicroBatch, number: int) -> None:
            right[number] = hits.sum()
            asked[number] = part.num_targets

        def row(number: int) -> Row:
            return self._needle(number, depths[number])

        # One pass per needle: every token of the answer is the likeliest after the true ones
        # before it, exactly if greedy decoding gives the answer.
        self._pass_over(sharding, len(depths), row, tally, hits=True, beat=beat)
        dist.all_reduce(right)
        dist.all_reduce(asked)
        found = (right == asked).double().tolist()
        by_depth: dict[str, list[float]] = {}
        for depth, was_found in zip(depths, found, strict=True):
            by_depth.setdefault(f"needle/{_percent(depth, len(depths))}", []).append(was_found)
        return {"needle": float(np.mean(found))} | {
            name: float(np.mean(each)) for name, each in by_depth.items()
        }

    def _needle(self, number: int, depth: float) -> Row:
        return needles.row(
            self._text(number),
            self._encoder.encode,
            number=number,
            depth=depth,
            seed=self._run.seed,
            length=self._run.context_length,
        )

    def _text(self, number: int) -> NDArray[np.int64]:
        """The held-out text around needle `number`: as much as the context holds."""
        source, length = self.mixture.members[0].source, self._run.context_length
        # a source holds more than one sample, so there is such a text
        start = number * length % (source.index.tokens - length)
        return source.tokens(start, start + length)

    def _pass_over(
        self,
        sharding: Sharding,
        rows: int,
        row: Callable[[int], Row],
        tally: Tally,
        *,
        hits: bool,
        beat: Beat,
    ) -> None:
        """Answer to each of `rows` rows once, spread over the data-parallel ranks."""
        layout = self._layout
        with torch.no_grad():
            for first in range(0, rows, layout.data_parallel):
                # every rank takes part in every pass; where rows run out, it repeats one, uncounted
                mine = first + layout.data_rank
                number = min(mine, rows - 1)
                part = batch.micro_batch([row(number)], layout, device=self._device.name)
                answer = sharding.scores(*part.inputs, hits)
                if mine < rows:
                    tally(answer, part, number)
                beat()


def buckets(context_length: int) -> list[int]:
    """The limits of the buckets of positions: 0, 256, 512, and so on up to the context."""
    edges = [0, FIRST_BUCKET]
    while edges[-1] < context_length:
        edges.append(2 * edges[-1])
    return [*edges[:-1], context_length]


def readable(phase: str, figures: Mapping[str, float]) -> str:
    """The figures in one line for people."""
    text = f'phase "{phase}" on held-out text: perplexity {figures["perplexity"]:.4g}'
    if "perplexity_before" in figures:
        text += f" ({figures['perplexity_before']:.4g} at its start)"
    text += _parts(figures, "perplexity/", " at positions ")
    if "needle" in figures:
        text += f"; needles found {figures['needle']:.4g}" + _parts(figures, "needle/", " at % ")
    return text


def _parts(figures: Mapping[str, float], prefix: str, before: str) -> str:
    parts = [
        f"{name.removeprefix(prefix)}: {value:.4g}"
        for name, value in figures.items()
        if name.startswith(prefix)
    ]
    return f",{before}{', '.join(parts)}" if parts else ""


def _percent(depth: float, count: int) -> int:
    if count <= DEPTHS:
        return round(100 * depth)
    return round(100 / (DEPTHS - 1)) * round((DEPTHS - 1) * depth)


def _read(path: Path, identity: str) -> float | None:
    try:
        known = json.loads(path.read_text())
        return float(known["perplexity"]) if known["identity"] == identity else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(path: Path, identity: str, perplexity: float) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".tmp-{path.name}")
    with part.open("w") as file:
        file.write(json.dumps({"identity": identity, "perplexity": perplexity}) + "\n")
        file.flush()
        os.fsync(file.fileno())
    part.rename(path)
