"""Tokens per second and peak memory of this trainer against the Hugging Face Trainer, on the CPU.

    ours, peer, ours, peer, ...   one process each, same model, batch shape, threads, optimizer

Both tell of each step on stdout, and this program takes the time: from the end of the last warm-up
step to the end of the last measured one, data included, start-up and saving excluded.
CPU-seconds count too, because another program's load cannot change them.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from tools.environment import pinned_uv

from curriculum_api.run import PhaseRun

ROOT: Final = Path(__file__).resolve().parent.parent
WORK: Final = ROOT / "build/bench"
VOCAB: Final = 8192
MODEL: Final = {
    "model_type": "llama",
    "vocab_size": VOCAB,
    "hidden_size": 384,
    "intermediate_size": 1024,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}
"""A Llama of 14 million parameters."""

PEER_PACKAGES: Final = ("torch", "transformers", "accelerate", "numpy")
LEARNING_RATE: Final = 3e-4
TARGET: Final = 0.95
PROFILE_ROWS: Final = 15


@dataclass(frozen=True, slots=True)
class Shape:
    """What one optimizer step is, and how many there are."""

    context: int
    micro_batch: int
    passes: int
    warm: int
    steps: int
    threads: int

    @property
    def step_tokens(self) -> int:
        """Tokens of one optimizer step."""
        return self.context * self.micro_batch * self.passes


@dataclass(frozen=True, slots=True)
class Measured:
    """One run."""

    tokens_per_second: float
    cpu_seconds_per_1k: float
    """CPU-seconds per thousand tokens."""

    memory_mib: float
    """The most resident memory of the training process up to the last measured step."""

    start_seconds: float
    """To the first step's end."""


def main() -> int:
    """Measure, print the table; 1 where this trainer is behind by more than the target allows."""
    options = _parser().parse_args()
    shape = Shape(
        context=options.context,
        micro_batch=options.micro_batch,
        passes=options.passes,
        warm=options.warm,
        steps=options.steps,
        threads=options.threads,
    )
    WORK.mkdir(parents=True, exist_ok=True)
    data, peer = corpus(), peer_python()
    with tempfile.TemporaryDirectory(prefix="bench-", dir=WORK) as scratch:
        if options.profile:
            _profile(shape, data, peer, Path(scratch))
            return 0
        commands: dict[str, Callable[[Path], list[str]]] = {
            "curriculum_trainer": lambda folder: _ours(shape, data, folder),
            "Hugging Face Trainer": lambda folder: _peer(shape, data, folder, peer),
        }
        found: dict[str, list[Measured]] = {name: [] for name in commands}
        for number in range(options.runs + 1):
            for name, command in commands.items():
                folder = Path(scratch) / f"{number}-{len(name)}"
                folder.mkdir()
                one = measure(command(folder), shape)
                warm = "" if number else " (discarded)"
                print(f"{name}: {one.tokens_per_second:,.0f} tokens/s{warm}", flush=True)
                if number:
                    found[name].append(one)
    return _report(found, shape)


def measure(command: Sequence[str], shape: Shape) -> Measured:
    """Run one side and time its steps by its own lines."""
    environment = {
        **os.environ,
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": str(shape.threads),
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
        "TERMINATION_MESSAGE_PATH": os.devnull,
    }
    began = time.monotonic()
    with (WORK / "throughput.log").open("w") as log:
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True, cwd=ROOT
        )
        assert process.stdout is not None
        times: dict[int, tuple[float, float]] = {}
        memory = 0.0
        for line in process.stdout:
            step = _step(line)
            if step is None:
                continue
            pids = _family(process.pid)
            times[step] = (time.monotonic(), sum(map(_cpu_seconds, pids)))
            if step <= shape.warm + shape.steps:
                memory = max(map(_memory_mib, pids), default=memory)
        if process.wait() != 0:
            raise SystemExit(f"{command[0]}: exit code {process.returncode}, see {log.name}")
    first, last = times[shape.warm], times[shape.warm + shape.steps]
    tokens = shape.steps * shape.step_tokens
    return Measured(
        tokens_per_second=tokens / (last[0] - first[0]),
        cpu_seconds_per_1k=(last[1] - first[1]) / tokens * 1000,
        memory_mib=memory,
        start_seconds=times[1][0] - began,
    )


def corpus() -> Path:
    """One long document, so that both sides attend causally over whole rows."""
    source = WORK / "data/long"
    if not (source / "index.json").exists():
        print("preparing the data", flush=True)
        subprocess.run(
            [
                *(sys.executable, "-m", "curriculum_trainer.prepare", "--input", "python:stdlib"),
                *("--tokenizer", f"train:{VOCAB}", "--join", "--limit-bytes", "4000000"),
                *("--output", str(source)),
            ],
            check=True,
        )
    return source.parent


def peer_python() -> Path:
    """The peer's interpreter, with this environment's versions; made once, in the user's cache."""
    pins = [f"{name}=={metadata.version(name)}" for name in PEER_PACKAGES if _here(name)]
    floating = [name for name in PEER_PACKAGES if not _here(name)]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    tag = "-".join(pin.replace("==", "-") for pin in pins)
    folder = cache / "curriculum-operator" / f"bench-{tag}"
    python = folder / "bin/python"
    if not (folder / "ready").exists():
        uv = str(pinned_uv())
        print(f"making the peer's environment in {folder}", flush=True)
        subprocess.run([uv, "venv", "--clear", "--python", sys.executable, str(folder)], check=True)
        install = [uv, "pip", "install", "--python", str(python), *pins, *floating]
        subprocess.run(install, check=True)
        (folder / "ready").touch()
    return python


