"""What a phase says while it runs: lines for people, metrics for programs, progress for whoever
listens. Only the leading process speaks."""

import json
import math
from collections.abc import Iterable, Mapping

from curriculum_api.preflight.figures import Measured
from curriculum_api.run import FABRIC_METRIC, PhaseRun
from curriculum_trainer import evaluate, flops, metrics, result
from curriculum_trainer.begin import Work
from curriculum_trainer.collective import Place
from curriculum_trainer.journal import Journal
from curriculum_trainer.metrics import Cost, Step
from curriculum_trainer.progress import Progress
from curriculum_trainer.result import Reached


class Telling:
    """Tells how one attempt goes."""

    def __init__(self, run: PhaseRun, place: Place, reached: Reached, progress: Progress) -> None:
        self._run = run
        self._leads = place.leads
        self._reached = reached
        self._progress = progress
        self._cost = Cost(per_token=0.0, per_attended=0.0)
        self._journal: Journal | None = None
        self._line: dict[str, object] = {}
        self._fabric = ""

    def say(self, text: str) -> None:
        """One line for people."""
        if self._leads:
            print(text, flush=True)

    def stage(self, name: str) -> None:
        """What is done now; also a sign of life."""
        run, reached = self._run, self._reached
        told: dict[str, object] = {"stage": name, "step": reached.step, "tokens": reached.tokens}
        if self._fabric:
            told[FABRIC_METRIC] = self._fabric
        told |= self._line
        if self._line:
            told["lossFirst"] = reached.loss_first
        remaining = None
        if reached.tokens:
            left = max(0, run.tokens - reached.tokens)
            remaining = left * reached.seconds / reached.tokens
        self._progress.tell(
            percent=100 * reached.tokens / run.tokens, remaining_seconds=remaining, metrics=told
        )

    def measured(self, measured: Measured, lines: Iterable[str]) -> None:
        """The nodes were measured: lines for people, the figures for whoever listens."""
        for line in lines:
            self.say(line)
        self._progress.attach("preflight", measured.model_dump(mode="json", by_alias=True))

    def flush(self) -> None:
        """What was told last is sent before anything ends; nobody need listen."""
        self.stage("preflight")
        self._progress.flush()

    def joined(self, fabric: str, *, proven: bool) -> None:
        """The processes have met; `fabric` says over what, and is empty for a lone one."""
        self._fabric = fabric if proven else ""
        if fabric:
            self.say(f"fabric: {fabric}")
            self.stage("joined")

    def begin(self, work: Work) -> None:
        """The attempt is about to take its first step."""
        self.say(_start_line(work, self._reached))
        self.stage("loaded")
        self._cost = _cost(work)
        if self._leads:
            self._journal = Journal(
                result.phase_folder(self._run), step=self._reached.step, attempt=self._run.attempt
            )

    def step(self, step: Step) -> None:
        """A step was done, or skipped."""
        run, reached = self._run, self._reached
        line = metrics.line(run, step, self._cost, number=reached.step, tokens=reached.tokens)
        self._line = {key: value for key, value in line.items() if value is not None}
        found = metrics.figures(run, step, self._cost)
        reached.metrics = {key: value for key, value in found.items() if value is not None}
        self.say(json.dumps(line))
        self.stage("training")
        if self._journal is not None:
            self._journal.add(reached.step, line)

    def evaluated(self, figures: Mapping[str, float]) -> None:
        """The phase was measured: one line for programs, one for people."""
        known = {name: value for name, value in figures.items() if math.isfinite(value)}
        self.say(json.dumps({"evaluation": known}))
        self.say(evaluate.readable(self._run.phase, figures))


def _start_line(work: Work, reached: Reached) -> str:
    run, layout = work.run, work.layout
    origin = "fresh"
    if reached.checkpoint is not None:
        origin = f"resumed from {reached.checkpoint.uri}"
    elif run.init_from is not None:
        origin = f"started from {run.init_from}"
    return (
        f'phase "{run.phase}" attempt {run.attempt}: {run.objective} with {run.strategy} over '
        f"{run.world_size} processes, sequenceParallel {run.sequence_parallel}; {layout.batch} "
        f"sequences of {run.context_length} per step in {layout.passes} passes of "
        f"{layout.micro_batch}; {origin} at step {reached.step}"
    )


def _cost(work: Work) -> Cost:
    run, device = work.run, work.device
    alone = flops.model_flops_per_token(work.model_config, run.context_length, 0.0)
    whole = flops.model_flops_per_token(work.model_config, run.context_length)
    name = ""
    if device.kind == "cuda":
        import torch

        name = torch.cuda.get_device_name(device.index)
    return Cost(
        per_token=alone,
        per_attended=(whole - alone) / run.context_length,
        peak=flops.peak_flops(name, device.capability, run.precision),
    )
