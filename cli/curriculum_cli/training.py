"""One phase as processes: the trainer, its verification, and the files beside the checkpoints.

    run.json     the PhaseRun of the last attempt
    train.log    what the trainer and its libraries complained of, over all attempts
    result.json  the trainer's own account, which it writes itself

The trainer is a process of its own, started as a pod would start it; nothing of torch comes here.
"""

import contextlib
import ctypes
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Final

from pydantic import ValidationError

from curriculum_api.run import RESULT_FILE, PhaseResult, PhaseRun
from curriculum_api.wire import Outcome

RUN_FILE: Final = "run.json"
LOG_FILE: Final = "train.log"
TERMINATION_ENV: Final = "TERMINATION_MESSAGE_PATH"
"""Where the trainer leaves its result outside a pod."""

PLACE_FIELDS: Final = frozenset(
    {
        "attempt", "nodes", "processes_per_node", "sequence_parallel", "data_dir",
        "checkpoints_dir", "grace_seconds",
    }
)  # fmt: skip
"""What may differ between two runs that train the same."""

_PR_SET_PDEATHSIG: Final = 1
_LOG_TAIL: Final = 12


@dataclass(frozen=True, slots=True)
class Step:
    """One optimizer step, as the trainer prints it."""

    step: int
    tokens: int
    """Tokens of the phase so far."""

    loss: float
    tokens_per_second: float


class Stop:
    """Ctrl-C, SIGTERM or a closed terminal as a question; a second one ends without a save."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.asked = False
        self._say = say
        self._trainer: subprocess.Popen[str] | None = None

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """While this lasts, signals are asked here."""
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.signal(number, self._ask) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def watching(self, trainer: subprocess.Popen[str]) -> Iterator[None]:
        """The process that is told."""
        self._trainer = trainer
        try:
            if self.asked:
                trainer.terminate()
            yield
        finally:
            self._trainer = None
            if trainer.poll() is None:
                trainer.kill()
                trainer.wait()

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        again, self.asked = self.asked, True
        if self._trainer is not None:
            if again:
                self._trainer.kill()
                return
            self._trainer.terminate()
            self._say("finishing the step and saving; once more ends at once, without a save")


def folder(run: PhaseRun) -> Path:
    """Where a phase's checkpoints lie, and these files."""
    return Path(run.checkpoints_dir) / run.checkpoint_path


def before(run: PhaseRun) -> PhaseRun | None:
    """The run of the attempt before; None where there was none, or of another version."""
    try:
        return PhaseRun.model_validate_json((folder(run) / RUN_FILE).read_text())
    except (OSError, ValidationError):
        return None


def finished(run: PhaseRun) -> PhaseResult | None:
    """The phase's verified end, where just this was trained here before."""
    earlier = before(run)
    if earlier is None or not _same(earlier, run):
        return None
    told = _result(folder(run) / RESULT_FILE)
    if told is None or told.outcome is not Outcome.SUCCEEDED:
        return None
    ended = verify(run)
    return ended if ended.outcome is Outcome.SUCCEEDED else None


def train(
    run: PhaseRun,
    environment: Mapping[str, str],
    *,
    stop: Stop,
    on_step: Callable[[Step], None],
    on_text: Callable[[str], None],
) -> PhaseResult:
    """Run one attempt to its end; what the trainer prints is told line by line."""
    place = folder(run)
    place.mkdir(parents=True, exist_ok=True)
    _replace(place / RUN_FILE, run.model_dump_json(by_alias=True, indent=2, exclude_none=True))
    with (
        tempfile.TemporaryDirectory(prefix="curriculum-") as scratch,
        (place / LOG_FILE).open("a") as log,
    ):
        message = Path(scratch) / "termination"
        trainer = subprocess.Popen(
            [sys.executable, "-m", "curriculum_trainer", "--run", str(place / RUN_FILE)],
            env={**environment, TERMINATION_ENV: str(message)},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            errors="replace",
            # Ctrl-C reaches this program alone, which asks the trainer to save
            start_new_session=True,
            preexec_fn=_end_with_this_program,
        )
        with stop.watching(trainer):
            assert trainer.stdout is not None
            _relay(trainer.stdout, on_step=on_step, on_text=on_text)
            code = trainer.wait()
        return _result(message) or PhaseResult(
            outcome=Outcome.PREEMPTED if stop.asked else Outcome.UNKNOWN,
            message=_without_result(code),
            phase=run.phase,
            attempt=run.attempt,
        )


def verify(run: PhaseRun) -> PhaseResult:
    """What `python -m curriculum_trainer.verify` says of the phase's last checkpoint."""
    with tempfile.TemporaryDirectory(prefix="curriculum-") as scratch:
        path, message = Path(scratch) / RUN_FILE, Path(scratch) / "termination"
        path.write_text(run.model_dump_json(by_alias=True))
        done = subprocess.run(
            [sys.executable, "-m", "curriculum_trainer.verify", "--run", str(path)],
            env={**os.environ, TERMINATION_ENV: str(message)},
            capture_output=True,
            text=True,
            check=False,
            # Ctrl-C stops what comes after it, not the look at what is there
            start_new_session=True,
        )
        return _result(message) or PhaseResult(
            outcome=Outcome.CHECKPOINT_ERROR,
            message=f"verification ended with {done.returncode}: {_last_line(done.stderr)}",
            phase=run.phase,
            attempt=run.attempt,
        )


def log_tail(run: PhaseRun) -> list[str]:
    """The last lines of the log."""
    try:
        lines = (folder(run) / LOG_FILE).read_text(errors="replace").splitlines()
    except OSError:
        return []
    return [line for line in lines if line.strip()][-_LOG_TAIL:]


def parse(line: str) -> Step | None:
    """A step, where the line tells of one."""
    if not line.startswith("{"):
        return None
    try:
        said = json.loads(line)
        return Step(
            step=int(said["step"]),
            tokens=int(said["tokens"]),
            loss=float(said["loss"] if said["loss"] is not None else math.nan),
            tokens_per_second=float(said["tokens_per_second"]),
        )
    except (ValueError, KeyError, TypeError):
        return None


def _relay(
    lines: IO[str],
    *,
    on_step: Callable[[Step], None],
    on_text: Callable[[str], None],
) -> None:
    for line in lines:
        step = parse(line)
        if step is not None:
            on_step(step)
        elif line.strip() and not line.startswith("{"):
            on_text(line.rstrip())


def _same(one: PhaseRun, other: PhaseRun) -> bool:
    return one.model_dump(exclude=set(PLACE_FIELDS)) == other.model_dump(exclude=set(PLACE_FIELDS))


def _result(path: Path) -> PhaseResult | None:
    try:
        return PhaseResult.model_validate_json(path.read_text())
    except (OSError, ValidationError):
        return None


def _without_result(code: int) -> str:
    if code < 0:
        return f"the trainer was ended by {signal.Signals(-code).name}"
    return f"the trainer ended with exit code {code} and left no result"


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no output"])[-1]


def _replace(path: Path, text: str) -> None:
    part = path.with_name(f".tmp-{path.name}")
    part.write_text(text)
    part.rename(path)


_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def _end_with_this_program() -> None:
    """However this program ends, no trainer of it stays behind; the kernel sees to it."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