def _here(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _run_file(shape: Shape, data: Path, folder: Path) -> Path:
    # one step more than is measured: the save after the last is not the loop's
    steps = shape.warm + shape.steps + 1
    run = PhaseRun.model_validate(
        {
            "namespace": "bench",
            "curriculum": "throughput",
            "curriculum_uid": "bench",
            "phase": "pretrain",
            "attempt": 1,
            "objective": "Pretrain",
            "model": {"config": MODEL},
            "tokenizer": "tokenizer",
            "data_dir": str(data),
            "checkpoints_dir": str(folder),
            "checkpoint_path": "pretrain",
            "tokens": steps * shape.step_tokens,
            "context_length": shape.context,
            "global_batch_tokens": shape.step_tokens,
            "micro_batch_size": shape.micro_batch,
            "precision": "FP32",
            "strategy": "DDP",
            "nodes": 1,
            "processes_per_node": 1,
            "accelerator_class": "cpu",
            "allowed_precisions": ["FP32"],
            "optimizer": {"learning_rate": LEARNING_RATE, "schedule": "Constant"},
            "data": [{"source": "long", "weight": 1}],
        }
    )
    path = folder / "run.json"
    path.write_text(run.model_dump_json(by_alias=True, exclude_none=True))
    return path


def _ours(shape: Shape, data: Path, folder: Path) -> list[str]:
    path = _run_file(shape, data, folder)
    return [sys.executable, "-m", "curriculum_trainer", "--run", str(path)]


def _peer(shape: Shape, data: Path, folder: Path, python: Path, *, profile: int = 0) -> list[str]:
    told: Mapping[str, Any] = {
        "model": MODEL,
        "tokens": str(data / "long/tokens-00000.bin"),
        "output": str(folder),
        "context": shape.context,
        "microBatch": shape.micro_batch,
        "passes": shape.passes,
        "steps": shape.warm + shape.steps + 1,
        "learningRate": LEARNING_RATE,
        "profile": profile,
    }
    path = folder / "peer.json"
    path.write_text(json.dumps(told))
    return [str(python), str(ROOT / "benchmarks/peers/hf_trainer.py"), str(path)]


def _profile(shape: Shape, data: Path, peer: Path, folder: Path) -> None:
    environment = {
        **os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": str(shape.threads),
    }  # fmt: skip
    run = str(_run_file(shape, data, folder))
    ours = [sys.executable, "-m", "benchmarks.profiled", run, str(PROFILE_ROWS)]
    theirs = _peer(shape, data, folder, peer, profile=PROFILE_ROWS)
    for name, command in (("curriculum_trainer", ours), ("Hugging Face Trainer", theirs)):
        print(f"\n{name}, {shape.warm + shape.steps + 1} steps", flush=True)
        subprocess.run(command, env=environment, cwd=ROOT, check=True)


def _report(found: Mapping[str, Sequence[Measured]], shape: Shape) -> int:
    (ours, mine), (peer, theirs) = found.items()
    table = Table(
        title=f"14M Llama, FP32 on the CPU, {shape.threads} threads, context {shape.context},"
        f" {shape.passes} passes of {shape.micro_batch} rows, {shape.steps} warm steps;"
        f" median and range of {len(mine)} runs each, in turn"
    )
    table.add_column("")
    rows: dict[str, tuple[str, int]] = {
        "tokens_per_second": ("tokens/s", 0),
        "cpu_seconds_per_1k": ("CPU-s per 1,000 tokens", 2),
        "memory_mib": ("peak memory, MiB", 0),
        "start_seconds": ("first step after, s", 1),
    }
    for name in (ours, peer, "ours over peer's"):
        table.add_column(name, justify="right")
    ratios = {}
    for field, (name, digits) in rows.items():
        left = [getattr(one, field) for one in mine]
        right = [getattr(one, field) for one in theirs]
        ratios[field] = statistics.median(left) / statistics.median(right)
        spread = (_spread(left, digits), _spread(right, digits))
        table.add_row(name, *spread, f"{ratios[field]:.3f}")
    Console(width=160).print(table)
    behind = ratios["tokens_per_second"] < TARGET
    print(f"target, at least {TARGET:.2f} of the peer's tokens/s: {'missed' if behind else 'met'}")
    return int(behind)


def _spread(values: Sequence[float], digits: int) -> str:
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:,.{digits}f} [{low:,.{digits}f} to {high:,.{digits}f}]"


def _step(line: str) -> int | None:
    if not line.startswith('{"step"'):
        return None
    return int(json.loads(line)["step"])


def _family(pid: int) -> list[int]:
    """A process and its descendants."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return [pid]
    return [pid, *(each for child in text.split() for each in _family(int(child)))]


def _cpu_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _memory_mib(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return max((int(x.split()[1]) / 1024 for x in lines if x.startswith("VmHWM")), default=0.0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.throughput", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--runs", type=int, default=5, help="of each side (%(default)s)")
    parser.add_argument("--steps", type=int, default=8, help="that are measured (%(default)s)")
    parser.add_argument("--warm", type=int, default=2, help="steps before them (%(default)s)")
    parser.add_argument("--context", type=int, default=512, help="(%(default)s)")
    parser.add_argument("--micro-batch", type=int, default=2, help="rows a pass (%(default)s)")
    parser.add_argument("--passes", type=int, default=2, help="passes a step (%(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="(%(default)s)")
    parser.add_argument(
        "--profile", action="store_true", help="print where the time goes on each side instead"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
