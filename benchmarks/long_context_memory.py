"""Peak memory of a forward and a backward pass against sequence length, with and without tiles.

    python -m benchmarks.long_context_memory [--lengths 2048,4096] [--limit-gb 10]

Every point is a process of its own. Its baseline is its peak after a pass over one short row, so
that libraries, weights and gradients do not count. Blocks are computed again in the backward pass
everywhere, so what is left is what tiles are for. A row is packed with documents of 2,048 tokens,
which keeps the attention's time, not its memory, small. Prints a table, writes a picture.
"""

import argparse
import os
import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from curriculum_api.run import PhaseRun
from curriculum_api.wire import Precision
from curriculum_trainer import memory, sequence_parallel
from curriculum_trainer.model import TokenScores

LENGTHS = (2048, 4096, 8192, 16384, 32768)
DOCUMENT = 2048
TILE = 1024
VOCAB = 32768
WHOLE = 1 << 30
"""A tile that every sequence fits: nothing is tiled."""

WAYS = {
    "whole": {"tile_tokens": WHOLE},
    "tiled loss": {"tile_tokens": TILE},
    "tiled loss and MLP": {"tile_tokens": TILE, "tiled_mlp": True},
}

MODEL = {
    "model_type": "llama",
    "vocab_size": VOCAB,
    "hidden_size": 256,
    "intermediate_size": 2048,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": LENGTHS[-1],
    "tie_word_embeddings": True,
}


def main() -> None:
    """Measure every point, print the table, draw it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.long_context_memory")
    parser.add_argument("--lengths", default=",".join(map(str, LENGTHS)))
    parser.add_argument("--limit-gb", type=float, default=10.0)
    parser.add_argument("--output", type=Path, default=Path("build/bench/long_context_memory.png"))
    parser.add_argument("--point", nargs=2, metavar=("WAY", "LENGTH"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.point:
        _measure(arguments.point[0], int(arguments.point[1]))
        return
    lengths = [int(length) for length in arguments.lengths.split(",")]
    print(
        f"peak MiB above the baseline of one forward and backward pass: {VOCAB} tokens of "
        f"vocabulary, {MODEL['hidden_size']} wide, {MODEL['num_hidden_layers']} blocks, FP32, "
        f"{os.cpu_count()} CPU cores; tiles of {TILE} tokens"
    )
    print(f"{'tokens':>8}" + "".join(f"{way:>30}" for way in WAYS), flush=True)
    found: dict[str, dict[int, float]] = {way: {} for way in WAYS}
    for length in lengths:
        row = f"{length:8d}"
        for way in WAYS:
            row += f"{_point(way, length, found, limit_gb=arguments.limit_gb):>30}"
        print(row, flush=True)
    _draw(found, arguments.output)
    print(f'picture: "{arguments.output}"')


def _point(way: str, length: int, found: dict[str, dict[int, float]], *, limit_gb: float) -> str:
    """Measure one point into `found`; says what was measured, or why not."""
    if way == "whole":
        # logits, their log-softmax and its gradient
        needed = 3 * 4 * length * VOCAB / 1e9
        if needed > limit_gb:
            return f"left out: {needed:.0f} GB of logits"
    program = [sys.executable, "-m", "benchmarks.long_context_memory", "--point", way, str(length)]
    # what is freed goes back at once: the peak is of tensors, not of the allocator's habits
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    ended = subprocess.run(program, check=True, capture_output=True, text=True, env=environment)
    mebibytes, seconds = map(float, ended.stdout.split()[-2:])
    found[way][length] = mebibytes
    return f"{mebibytes:.0f} ({seconds:.0f} s)"


def _measure(way: str, length: int) -> None:
    torch.manual_seed(0)
    sequence_parallel.register(None)
    run = _run(WAYS[way], length)
    decoder = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(**MODEL),
        dtype=torch.float32,
        attn_implementation=sequence_parallel.NAME,
    )
    memory.arrange(decoder, run, device_kind="cpu")
    scores = TokenScores(
        decoder,
        precision=Precision.FP32,
        device_type="cpu",
        tile_tokens=run.memory.tile_tokens,
    )
    _pass(scores, TILE // 2)
    before = _peak()
    began = time.monotonic()
    _pass(scores, length)
    print(_peak() - before, time.monotonic() - began)


def _pass(scores: TokenScores, length: int) -> None:
    row = torch.randint(VOCAB, (1, length))
    document = min(length, DOCUMENT)
    documents = ((document,) * (length // document),)
    positions = torch.arange(document).repeat(length // document)[None]
    scores(row, positions, row, documents).sum().backward()


def _peak() -> float:
    """This process's peak of resident memory so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _run(asked: Mapping[str, object], length: int) -> PhaseRun:
    return PhaseRun.model_validate(
        {
            "namespace": "bench", "curriculum": "bench", "curriculum_uid": "bench",
            "phase": "bench", "attempt": 1, "objective": "Pretrain", "model": {"config": MODEL},
            "tokenizer": "tokenizer", "checkpoint_path": "bench", "tokens": length,
            "context_length": length, "global_batch_tokens": length, "precision": "FP32",
            "strategy": "DDP", "nodes": 1, "processes_per_node": 1, "accelerator_class": "cpu",
            "allowed_precisions": ["FP32"], "optimizer": {"learning_rate": 1e-3},
            "data": [{"source": "none", "weight": 1}],
            "memory": {"activation_checkpointing": True, **asked},
        }
    )  # fmt: skip


def _draw(found: dict[str, dict[int, float]], output: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    for way, points in found.items():
        axes.plot(list(points), list(points.values()), marker="o", label=way)
    lengths = sorted({length for points in found.values() for length in points})
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xticks(lengths, [f"{length // 1024}K" for length in lengths])
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0f}")
    axes.set_xlabel("tokens of one sequence")
    axes.set_ylabel("peak memory above the baseline, MiB")
    axes.set_title(f"Forward and backward on a CPU, vocabulary {VOCAB}, FP32")
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=150)


if __name__ == "__main__":
    main()
