"""`curriculum run`: real training processes on this machine, stopped, killed and gone on with."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.trainer.corpus import VOCAB, make_corpus

PATIENCE_SECONDS = 300
MODEL = {
    "model_type": "llama",
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}
BATCH = 256
FIELDS = {
    "name", "acceleratorClass", "nodes", "strategy", "worldSize", "contextLength", "tokens",
    "lossFirst", "lossLast", "seconds", "attempts", "checkpoint",
}  # fmt: skip

pytestmark = pytest.mark.trainer


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("data"))


def phase(name: str, *, steps: int, **fields: Any) -> dict[str, Any]:
    return {
        "name": name,
        "acceleratorClass": "gb10-sm121",
        "nodes": 2,
        "tokens": steps * BATCH,
        "contextLength": 64,
        "precision": "FP32",
        "optimizer": {"learningRate": "3e-3"},
        "globalBatchTokens": BATCH,
        "checkpoint": {"everySteps": 1},
        "data": [{"source": "text"}],
        **fields,
    }


class Site:
    """A curriculum's file, its data, and a checkpoints folder of the test's own."""

    def __init__(self, folder: Path, data: Path, *phases: dict[str, Any]) -> None:
        self.checkpoints = folder / "checkpoints"
        self._data = data
        self._file = folder / "curriculum.yaml"
        document = {
            "apiVersion": "curriculum.dev/v1alpha1",
            "kind": "TrainingCurriculum",
            "metadata": {"name": "tiny", "namespace": "lab"},
            "spec": {
                "model": {"config": MODEL},
                "tokenizer": {"path": "tokenizer"},
                "storage": {
                    "data": {"claimName": "corpus"},
                    "checkpoints": {"claimName": "checkpoints"},
                },
                "phases": list(phases),
            },
        }
        self._file.write_text(yaml.safe_dump(document))

    @contextlib.contextmanager
    def started(self, *options: str) -> Iterator[subprocess.Popen[str]]:
        """The program, while it runs; it is not left behind."""
        command = [
            *(sys.executable, "-m", "curriculum_cli.main", "run", "-f", str(self._file)),
            *("--data", str(self._data), "--checkpoints", str(self.checkpoints), *options),
        ]
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        out, err = subprocess.PIPE, subprocess.STDOUT
        with subprocess.Popen(command, env=environment, stdout=out, stderr=err, text=True) as run:
            try:
                yield run
            finally:
                run.kill()

    def run(self, *options: str) -> tuple[int, str]:
        with self.started(*options) as running:
            out, _ = running.communicate(timeout=PATIENCE_SECONDS)
            return running.returncode, out

    def folder(self, name: str) -> Path:
        (found,) = self.checkpoints.glob(f"lab/tiny-*/{name}")
        return found

    def saved(self, name: str, *, step: int) -> None:
        """Wait until a phase has a checkpoint of this step or a later one."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        pattern = f"lab/tiny-*/{name}/step-*/manifest.json"
        while time.monotonic() < deadline:
            steps = [int(p.parent.name[5:]) for p in self.checkpoints.glob(pattern)]
            if max(steps, default=0) >= step:
                return
            time.sleep(0.02)
        raise AssertionError(f"no checkpoint of step {step} came")

    def steps(self, name: str) -> list[int]:
        """The steps of a phase's metrics."""
        lines = (self.folder(name) / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line)["step"] for line in lines]

    def result(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads((self.checkpoints / "result.json").read_text())
        return loaded


def trainers_of(file: Path) -> list[str]:
    """Processes that have this path on their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes()
        except OSError:
            continue
        if str(file).encode() in command:
            found.append(path.parent.name)
    return found


def test_a_run_that_was_killed_goes_on_and_hands_its_checkpoint_to_the_next_phase(
    tmp_path: Path, data: Path
) -> None:
    """kill -9 ends its trainer too; the next run trains the rest, and a third finds all done."""
    site = Site(
        tmp_path,
        data,
        phase("first", steps=80),
        phase("second", steps=2, strategy="ZeRO3", sequenceParallel=2, nodes=2),
    )
    with site.started() as first:
        site.saved("first", step=3)
        first.kill()
        first.communicate(timeout=PATIENCE_SECONDS)

    code, out = site.run()

    assert code == 0, out
    assert out.count("resumed from lab/tiny-") == 1
    assert site.steps("first") == list(range(1, 81))
    found = site.result()
    assert found["state"] == "Succeeded"
    assert [set(each) for each in found["phases"]] == [FIELDS, FIELDS]
    one, two = found["phases"]
    assert (one["attempts"], two["attempts"]) == (2, 1)
    assert (one["tokens"], one["checkpoint"]["step"], one["worldSize"]) == (80 * BATCH, 80, 1)
    assert one["lossLast"] < one["lossFirst"]
    run = json.loads((site.folder("second") / "run.json").read_text())
    assert run["initDigest"] == one["checkpoint"]["digest"]
    assert (run["globalBatchTokens"], run["sequenceParallel"]) == (BATCH, 1)
    assert 'phase "second" here: 1 process for the 2 of its nodes; sequenceParallel 1 for 2' in out
    assert "curriculum Succeeded: 2 of 2 phases" in out

    code, out = site.run()

    assert code == 0, out
    assert out.count("verified already, skipped") == 2
    assert site.result() == found


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path: Path, data: Path) -> None:
    """Nobody else may work in the folder meanwhile, and no trainer is left."""
    fields = {"checkpoint": {"everySteps": 10}}
    site = Site(tmp_path, data, phase("first", steps=5000, **fields))
    with site.started() as first:
        site.saved("first", step=10)

        code, out = site.run()

        assert code == 2
        assert 'another "curriculum run" works in' in out
        first.send_signal(signal.SIGINT)
        out, _ = first.communicate(timeout=PATIENCE_SECONDS)
        assert first.returncode == 130, out
    assert "to go on, give the same command again" in out
    found = site.result()
    assert found["state"] == "Suspended"
    last = site.steps("first")[-1]
    assert found["phases"][0]["checkpoint"]["step"] == last < 5000
    assert trainers_of(site.checkpoints) == []


def test_a_sweep_trains_each_combination_and_puts_the_best_first(
    tmp_path: Path, data: Path
) -> None:
    """A rate of next to nothing learns nothing; each has checkpoints of its own."""
    site = Site(tmp_path, data, phase("first", steps=6))

    code, out = site.run("--sweep", "optimizer.learningRate=1e-9,1e-2", "--processes", "2")

    assert code == 0, out
    found = site.result()
    assert [each["settings"] for each in found["phases"]] == [
        {"optimizer.learningRate": "1e-2"},
        {"optimizer.learningRate": "1e-9"},
    ]
    best, worst = found["phases"]
    assert best["lossLast"] < worst["lossLast"]
    assert best["lossFirst"] == worst["lossFirst"]
    assert best["worldSize"] == 2
    assert len(list(site.folder("_sweep").glob("first/*/step-*/manifest.json"))) >= 2
    assert "2 of 2 combinations" in out


def test_a_phase_that_fails_says_so_in_its_trainers_words(tmp_path: Path, data: Path) -> None:
    """The phase after it is not started; --phase starts fresh where nothing was trained before."""
    broken = phase("second", steps=2, data=[{"source": "poetry"}])
    site = Site(tmp_path, data, phase("first", steps=2), broken, phase("third", steps=2))

    code, out = site.run("--phase", "second")

    assert code == 1, out
    assert 'phase "first" before it has no good checkpoint here' in out
    assert 'phase "second": DataError: no source at' in out
    assert site.result()["state"] == "Failed"
    assert not list(site.checkpoints.glob("lab/*/third"))
