"""What is to be written on a node so that it says its accelerator class, and why. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from curriculum_operator import names, observe, recognise


@dataclass(frozen=True, slots=True)
class Change:
    """Labels and annotations to set; None removes one. Only what differs is in it."""

    labels: Mapping[str, str | None]
    annotations: Mapping[str, str | None]
    conflict: str = ""
    """What people are to be told: why several classes claim the node alike."""


def change(node: observe.Node, classes: Mapping[str, observe.AcceleratorClass]) -> Change | None:
    """What makes a node say its class; None where it does.

    The class of a node whose label `curriculum.dev/managed` is `false` is an administrator's own.
    The reason is the operator's, and goes with it.
    """
    if node.labels.get(names.MANAGED_LABEL) == "false":
        annotations = _differing(node.annotations, names.CLASS_REASON_ANNOTATION, None)
        return Change({}, annotations) if annotations else None
    found = recognise.verdict(node, classes)
    labels = _differing(node.labels, names.CLASS_LABEL, found.name)
    annotations = _differing(node.annotations, names.CLASS_REASON_ANNOTATION, found.reason)
    if not labels and not annotations:
        return None
    return Change(labels, annotations, (found.reason or "") if found.conflict else "")


def _differing(present: Mapping[str, str], key: str, wanted: str | None) -> dict[str, str | None]:
    return {} if present.get(key) == wanted else {key: wanted}
