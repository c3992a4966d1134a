"""Building PhaseRuns and running them with the real launcher; the workers are forks."""

import json
import os
import pickle
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from curriculum_api.run import PhaseResult, PhaseRun
from curriculum_trainer import begin, collective, launch, manifest, processes, result
from curriculum_trainer.placement import placement
from curriculum_trainer.result import Reached
from curriculum_trainer.saving import Saver

from .corpus import VOCAB

CONTEXT = 64
BATCH = 4 * CONTEXT

MODEL = {
    "model_type": "llama",
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
    "tie_word_embeddings": True,
}

SEQUENCE_PARALLEL = {"strategy": "ZeRO3", "processes_per_node": 2, "sequence_parallel": 2}


@dataclass(frozen=True)
class Launched:
    """A launcher that runs in a process of its own."""

    pid: int
    message: Path

    def ended(self) -> tuple[int, PhaseResult]:
        """Its exit code, and what it left in its termination message."""
        _, status = os.waitpid(self.pid, 0)
        told = PhaseResult.model_validate_json(self.message.read_text())
        return os.waitstatus_to_exitcode(status), told

    def workers(self) -> list[int]:
        """The process ids of its workers."""
        listed = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        return [int(pid) for pid in listed.split()]


@dataclass
class Phases:
    """Runs whose checkpoints lie in one folder."""

    data: Path
    root: Path
    environment: dict[str, str] = field(default_factory=dict)

    def run(self, phase: str = "first", *, steps: int = 2, **changes: Any) -> PhaseRun:
        """A small phase of `steps` steps; `changes` are PhaseRun's fields."""
        values: dict[str, Any] = {
            "namespace": "lab",
            "curriculum": "tiny",
            "curriculum_uid": "uid",
            "phase": phase,
            "attempt": 1,
            "objective": "Pretrain",
            "model": {"config": MODEL},
            "tokenizer": "tokenizer",
            "data_dir": str(self.data),
            "checkpoints_dir": str(self.root / "checkpoints"),
            "checkpoint_path": f"uid/{phase}",
            "tokens": steps * BATCH,
            "context_length": CONTEXT,
            "global_batch_tokens": BATCH,
            "micro_batch_size": 2,
            "precision": "FP32",
            "strategy": "DDP",
            "nodes": 1,
            "processes_per_node": 1,
            "accelerator_class": "cpu",
            "allowed_precisions": ["FP32", "BF16"],
            "optimizer": {"learning_rate": 3e-3, "schedule": "Constant"},
            "data": [{"source": "text", "weight": 2}, {"source": "short", "weight": 1}],
            "seed": 5,
        }
        return PhaseRun.model_validate(values | changes)

    def after(self, run: PhaseRun, phase: str = "second", **changes: Any) -> PhaseRun:
        """A phase that starts from the last checkpoint of `run`."""
        _, folder = next(manifest.steps(result.phase_folder(run)))
        origin = {
            "init_from": f"{run.checkpoint_path}/{folder.name}",
            "init_digest": manifest.digest(folder),
        }
        return self.run(phase, **(origin | changes))

    def file(self, run: PhaseRun) -> Path:
        """The run as the operator would mount it."""
        path = self.root / f"{run.phase}-{run.attempt}.json"
        path.write_text(run.model_dump_json(by_alias=True))
        return path

    def launch(self, run: PhaseRun, **environment: str) -> PhaseResult:
        """Run one attempt in this process's stead, with forks for workers."""
        message = self.root / "termination"
        before = os.environ.get("TERMINATION_MESSAGE_PATH")
        os.environ["TERMINATION_MESSAGE_PATH"] = str(message)
        try:
            everything = {**os.environ, **self.environment, **environment}
            return launch.launch(run, self.file(run), everything, start=processes.fork)
        finally:
            os.environ.pop("TERMINATION_MESSAGE_PATH")
            if before is not None:
                os.environ["TERMINATION_MESSAGE_PATH"] = before

    def start(self, run: PhaseRun, name: str, **environment: str) -> "Launched":
        """Run one attempt in a process of its own, as a pod would."""
        message = self.root / f"termination-{name}"
        pid = processes.fork_frozen()
        if pid:
            return Launched(pid=pid, message=message)
        code = 1
        try:
            os.environ["TERMINATION_MESSAGE_PATH"] = str(message)
            everything = {**os.environ, **environment}
            path = self.root / f"{name}.json"
            path.write_text(run.model_dump_json(by_alias=True))
            code = launch.exit_code(launch.launch(run, path, everything, start=processes.fork))
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def together(self, run: PhaseRun, work: Callable[[PhaseRun], Any]) -> list[Any]:
        """What `work` returns in each process of the run's gang, by rank."""
        where = placement(run, {})
        out = [self.root / f"answer-{rank}" for rank in range(run.world_size)]
        children = [
            _fork(lambda: work(run), where.worker_environment(rank, os.environ), out[rank])
            for rank in range(run.world_size)
        ]
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
        assert codes == [0] * run.world_size
        return [pickle.loads(path.read_bytes()) for path in out]

    def folder(self, run: PhaseRun, step: int) -> Path:
        """The folder of one checkpoint."""
        return result.phase_folder(run) / manifest.folder_name(step)


def load_and_save(run: PhaseRun) -> int:
    """Start a phase and save it before its first step; returns Adam's step count."""
    place = collective.place()
    device = collective.device(place)
    collective.join(device, place)
    reached = Reached()
    work = begin.prepare(run, place, device, reached)
    saver = Saver(work, reached, say=print)
    saver.save()
    saver.finish()
    return work.sharding.optimizer_steps()


def steps_of(text: str) -> list[dict[str, Any]]:
    """The metrics that a run printed, by step."""
    return [json.loads(line) for line in text.splitlines() if line.startswith('{"step"')]


def losses_of(text: str) -> list[float]:
    """The losses that a run printed."""
    return [line["loss"] for line in steps_of(text)]


def _fork(work: Callable[[], Any], environment: dict[str, str], out: Path) -> int:
    pid = processes.fork_frozen()
    if pid:
        return pid
    code = 1
    try:
        import torch

        torch.set_num_threads(1)
        os.environ.update(environment)
        out.write_bytes(pickle.dumps(work()))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)
