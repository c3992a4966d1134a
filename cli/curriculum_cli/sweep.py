"""A small grid over one phase's fields: `optimizer.learningRate=1e-3,3e-3`. Pure."""

import hashlib
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from curriculum_api.v1alpha1.curriculum import Phase
from curriculum_api.wire import problems

FOLDER: Final = "_sweep"
"""Beside the phases' folders; no phase can have this name."""

_FIXED: Final = frozenset({"name", "acceleratorClass", "pool", "nodes", "gpusPerNode"})
"""Fields that mean nothing on this machine, or say which phase it is."""

_NAME_LENGTH: Final = 80


@dataclass(frozen=True, slots=True)
class Combination:
    """One point of the grid."""

    settings: dict[str, str]
    phase: Phase

    @property
    def text(self) -> str:
        """For people."""
        return " ".join(f"{key}={value}" for key, value in self.settings.items())

    @property
    def folder(self) -> str:
        """A folder's name that no other combination has."""
        plain = "_".join(f"{key}-{value}" for key, value in self.settings.items())
        safe = re.sub(r"[^A-Za-z0-9_.-]", "-", plain)[:_NAME_LENGTH]
        if safe == plain:
            return plain
        return f"{safe}-{hashlib.sha256(plain.encode()).hexdigest()[:8]}"


def combinations(phase: Phase, asked: Sequence[str]) -> list[Combination]:
    """Every combination of the values that were asked for, in order.

    Raises:
        ValueError: an axis that cannot be read, or a field or value that the phase refuses.
    """
    axes = [_axis(text) for text in asked]
    keys = [key for key, _ in axes]
    for key in keys:
        if keys.count(key) > 1:
            raise ValueError(f'--sweep names "{key}" twice: give all its values at once')
        if key.split(".")[0] in _FIXED:
            raise ValueError(f'--sweep "{key}": it changes nothing on one machine')
    grid = itertools.product(*(values for _, values in axes))
    return [_combination(phase, dict(zip(keys, values, strict=True))) for values in grid]


def _axis(text: str) -> tuple[str, list[str]]:
    key, _, values = text.partition("=")
    listed = [value.strip() for value in values.split(",")]
    if not key or not all(listed):
        raise ValueError(
            f'--sweep "{text}" is not KEY=VALUE,VALUE: for example optimizer.learningRate=1e-3,3e-3'
        )
    return key.strip(), listed


def _combination(phase: Phase, settings: dict[str, str]) -> Combination:
    document = phase.model_dump(mode="json", by_alias=True, exclude_none=True)
    for key, value in settings.items():
        _set(document, key, value)
    try:
        # numbers and booleans come as text: the model reads them as it reads JSON's
        changed = Phase.model_validate(document)
    except ValidationError as error:
        told = " ".join(f"{key}={value}" for key, value in settings.items())
        raise ValueError(f'--sweep {told}: phase "{phase.name}": {problems(error)}') from error
    return Combination(settings, changed)


def _set(document: dict[str, Any], key: str, value: str) -> None:
    *path, last = key.split(".")
    at = document
    for number, part in enumerate(path):
        at = at.setdefault(part, {})
        if not isinstance(at, dict):
            where = ".".join(path[: number + 1])
            raise ValueError(f'--sweep "{key}": "{where}" holds no fields')
    at[last] = value
