"""A node is of the class that its labels speak for most strongly, on every platform, or of none.

The label sets are those that GPU Feature Discovery and the clouds put on nodes.
"""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from curriculum_api.classes import CLASSES
from curriculum_api.v1alpha1.accelerator_class import AcceleratorClassSpec
from curriculum_operator import label, names, observe, recognise

EXAMPLES = Path(__file__).parents[3] / "examples/classes.yaml"
MAJOR, MINOR, PRODUCT = names.GPU_MAJOR_LABEL, names.GPU_MINOR_LABEL, names.GPU_PRODUCT_LABEL
MACHINE, ARCH, REASON = names.GPU_MACHINE_LABEL, names.ARCH_LABEL, names.CLASS_REASON_ANNOTATION


def kind(name: str, *rules: dict[str, object], **fields: Any) -> observe.AcceleratorClass:
    """A class by its rules."""
    spec = {"image": "trainer", **CLASSES["gb10-sm121"], "match": rules, **fields}
    return observe.AcceleratorClass(name, AcceleratorClassSpec.model_validate(spec))


def shipped() -> dict[str, observe.AcceleratorClass]:
    """The chart's classes and the examples', as one cluster may have them all."""
    found = {name: {"image": "trainer", **spec} for name, spec in CLASSES.items()}
    for document in yaml.safe_load_all(EXAMPLES.read_text()):
        found[document["metadata"]["name"]] = document["spec"]
    return {
        name: observe.AcceleratorClass(name, AcceleratorClassSpec.model_validate(spec))
        for name, spec in found.items()
    }


ALL = shipped()
CHART = {name: ALL[name] for name in CLASSES}


def of(*classes: observe.AcceleratorClass) -> dict[str, observe.AcceleratorClass]:
    return {one.name: one for one in classes}


def node(labels: dict[str, str], **fields: Any) -> observe.Node:
    given: dict[str, Any] = {"ready": True, "ready_changed": None, "unschedulable": False}
    given |= {"taints": (), "extended": ()}
    return observe.Node(name="n", labels=labels, **(given | fields))


def gfd(capability: str, product: str, arch: str = "amd64", **more: str) -> dict[str, str]:
    """What GPU Feature Discovery and the kubelet put on a node."""
    major, _, minor = capability.partition(".")
    return {
        ARCH: arch,
        "nvidia.com/gpu.present": "true",
        "nvidia.com/gpu.family": "blackwell",
        MAJOR: major,
        MINOR: minor,
        PRODUCT: product,
        **more,
    }


SPARK = gfd("12.1", "NVIDIA-GB10", "arm64", **{MACHINE: "NVIDIA_DGX_Spark"})
HGX = gfd("10.0", "NVIDIA-B200", **{"nvidia.com/gpu.memory": "183359"})
EKS = {ARCH: "amd64", "node.kubernetes.io/instance-type": "p6-b200.48xlarge"}
COREWEAVE = {ARCH: "amd64", "gpu.nvidia.com/class": "B200"}

PLATFORMS = [
    pytest.param(SPARK, "gb10-sm121", id="DGX Spark with GFD"),
    pytest.param(SPARK | {MACHINE: "GX10"}, "gb10-sm121", id="another maker's GB10"),
    pytest.param({ARCH: "arm64", PRODUCT: "NVIDIA-GB10"}, "gb10-sm121", id="only a product"),
    pytest.param({MACHINE: "NVIDIA_DGX_Spark"}, "gb10-sm121", id="only a machine"),
    pytest.param({MAJOR: "12", MINOR: "1"}, "gb10-sm121", id="only a compute capability"),
    pytest.param(HGX, "b200-sm100", id="HGX B200 with GFD"),
    pytest.param({MAJOR: "10", MINOR: "0"}, "b200-sm100", id="only compute capability 10.0"),
    pytest.param(
        {ARCH: "amd64", "cloud.google.com/gke-accelerator": "nvidia-b200"},
        "b200-sm100",
        id="GKE A4",
    ),
    pytest.param(
        EKS | {"eks.amazonaws.com/instance-gpu-name": "b200"}, "b200-sm100", id="EKS Auto Mode"
    ),
    pytest.param(
        EKS | {"karpenter.k8s.aws/instance-gpu-name": "b200"}, "b200-sm100", id="Karpenter"
    ),
    pytest.param(EKS, "b200-sm100", id="EKS managed nodes"),
    pytest.param(COREWEAVE, "b200-sm100", id="CoreWeave by class"),
    pytest.param({"node.coreweave.cloud/type": "b200-8x"}, "b200-sm100", id="CoreWeave by type"),
]

