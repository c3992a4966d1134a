"""What `curriculum run` decides and refuses before anything is trained."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from curriculum_api.v1alpha1.curriculum import Phase
from curriculum_api.wire import Precision
from curriculum_cli import documents, local, machine, sweep
from curriculum_cli.main import app
from curriculum_operator import observe

CURRICULUM = Path(__file__).parent.parent / "api" / "curriculum.yaml"
DEMO = Path(__file__).parent.parent.parent / "examples" / "demo.yaml"


def refused(*options: str) -> str:
    answer = CliRunner().invoke(app, ["run", *options])
    assert answer.exit_code == 2, answer.output
    (line,) = answer.stderr.splitlines()
    return line


def demo() -> observe.Curriculum:
    (found,) = documents.read([DEMO]).curricula
    return local.identified(found)


def phase(**fields: Any) -> Phase:
    return Phase.model_validate(
        {
            "name": "first",
            "acceleratorClass": "b200-sm100",
            "nodes": 1,
            "tokens": 4096,
            "contextLength": 64,
            "optimizer": {"learningRate": "1e-3"},
            "data": [{"source": "text"}],
            **fields,
        }
    )


def curriculum_of(only: Phase) -> observe.Curriculum:
    found = demo()
    return replace(found, spec=found.spec.model_copy(update={"phases": (only,)}))


def test_a_file_that_is_not_there_or_no_yaml_is_one_line(tmp_path: Path) -> None:
    assert "No such file" in refused("-f", str(tmp_path / "absent.yaml"))
    broken = tmp_path / "broken.yaml"
    broken.write_text("kind: [")
    assert f'"{broken}" is not YAML' in refused("-f", str(broken))


def test_a_field_that_does_not_fit_is_named(tmp_path: Path) -> None:
    raw = yaml.safe_load(CURRICULUM.read_text())
    raw["spec"]["phases"][0]["tokens"] = 0
    file = tmp_path / "zero.yaml"
    file.write_text(yaml.safe_dump(raw))

    assert "spec.phases[0].tokens: must be greater than or equal to 1, not 0" in refused(
        "-f", str(file)
    )


def test_a_class_that_does_not_fit_is_named_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "class.yaml"
    api = "curriculum.dev/v1alpha1"
    file.write_text(f"apiVersion: {api}\nkind: AcceleratorClass\nmetadata: {{name: x}}\nspec: {{}}")

    assert 'cannot read AcceleratorClass "x": spec.match: required, but absent' in refused(
        "-f", str(file)
    )


def test_files_of_no_curriculum_or_two_are_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(CURRICULUM.read_text().replace("name: slm-8b-cpp", "name: other"))

    assert "must hold one TrainingCurriculum; found: none" in refused(
        "-f", str(CURRICULUM.parent / "accelerator-class.yaml")
    )
    told = refused("-f", str(CURRICULUM), "-f", str(other))
    assert 'found: "slm-8b-cpp", "other"' in told


@pytest.mark.parametrize(
    ("options", "told"),
    [
        pytest.param(["--phase", "poetry"], 'there is no phase "poetry"; known: pre', id="phase"),
        pytest.param(["--data", "/nowhere"], 'no data folder "/nowhere"', id="data"),
        pytest.param(
            ["--sweep", "optimizer.rate=1"], "optimizer.rate: no such field", id="sweep-key"
        ),
        pytest.param(
            ["--sweep", "optimizer.learningRate=fast"],
            "optimizer.learningRate: must match pattern",
            id="sweep-value",
        ),
        pytest.param(["--sweep", "tokens"], "is not KEY=VALUE,VALUE", id="sweep-form"),
        pytest.param(["--sweep", "tokens.x=1"], '"tokens" holds no fields', id="sweep-path"),
        pytest.param(["--sweep", "nodes=1,2"], "changes nothing on one machine", id="sweep-nodes"),
        pytest.param(
            ["--sweep", "tokens=1", "--sweep", "tokens=2"], "twice", id="sweep-same-key"
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_line(options: list[str], told: str) -> None:
    assert told in refused("-f", str(DEMO), *options)


@pytest.mark.parametrize(
    ("fields", "gpus", "asked", "placed"),
    [
        pytest.param({"gpusPerNode": 8}, 0, None, (1, 1), id="a-cpu-trains-with-one"),
        pytest.param({"gpusPerNode": 8}, 2, None, (2, 1), id="as-many-as-there-are-gpus"),
        pytest.param({"gpusPerNode": 1}, 8, None, (1, 1), id="no-more-than-the-phase-has"),
        pytest.param({"gpusPerNode": 8}, 0, 4, (4, 1), id="as-many-as-asked-for"),
        pytest.param({"sequenceParallel": 8}, 8, None, (8, 8), id="the-degree-as-it-is"),
        pytest.param({"sequenceParallel": 8}, 2, None, (2, 2), id="the-degree-cut-to-the-gpus"),
        pytest.param({"sequenceParallel": 8}, 0, None, (1, 1), id="the-degree-cut-to-one"),
        pytest.param({"sequenceParallel": 4}, 0, 6, (4, 4), id="fewer-where-rows-do-not-divide"),
        pytest.param({"gpusPerNode": 8}, 7, None, (4, 1), id="a-step-is-shared-evenly"),
    ],
)
def test_processes_are_placed_so_that_the_global_batch_stays(
    fields: dict[str, Any], gpus: int, asked: int | None, placed: tuple[int, int]
) -> None:
    """8 sequences a step over whatever this machine has."""
    strategy = "ZeRO3" if "sequenceParallel" in fields else "DDP"
    given = phase(globalBatchTokens=8 * 64, strategy=strategy, **fields)
    here = local.Here(data=Path("d"), checkpoints=Path("c"), gpus=gpus, processes=asked)

    run = local.phase_run(curriculum_of(given), given, None, here)

    assert placed == (run.world_size, run.sequence_parallel)
    assert 8 * 64 == run.global_batch_tokens


def test_without_a_global_batch_a_step_is_that_of_the_clusters_processes() -> None:
    """A file without classes stands for the fewest GPUs that sequenceParallel divides."""
    given = phase(strategy="ZeRO3", sequenceParallel=8, nodes=2, microBatchSize=3)
    here = local.Here(data=Path("d"), checkpoints=Path("c"), gpus=0)

    run = local.phase_run(curriculum_of(given), given, None, here)

    assert 3 * 64 == run.global_batch_tokens


def test_the_uid_follows_from_namespace_and_name_unless_the_file_has_one() -> None:
    (raw,) = documents.read([DEMO]).curricula
    same = local.identified(raw)
    other = local.identified(replace(raw, namespace="other"))
    own = replace(raw, uid="abc")

    assert local.identified(raw).uid == same.uid != documents.NO_UID
    assert same.uid != other.uid
    assert local.identified(own).uid == "abc"


def test_a_precision_for_all_phases_replaces_their_own() -> None:
    curriculum = demo()
    first = curriculum.spec.phases[0]
    here = local.Here(data=Path("d"), checkpoints=Path("c"), gpus=0, precision=Precision.BF16)

    run = local.phase_run(curriculum, first, None, here)

    assert (Precision.FP32, Precision.BF16) == (first.precision, run.precision)


def test_a_grid_has_every_combination_in_a_folder_of_its_own() -> None:
    found = sweep.combinations(phase(), ["strategy=DDP,ZeRO1", "tokens=64"])
    odd = sweep.combinations(phase(), ["evaluation.source=a/b,a-b"])

    assert [("DDP", 64), ("ZeRO1", 64)] == [(c.phase.strategy, c.phase.tokens) for c in found]
    assert ["strategy-DDP_tokens-64", "strategy-ZeRO1_tokens-64"] == [c.folder for c in found]
    assert len({c.folder for c in odd}) == 2
    assert not any("/" in c.folder for c in odd)


def test_gpus_are_counted_as_a_trainer_would_see_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("nvidia0", "nvidia1", "nvidia2", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    monkeypatch.setattr(machine, "_DEVICES", tmp_path)

    assert 3 == machine.gpus({})
    assert 2 == machine.gpus({"CUDA_VISIBLE_DEVICES": "0,2"})
    assert 0 == machine.gpus({"CUDA_VISIBLE_DEVICES": ""})
    assert 0 == machine.gpus({"CUDA_VISIBLE_DEVICES": "-1"})


def test_the_command_imports_neither_kopf_nor_torch() -> None:
    code = (
        "import sys, curriculum_cli.main, curriculum_cli.running, curriculum_cli.machine;"
        "print([m for m in ('kopf', 'torch', 'kubernetes', 'numpy') if m in sys.modules])"
    )
    seen = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )

    assert seen.stdout.strip() == "[]"
