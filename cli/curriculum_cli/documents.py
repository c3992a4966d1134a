"""YAML files to the API's documents, without a cluster."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from curriculum_api.wire import API_VERSION, problems
from curriculum_operator import observe, project

T = TypeVar("T")

CREATED = "1970-01-01T00:00:00Z"
"""Stands where the API server would put a time."""

NO_UID = "00000000-0000-0000-0000-000000000000"
"""Stands where the API server would put a UID."""


@dataclass(frozen=True, slots=True)
class Documents:
    """What the files hold, by kind."""

    curricula: tuple[observe.Curriculum, ...]
    classes: Mapping[str, observe.AcceleratorClass]
    pools: Mapping[str, observe.RentedPool]
    profiles: Mapping[str, str]
    """Fabric profiles in ConfigMaps, as a site keeps them: texts by name."""


def read(files: Iterable[Path]) -> Documents:
    """Read all documents of our group, and fabric profiles; other kinds are passed over.

    Raises:
        ValueError: a file is no YAML, or a document does not fit its kind.
        OSError: a file cannot be read.
    """
    raw = [document for file in files for document in _load(file)]
    ours = [document for document in raw if document.get("apiVersion") == API_VERSION]
    return Documents(
        curricula=tuple(
            project.curriculum(_as_stored(document))
            for document in _of_kind(ours, "TrainingCurriculum")
        ),
        classes={
            found.name: found
            for document in _of_kind(ours, "AcceleratorClass")
            for found in (_read(document, project.accelerator_class),)
        },
        pools={
            found.name: found
            for document in _of_kind(ours, "RentedPool")
            for found in (_read(document, project.rented_pool),)
        },
        profiles={
            name: text
            for document in _of_kind(raw, "ConfigMap")
            for name, text in project.fabric_profiles(document).items()
        },
    )


def _read(document: dict[str, Any], read: Callable[[dict[str, Any]], T]) -> T:
    try:
        return read(document)
    except ValidationError as error:
        name = document["metadata"].get("name", "")
        raise ValueError(f'cannot read {document["kind"]} "{name}": {problems(error)}') from error


def _load(file: Path) -> Iterable[dict[str, Any]]:
    try:
        documents = list(yaml.safe_load_all(file.read_text()))
    except yaml.YAMLError as error:
        raise ValueError(f'"{file}" is not YAML: {" ".join(str(error).split())}') from error
    for document in documents:
        if document is None:
            continue
        if not isinstance(document, dict) or not isinstance(document.get("metadata"), dict):
            raise ValueError(f'"{file}" holds a document that is no Kubernetes object')
        yield document


def _of_kind(documents: Sequence[dict[str, Any]], kind: str) -> Iterable[dict[str, Any]]:
    return (document for document in documents if document.get("kind") == kind)


def _as_stored(document: dict[str, Any]) -> dict[str, Any]:
    metadata = {
        "namespace": "default",
        "uid": NO_UID,
        "generation": 1,
        "resourceVersion": "0",
        "creationTimestamp": CREATED,
        **document["metadata"],
    }
    return {**document, "metadata": metadata, "status": {}}