OTHERS = [
    pytest.param(gfd("10.0", "NVIDIA-GB200", "arm64"), "gb200-sm100", id="GB200"),
    pytest.param(gfd("10.3", "NVIDIA-B300-SXM6-AC"), "b300-sm103", id="B300"),
    pytest.param(gfd("9.0", "NVIDIA-H100-80GB-HBM3"), "h100-sm90", id="H100"),
    pytest.param(gfd("9.0", "NVIDIA-H200"), "h200-sm90", id="H200"),
    pytest.param(gfd("8.0", "NVIDIA-A100-SXM4-80GB"), "a100-sm80", id="A100"),
]

NEITHER = [
    pytest.param(gfd("10.3", "NVIDIA-GB300", "arm64"), id="GB300"),
    pytest.param(gfd("10.0", "NVIDIA-B100"), id="B100, of B200's compute capability"),
    pytest.param(gfd("10.0", "NVIDIA-B200-MIG-1g.23gb"), id="a B200 cut into slices"),
    pytest.param(gfd("12.1", "NVIDIA-GB10-SHARED", "arm64"), id="a GB10 shared by time"),
    pytest.param(gfd("12.0", "NVIDIA-RTX-PRO-6000-Blackwell-Server-Edition"), id="RTX PRO"),
    pytest.param(gfd("9.0", "NVIDIA-H100-PCIe"), id="H100 PCIe"),
    pytest.param({ARCH: "arm64", MAJOR: "10", MINOR: "0"}, id="10.0 beside a Grace CPU"),
    pytest.param({"gpu.nvidia.com/class": "B200", PRODUCT: "NVIDIA-L4"}, id="a label that lies"),
    pytest.param({MAJOR: "12"}, id="half of a compute capability"),
    pytest.param({"nvidia.com/gpu.family": "blackwell"}, id="only a family"),
    pytest.param({"nvidia.com/gpu.memory": "183359"}, id="only a memory"),
    pytest.param({"gpu.nvidia.com/class": "b200"}, id="a value in another case"),
    pytest.param({}, id="no accelerator"),
]


@pytest.mark.parametrize(("labels", "name"), PLATFORMS)
@pytest.mark.parametrize("classes", [CHART, ALL], ids=["chart", "all"])
def test_every_platform_is_recognised(
    labels: dict[str, str], name: str, classes: dict[str, observe.AcceleratorClass]
) -> None:
    assert recognise.verdict(node(labels), classes).name == name


@pytest.mark.parametrize(("labels", "name"), OTHERS)
def test_kin_is_told_apart_and_without_its_class_is_of_none(
    labels: dict[str, str], name: str
) -> None:
    assert recognise.verdict(node(labels), ALL).name == name
    assert recognise.verdict(node(labels), CHART).claims == ()


@pytest.mark.parametrize("labels", NEITHER)
def test_what_only_looks_like_it_is_of_no_class(labels: dict[str, str]) -> None:
    assert recognise.verdict(node(labels), ALL).claims == ()


LADDER: tuple[dict[str, object], ...] = (
    {"computeCapability": "12.1"},
    {"product": "NVIDIA-GB10"},
    {"labels": {"site": "lab"}},
    {"labels": {MACHINE: "NVIDIA_DGX_Spark"}},
)
"""One rule of each kind of evidence, the strongest first."""


@pytest.mark.parametrize(("strong", "weak"), list(itertools.combinations(LADDER, 2)))
def test_the_stronger_evidence_wins_whatever_the_names(
    strong: dict[str, object], weak: dict[str, object]
) -> None:
    there = node(SPARK | {"site": "lab"})
    for first, second in (("a", "z"), ("z", "a")):
        classes = of(kind(first, strong), kind(second, weak))
        assert recognise.verdict(there, classes).name == first


def test_a_strong_kind_outweighs_all_weaker_ones_together() -> None:
    weak: dict[str, object] = {
        "product": "NVIDIA-GB10",
        "labels": {"site": "lab", MACHINE: "NVIDIA_DGX_Spark"},
    }
    classes = of(kind("a", weak), kind("z", {"computeCapability": "12.1"}))

    assert recognise.verdict(node(SPARK | {"site": "lab"}), classes).name == "z"


def test_between_equals_the_rule_that_asks_for_more_wins() -> None:
    narrow: dict[str, object] = {"computeCapability": "12.1", "labels": {"site": "lab"}}
    classes = CHART | of(kind("a-lab-spark", narrow))

    assert recognise.verdict(node(SPARK | {"site": "lab"}), classes).name == "a-lab-spark"
    assert recognise.verdict(node(SPARK), classes).name == "gb10-sm121"


