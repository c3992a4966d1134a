"""Objects are read as an API server returns them, and what cannot be read is told in one line."""

from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from curriculum_api.crd import definition
from curriculum_api.v1alpha1 import AcceleratorClass, RentedPool, TrainingCurriculum
from curriculum_api.wire import Precision, State, problems

from .cases import HERE, LONG, Document, phase, spec, started, worked
from .verdict import verdict, with_defaults

SERVER_METADATA = {
    "name": "slm-8b-cpp",
    "namespace": "research",
    "uid": "0b7a",
    "resourceVersion": "77",
    "generation": 3,
    "creationTimestamp": "2026-01-01T00:00:00Z",
    "finalizers": ["curriculum.dev/rented"],
    "managedFields": [{"manager": "kubectl", "fieldsV1": {"f:spec": {}}}],
    "ownerReferences": [],
}


def read(document: Document) -> TrainingCurriculum:
    return TrainingCurriculum.model_validate(document)


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("curriculum", TrainingCurriculum),
        ("accelerator-class", AcceleratorClass),
        ("rented-pool", RentedPool),
    ],
)
def test_the_worked_objects_are_read_and_taken(
    file: str, kind: type[TrainingCurriculum] | type[AcceleratorClass] | type[RentedPool]
) -> None:
    document = yaml.safe_load((HERE / f"{file}.yaml").read_text())
    assert verdict(definition(kind, kind.resource), document) == []
    assert document["metadata"]["name"] == kind.model_validate(document).metadata.name


def test_what_the_server_adds_to_metadata_is_ignored() -> None:
    curriculum = read({**worked(), "metadata": SERVER_METADATA})
    assert (curriculum.metadata.resource_version, curriculum.metadata.generation) == ("77", 3)


@pytest.mark.parametrize("status", [{}, {"status": None}, {"status": {}}], ids=str)
def test_a_curriculum_without_a_status_is_pending(status: Document) -> None:
    curriculum = read({**worked(), **status})
    assert (curriculum.status.state, curriculum.status.phases) == (State.PENDING, ())


def test_what_a_newer_operator_reports_does_not_stop_an_older_one() -> None:
    document = worked(started(0))
    document["status"]["weather"] = "fine"
    document["status"]["phases"][0]["weather"] = {"wind": 3}
    assert read(document).status.phases[0].attempts == 1


def test_the_defaults_of_the_server_are_those_of_the_models() -> None:
    crd = definition(TrainingCurriculum, TrainingCurriculum.resource)
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    stored = with_defaults(schema, worked())
    assert stored != {**worked(), "status": {}}
    assert read(stored).spec == read(worked()).spec
    assert read(stored).status == read(worked()).status


def test_what_is_read_can_be_written_back() -> None:
    curriculum = read(worked(started(0), phase(LONG, precision="MXFP8")))
    written = curriculum.model_dump(by_alias=True, mode="json", exclude_none=True)
    assert curriculum.spec.phases[LONG].precision == Precision.MXFP8
    assert curriculum == read(written)
    crd = definition(TrainingCurriculum, TrainingCurriculum.resource)
    assert verdict(crd, written) == []


@pytest.mark.parametrize(
    ("document", "line"),
    [
        pytest.param(
            worked(phase(0, nodes=0)),
            "spec.phases[0].nodes: must be greater than or equal to 1, not 0",
            id="a number too small",
        ),
        pytest.param(
            worked(phase(0, precision="FP4")),
            "spec.phases[0].precision: must be 'FP32', 'BF16', 'FP8', 'MXFP8' or 'NVFP4',"
            ' not "FP4"',
            id="an unknown word",
        ),
        pytest.param(
            worked(phase(0, contextlength=1)),
            "spec.phases[0].contextlength: no such field: remove it, or correct its name",
            id="a misspelt field",
        ),
        pytest.param(
            worked(lambda d: d["spec"].pop("tokenizer")),
            "spec.tokenizer: required, but absent: add it",
            id="a missing field",
        ),
        pytest.param(
            worked(spec(tokenizer={"path": "/" * 200})),
            "spec.tokenizer.path: must match pattern '^[A-Za-z0-9_][A-Za-z0-9_./-]*$',"
            f' not "{"/" * 76}...',
            id="a long value is cut",
        ),
        pytest.param(
            worked(spec(phases=[])),
            "spec.phases: must have at least 1 item, not 0",
            id="an empty list",
        ),
        pytest.param(
            worked(phase(0, nodes=0), phase(1, nodes=0), phase(2, nodes=0), phase(3, nodes=0)),
            "spec.phases[0].nodes: must be greater than or equal to 1, not 0;"
            " spec.phases[1].nodes: must be greater than or equal to 1, not 0;"
            " spec.phases[2].nodes: must be greater than or equal to 1, not 0; and 1 more",
            id="many problems are counted",
        ),
    ],
)
def test_a_parse_error_is_one_line(document: Document, line: str) -> None:
    with pytest.raises(ValidationError) as error:
        read(document)
    assert line == problems(error.value)


def test_what_is_no_object_is_told_as_well() -> None:
    nothing: Any = None
    with pytest.raises(ValidationError) as error:
        read(nothing)
    assert problems(error.value).startswith("document: ")
