"""How fast data is read, packed and prepared; prints tables, keeps nothing.

    python benchmarks/data_loading.py [--tokens N] [--rounds N] [--documents N]

Loading is measured beside a plain slice of one memory-mapped file at random places, as nanoGPT
does it: no documents, no masks, no order that outlives a restart. Both give int64 tensors on the
CPU from a file in the page cache. A round measures every way once, one after another; given are
the median over the rounds, and the least and the most.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray

from curriculum_api.run import PhaseRun
from curriculum_trainer import audit, packing, prepare, texts
from curriculum_trainer.batch import Layout
from curriculum_trainer.data import Mixture
from curriculum_trainer.prefetch import Prefetcher
from curriculum_trainer.prepare import Options
from curriculum_trainer.shards import ShardWriter
from curriculum_trainer.source import Kind

CONTEXTS = (2048, 32768)
STEP_TOKENS = 131072
STEPS = 16
VOCABULARY = 32000


def main() -> None:
    """Measure everything."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tokens", type=int, default=100_000_000, help="of the corpus")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--documents", type=int, default=10_000_000, help="of the packing plan")
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, torch {torch.__version__}")
    print(f"{torch.get_num_threads()} torch threads, Python {sys.version.split()[0]}\n")
    with tempfile.TemporaryDirectory() as folder:
        _loading(Path(folder), tokens=options.tokens, rounds=options.rounds)
        _packing(options.documents)
        _preparing(Path(folder), rounds=options.rounds)