def test_two_classes_by_equal_evidence_are_a_conflict_and_none_has_the_node() -> None:
    classes = CHART | of(kind("mine", {"computeCapability": "12.1"}))
    found = recognise.verdict(node(SPARK), classes)
    change = label.change(node(SPARK | {names.CLASS_LABEL: "mine"}), classes)

    assert (found.name, [claim.name for claim in found.claims]) == (None, ["gb10-sm121", "mine"])
    assert change is not None
    assert change.labels == {names.CLASS_LABEL: None}
    assert change.conflict == change.annotations[REASON]
    assert '"gb10-sm121" by compute capability 12.1, "mine" by compute' in change.conflict
    assert "\n" not in change.conflict
    assert f"{names.MANAGED_LABEL}=false" in change.conflict


def test_one_class_with_two_rules_that_hold_is_no_conflict() -> None:
    classes = of(kind("a", {"product": "NVIDIA-GB10"}, {"computeCapability": "12.1"}))
    (claim,) = recognise.verdict(node(SPARK), classes).claims

    assert (claim.rule, claim.evidence) == (2, "compute capability 12.1")


def test_a_rule_that_asks_for_nothing_recognises_nothing() -> None:
    assert recognise.verdict(node(SPARK), of(kind("a", {}))).claims == ()


BY = {REASON: "by compute capability 12.1"}


@pytest.mark.parametrize(
    ("labels", "annotations", "wanted"),
    [
        pytest.param(SPARK, {}, ({names.CLASS_LABEL: "gb10-sm121"}, BY), id="put"),
        pytest.param(SPARK | {names.CLASS_LABEL: "gb10-sm121"}, BY, None, id="kept"),
        pytest.param(SPARK | {names.CLASS_LABEL: "gb10-sm121"}, {}, ({}, BY), id="reason put"),
        pytest.param(
            SPARK | {names.CLASS_LABEL: "b200-sm100"},
            BY,
            ({names.CLASS_LABEL: "gb10-sm121"}, {}),
            id="corrected",
        ),
        pytest.param(
            {names.CLASS_LABEL: "gb10-sm121"},
            BY,
            ({names.CLASS_LABEL: None}, {REASON: None}),
            id="removed with what it was known by",
        ),
        pytest.param(
            gfd("8.9", "NVIDIA-L4"),
            {},
            ({}, {REASON: "no AcceleratorClass claims compute capability 8.9, product NVIDIA-L4"}),
            id="an accelerator of no class",
        ),
        pytest.param({}, {}, None, id="no accelerator"),
        pytest.param(
            SPARK | {names.CLASS_LABEL: "mine", names.MANAGED_LABEL: "false"},
            {},
            None,
            id="an admin's own",
        ),
        pytest.param(
            SPARK | {names.MANAGED_LABEL: "false"},
            BY,
            ({}, {REASON: None}),
            id="an admin's own has no reason of ours",
        ),
        pytest.param(
            SPARK | {names.MANAGED_LABEL: "true"},
            {},
            ({names.CLASS_LABEL: "gb10-sm121"}, BY),
            id="managed",
        ),
    ],
)
def test_only_what_differs_is_written(
    labels: dict[str, str],
    annotations: dict[str, str],
    wanted: tuple[dict[str, str | None], dict[str, str | None]] | None,
) -> None:
    change = label.change(node(labels, annotations=annotations), CHART)

    assert (change and (change.labels, change.annotations)) == wanted


VALUES = {
    MAJOR: ("9", "10", "12"),
    MINOR: ("0", "1", "3"),
    PRODUCT: ("NVIDIA-GB10", "NVIDIA-B200", "NVIDIA-GB200", "NVIDIA-L4"),
    MACHINE: ("NVIDIA_DGX_Spark", "other"),
    ARCH: ("amd64", "arm64"),
    "gpu.nvidia.com/class": ("B200", "H100"),
    names.CLASS_LABEL: ("gb10-sm121", "b200-sm100", "mine"),
    names.MANAGED_LABEL: ("false", "true"),
}
LABELS = st.fixed_dictionaries({}, optional={k: st.sampled_from(v) for k, v in VALUES.items()})
RIVAL = kind("rival", {"computeCapability": "10.0"}, {"product": "NVIDIA-GB10"})
CLUSTERS = st.lists(st.sampled_from([*ALL.values(), RIVAL]), unique_by=lambda one: one.name)
REASONS = st.sampled_from([{}, BY, {REASON: "of an earlier operator"}])


