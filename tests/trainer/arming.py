"""Doing something inside a training process: its fork runs `action` before it trains."""

import os
import signal
from collections.abc import Callable

import pytest

from curriculum_api.run import PhaseRun
from curriculum_trainer import result, worker

Action = Callable[[PhaseRun], None]


def arm(monkeypatch: pytest.MonkeyPatch, action: Action) -> None:
    """Let every training process from now on begin with `action`."""
    real = worker.work

    def armed(run: PhaseRun) -> int:
        action(run)
        return real(run)

    monkeypatch.setattr(worker, "work", armed)


def before(owner: object, name: str, action: Callable[[], object]) -> None:
    """Call `action` before each call of `owner.name`."""
    real = getattr(owner, name)

    def wrapped(*arguments: object, **named: object) -> object:
        action()
        return real(*arguments, **named)

    setattr(owner, name, wrapped)


def kill_on_call(owner: object, name: str, number: int, *, step: int = 1) -> Action:
    """End the process by SIGKILL on a call of `owner.name` after the checkpoint of `step`."""

    def action(run: PhaseRun) -> None:
        folder, calls = result.phase_folder(run) / f"step-{step:08d}", [0]

        def count() -> None:
            calls[0] += folder.exists()
            if calls[0] == number:
                os.kill(os.getpid(), signal.SIGKILL)

        before(owner, name, count)

    return action
