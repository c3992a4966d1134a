"""PhaseResult: what has been reached so far, and writing it where others look. No torch."""

import json
import os
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from curriculum_api.preflight.figures import Findings
from curriculum_api.run import (
    RESULT_FILE,
    TERMINATION_MESSAGE_BYTES,
    TERMINATION_MESSAGE_PATH,
    CheckpointRef,
    PhaseResult,
    PhaseRun,
)
from curriculum_api.wire import Outcome
from curriculum_trainer import manifest
from curriculum_trainer.failures import one_line
from curriculum_trainer.manifest import BadCheckpoint, Manifest

MESSAGE_PATH_ENV = "TERMINATION_MESSAGE_PATH"
"""Where the termination message goes instead, outside a pod."""


@dataclass(frozen=True, slots=True)
class Written:
    """How the write of one checkpoint ended: the checkpoint, or why there is none."""

    step: int
    checkpoint: CheckpointRef | None = None
    problem: str | None = None
    full: bool = False
    """Whether there was no room."""

    held: bool = False
    """Whether the loop waited for it."""

    seconds: float = 0.0


@dataclass(slots=True)
class Reached:
    """How far the phase has come, over all attempts."""

    step: int = 0
    tokens: int = 0
    loss_first: float | None = None
    loss_last: float | None = None
    seconds: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)
    evaluation: dict[str, float] = field(default_factory=dict)
    checkpoint: CheckpointRef | None = None
    preflight: Findings | None = None
    """Nodes that are not good enough to start on."""

    pending: Future[Written] | None = None
    """The checkpoint that is being written, on the leading process."""

    def resume(self, head: Manifest, ref: CheckpointRef) -> None:
        """Take over what a checkpoint of this phase says."""
        self.step, self.tokens = head.step, head.tokens
        self.loss_first, self.loss_last = head.loss_first, head.loss_last
        self.seconds, self.checkpoint = head.seconds, ref

    def settle(self) -> None:
        """Wait for what is being written, alone: an attempt that fails still ends its save."""
        if self.pending is not None:
            self.checkpoint = self.pending.result().checkpoint or self.checkpoint


def phase_folder(run: PhaseRun) -> Path:
    """Where this phase's checkpoints and result lie."""
    return Path(run.checkpoints_dir) / run.checkpoint_path


def ref(run: PhaseRun, folder: Path, head: Manifest) -> CheckpointRef:
    """The reference to a checkpoint of this phase."""
    return CheckpointRef(
        uri=f"{run.checkpoint_path}/{folder.name}",
        step=head.step,
        tokens=head.tokens,
        digest=manifest.digest(folder),
    )


def on_disk(run: PhaseRun) -> Reached:
    """What the phase's newest readable manifest says; nothing else is looked at."""
    reached = Reached()
    for _, folder in manifest.steps(phase_folder(run)):
        try:
            head = manifest.read(folder)
        except BadCheckpoint:
            continue
        reached.resume(head, ref(run, folder, head))
        break
    return reached


def recall(run: PhaseRun, reached: Reached) -> None:
    """Take over metrics and evaluation that the trainer told of this very step before."""
    try:
        document = json.loads((phase_folder(run) / RESULT_FILE).read_text())
        told = PhaseResult.model_validate(document)
    except (OSError, ValueError, ValidationError):
        return
    if told.step == reached.step:
        reached.metrics, reached.evaluation = told.metrics, told.evaluation


def build(run: PhaseRun, reached: Reached, *, outcome: Outcome, message: str) -> PhaseResult:
    """The result of this attempt."""
    return PhaseResult(
        outcome=outcome,
        message=message,
        phase=run.phase,
        attempt=run.attempt,
        step=reached.step,
        tokens=reached.tokens,
        checkpoint=reached.checkpoint,
        loss_first=reached.loss_first,
        loss_last=reached.loss_last,
        seconds=round(reached.seconds, 3),
        world_size=run.world_size,
        preflight=reached.preflight,
        metrics=reached.metrics,
        evaluation=reached.evaluation,
    )


def to_json(result: PhaseResult) -> str:
    """The result as one line of JSON; a number that JSON cannot say becomes null."""
    finite = result.model_copy(
        update={
            "metrics": {key: value for key, value in result.metrics.items() if _finite(value)},
            "evaluation": {k: value for k, value in result.evaluation.items() if _finite(value)},
            "loss_first": result.loss_first if _finite(result.loss_first) else None,
            "loss_last": result.loss_last if _finite(result.loss_last) else None,
        }
    )
    return json.dumps(finite.model_dump(mode="json", by_alias=True), allow_nan=False)


def cut(result: PhaseResult, *, limit: int = TERMINATION_MESSAGE_BYTES) -> str:
    """The result as valid JSON of at most `limit` bytes: the message gives way, then metrics."""
    text = to_json(result)
    for length in (1000, 300, 100):
        if len(text.encode()) <= limit:
            return text
        text = to_json(
            result.model_copy(update={"message": one_line(result.message, length), "metrics": {}})
        )
    return text


def write_beside_checkpoints(run: PhaseRun, result: PhaseResult) -> None:
    """Replace the phase's result document, whole or not at all."""
    folder = phase_folder(run)
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f".tmp-{RESULT_FILE}"
    with part.open("w") as file:
        file.write(to_json(result) + "\n")
        file.flush()
        os.fsync(file.fileno())
    part.rename(folder / RESULT_FILE)


def write_termination_message(result: PhaseResult) -> None:
    """Tell the kubelet; outside a pod there is nobody to tell."""
    path = Path(os.environ.get(MESSAGE_PATH_ENV, TERMINATION_MESSAGE_PATH))
    try:
        path.write_text(cut(result))
    except OSError:
        return


def _finite(value: float | None) -> bool:
    return value is not None and value - value == 0
