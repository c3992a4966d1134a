"""One user of the cluster per machine, and one build at a time."""

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from . import paths
from .errors import ClusterError


class MachineLock:
    """Held from `acquire` to `release` or to the end of the process, however it ends."""

    def __init__(self) -> None:
        self._descriptor: int | None = None

    @property
    def held(self) -> bool:
        return self._descriptor is not None

    def acquire(self) -> None:
        """Raises ClusterError, naming the holder, where another process has it."""
        while self._descriptor is None:
            descriptor = os.open(paths.LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.read(descriptor, 100).decode().strip() or "unknown"
                os.close(descriptor)
                raise ClusterError(
                    f"process {holder} uses the cluster of this machine: wait for it or end it"
                ) from None
            if not _is_still(descriptor, paths.LOCK):
                os.close(descriptor)  # its last holder removed it in between
                continue
            os.ftruncate(descriptor, 0)
            os.write(descriptor, str(os.getpid()).encode())
            self._descriptor = descriptor

    def release(self) -> None:
        if self._descriptor is None:
            return
        paths.LOCK.unlink(missing_ok=True)
        os.close(self._descriptor)
        self._descriptor = None


@contextlib.contextmanager
def building(say: Callable[[str], None]) -> Iterator[None]:
    """Wait until no other process builds into the same cache."""
    paths.cache().mkdir(parents=True, exist_ok=True)
    with (paths.cache() / "build.lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another process builds the cluster's parts: waiting for it")
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _is_still(descriptor: int, path: Path) -> bool:
    try:
        return os.fstat(descriptor).st_ino == path.stat().st_ino
    except FileNotFoundError:
        return False
