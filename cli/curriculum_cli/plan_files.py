"""YAML files to what a plan takes: specs and nothing else, so that it starts fast."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from curriculum_api.classes import CLASSES
from curriculum_api.v1alpha1.accelerator_class import AcceleratorClassSpec, Measurement
from curriculum_api.v1alpha1.curriculum import CurriculumSpec
from curriculum_api.v1alpha1.rented_pool import RentedPoolSpec
from curriculum_api.wire import API_VERSION, Wire, problems

IMAGE = "curriculum-trainer"
"""Stands where a class names no image, as the chart would put its own."""

T = TypeVar("T", bound=Wire)

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class Given:
    """What the files hold; classes that they do not name are the chart's."""

    curricula: Mapping[str, CurriculumSpec]
    classes: Mapping[str, AcceleratorClassSpec]
    pools: Mapping[str, RentedPoolSpec]
    measurements: Mapping[str, Sequence[Measurement]] = field(default_factory=dict)
    """What training was measured to reach, by class; only a cluster knows any."""


def read(files: Iterable[Path]) -> Given:
    """Read all documents of our group; other kinds are passed over.

    Raises:
        ValueError: a file is no YAML, a document does not fit its kind, or there is no curriculum.
        OSError: a file cannot be read.
    """
    documents = [document for file in files for document in _load(file)]
    curricula = _specs(documents, "TrainingCurriculum", CurriculumSpec)
    if not curricula:
        raise ValueError("the files hold no TrainingCurriculum")
    given = _specs(documents, "AcceleratorClass", AcceleratorClassSpec)
    known = {
        name: _spec(AcceleratorClassSpec, name, {"image": IMAGE, **spec})
        for name, spec in CLASSES.items()
        if name not in given
    }
    return Given(
        curricula=curricula,
        classes={**known, **given},
        pools=_specs(documents, "RentedPool", RentedPoolSpec),
    )


def _load(file: Path) -> Iterable[dict[str, Any]]:
    try:
        documents = list(yaml.load_all(file.read_text(), Loader=_LOADER))
    except yaml.YAMLError as error:
        raise ValueError(f'"{file}" is not YAML: {" ".join(str(error).split())}') from error
    for document in documents:
        if document is None:
            continue
        if not isinstance(document, dict) or not isinstance(document.get("metadata"), dict):
            raise ValueError(f'"{file}" holds a document that is no Kubernetes object')
        if document.get("apiVersion") == API_VERSION:
            yield document


def _specs(documents: Sequence[dict[str, Any]], kind: str, model: type[T]) -> dict[str, T]:
    return {
        str(document["metadata"].get("name", "")): _spec(
            model, f"{kind} {document['metadata'].get('name', '')}", document.get("spec")
        )
        for document in documents
        if document.get("kind") == kind
    }


def _spec(model: type[T], what: str, spec: Any) -> T:
    try:
        return model.model_validate(spec)
    except ValidationError as error:
        raise ValueError(f"{what}: {problems(error)}") from error