@given(labels=LABELS, classes=CLUSTERS, annotations=REASONS)
def test_a_label_is_stable_and_a_matter_of_evidence_alone(
    labels: dict[str, str],
    classes: list[observe.AcceleratorClass],
    annotations: dict[str, str],
) -> None:
    before = node(labels, annotations=annotations)
    forwards, backwards = of(*classes), of(*reversed(classes))
    change = label.change(before, forwards)

    assert change == label.change(before, backwards)
    if change is None:
        return
    after = replace(
        before,
        labels=merged(before.labels, change.labels),
        annotations=merged(before.annotations, change.annotations),
    )
    assert label.change(after, forwards) is None
    if labels.get(names.MANAGED_LABEL) == "false":
        assert after.labels == before.labels
    else:
        # Whatever label was there: what it becomes does not follow from what it was.
        bare = {key: value for key, value in labels.items() if key != names.CLASS_LABEL}
        verdict = recognise.verdict(node(bare), forwards)
        assert after.labels.get(names.CLASS_LABEL) == verdict.name


def merged(old: Any, change: Any) -> dict[str, str]:
    return {key: value for key, value in {**old, **change}.items() if value is not None}


def test_an_explanation_says_why_and_why_not() -> None:
    there = node(SPARK, memory_bytes=125506464 * 1024, extended=(("nvidia.com/gpu", 1),))

    assert recognise.explain(there, CHART) == [
        'node "n": compute capability 12.1, product NVIDIA-GB10, machine NVIDIA_DGX_Spark,'
        " resource nvidia.com/gpu",
        "curriculum.dev/accelerator-class is absent, to become gb10-sm121",
        'class "b200-sm100": no by rule 1: compute capability is 12.1, not 10.0',
        'class "b200-sm100": no by rule 2: product is NVIDIA-GB10, not NVIDIA-B200',
        'class "b200-sm100": no by rule 3: cloud.google.com/gke-accelerator is absent,'
        " not nvidia-b200",
        'class "b200-sm100": no by rule 4: eks.amazonaws.com/instance-gpu-name is absent, not b200',
        'class "b200-sm100": no by rule 5: karpenter.k8s.aws/instance-gpu-name is absent, not b200',
        'class "b200-sm100": no by rule 6: node.kubernetes.io/instance-type is absent,'
        " not p6-b200.48xlarge",
        'class "b200-sm100": no by rule 7: gpu.nvidia.com/class is absent, not B200',
        'class "b200-sm100": no by rule 8: node.coreweave.cloud/type is absent, not b200-8x',
        'class "gb10-sm121": yes by rule 1: compute capability 12.1',
    ]


@pytest.mark.parametrize(
    ("there", "line"),
    [
        pytest.param(
            node(gfd("10.0", "NVIDIA-GB200", "arm64")),
            'class "b200-sm100": no by rule 1: product NVIDIA-GB200 is none of the class\'s',
            id="a shared capability",
        ),
        pytest.param(
            node({ARCH: "arm64", MAJOR: "10", MINOR: "0"}),
            'class "b200-sm100": no by rule 1: kubernetes.io/arch is arm64, not amd64',
            id="another CPU",
        ),
        pytest.param(
            node(SPARK | {names.CLASS_LABEL: "mine", names.MANAGED_LABEL: "false"}),
            "curriculum.dev/accelerator-class is mine, and stays so: curriculum.dev/managed is"
            " false, an administrator's own",
            id="an admin's own",
        ),
        pytest.param(
            node(SPARK | {names.CLASS_LABEL: "gb10-sm121"}),
            "curriculum.dev/accelerator-class is gb10-sm121, as it should be",
            id="labelled",
        ),
        pytest.param(node({}), 'node "n": says nothing of an accelerator', id="nothing to go by"),
    ],
)
def test_an_explanation_names_what_decided(there: observe.Node, line: str) -> None:
    assert line in recognise.explain(there, CHART)


@pytest.mark.parametrize(
    ("there", "kind", "gib"),
    [
        pytest.param(node(HGX), "b200-sm100", 179.1, id="by its label"),
        pytest.param(
            node(SPARK, memory_bytes=64 * 2**30), "gb10-sm121", 64.0, id="by the node's capacity"
        ),
        pytest.param(node(EKS), "b200-sm100", None, id="no word of it"),
    ],
)
def test_the_memory_of_an_accelerator_is_told(
    there: observe.Node, kind: str, gib: float | None
) -> None:
    found, _ = recognise.memory_gib(there, CHART[kind].spec)
    assert found == (None if gib is None else pytest.approx(gib, abs=0.05))


def test_weaker_evidence_and_a_conflict_are_explained() -> None:
    rivals = of(
        kind("a", {"product": "NVIDIA-GB10"}),
        kind("b", {"computeCapability": "12.1"}),
        kind("c", {"computeCapability": "12.1"}),
    )
    lines = recognise.explain(node(SPARK), rivals)

    assert 'class "a": yes by rule 1: product NVIDIA-GB10, which is weaker evidence' in lines
    assert any(line.startswith("conflict, so no class: claimed alike as") for line in lines)
