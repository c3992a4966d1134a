"""How the processes of a gang tell each other figures when the fabric itself is in doubt.

Over the store of the rendezvous, which is plain TCP to one address and asks nothing of NCCL or of
the links between the others. Everything has a deadline, and who does not come is named.
"""

import json
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any, Generic, TypeVar, cast

import torch.distributed as dist

from curriculum_api.wire import Outcome
from curriculum_trainer.collective import Place
from curriculum_trainer.failures import PhaseFailure

T = TypeVar("T")

PART_SECONDS = 5.0
"""How long the store is kept for those that have not read the verdict yet."""

NAMED = 8
"""Nodes that a message names; the rest are counted."""


class Meeting:
    """The processes of one gang, until `seconds` from now."""

    def __init__(self, place: Place, seconds: float) -> None:
        self._place = place
        self._seconds = seconds
        self._until = time.monotonic() + seconds
        self._store = dist.PrefixStore("preflight", dist.distributed_c10d._get_default_store())
        self.nodes: Sequence[str] = ()
        """The node of each process by rank, once they are known."""

    def left(self) -> float:
        """Seconds to the deadline."""
        return max(0.0, self._until - time.monotonic())

    def gather(self, stage: int, what: str, value: Any = None) -> list[Any]:
        """What every process says of `what` at this stage, by rank; waits until all have said it.

        Raises:
            PhaseFailure: somebody did not come before the deadline.
        """
        keys = [f"{stage}/{rank}" for rank in range(self._place.world_size)]
        self._store.set(keys[self._place.rank], json.dumps(value))
        try:
            self._store.wait(keys, timedelta(seconds=max(0.001, self.left())))
        except dist.DistStoreError as error:
            raise PhaseFailure(Outcome.FABRIC_ERROR, self._absent(what, keys)) from error
        return [json.loads(said) for said in self._store.multi_get(keys)]

    def part(self) -> None:
        """Before this process ends: the leading one keeps the store until all have read it."""
        keys = [f"parted/{rank}" for rank in range(self._place.world_size)]
        with suppress(dist.DistError):
            self._store.set(keys[self._place.rank], "")
            if self._place.leads:
                self._store.wait(keys, timedelta(seconds=PART_SECONDS))

    def _absent(self, what: str, keys: Sequence[str]) -> str:
        ranks = [rank for rank, key in enumerate(keys) if not self._store.check([key])]
        who = [self.nodes[rank] if self.nodes else f"process {rank}" for rank in ranks]
        named = list(dict.fromkeys(who))
        told = ", ".join(named[:NAMED]) + (", ..." if len(named) > NAMED else "")
        return (
            f"preflight did not end in its {self._seconds:.0f} s: at {what} it waited for "
            f"{told or 'nobody any more'}: look there, or give preflight.seconds more"
        )


class _Answer(Generic[T]):
    """What a piece of work came to."""

    value: T | None = None
    error: BaseException | None = None


def within(seconds: float, work: Callable[[], T]) -> T | None:
    """What `work` returns; None where it takes longer.

    A thread does it, because what waits in a socket, in a file system that is gone or in a kernel
    of NCCL cannot be interrupted; one that never returns is left behind.
    """
    answer: _Answer[T] = _Answer()

    def do() -> None:
        try:
            answer.value = work()
        except BaseException as error:
            answer.error = error

    thread = threading.Thread(target=do, name="preflight", daemon=True)
    thread.start()
    thread.join(max(0.0, seconds))
    if answer.error is not None:
        raise answer.error
    return None if thread.is_alive() else cast("T", answer.value)
