"""Save, stall, load and convert times of checkpoints, ours beside three others, in one run.

    python -m benchmarks.checkpoints [--repeats 5] [--layers 12] [--folder DIR] [--only NAME,...]

A 125M-parameter Llama with both FP32 Adam moments is saved and loaded in four ways in turn, each
time in a fork of this process; then the checkpoint is brought into ZeRO-3 (FSDP2 for DCP) on two
processes. What was loaded is compared bit by bit. Loads read what the page cache holds.
"""

import argparse
import os
import pickle
import shutil
import socket
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"

import torch
import torch.distributed as dist
from benchmarks.checkpoint_ways import WAYS, Case, Figures, Loaded, Way
from transformers import LlamaConfig

from curriculum_trainer import zero

ROWS = ("save", "stall, first", "stall", "load", "convert")

PROCESSES = 2
"""Of the gang that a checkpoint is converted for."""


def main() -> None:
    """Measure in turn, print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.checkpoints")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--only", default="", help="names of ways, by comma")
    arguments = parser.parse_args()
    ways = [way for way in WAYS if not arguments.only or way.name in arguments.only.split(",")]
    root = Path(tempfile.mkdtemp(prefix="checkpoints-", dir=arguments.folder))
    zero.deepspeed_on("cpu")
    try:
        (root / "tokenizer").mkdir()
        case = _case(arguments.layers, root)
        measured: dict[str, list[Figures]] = {way.name: [] for way in ways}
        for number in range(arguments.repeats):
            for way in ways:
                figures = _once(case, way)
                measured[way.name].append(figures)
                print(_progress(number, way, figures), file=sys.stderr, flush=True)
        _print(case, ways, measured)
    finally:
        shutil.rmtree(root)


def _case(layers: int, root: Path) -> Case:
    config = LlamaConfig(
        vocab_size=26_112,
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=layers,
        num_attention_heads=12,
        num_key_value_heads=12,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    # the threads of a pool do not survive a fork: each fork makes its own
    torch.set_num_threads(1)
    empty = Case(config=config, weights={}, moments={}, root=root)
    shapes = {name: p.shape for name, p in empty.decoder(filled=False).named_parameters()}
    moments = {
        "exp_avg": {name: torch.randn(shape) for name, shape in shapes.items()},
        "exp_avg_sq": {name: torch.rand(shape) for name, shape in shapes.items()},
    }
    weights = {name: torch.randn(shape) for name, shape in shapes.items()}
    return replace(empty, weights=weights, moments=moments)


def _once(case: Case, way: Way) -> Figures:
    """Save, load and convert once, in forks; the figures of the slowest process."""
    target = case.root / way.folder
    if target.exists():
        shutil.rmtree(target) if target.is_dir() else target.unlink()
    figures = _gang(1, lambda: _saved(case, way))
    figures["bytes"] = _size(target)
    figures |= _gang(1, lambda: _loaded(case, way.load, way.name))
    return figures | _gang(PROCESSES, lambda: _loaded(case, way.convert, way.name))


def _saved(case: Case, way: Way) -> Figures:
    started = _resident("VmRSS:")
    way.save(case)
    # the model and its moments were counted before; the rest is what saving takes
    return case.seconds | {"peak RSS": _resident("VmHWM:"), "RSS before": started}


def _loaded(case: Case, load: Callable[[Case], Loaded], name: str) -> Figures:
    for key, tensor in load(case)():
        moment, _, parameter = key.partition(".")
        expected = case.moments[moment][parameter] if moment in case.moments else case.weights[key]
        if not torch.equal(tensor, expected):
            raise AssertionError(f'{name}: "{key}" was not loaded as it was saved')
    return case.seconds


def _gang(processes: int, work: Callable[[], Figures]) -> Figures:
    """What `work` measured in forks that form a gang: the largest of each."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    with tempfile.TemporaryDirectory() as folder:
        outs = [Path(folder) / str(rank) for rank in range(processes)]
        pids = [
            _fork(work, out, RANK=str(rank), WORLD_SIZE=str(processes), MASTER_PORT=port)
            for rank, out in enumerate(outs)
        ]
        if sum(os.waitpid(pid, 0)[1] for pid in pids):
            raise SystemExit("a process failed; what it said is above")
        told: list[Figures] = [pickle.loads(out.read_bytes()) for out in outs]
    return {row: max(figures[row] for figures in told) for row in told[0]}


def _fork(work: Callable[[], Figures], out: Path, **environment: str) -> int:
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.dup2(2, 1)
        os.environ.update(environment, MASTER_ADDR="127.0.0.1", LOCAL_RANK=environment["RANK"])
        torch.set_num_threads(max(1, 2 // int(environment["WORLD_SIZE"])))
        dist.init_process_group("gloo")
        out.write_bytes(pickle.dumps(work()))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _resident(name: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return 1024 * float(line.split()[1])
    raise AssertionError(name)


def _size(path: Path) -> float:
    """Bytes of one checkpoint."""
    if path.is_file():
        return path.stat().st_size
    steps = sorted(path.glob("step-*"))
    folder = steps[-1] if steps else path
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _progress(number: int, way: Way, figures: Figures) -> str:
    cells = " ".join(f"{row} {figures[row]:.2f}" for row in ROWS if row in figures)
    return f"{number + 1} {way.name}: {cells}"


def _print(case: Case, ways: Sequence[Way], measured: dict[str, list[Figures]]) -> None:
    number = sum(tensor.numel() for tensor in case.weights.values())
    print(f"{number / 1e6:.1f}M parameters, {len(measured[ways[0].name])} repeats each, in turn")
    print("\n| seconds | " + " | ".join(way.name for way in ways) + " |")
    print("|---" * (len(ways) + 1) + "|")
    for row in ROWS:
        print(f"| {row} | " + " | ".join(_cell(measured, ways, way, row) for way in ways) + " |")
    for row in ("bytes", "peak RSS", "RSS before"):
        values = [statistics.median(f[row] for f in measured[way.name]) for way in ways]
        print(f"| {row}, GB | " + " | ".join(f"{value / 1e9:.2f}" for value in values) + " |")
    print("\nMedian (range), x the median of ours.")
    for way in ways:
        print(f"{way.name}: {way.note}.")


def _cell(measured: dict[str, list[Figures]], ways: Sequence[Way], way: Way, row: str) -> str:
    values = [figures[row] for figures in measured[way.name] if row in figures]
    if not values:
        return "-"
    middle = statistics.median(values)
    ours = [figures.get(row) for figures in measured[ways[0].name]]
    base = statistics.median(value for value in ours if value is not None) if any(ours) else 0.0
    ratio = f" x{middle / base:.2f}" if base else ""
    return f"{middle:.2f} ({min(values):.2f}-{max(values):.2f}){ratio}"


if __name__ == "__main__":
    began = time.monotonic()
    main()
    print(f"{time.monotonic() - began:.0f} s in all", file=sys.stderr)
