"""The verifier, without torch: the reference of a good checkpoint, or the file that is bad."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from curriculum_api.run import PhaseResult, PhaseRun
from curriculum_trainer import manifest, verify

from .phases import BATCH, Phases

pytestmark = pytest.mark.trainer

WITHOUT_TORCH = """
import sys
for name in ("torch", "numpy", "transformers", "deepspeed", "safetensors", "tokenizers"):
    sys.modules[name] = None
from curriculum_trainer import verify
sys.exit(verify.main(["--run", sys.argv[1]]))
"""


def _verify(run: PhaseRun, folder: Path) -> tuple[int, PhaseResult]:
    path = folder / "verify.json"
    path.write_text(run.model_dump_json(by_alias=True))
    message = folder / "verify-message"
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, str(path)],
        env={**os.environ, "TERMINATION_MESSAGE_PATH": str(message)},
        stdout=subprocess.DEVNULL,
        check=False,
    )
    return done.returncode, PhaseResult.model_validate_json(message.read_text())


def test_a_good_phase_gives_its_checkpoint_and_figures(trained: Phases, tmp_path: Path) -> None:
    run = trained.run()
    code, told = _verify(run, tmp_path)

    assert (code, told.outcome, told.message) == (0, "Succeeded", "")
    assert told.checkpoint is not None
    assert told.checkpoint.uri == "uid/first/step-00000002"
    assert told.checkpoint.digest == manifest.digest(trained.folder(run, 2))
    assert (told.step, told.tokens, told.world_size) == (2, 2 * BATCH, 1)
    assert told.loss_first is not None
    assert told.loss_last is not None
    assert told.loss_last < told.loss_first
    assert told.metrics["loss_metrics/global_avg_loss"] == told.loss_last


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


DAMAGES = [
    pytest.param(_flip, "its content changed", id="flipped"),
    pytest.param(_cut, "its manifest says", id="cut"),
    pytest.param(Path.unlink, "is missing", id="missing"),
]


@pytest.mark.parametrize(("damage", "words"), DAMAGES)
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "tokenizer.json"])
def test_what_is_wrong_is_named(
    trained: Phases, phases: Phases, name: str, damage: Callable[[Path], None], words: str
) -> None:
    import shutil

    run = phases.run()
    shutil.copytree(trained.folder(trained.run(), 2), phases.folder(run, 2))
    damage(phases.folder(run, 2) / name)
    told = verify.verified(run)

    assert told.outcome == "CheckpointError"
    assert f'{name}"' in told.message
    assert words in told.message


def test_a_bad_phase_ends_with_the_code_of_a_checkpoint_error(
    trained: Phases, phases: Phases
) -> None:
    import shutil

    run = phases.run()
    shutil.copytree(trained.folder(trained.run(), 2), phases.folder(run, 2))
    _flip(phases.folder(run, 2) / "model.safetensors")
    code, told = _verify(run, phases.root)

    assert (code, told.outcome) == (4, "CheckpointError")


def test_a_phase_that_is_not_at_its_end_is_refused(trained: Phases) -> None:
    told = verify.verified(trained.run(steps=3))

    assert told.outcome == "CheckpointError"
    assert f"{2 * BATCH} of the {3 * BATCH} tokens" in told.message


def test_a_phase_without_any_checkpoint_is_refused(phases: Phases) -> None:
    told = verify.verified(phases.run("nothing"))

    assert told.outcome == "CheckpointError"
    assert "has no checkpoint" in told.message


def test_the_manifest_says_nothing_of_ranks(trained: Phases) -> None:
    folder = trained.folder(trained.run(), 2)
    document = json.loads((folder / "manifest.json").read_text())

    assert sorted(document["files"]) == [
        "config.json",
        "model.safetensors",
        "optimizer.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert document["cursor"] == {"seed": 5, "step": 2}
