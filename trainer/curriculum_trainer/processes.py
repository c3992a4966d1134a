"""Two ways to start a training process: a fresh interpreter, or a fork of this one.

Importing torch, transformers and DeepSpeed takes many seconds of one core. Where several
processes share few cores and there is no GPU, the launcher imports once and forks. CUDA forbids
it: a context does not survive a fork, and the import alone may open one.
"""

import contextlib
import ctypes
import gc
import os
import signal
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from curriculum_api.run import PhaseRun
from curriculum_api.wire import OptimizerName, Strategy

GPU_DEVICE = Path("/dev/nvidiactl")

ENDING = (signal.SIGTERM, signal.SIGINT)
"""The signals by which a pod is asked to end."""

_PR_SET_PDEATHSIG = 1


class Process(Protocol):
    """A started process; codes below zero are signals, as `subprocess` has it."""

    def poll(self) -> int | None:
        """Its exit code, or None while it runs."""
        ...

    def send_signal(self, number: int) -> None:
        """Signal it."""
        ...

    def wait(self) -> int:
        """Wait for its end."""
        ...


Start = Callable[[PhaseRun, Path, Mapping[str, str]], Process]
"""Starts one training process with an environment of its own."""


def choose(run: PhaseRun) -> Start:
    """The way that suits this machine."""
    return fork if run.processes_per_node > 1 and not GPU_DEVICE.exists() else spawn


def spawn(_run: PhaseRun, run_path: Path, environment: Mapping[str, str]) -> Process:
    """A fresh interpreter."""
    return interpreter("curriculum_trainer.worker", ["--run", str(run_path)], environment)


def fork(run: PhaseRun, _run_path: Path, environment: Mapping[str, str]) -> Process:
    """A fork of this interpreter, after the imports."""
    _import_once(run)
    from curriculum_trainer import worker

    return forked(lambda: worker.work(run), environment)


def interpreter(
    module: str, arguments: Sequence[str], environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """A module of ours in a fresh interpreter, in a session of its own."""
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.Popen(command, env=environment, start_new_session=True)


def forked(work: Callable[[], int], environment: Mapping[str, str]) -> Process:
    """Some work in a fork of this interpreter, in a session of its own; it returns the exit code.

    What it needs is imported before.
    """
    # until it has handlers of its own: its launcher's would drop what is meant for the child
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        pid = fork_frozen()
    except BaseException:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        raise
    if pid:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        return Forked(pid)
    code = 1
    try:
        os.setsid()
        die_with_launcher()
        for number in ENDING:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        os.environ.clear()
        os.environ.update(environment)
        code = work()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def fork_frozen() -> int:
    """Fork; returns the child's process id, and 0 in the child.

    In the child the garbage collector leaves alone what was there before: it would touch, and so
    copy, every object of this process. DeepSpeed collects often, and the copies were half of what
    a short phase cost.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    gc.freeze()
    try:
        with warnings.catch_warnings():
            # numpy's idle threads do not survive a fork and need not
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
    except BaseException:
        gc.unfreeze()
        raise
    if pid:
        gc.unfreeze()
    return pid


def die_with_launcher() -> None:
    """From now on this process does not outlive its launcher, however that one ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Forked:
    """A child of `forked`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._code: int | None = None

    def poll(self) -> int | None:
        """See `Process`."""
        if self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._code = os.waitstatus_to_exitcode(status)
        return self._code

    def send_signal(self, number: int) -> None:
        """See `Process`."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def wait(self) -> int:
        """See `Process`."""
        if self._code is None:
            _, status = os.waitpid(self.pid, 0)
            self._code = os.waitstatus_to_exitcode(status)
        return self._code


def _import_once(run: PhaseRun) -> None:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from curriculum_trainer import model

    with contextlib.suppress(Exception):
        # what is wrong with the model, the process that needs it will say
        model.import_decoder(run)
    if run.strategy is not Strategy.DDP:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        from curriculum_trainer import zero

        zero.deepspeed_on("cpu")
    if run.optimizer.name is not OptimizerName.ADAMW:
        from curriculum_trainer import blockwise  # noqa: F401
