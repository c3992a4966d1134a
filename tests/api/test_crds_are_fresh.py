"""The committed CRDs are what the models say, and every field in them has a sentence."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from curriculum_api import crd
from curriculum_api.v1alpha1 import KINDS

CRDS = Path(__file__).parents[2] / "crds"
ALL = [pytest.param(one, id=name) for name, one in crd.definitions().items()]


def test_the_committed_crds_are_what_the_models_say(capsys: pytest.CaptureFixture[str]) -> None:
    assert crd.main(["--check", str(CRDS)]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("edit", ["changed", "missing", "surplus"])
def test_a_stale_file_is_named(
    edit: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert crd.main([str(tmp_path)]) == 0
    assert crd.main(["--check", str(tmp_path)]) == 0
    capsys.readouterr()
    path = tmp_path / ("others.yaml" if edit == "surplus" else "rentedpools.yaml")
    if edit == "missing":
        path.unlink()
    else:
        path.write_text("kind: Other\n")
    assert crd.main(["--check", str(tmp_path)]) == 1
    assert f"{path} is not what the models say: run `make generate`\n" == capsys.readouterr().err
    assert crd.main([str(tmp_path)]) == 0
    assert crd.main(["--check", str(tmp_path)]) == 0


@pytest.mark.parametrize("definition", ALL)
def test_every_field_has_a_sentence(definition: dict[str, Any]) -> None:
    fields = list(_fields(_schema(definition), ""))
    assert len(fields) > 10
    # metadata is described by the API server, which refuses another description.
    silent = [path for path, one in fields if not one.get("description") and path != ".metadata"]
    assert silent == []


@pytest.mark.parametrize("definition", ALL)
def test_every_sentence_is_whole(definition: dict[str, Any]) -> None:
    for path, one in _fields(_schema(definition), ""):
        text = one.get("description", "X.")
        assert text[0].isupper(), path
        assert text.endswith("."), path


def test_kinds_are_served_as_users_type_them() -> None:
    served = {
        one["spec"]["names"]["kind"]: (
            one["spec"]["scope"],
            one["spec"]["names"]["plural"],
            one["spec"]["names"]["shortNames"],
            one["spec"]["names"]["categories"],
        )
        for one in crd.definitions().values()
    }
    assert served == {
        "TrainingCurriculum": ("Namespaced", "trainingcurricula", ["tcur"], ["training"]),
        "AcceleratorClass": ("Cluster", "acceleratorclasses", ["accel"], ["training"]),
        "RentedPool": ("Cluster", "rentedpools", ["rpool"], ["training"]),
    }
    assert len(KINDS) == len(served)


def test_a_curriculum_is_listed_by_phase_state_progress_eta_cost_and_age() -> None:
    version = crd.definitions()["trainingcurricula.yaml"]["spec"]["versions"][0]
    narrow = [one for one in version["additionalPrinterColumns"] if not one.get("priority")]
    assert [one["name"].upper() for one in narrow] == [
        "PHASE",
        "STATE",
        "PROGRESS",
        "ETA",
        "COST",
        "AGE",
    ]
    assert version["subresources"] == {"status": {}}


def _schema(definition: dict[str, Any]) -> dict[str, Any]:
    schema: dict[str, Any] = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return schema


def _fields(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, one in schema.get("properties", {}).items():
        yield f"{path}.{name}", one
        yield from _fields(one, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if key in schema:
            yield from _fields(schema[key], f"{path}[]")
