"""What a process of ZeRO-3 holds while a phase starts: its share, against the whole model first.

    python -m benchmarks.starting_memory [--processes 2] [--layers 12]

A Llama of 200M parameters, from BF16 safetensors or from a seed. Every way is a gang of processes
of its own. What counts is memory that is no file's: pages of a mapped file go when they are needed.
Prints the peak until every process has its share of the weights, and until it could train, where
it also holds FP32 partitions, gradients and moments of its share.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import AutoConfig, AutoModelForCausalLM

from curriculum_api.run import PhaseRun
from curriculum_trainer import model, sequence_parallel, sharding, weights, zero
from curriculum_trainer.precision import Device
from curriculum_trainer.weights import Fill, Take

PORT = 29521
MIB = 2**20
FOLDER = "weights"
ORIGINS = ("weights", "seed")
WAYS = ("whole", "by tensor")
SAMPLE_SECONDS = 0.0005


def main() -> None:
    """Measure every way and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.starting_memory")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument(
        "--work", nargs=3, metavar=("ROOT", "ORIGIN", "WAY"), help=argparse.SUPPRESS
    )
    asked = parser.parse_args()
    config = _config(asked.layers)
    if asked.work:
        _work(Path(asked.work[0]), config, *asked.work[1:])
        return
    with tempfile.TemporaryDirectory() as root:
        made = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        count = sum(p.numel() for p in made.parameters())
        largest = max(p.numel() for p in made.parameters())
        made.save_pretrained(Path(root) / FOLDER)
        del made
        share = 4 * count / asked.processes
        print(
            f"{count / 1e6:.0f}M parameters, {asked.processes} processes: FP32 whole "
            f"{4 * count / MIB:.0f} MiB, a share {share / MIB:.0f}, the largest tensor "
            f"{4 * largest / MIB:.0f}; MiB of a process above its libraries, the most of any"
        )
        print(f"{'from':>10}{'way':>12}{'loading':>12}{'ready':>12}", flush=True)
        for origin in ORIGINS:
            found = {way: _gang(root, origin, way, asked) for way in WAYS}
            for way, (loading, ready) in found.items():
                print(f"{origin:>10}{way:>12}{loading:12.0f}{ready:12.0f}")
            ratios = [b / a for a, b in zip(*found.values(), strict=True)]
            print(f"{origin:>10}{'ratio':>12}{ratios[0]:12.2f}{ratios[1]:12.2f}", flush=True)


def _gang(root: str, origin: str, way: str, asked: argparse.Namespace) -> tuple[float, float]:
    program = [sys.executable, "-m", "benchmarks.starting_memory", "--layers", str(asked.layers)]
    started = []
    for rank in range(asked.processes):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": asked.processes,
                 "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": PORT, "GLOO_SOCKET_IFNAME": "lo",
                 # what is freed goes back at once: the peak is of tensors
                 "MALLOC_MMAP_THRESHOLD_": 65536}  # fmt: skip
        environment = os.environ | {key: str(value) for key, value in place.items()}
        started.append(
            subprocess.Popen(
                [*program, "--work", root, origin, way],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=environment,
            )
        )
    told = [process.communicate() for process in started]
    for process, (_, error) in zip(started, told, strict=True):
        if process.returncode:
            raise SystemExit(f"{origin}, {way}: a process failed: {error}")
    answers = [out.split()[-2:] for out, _ in told]
    loading, ready = zip(*[map(float, answer) for answer in answers], strict=True)
    return max(loading), max(ready)


def _work(root: Path, config: Any, origin: str, way: str) -> None:
    device = Device(kind="cpu", index=0, backend="gloo", reason="")
    zero.deepspeed_on("cpu")
    dist.init_process_group("gloo")
    sequence_parallel.register(None)
    run = _run(root, origin)
    loading = [0.0]
    give = zero._give_shares

    def noted(parameters: dict[str, Any], fill: Fill, settings: dict[str, Any]) -> None:
        give(parameters, fill, settings)
        loading[0] = peak.above

    zero._give_shares = noted
    with _Peak() as peak:
        decoder = weights.blank(config, attention=sequence_parallel.NAME, device="cpu")
        scores = model.TokenScores(
            decoder, precision=run.precision, device_type="cpu", tile_tokens=1024
        )
        fill: Fill = lambda take: model.fill(run, decoder, take)  # noqa: E731
        if way == "whole":
            fill = _whole(run, config)
        made = sharding.shard(scores, run, device=device, passes=1, fill=fill)
        ready = peak.above
    assert made.names()
    print(loading[0] / MIB, ready / MIB)


def _whole(run: PhaseRun, config: Any) -> Fill:
    """The model as `transformers` makes it, given away parameter by parameter."""
    if run.model.weights is None:
        torch.manual_seed(run.seed)
        made = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    else:
        folder = Path(run.data_dir) / run.model.weights
        made = AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=torch.float32)

    def fill(take: Take) -> None:
        for name, parameter in made.named_parameters():
            take(name, parameter.data)
            parameter.data = torch.empty(0)

    return fill


class _Peak:
    """The most anonymous memory of this process, above what it had before."""

    def __init__(self) -> None:
        self._before = _anonymous()
        self._most = self._before
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    @property
    def above(self) -> float:
        return self._most - self._before

    def __enter__(self) -> "_Peak":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            self._most = max(self._most, _anonymous())


def _anonymous() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return float(line.split()[1]) * 1024
    raise SystemExit("this needs Linux, whose /proc tells anonymous memory apart")


def _config(layers: int) -> Any:
    return AutoConfig.for_model(
        "llama", vocab_size=32768, hidden_size=1024, intermediate_size=3072,
        num_hidden_layers=layers, num_attention_heads=16, num_key_value_heads=8,
        tie_word_embeddings=False,
    )  # fmt: skip


def _run(root: Path, origin: str) -> PhaseRun:
    processes = int(os.environ["WORLD_SIZE"])
    return PhaseRun.model_validate(
        {
            "namespace": "bench", "curriculum": "bench", "curriculum_uid": "bench",
            "phase": "bench", "attempt": 1, "objective": "Pretrain", "tokenizer": "tokenizer",
            "model": {"weights": FOLDER} if origin == "weights" else {"config": {}},
            "data_dir": str(root), "checkpoint_path": "bench", "tokens": 512 * processes,
            "context_length": 512, "global_batch_tokens": 512 * processes, "precision": "FP32",
            "strategy": "ZeRO3", "nodes": 1, "processes_per_node": processes,
            "accelerator_class": "cpu", "allowed_precisions": ["FP32"],
            "optimizer": {"learning_rate": 1e-3}, "data": [{"source": "none", "weight": 1}],
        }
    )  # fmt: skip


if __name__ == "__main__":
    main()
