"""A node says its class by the rules of the AcceleratorClass objects, and only by them."""

import pytest

from curriculum_api.v1alpha1.accelerator_class import AcceleratorClassSpec
from curriculum_operator import label, names, observe

MAJOR, MINOR, PRODUCT = names.GPU_MAJOR_LABEL, names.GPU_MINOR_LABEL, names.GPU_PRODUCT_LABEL


def accelerator_class(name: str, *rules: dict[str, object]) -> observe.AcceleratorClass:
    spec = {
        "match": rules,
        "cpuArchitecture": "arm64",
        "gpusPerNode": 1,
        "memoryGiB": 128,
        "trains": ["BF16"],
        "image": "trainer",
        "fabric": {"profile": "none"},
    }
    return observe.AcceleratorClass(name, AcceleratorClassSpec.model_validate(spec))


CLASSES = {
    c.name: c
    for c in (
        accelerator_class("gb10-sm121", {"computeCapability": "12.1"}, {"product": "NVIDIA-GB10"}),
        accelerator_class("b200-sm100", {"computeCapability": "10.0"}),
        accelerator_class("cloud", {"product": "B200", "labels": {"cloud": "one"}}),
        accelerator_class("nothing", {}),
    )
}


def node(labels: dict[str, str]) -> observe.Node:
    return observe.Node(
        name="n",
        labels=labels,
        ready=True,
        ready_changed=None,
        unschedulable=False,
        taints=(),
        extended=(),
    )


@pytest.mark.parametrize(
    ("labels", "wanted"),
    [
        pytest.param({MAJOR: "12", MINOR: "1"}, "gb10-sm121", id="by compute capability"),
        pytest.param({MAJOR: "10", MINOR: "0"}, "b200-sm100", id="the other one"),
        pytest.param({MAJOR: "12", MINOR: "0"}, None, id="another minor version"),
        pytest.param({MAJOR: "12"}, None, id="half of a rule"),
        pytest.param({PRODUCT: "NVIDIA-GB10"}, "gb10-sm121", id="by the second rule"),
        pytest.param({PRODUCT: "B200", "cloud": "one"}, "cloud", id="all of a rule"),
        pytest.param({PRODUCT: "B200", "cloud": "two"}, None, id="a label that differs"),
        pytest.param({"nvidia.com/gpu.family": "blackwell"}, None, id="never by family"),
        pytest.param(
            {MAJOR: "10", MINOR: "0", PRODUCT: "NVIDIA-GB10"}, "b200-sm100", id="first by name"
        ),
        pytest.param({}, None, id="no GPU"),
    ],
)
def test_a_class_is_recognised_by_its_rules(labels: dict[str, str], wanted: str | None) -> None:
    assert label.wanted(node(labels), CLASSES) == wanted


@pytest.mark.parametrize(
    ("labels", "change"),
    [
        pytest.param({MAJOR: "12", MINOR: "1"}, {names.CLASS_LABEL: "gb10-sm121"}, id="set"),
        pytest.param(
            {MAJOR: "12", MINOR: "1", names.CLASS_LABEL: "gb10-sm121"}, None, id="as it should be"
        ),
        pytest.param({names.CLASS_LABEL: "gb10-sm121"}, {names.CLASS_LABEL: None}, id="take away"),
        pytest.param(
            {MAJOR: "10", MINOR: "0", names.CLASS_LABEL: "gb10-sm121"},
            {names.CLASS_LABEL: "b200-sm100"},
            id="replace",
        ),
        pytest.param(
            {names.CLASS_LABEL: "mine", names.MANAGED_LABEL: "false"}, None, id="an admin's own"
        ),
        pytest.param({}, None, id="nothing to say"),
    ],
)
def test_only_what_differs_is_written(
    labels: dict[str, str], change: dict[str, str | None] | None
) -> None:
    assert label.change(node(labels), CLASSES) == change
