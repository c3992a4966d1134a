"""The next steps' micro-batches, made by threads while this one computes.

Which rows a step holds depends on the step alone (`order`), so any number of threads gives the
same. Threads make tensors in host memory only and never touch a GPU: a thread has a current
device of its own.
"""

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

from curriculum_trainer import batch
from curriculum_trainer.batch import Layout, MicroBatch
from curriculum_trainer.data import Mixture


class Prefetcher:
    """`workers` steps ahead of the loop; none are 0 workers. Its threads do not cross a fork."""

    def __init__(
        self, mixture: Mixture, layout: Layout, *, device: str, first_step: int, workers: int = 1
    ) -> None:
        self._mixture = mixture
        self._layout = layout
        self._device = device
        self._workers = workers
        self._threads = ThreadPoolExecutor(workers, "prefetch") if workers else None
        self._next = first_step
        self._ahead: deque[Future[list[MicroBatch]]] = deque()
        self._fill()

    def take(self, step: int) -> list[MicroBatch]:
        """Everything this rank computes in one step; raises what making it raised."""
        if self._threads is None:
            return [part.to(self._device) for part in self._make(step)]
        if step != self._next - len(self._ahead):
            self._drop()
            self._next = step
            self._fill()
        made = self._ahead.popleft()
        self._fill()
        return [part.to(self._device) for part in made.result()]

    def close(self) -> None:
        """End the threads."""
        self._drop()
        if self._threads is not None:
            self._threads.shutdown()

    def _fill(self) -> None:
        while self._threads is not None and len(self._ahead) < self._workers:
            self._ahead.append(self._threads.submit(self._make, self._next))
            self._next += 1

    def _drop(self) -> None:
        for waiting in self._ahead:
            waiting.cancel()
        self._ahead.clear()

    def _make(self, step: int) -> list[MicroBatch]:
        return batch.micro_batches(self._mixture, self._layout, step=step, device="cpu")
