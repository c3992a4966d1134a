"""Machines made of namespaces: one for the control plane, one for every node.

A machine is a process that sleeps as number 1 of its own pid, mount, network and host name
namespaces. When it dies the kernel ends everything in it and takes its mounts, interfaces,
routes and iptables rules along, so no bookkeeping can be wrong after a crash. A machine is known
by a variable in the environment of its processes; there are no pid files.
Must not know what runs in a machine.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from . import paths
from .errors import ClusterError
from .shell import run

_MARK: Final = "CURRICULUM_CLUSTER_MACHINE"
_DEADLINE_SECONDS: Final = 15

# Mounts made in a machine stay in it (slave), those of the host keep coming in.
# A private /run holds what containerd and the CNI plugins put at fixed places.
_SETUP: Final = r"""
set -e
echo "$1" > /proc/sys/kernel/hostname
scratch=$2; run=$3; shift 3
mkdir -p "$scratch/run"
mount -t tmpfs -o mode=755 tmpfs "$scratch/run"
mkdir -p "$scratch$run" "$scratch/run/lock"  # $run is a folder of /run
mount --bind "$run" "$scratch$run"
mount --rbind "$scratch/run" /run
while [ $# -gt 0 ]; do
  mkdir -p "$1"
  mount --bind "$1" "$2"
  shift 2
done
mount --make-rshared /
ip link set lo up
exec "$PYTHON" -ISc '
import os, signal
signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps what is left to number 1
os.execv("/bin/sleep", [os.environ["CURRICULUM_CLUSTER_MACHINE"], "infinity"])
'
"""


@dataclass(frozen=True, slots=True)
class Machine:
    """A live machine; ``pid`` is its number 1 as the host sees it."""

    name: str
    pid: int

    def inside(self, *command: str | Path, check: bool = True, stdin: str | None = None) -> str:
        """Run to the end in the machine; gives stdout."""
        return run(*self._enter(), *command, check=check, stdin=stdin).stdout

    def spawn(self, *command: str | Path, log: Path, env: Mapping[str, str] | None = None) -> None:
        """Start in the machine and leave it running, its output appended to ``log``."""
        detach = f'log={_quoted(log)}; setsid "$@" >>"$log" 2>&1 </dev/null &'
        marked = {_MARK: self.name, **(env or {})}
        run(*self._enter(), "sh", "-c", detach, "sh", *command, env=marked)

    def processes(self, program: Path | None = None) -> list[int]:
        """The machine's processes as host pids, without its number 1; only those of ``program``."""
        space = _pid_namespace(self.pid)
        found = [pid for pid in _all_pids() if pid != self.pid and _pid_namespace(pid) == space]
        if program is None:
            return found
        return [pid for pid in found if _executable(pid) == program.resolve()]

    def kill(self) -> None:
        """End the machine and everything in it, as a power cut would."""
        _kill([self.pid])

    def _enter(self) -> tuple[str, ...]:
        return (
            "nsenter",
            f"--target={self.pid}",
            "--mount",
            "--pid",
            "--net",
            "--uts",
            "--wdns=/",
            "--",
        )


def start(name: str, *, scratch: Path, binds: Sequence[tuple[Path, Path]] = ()) -> Machine:
    """Start an empty machine; ``binds`` are (host folder, place in the machine)."""
    scratch.mkdir(parents=True, exist_ok=True)
    arguments = [name, str(scratch), str(paths.RUN)]
    arguments += [str(path) for pair in binds for path in pair]
    command = ["unshare", "--mount", "--propagation=slave", "--net", "--pid", "--fork", "--uts"]
    log = paths.LOGS / f"{name}.machine.log"
    with log.open("w") as stream:
        starter = subprocess.Popen(
            [*command, "--mount-proc", "bash", "-c", _SETUP, name, *arguments],
            env={**os.environ, _MARK: name, "PYTHON": sys.executable},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    deadline = time.monotonic() + _DEADLINE_SECONDS
    while time.monotonic() < deadline:
        for machine in alive():
            if machine.name == name and _executable(machine.pid).name == "sleep":
                starter.kill()  # only waits for number 1, which lives on without it
                starter.wait()
                return machine
        if starter.poll() is not None:
            break
        time.sleep(0.01)
    raise ClusterError(f"machine {name!r} did not start: {log.read_text().strip() or 'no output'}")


def alive() -> list[Machine]:
    """Every machine on this host, also those of a starter that crashed."""
    machines = []
    for pid in _all_pids():
        name = _marked(pid)
        if name and _is_first(pid):
            machines.append(Machine(name, pid))
    return sorted(machines, key=lambda machine: machine.name)


def kill_all() -> None:
    """End every machine and every process that was on its way to become one."""
    _kill([machine.pid for machine in alive()])
    _kill([pid for pid in _all_pids() if _marked(pid)])


def _kill(pids: Sequence[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    deadline = time.monotonic() + _DEADLINE_SECONDS
    while left := [pid for pid in pids if _lives(pid)]:
        if time.monotonic() > deadline:
            raise ClusterError(f"processes {left} do not end after SIGKILL: look at their state")
        time.sleep(0.02)


def _lives(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def _all_pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _marked(pid: int) -> str | None:
    """The machine that a process of the host was started for."""
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    prefix = f"{_MARK}=".encode()
    for entry in environment:
        if entry.startswith(prefix):
            return entry.removeprefix(prefix).decode()
    return None


def _is_first(pid: int) -> bool:
    """Whether a process is number 1 of a pid namespace right below this one."""
    numbers = namespace_pids(pid)
    return len(numbers) == 2 and numbers[-1] == 1  # a container's has one more


def namespace_pids(pid: int) -> list[int]:
    """A process's numbers, from this namespace's down to its own."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return []
    for line in status.splitlines():
        if line.startswith("NSpid:"):
            return [int(number) for number in line.split()[1:]]
    return []


def _pid_namespace(pid: int) -> str | None:
    try:
        return str(Path(f"/proc/{pid}/ns/pid").readlink())
    except OSError:
        return None


def _executable(pid: int) -> Path:
    try:
        return Path(f"/proc/{pid}/exe").readlink()
    except OSError:
        return Path()


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "'\\''") + "'"
