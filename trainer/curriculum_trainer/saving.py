"""When and from where a phase saves: the loop is held for the copy, a thread writes it.

    save -> wait for the write before -> copy to host memory -> the loop goes on
                                              \\-> write, flush, rename, prune (leading process)

What the thread has to tell is agreed on with the numbers of the next step, so that every process
hears of a failed write at the same step. Until then the checkpoint does not count.
"""

import errno
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import torch

from curriculum_trainer import checkpoint, collective, failures, result, snapshot
from curriculum_trainer.begin import Work
from curriculum_trainer.failures import PhaseFailure
from curriculum_trainer.manifest import MOMENTS_OF, Cursor, Layout, Manifest
from curriculum_trainer.result import Reached, Written
from curriculum_trainer.snapshot import Snapshot

STALL_METRIC = "checkpoint/stall(s)"

ASSUMED_BYTES_PER_SECOND = 100e6
"""Of a write, until one was measured: a slow network volume."""

HASTE = 1.25
"""How much longer than the last one the next write may take."""

MARGIN_SECONDS = 3.0
"""Of every save: flushes, the manifest, the rename and the result cost time whatever the size."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Saver:
    """The saves of one attempt; every process has one.

    `save`, `hear` and `finish` are collective, the others are not.
    """

    def __init__(self, work: Work, reached: Reached, *, say: Callable[[str], None]) -> None:
        self._work = work
        self._reached = reached
        self._say = say
        self._files = checkpoint.shapes(work.sharding)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._snapshot: Snapshot | None = None
        self._synchronous = False
        self._writing_since: float | None = None
        self._stall_seconds = 0.0
        self._write_seconds = snapshot.size(self._files) / ASSUMED_BYTES_PER_SECOND
        self._metrics: dict[str, float] = {}

    def save(self) -> None:
        """Save what has been reached; returns when training may go on."""
        began = time.monotonic()
        self.finish()
        waited = time.monotonic() - began
        head = self._head()
        tensors = checkpoint.gathered(self._work.sharding)
        if self._work.place.leads:
            self._reached.pending = self._start(head, tensors)
        # the others only take part in gathering, and the leading one where its disk has failed
        for _ in tensors:
            pass
        self._writing_since = time.monotonic()
        stall = self._writing_since - began
        self._stall_seconds = stall - waited
        self._metrics = {STALL_METRIC: stall}
        self._reached.metrics |= self._metrics
        self._say(
            f"checkpoint of step {head.step}: the loop was held for {stall:.2f} s, "
            f"{waited:.2f} s of it by the write before"
        )

    def metrics(self) -> dict[str, float]:
        """What the save since the last call cost the loop."""
        metrics, self._metrics = self._metrics, {}
        return metrics

    def news(self) -> bool:
        """Whether a write has ended that `hear` has not told; asks the leading process only."""
        pending = self._reached.pending
        return pending is not None and pending.done()

    def hear(self, news: float) -> None:
        """Take over how the write has ended; `news` is what was agreed on."""
        if news:
            self.finish()

    def finish(self) -> None:
        """Wait for the write that is under way; fails on every process where it has failed."""
        if self._writing_since is None:
            return
        self._writing_since = None
        pending, self._reached.pending = self._reached.pending, None
        ended = collective.from_leader(lambda: _result(pending), self._work.place)
        if ended.checkpoint is None:
            last = self._reached.checkpoint.uri if self._reached.checkpoint else "none"
            raise _failure(ended, last=last)
        self._reached.checkpoint = ended.checkpoint
        self._write_seconds = ended.seconds
        if ended.held:
            # its seconds were counted in the stall as well
            self._stall_seconds = 0.0
        self._say(f"checkpoint of step {ended.step}: written in {ended.seconds:.2f} s")
        if ended.problem is not None:
            self._say(f"older checkpoints could not be removed: {ended.problem}")

    def expected_seconds(self) -> float:
        """How long a save takes until it is complete, were it begun at once."""
        left = 0.0
        if self._writing_since is not None:
            left = max(0.0, self._writing_since + self._write_seconds - time.monotonic())
        return MARGIN_SECONDS + HASTE * (left + self._stall_seconds + self._write_seconds)

    def _start(self, head: Manifest, tensors: Iterator[torch.Tensor]) -> Future[Written]:
        if self._has_room():
            assert self._snapshot is not None
            self._snapshot.take(tensors)
            return self._thread.submit(self._write, head, self._snapshot.tensors())
        ended: Future[Written] = Future()
        ended.set_result(self._write(head, tensors))
        return ended

    def _has_room(self) -> bool:
        if self._snapshot is None and not self._synchronous:
            run = self._work.run
            num_bytes = snapshot.size(self._files)
            refused = snapshot.refusal(num_bytes, processes=run.processes_per_node)
            if refused is None:
                try:
                    self._snapshot = Snapshot(self._files, device=self._work.device)
                except (OSError, MemoryError) as error:
                    refused = f"no memory for a snapshot: {error}"
            if refused is not None:
                self._synchronous = True
                self._say(f"checkpoints are written while the loop waits: {refused}")
        return not self._synchronous

    def _write(self, head: Manifest, tensors: Iterator[torch.Tensor]) -> Written:
        """Write and prune; never raises, because nobody would see it."""
        began = time.monotonic()
        run, folder = self._work.run, self._work.folder
        ended = Written(step=head.step, held=self._synchronous)
        try:
            made = checkpoint.write(folder, head, self._files, tensors, export=self._work.export)
            ended = replace(ended, checkpoint=result.ref(run, made, head))
            checkpoint.prune(
                folder,
                step=head.step,
                keep_last=run.checkpoint.keep_last,
                keep_every=run.checkpoint.keep_every,
            )
        except OSError as error:
            ended = replace(
                ended,
                problem=f'"{error.filename or folder}": {error.strerror or error}',
                full=error.errno in _FULL,
            )
        except Exception as error:
            traceback.print_exc()
            ended = replace(ended, problem=f'"{folder}": {type(error).__name__}: {error}')
        return replace(ended, seconds=time.monotonic() - began)

    def _head(self) -> Manifest:
        run, reached = self._work.run, self._reached
        return Manifest(
            phase=run.phase,
            attempt=run.attempt,
            step=reached.step,
            tokens=reached.tokens,
            optimizer_steps=self._work.sharding.optimizer_steps(),
            cursor=Cursor(seed=run.seed, step=reached.step),
            config_digest=self._work.config_digest,
            source=Layout(
                strategy=run.strategy,
                world_size=run.world_size,
                sequence_parallel=run.sequence_parallel,
            ),
            moments=MOMENTS_OF[run.optimizer.name],
            init_digest=run.init_digest,
            loss_first=reached.loss_first,
            loss_last=reached.loss_last,
            seconds=reached.seconds,
            files={},
        )


def _result(pending: Future[Written] | None) -> Written:
    assert pending is not None
    return pending.result()


def _failure(ended: Written, *, last: str) -> PhaseFailure:
    advice = "make room on" if ended.full else "look at"
    return failures.checkpoint_error(
        f"checkpoint of step {ended.step} could not be written: {ended.problem}; the last good "
        f"one is {last}: {advice} the checkpoint volume"
    )
