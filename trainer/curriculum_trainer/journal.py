"""A phase's metrics on disk, beside its checkpoints: `metrics.jsonl`, and TensorBoard's files.

Both go on over resumed attempts: what lies behind the step that an attempt starts from is cut
from the one and hidden from the other. Whatever goes wrong here is said once; training goes on.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from curriculum_trainer.metrics import Figures

METRICS_FILE = "metrics.jsonl"
TENSORBOARD_FOLDER = "tensorboard"


class Journal:
    """Where the leading process keeps the metrics of every step."""

    def __init__(self, folder: Path, *, step: int, attempt: int) -> None:
        self._folder = folder
        self._lines: IO[str] | None = None
        self._events: _Events | None = None
        self._attempt(lambda: self._open(step, attempt))

    def add(self, step: int, figures: Figures) -> None:
        """Keep one step's line."""
        self._attempt(lambda: self._write(step, figures))

    def _open(self, step: int, attempt: int) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / METRICS_FILE
        cut(path, step=step)
        self._lines = path.open("a")
        self._events = _Events(self._folder / TENSORBOARD_FOLDER, step=step, attempt=attempt)

    def _write(self, step: int, figures: Figures) -> None:
        if self._lines is None or self._events is None:
            return
        self._lines.write(json.dumps(figures) + "\n")
        self._lines.flush()
        self._events.write(step, figures)

    def _attempt(self, action: Callable[[], None]) -> None:
        try:
            action()
        except OSError as error:
            self._lines = self._events = None
            print(
                f'metrics are no longer kept in "{self._folder}": {error.strerror or error}; '
                "training goes on: make room on the checkpoint volume",
                file=sys.stderr,
                flush=True,
            )


def cut(path: Path, *, step: int) -> None:
    """Cut a file of metrics behind a step; a line that a kill left unfinished goes too."""
    if not path.is_file():
        return
    end = 0
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n") or not _is_of(line, step):
                break
            end += len(line)
    os.truncate(path, end)


def _is_of(line: bytes, step: int) -> bool:
    try:
        return int(json.loads(line)["step"]) <= step
    except (ValueError, KeyError, TypeError):
        return False


class _Events:
    """One attempt's event file.

    Written here and now: the library's own writer has a thread and a queue, and once the thread
    has died of a full disk, the queue fills and training waits on it for ever.
    """

    def __init__(self, folder: Path, *, step: int, attempt: int) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2, summary_pb2

        folder.mkdir(parents=True, exist_ok=True)
        self._event: Any = event_pb2.Event
        self._summary: Any = summary_pb2.Summary
        self._file = EventsWriter(str(folder / "events"), f".{attempt}")
        # TensorBoard hides what earlier files say of this step and later ones
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._put(step=step + 1, session_log=start)

    def write(self, step: int, figures: Figures) -> None:
        numbers = {key: value for key, value in figures.items() if isinstance(value, int | float)}
        values = [
            self._summary.Value(tag=tag, simple_value=value)
            for tag, value in numbers.items()
            if tag != "step"
        ]
        self._put(step=step, summary=self._summary(value=values))

    def _put(self, **fields: Any) -> None:
        self._file.write_event(self._event(wall_time=time.time(), **fields))
        self._file.flush()
