"""Which accelerator class a node is of, by the rules of the AcceleratorClass objects.

Pure. Recognition goes by compute capability, product and other labels, never by
`nvidia.com/gpu.family` (GB10 and B200 share it) nor by `nvidia.com/gpu.memory` (absent on GB10).
"""

from collections.abc import Mapping

from curriculum_api.v1alpha1.accelerator_class import MatchRule
from curriculum_operator import names, observe


def wanted(node: observe.Node, classes: Mapping[str, observe.AcceleratorClass]) -> str | None:
    """The class of a node: of those with a rule that holds, the first by name; None without."""
    for name in sorted(classes):
        if any(_holds(rule, node.labels) for rule in classes[name].spec.match):
            return name
    return None


def change(
    node: observe.Node, classes: Mapping[str, observe.AcceleratorClass]
) -> Mapping[str, str | None] | None:
    """The labels to set (None removes) so that a node says its class; None where it does.

    A node whose label `curriculum.dev/managed` is `false` is an administrator's own.
    """
    if node.labels.get(names.MANAGED_LABEL) == "false":
        return None
    name = wanted(node, classes)
    if node.labels.get(names.CLASS_LABEL) == name:
        return None
    return {names.CLASS_LABEL: name}


def _holds(rule: MatchRule, labels: Mapping[str, str]) -> bool:
    asked: dict[str, str] = dict(rule.labels)
    if rule.product is not None:
        asked[names.GPU_PRODUCT_LABEL] = rule.product
    if rule.compute_capability is not None:
        major, _, minor = rule.compute_capability.partition(".")
        asked[names.GPU_MAJOR_LABEL] = major
        asked[names.GPU_MINOR_LABEL] = minor
    # A rule that asks for nothing recognises nothing.
    return bool(asked) and all(labels.get(key) == value for key, value in asked.items())
