"""How long a preflight of many nodes takes, by its schedule: local processes that meet over gloo.

    python -m benchmarks.preflight --nodes 20

Every process is a node. They share this machine, so they multiply in turns, which nodes of a
cluster do at once, and all pairs of a round share its processors: a cluster is faster.
"""

import argparse
import multiprocessing
import os
import shutil
import socket
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from curriculum_api.preflight import schedule
from curriculum_api.preflight.figures import Check, Measured
from curriculum_api.run import PhaseRun

LIMIT: Final = 120
"""Seconds that twenty nodes may take."""


def main() -> None:
    """Measure, and print how long each part took."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.preflight", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--nodes", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="preflight-"))
    try:
        took, measured = measure(asked.nodes, asked.rounds, folder)
    finally:
        shutil.rmtree(folder)
    table = Table("nodes", "rounds", "pairs", "seconds", "bound by schedule", "of all pairs")
    played = schedule.rounds(asked.nodes, asked.rounds)
    table.add_row(
        str(asked.nodes),
        str(len(played)),
        str(len(measured.pairs)),
        f"{took:.1f}",
        f"{schedule.longest_seconds(asked.nodes, asked.rounds):.0f} (limit {LIMIT})",
        f"{asked.nodes * (asked.nodes - 1) // 2} in {asked.nodes - 1} rounds",
    )
    Console().print(table)
    links = [pair.figures[Check.LINK] for pair in measured.pairs]
    products = [node.figures[Check.MATMUL] for node in measured.nodes]
    Console().print(
        f"link {min(links):.3g} to {max(links):.3g} GB/s, "
        f"matmul {min(products):.3g} to {max(products):.3g} TFLOPS, "
        f"all-reduce {measured.together.get(Check.REDUCE, 0):.3g} GB/s"
    )


def measure(nodes: int, rounds: int, folder: Path) -> tuple[float, Measured]:
    """Run one preflight; the longest time of its processes, from joining to the verdict."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    context = multiprocessing.get_context("fork")
    import torch  # noqa: F401  # once, before the forks

    from curriculum_trainer import preflight  # noqa: F401

    answers = context.SimpleQueue()
    workers = [
        context.Process(target=_node, args=(rank, nodes, rounds, port, folder, answers))
        for rank in range(nodes)
    ]
    for worker in workers:
        worker.start()
    told = [answers.get() for _ in workers]
    for worker in workers:
        worker.join()
    text = next(text for _, text in told if text)
    return max(seconds for seconds, _ in told), Measured.model_validate_json(text)


def _node(rank: int, nodes: int, rounds: int, port: str, folder: Path, answers: Any) -> None:
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": str(nodes), "NODE_NAME": f"node-{rank}",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "lo",
    }  # fmt: skip
    import torch

    from curriculum_trainer import collective, preflight, preflight_report
    from curriculum_trainer.progress import Progress
    from curriculum_trainer.result import Reached
    from curriculum_trainer.telling import Telling

    torch.set_num_threads(1)
    run = _run(nodes, rounds, folder)
    place = collective.place()
    device = collective.device(place)
    collective.join(device, place)
    reached = Reached()
    telling = Telling(run, place, reached, Progress({}, leads=place.leads))
    began = time.perf_counter()
    preflight.prove(run, place, device, reached, telling)
    took = time.perf_counter() - began
    path = folder / "phase" / preflight_report.FILE
    answers.put((took, path.read_text() if rank == 0 else ""))
    collective.leave()


def _run(nodes: int, rounds: int, folder: Path) -> PhaseRun:
    return PhaseRun.model_validate(
        {
            "namespace": "lab", "curriculum": "preflight", "curriculum_uid": "uid", "attempt": 1,
            "phase": "phase", "objective": "Pretrain", "model": {"preset": "llama-3.1-8b"},
            "tokenizer": "tokenizer", "checkpoints_dir": str(folder), "checkpoint_path": "phase",
            "tokens": 1, "context_length": 1, "global_batch_tokens": 1, "precision": "FP32",
            "strategy": "DDP", "nodes": nodes, "processes_per_node": 1,
            "accelerator_class": "cpu", "allowed_precisions": ["FP32"],
            "optimizer": {"learning_rate": 1e-3}, "data": [{"source": "text", "weight": 1}],
            # what shares one machine is not to be blamed for being slow together
            "preflight": {"rounds": rounds, "seconds": 600},
        }
    )  # fmt: skip


if __name__ == "__main__":
    main()
