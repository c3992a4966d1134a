"""What a plan refuses without a server is what the CRD's CEL rules refuse with one."""

from pathlib import Path
from typing import Any

import cel as language
import pytest
import yaml
from pydantic import ValidationError

from curriculum_api.crd import definition
from curriculum_api.estimate import rules
from curriculum_api.v1alpha1 import AcceleratorClass, RentedPool, TrainingCurriculum, cel

from .cases import REFUSED, TAKEN
from .verdict import verdict

EXAMPLES = Path(__file__).parents[2] / "examples"
KINDS = {kind.__name__: kind for kind in (AcceleratorClass, RentedPool, TrainingCurriculum)}


def by_cel(phase: dict[str, Any]) -> list[str]:
    """Messages of the phase rules that CEL finds broken, on the phase as stored."""
    return [
        rule.message
        for rule in cel.PHASE
        if language.evaluate(rule.expression, {"self": phase}) is not True
    ]


@pytest.mark.parametrize(
    "document", [*TAKEN, *(pytest.param(case.values[0], id=case.id) for case in REFUSED)]
)
def test_both_refuse_the_same_phases_in_the_same_words(document: dict[str, Any]) -> None:
    try:
        spec = TrainingCurriculum.model_validate(document).spec
    except ValidationError:
        return  # the schema alone refuses it
    for phase in spec.phases:
        stored = phase.model_dump(mode="json", by_alias=True, exclude_none=True)
        assert list(rules.of_phase(phase)) == by_cel(stored)


def examples() -> list[Any]:
    """Every document of our kinds in the examples."""
    return [
        pytest.param(document, id=f"{path.name} {document['kind']} {document['metadata']['name']}")
        for path in sorted(EXAMPLES.glob("*.yaml"))
        for document in yaml.safe_load_all(path.read_text())
        if document["kind"] in KINDS
    ]


@pytest.mark.parametrize("document", examples())
def test_every_example_is_taken_by_the_crds(document: dict[str, Any]) -> None:
    kind = KINDS[document["kind"]]

    assert verdict(definition(kind, kind.resource), document) == []
