"""Starts this pod's training processes, watches them, and says how the attempt ended.

    pod's environment -> Placement -> one worker per process -> reports -> cause -> PhaseResult

It imports no torch, so it survives what ends a worker, and it knows a worker's end by signal
from an end with a report. It never restarts anything: that is the operator's business.
"""

import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

from curriculum_api.run import EXIT_CODES, PhaseResult, PhaseRun
from curriculum_api.wire import Outcome
from curriculum_trainer import (
    failures,
    machine,
    nccl_report,
    precision,
    processes,
    reports,
    result,
)
from curriculum_trainer.failures import PhaseFailure
from curriculum_trainer.placement import Placement, placement
from curriculum_trainer.processes import Process, Start
from curriculum_trainer.reports import REPORT_ENV, Report
from curriculum_trainer.stop import STARTED_AT_ENV

SETTLE_SECONDS = 5.0
"""After the first failure, how long the others may take to end by themselves and report."""

KILL_MARGIN_SECONDS = 3.0
"""Of the grace time after SIGTERM, what is kept for writing the result."""

_POLL_SECONDS = 0.05


def launch(
    run: PhaseRun,
    run_path: Path,
    environment: Mapping[str, str],
    *,
    start: Start | None = None,
    keep: bool = True,
) -> PhaseResult:
    """Run one attempt in this pod; the result is written before it is returned.

    It lies beside the checkpoints too, unless it is not to be kept.
    """
    where: Placement | None = None
    with ExitStack() as until_written:
        try:
            refused = precision.refusal(run)
            if refused is not None:
                raise failures.user_error(refused)
            where = placement(run, environment)
            gang = _Gang(run, where, run_path, environment, start or processes.choose(run))
            until_written.enter_context(gang.asked())
            ended = gang.run()
        except PhaseFailure as error:
            known = result.on_disk(run)
            ended = result.build(run, known, outcome=error.outcome, message=error.message)
        result.write_termination_message(ended)
        if keep and (where is None or where.node_rank == 0):
            try:
                result.write_beside_checkpoints(run, ended)
            except OSError as error:
                print(f"the result could not be written: {error}", file=sys.stderr, flush=True)
    if ended.outcome is not Outcome.SUCCEEDED:
        print(f"{ended.outcome}: {ended.message}", file=sys.stderr, flush=True)
    return ended


def exit_code(ended: PhaseResult) -> int:
    """The exit code that follows from a result."""
    return EXIT_CODES[ended.outcome]


class _Gang:
    """The training processes of this pod."""

    def __init__(
        self,
        run: PhaseRun,
        where: Placement,
        run_path: Path,
        environment: Mapping[str, str],
        start: Start,
    ) -> None:
        self._run = run
        self._start = start
        self._where = where
        self._run_path = run_path
        self._environment = environment
        self._processes: list[Process] = []
        self._reports: dict[int, Report] = {}
        self._started_at = time.monotonic()
        self._asked_at: float | None = None
        self._failed_at: float | None = None
        self._oom_kills = machine.oom_kills()

    @contextmanager
    def asked(self) -> Iterator[None]:
        """Within it, a signal asks the processes to end; it ends neither them nor this one."""
        before = {number: signal.signal(number, self._ask) for number in processes.ENDING}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def run(self) -> PhaseResult:
        """Start all, wait for all, and tell the cause."""
        try:
            with tempfile.TemporaryDirectory(prefix="curriculum-") as folder:
                self._start_all(Path(folder))
                while len(self._reports) < len(self._processes):
                    self._collect(Path(folder))
                    self._end_the_overdue()
                    time.sleep(_POLL_SECONDS)
        finally:
            for process in self._processes:
                if process.poll() is None:
                    process.send_signal(signal.SIGKILL)
                    process.wait()
        return self._cause()

    def _start_all(self, folder: Path) -> None:
        for local_rank in range(self._run.processes_per_node):
            own = {
                **self._where.worker_environment(local_rank, self._environment),
                **nccl_report.wanted(self._environment, str(folder / f"nccl-{local_rank}.log")),
                REPORT_ENV: str(_report(folder, local_rank)),
                STARTED_AT_ENV: str(self._started_at),
            }
            process = self._start(self._run, self._run_path, own)
            self._processes.append(process)
            if self._asked_at is not None:
                # it came while this one was being started, which takes many seconds where the
                # imports are before the fork
                process.send_signal(signal.SIGTERM)

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        """Pass SIGTERM on; the processes save and end."""
        if self._asked_at is None:
            self._asked_at = time.monotonic()
        for process in self._processes:
            process.send_signal(signal.SIGTERM)

    def _collect(self, folder: Path) -> None:
        for local_rank, process in enumerate(self._processes):
            code = process.poll()
            if code is None or local_rank in self._reports:
                continue
            report = reports.read(_report(folder, local_rank)) or self._judge(local_rank, code)
            self._reports[local_rank] = report
            if report.result.outcome is not Outcome.SUCCEEDED and self._failed_at is None:
                self._failed_at = time.monotonic()

    def _end_the_overdue(self) -> None:
        now = time.monotonic()
        grace = max(1.0, self._run.grace_seconds - KILL_MARGIN_SECONDS)
        out_of_grace = self._asked_at is not None and now - self._asked_at > grace
        settled = self._failed_at is not None and now - self._failed_at > SETTLE_SECONDS
        if not (out_of_grace or settled):
            return
        for local_rank, process in enumerate(self._processes):
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                process.wait()
                outcome = Outcome.PREEMPTED if out_of_grace else Outcome.FABRIC_ERROR
                message = (
                    f"process {local_rank} did not finish its step and save within {grace:.0f} s "
                    "of SIGTERM: raise the pod's grace period"
                    if out_of_grace
                    else f"process {local_rank} was ended after another one failed"
                )
                self._reports[local_rank] = self._ended(outcome, message)

    def _judge(self, local_rank: int, code: int) -> Report:
        """The end of a process that left no report."""
        if code == -signal.SIGTERM and self._asked_at is not None:
            return self._ended(Outcome.PREEMPTED, "SIGTERM before the first step: nothing to save")
        if code == -signal.SIGKILL and machine.oom_kills() > self._oom_kills:
            return self._ended(
                Outcome.OUT_OF_MEMORY,
                f"process {local_rank} was killed by the kernel: the container's memory limit was "
                "reached; use fewer tokens per pass, more ranks, or a higher ZeRO stage",
            )
        if code < 0:
            return self._ended(
                Outcome.UNKNOWN, f"process {local_rank} was killed by signal {-code}"
            )
        return self._ended(
            Outcome.UNKNOWN, f"process {local_rank} ended with exit code {code} and no report"
        )

    def _ended(self, outcome: Outcome, message: str) -> Report:
        ended = result.build(self._run, result.on_disk(self._run), outcome=outcome, message=message)
        return Report(ended_at=time.time(), result=ended)

    def _cause(self) -> PhaseResult:
        ended = reports.cause(self._reports.values()).result
        if ended.step or ended.outcome is Outcome.SUCCEEDED:
            return ended
        # it failed before it knew how far the phase had come
        known = result.on_disk(self._run)
        known.preflight = ended.preflight
        return result.build(self._run, known, outcome=ended.outcome, message=ended.message)


def _report(folder: Path, local_rank: int) -> Path:
    return folder / f"report-{local_rank}.json"
