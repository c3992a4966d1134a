"""`curriculum doctor` on this machine: whether it can train, and with `--calibrate` how fast.

What is found is gathered here; `machine_checks` judges it. Torch stays in the probe's processes.
"""

import itertools
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from curriculum_api import calibration
from curriculum_api.calibration_figures import Figures
from curriculum_api.check import Check, Verdict
from curriculum_cli import machine, machine_checks
from curriculum_cli.machine_checks import Facts, Gpu
from curriculum_trainer import machine as container

WRITTEN_BYTES = 1 << 26
"""To find out how fast checkpoints are written."""

QUIET_SHARE = 0.1
"""Of the processors that other programs may take while this machine is measured."""

_STYLES = {Verdict.PASS: "green", Verdict.WARN: "yellow", Verdict.FAIL: "bold red"}


def check(folder: Path) -> list[Check]:
    """Every check of this machine; checkpoints would lie in `folder`."""
    return list(machine_checks.rows(facts(folder)))


def measured(processes: int | None, folder: Path) -> list[Check]:
    """What this machine's processes reach, each by itself and each with each.

    Raises:
        ValueError: it could not be measured.
    """
    from curriculum_cli import doctor_measure, node_checks

    proof = doctor_measure.on_this_machine(processes or max(1, machine.gpus()), folder)
    known = node_checks.fresh(proof)
    rows: list[Check] = []
    for node in proof.measured.nodes:
        rows += node_checks.figures(node.node, known, proof.floors)
    for pair in proof.measured.pairs:
        rows += node_checks.pair(pair.nodes, known, proof.floors)
    return rows + node_checks.remarks(proof)


def facts(folder: Path) -> Facts:
    """What this machine has."""
    place = _existing(folder)
    return Facts(
        python=tuple(sys.version_info[:3]),
        torch=_version("torch"),
        deepspeed=_version("deepspeed"),
        architecture=platform.machine(),
        kernel=platform.release(),
        kernel_options=_text(Path("/proc/cmdline")),
        cpus=container.cpus(),
        memory_free=container.available_bytes(),
        shared_memory=_shared_memory(),
        folder=str(folder),
        disk_free=shutil.disk_usage(place).free,
        write_rate=_write_rate(place),
        gpu_files=machine.gpus({}),
        gpus=_gpus(),
        nccl=_nccl(),
    )


def show(rows: Sequence[Check], output: str) -> None:
    """Print the rows as a table or as JSON."""
    if output == "json":
        document = {"checks": [row.model_dump(mode="json", by_alias=True) for row in rows]}
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
        return
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    for subject, of in itertools.groupby(rows, key=lambda row: row.subject):
        table = Table("", "check", "value", "floor", "what to do", box=None)
        for row in of:
            verdict = f"[{_STYLES[row.verdict]}]{row.verdict}[/]"
            table.add_row(verdict, *map(escape, (row.name, row.value, row.floor, row.remedy)))
        if subject:
            console.print(f"\n[bold]{escape(subject)}[/]")
        console.print(table)


def calibrate(folder: Path, *, processes: int | None, name: str | None, brief: bool) -> str:
    """Measure this machine and write its accelerator class as YAML; a comment says where other
    programs were in the way.

    Raises:
        ValueError: the probe failed.
    """
    machine.check()
    folder.mkdir(parents=True, exist_ok=True)
    count = processes or max(1, machine.gpus())
    neighbours = container.Neighbours()
    done = subprocess.run(
        [sys.executable, "-m", "curriculum_trainer.calibrate", "--processes", str(count),
         "--folder", str(folder), *(["--brief"] if brief else [])],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise ValueError(f"the probe ended with {done.returncode}: {last}")
    figures = Figures.model_validate_json(done.stdout.splitlines()[-1])
    made = calibration.accelerator_class(
        figures,
        name=name or _name(figures),
        host=platform.node(),
        architecture=platform.machine(),
        date=datetime.now(UTC).date().isoformat(),
    )
    document = made.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)
    head = {"apiVersion": made.api_version, "kind": made.kind}
    return disturbed(neighbours.share()) + yaml.safe_dump(
        head | document, sort_keys=False, allow_unicode=True, width=100
    )


def disturbed(share: float) -> str:
    """The comment on a class that was measured beside other programs."""
    if share <= QUIET_SHARE:
        return ""
    return (
        f"# other programs took {share:.0%} of the processors meanwhile: these rates are too low;"
        " measure again once they have ended\n"
    )


def _name(figures: Figures) -> str:
    """By what it is: cpu-x86-64, or cpu-x86-64-x2 for two processes on it."""
    if figures.capability is not None:
        return f"gpu-sm{figures.capability.replace('.', '')}"
    several = f"-x{figures.processes}" if figures.processes > 1 else ""
    return f"cpu-{platform.machine().lower().replace('_', '-')}{several}"


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(each for each in (folder.resolve(), *folder.resolve().parents) if each.is_dir())


def _write_rate(folder: Path) -> float | None:
    path = folder / f".curriculum-doctor-{os.getpid()}"
    block = os.urandom(1 << 22)
    try:
        began = time.perf_counter()
        with path.open("wb") as file:
            for _ in range(WRITTEN_BYTES // len(block)):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        return WRITTEN_BYTES / (time.perf_counter() - began)
    except OSError:
        return None
    finally:
        path.unlink(missing_ok=True)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _nccl() -> tuple[int, ...] | None:
    for package in ("nvidia-nccl-cu13", "nvidia-nccl-cu12"):
        version = _version(package)
        if version is not None:
            return tuple(int(part) for part in version.split(".")[:3] if part.isdigit())
    return None


def _gpus() -> list[Gpu]:
    """What the driver says; nothing where it does not answer."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        told = subprocess.run(
            [program, "--query-gpu=name,compute_cap,driver_version", "--format=csv,noheader"],
            capture_output=True, text=True, check=True, timeout=30,
        ).stdout  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return []
    return parsed(told)


def parsed(told: str) -> list[Gpu]:
    """The devices in nvidia-smi's table."""
    found = []
    for line in told.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) == 3 and cells[1].replace(".", "").isdigit():
            major, _, minor = cells[1].partition(".")
            found.append(Gpu(cells[0], (int(major), int(minor or 0)), cells[2]))
    return found


def _shared_memory() -> int | None:
    try:
        return shutil.disk_usage("/dev/shm").total
    except OSError:
        return None


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
