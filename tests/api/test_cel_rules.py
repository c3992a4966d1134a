"""The CRD's CEL rules take what is sound, and refuse what is not with the way out."""

import copy
import re
from collections.abc import Iterator
from typing import Any

import pytest

from curriculum_api.crd import definition
from curriculum_api.v1alpha1 import AcceleratorClass, RentedPool, TrainingCurriculum

from .cases import EDITS_REFUSED, EDITS_TAKEN, REFUSED, TAKEN, Document, Edit, started, worked
from .verdict import verdict

CURRICULUM = definition(TrainingCurriculum, TrainingCurriculum.resource)


@pytest.mark.parametrize("document", TAKEN)
def test_a_sound_curriculum_is_taken(document: Document) -> None:
    assert verdict(CURRICULUM, document) == []


@pytest.mark.parametrize(("document", "message"), REFUSED)
def test_an_unsound_curriculum_is_refused_with_the_way_out(
    document: Document, message: str
) -> None:
    assert [one for one in verdict(CURRICULUM, document) if one.endswith(f": {message}")]


@pytest.mark.parametrize(("old", "edit"), EDITS_TAKEN)
def test_an_edit_that_changes_nothing_trained_is_taken(old: Document, edit: Edit) -> None:
    assert verdict(CURRICULUM, _edited(old, edit), old) == []


@pytest.mark.parametrize(("old", "edit", "message"), EDITS_REFUSED)
def test_an_edit_of_what_has_started_is_refused_with_the_way_out(
    old: Document, edit: Edit, message: str
) -> None:
    assert [one for one in verdict(CURRICULUM, _edited(old, edit), old) if one.endswith(message)]


def test_the_operator_may_write_status_whatever_has_started() -> None:
    claimed = worked(started(0))
    assert verdict(CURRICULUM, claimed, worked()) == []
    assert verdict(CURRICULUM, worked(started(0, 1, 2, 3)), claimed) == []


@pytest.mark.parametrize("kind", [AcceleratorClass, RentedPool])
def test_other_kinds_are_named_by_a_label(kind: type[AcceleratorClass] | type[RentedPool]) -> None:
    document = {"metadata": {"name": "b200-sm100"}}
    crd = definition(kind, kind.resource)
    named_rules = [rule.message for rule in kind.rules]
    told = "\n".join(verdict(crd, document))
    assert not [message for message in named_rules if message in told]
    told = "\n".join(verdict(crd, {"metadata": {"name": "100-b200"}}))
    assert [message for message in named_rules if message in told]


def test_every_rule_has_a_case_that_it_refuses() -> None:
    """A rule without a case may be wrong, or may never fire."""
    refused = {case.values[-1] for case in [*REFUSED, *EDITS_REFUSED]}
    silent = {message for message in _messages(CURRICULUM) if message not in refused}
    # There is one backend so far, so that no edit of it can reach the rule.
    assert [message.split(" ")[0] for message in silent] == ["`backend`"]


def test_every_message_names_the_field_and_the_way_out() -> None:
    assert [one for one in _messages(CURRICULUM) if not re.match(r"`.*`.*: \w", one)] == []


def _messages(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        yield from (rule["message"] for rule in node.get("x-kubernetes-validations", []))
        for child in node.values():
            yield from _messages(child)
    elif isinstance(node, list):
        for child in node:
            yield from _messages(child)


def _edited(old: Document, edit: Edit) -> Document:
    new = copy.deepcopy(old)
    edit(new)
    return new