def _lengths(tokens: int, chance: np.random.Generator) -> NDArray[np.int64]:
    """Lengths like those of web pages: log-normal, median 665, mean 1366."""
    return np.maximum(1, chance.lognormal(6.5, 1.2, tokens // 1366)).astype(np.int64)


def _corpus(folder: Path, tokens: int) -> None:
    chance = np.random.default_rng(0)
    with ShardWriter(
        folder, kind=Kind.TEXT, vocab_size=VOCABULARY, tokenizer_sha256="none"
    ) as writer:
        for length in _lengths(tokens, chance):
            writer.add(chance.integers(0, VOCABULARY, length, dtype=np.uint16))
        writer.finish()


def _loading(folder: Path, *, tokens: int, rounds: int) -> None:
    _corpus(folder / "web", tokens)
    print(f"loading: tokens/s over {STEPS} steps of {STEP_TOKENS} tokens, median (least to most)")
    print("wait: of a loop that computes twice as long as a step takes to make, median")
    ways: dict[str, Callable[[], float]] = {}
    waits: dict[str, Callable[[], float]] = {}
    for context in CONTEXTS:
        ways[f"{context:6} memmap slice"] = partial(_plain, folder / "web", context)
        for kind in ("Split", "Whole"):
            mixture = Mixture(_run(folder, context, kind))
            mixture.row(0)
            for workers in (0, 1, 2):
                name = f"{context:6} {kind}, {workers} workers"
                ways[name] = partial(_ours, mixture, workers)
                waits[name] = partial(_wait, mixture, workers)
    seen: dict[str, list[float]] = {name: [] for name in ways}
    waited: dict[str, list[float]] = {name: [] for name in waits}
    for _ in range(rounds):
        for name, way in ways.items():
            seen[name].append(way())
        for name, way in waits.items():
            waited[name].append(way())
    for name, rates in seen.items():
        line = f"  {name:24} {_spread([rate / 1e6 for rate in rates])} M tokens/s"
        if name in waited:
            line += f"   wait {median(waited[name]) * 1e3:6.2f} ms a step"
        print(line)
    print()


def _run(folder: Path, context: int, kind: str) -> PhaseRun:
    return PhaseRun.model_validate(
        {
            "namespace": "bench", "curriculum": "bench", "curriculum_uid": "bench",
            "phase": "bench", "attempt": 1, "objective": "Pretrain",
            "model": {"preset": "none"}, "tokenizer": "none", "data_dir": str(folder),
            "checkpoint_path": "none", "tokens": STEP_TOKENS, "context_length": context,
            "global_batch_tokens": STEP_TOKENS, "precision": "FP32", "strategy": "DDP",
            "nodes": 1, "processes_per_node": 1, "accelerator_class": "cpu",
            "allowed_precisions": ["FP32"], "optimizer": {"learning_rate": 1e-3},
            "data": [{"source": "web", "weight": 1, "packing": kind}],
        }
    )  # fmt: skip


def _layout(context: int) -> Layout:
    rows = STEP_TOKENS // context
    return Layout(
        world_size=1, rank=0, sequence_parallel=1, batch=rows, micro_batch=max(1, rows // 4)
    )


def _ours(mixture: Mixture, workers: int) -> float:
    began = time.perf_counter()
    made = Prefetcher(
        mixture, _layout(mixture.context_length), device="cpu", first_step=0, workers=workers
    )
    for step in range(STEPS):
        made.take(step)
    elapsed = time.perf_counter() - began
    made.close()
    return STEPS * STEP_TOKENS / elapsed


def _wait(mixture: Mixture, workers: int) -> float:
    """Seconds that one step waits for its data; the loop's own work is asleep here."""
    compute = 2 * STEP_TOKENS / _ours(mixture, 0)
    made = Prefetcher(
        mixture, _layout(mixture.context_length), device="cpu", first_step=0, workers=workers
    )
    waited = []
    for step in range(STEPS):
        began = time.perf_counter()
        made.take(step)
        waited.append(time.perf_counter() - began)
        time.sleep(compute)
    made.close()
    return median(waited)


def _plain(folder: Path, context: int) -> float:
    rows = STEP_TOKENS // context
    began = time.perf_counter()
    for _ in range(STEPS):
        tokens = np.memmap(folder / "tokens-00000.bin", np.uint16, "r")
        for _ in range(4):
            starts = torch.randint(len(tokens) - context, (max(1, rows // 4),)).tolist()
            for shift in (0, 1):
                cuts = (tokens[start + shift : start + shift + context] for start in starts)
                torch.stack([torch.from_numpy(cut.astype(np.int64)) for cut in cuts])
    return STEPS * STEP_TOKENS / (time.perf_counter() - began)


def _packing(documents: int) -> None:
    lengths = _lengths(documents * 1366, np.random.default_rng(1))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    print(f"packing {len(lengths)} whole documents, {offsets[-1] / 1e9:.1f} G tokens")
    for context in (*CONTEXTS, 1 << 20):
        began = time.perf_counter()
        plan = packing.plan(offsets, context)
        elapsed = time.perf_counter() - began
        print(f"  {context:8} {elapsed:5.1f} s, {plan.padding:.4%} padding, {plan.count} rows")
    print()


def _preparing(folder: Path, *, rounds: int) -> None:
    size = sum(path.stat().st_size for path in texts.find([texts.STDLIB], pattern="*.py")) / 1e6
    first = Options(inputs=(texts.STDLIB,), tokenizer="train:8192", output=folder / "first")
    prepare.prepare(first)
    rates, verified = [], []
    for number in range(rounds):
        output = folder / f"made-{number}"
        began = time.perf_counter()
        prepare.prepare(
            Options(inputs=first.inputs, tokenizer=str(folder / "tokenizer"), output=output)
        )
        rates.append(size / (time.perf_counter() - began))
        began = time.perf_counter()
        assert not any(found.problem for found in audit.audit(folder / "web"))
        verified.append(audit.num_bytes(folder / "web") / 1e6 / (time.perf_counter() - began))
    print(f"preparing {size:.1f} MB of Python, 8,192 tokens: {_spread(rates)} MB/s of text")
    print(f"verifying shards: {_spread(verified)} MB/s")


def _spread(values: list[float]) -> str:
    return f"{median(values):7.1f} ({min(values):.1f} to {max(values):.1f})"


if __name__ == "__main__":
    main()
