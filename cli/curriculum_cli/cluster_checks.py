"""What a cluster must have to train: values in, rows out. Pure."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import yaml

from curriculum_api.check import Check, Verdict
from curriculum_operator import admit, names, observe, recognise

SOUND_PLUGIN = (0, 17, 4)
"""Before it, NVIDIA's device plugin ends on a GB10, whose memory the driver does not tell
(NVIDIA/gpu-operator#1794)."""

SOUND_GPU_OPERATOR = (25, 10, 0)
"""The first that brings such a plugin."""

QUEUED_KIND = "kubeflow.org/pytorchjob"
"""What Kueue's configuration calls our jobs; off by default from 0.19 on (kueue#12606)."""

UNIFIED = "12.1"
"""Compute capability of a GB10."""

NAMED = 5
"""Nodes that a row names."""


@dataclass(frozen=True, slots=True)
class Workload:
    """A Deployment or DaemonSet: what it runs and whether it does."""

    name: str
    namespace: str
    labels: Mapping[str, str]
    images: Sequence[str]
    wanted: int
    ready: int


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    """What a cluster showed; None for what it does not serve."""

    client: str
    """Version of this program."""

    curricula: Sequence[observe.Curriculum] | None
    classes: Mapping[str, observe.AcceleratorClass]
    pools: Mapping[str, observe.RentedPool]
    nodes: Sequence[observe.Node]
    serves_jobs: bool
    workloads: Sequence[Workload]
    policies: Sequence[str] | None
    """Names of the ValidatingAdmissionPolicies."""

    kueue: str | None
    """Kueue's configuration."""

    unreadable: Sequence[str] = ()
    """Of curricula that this version cannot read: which, and why, a line each."""

    hidden: Sequence[str] = ()
    """Kinds that the API server does not show to this user."""


def rows(facts: ClusterFacts) -> Iterable[Check]:
    """Every check of the cluster as a whole."""
    shown = {"deployments", "daemonsets", "configmaps", "nodes", "acceleratorclasses"}
    shown -= set(facts.hidden)
    yield kinds(facts)
    if "deployments" in shown:
        yield operator(facts)
    yield training_operator(facts)
    if {"daemonsets", "nodes"} <= shown:
        yield from device_plugin(facts)
    yield from gpu_operator(facts)
    if "configmaps" in shown:
        yield from kueue(facts)
    yield from node_policy(facts)
    if {"nodes", "acceleratorclasses"} <= shown:
        yield from recognition(facts)
        yield from of_classes(facts)
    if facts.hidden:
        yield row(
            "rights", f"not shown: {', '.join(facts.hidden)}", Verdict.WARN,
            remedy="checks that need them are left out: ask for the right to list them",
        )  # fmt: skip


def kinds(facts: ClusterFacts) -> Check:
    """Whether the API server knows our kinds."""
    if facts.curricula is None:
        remedy = "helm install curriculum-operator, or kubectl apply -f crds"
        return row("kinds", "not served", Verdict.FAIL, remedy=remedy)
    told = f"served; curricula: {len(facts.curricula)}"
    if facts.unreadable:
        told += f", and {len(facts.unreadable)} that this version cannot read"
        remedy = "\n".join((*facts.unreadable, "correct them, or take the operator's version"))
        return row("kinds", told, Verdict.FAIL, remedy=remedy)
    return row("kinds", told)


def operator(facts: ClusterFacts) -> Check:
    """Whether the operator runs, and in this program's version."""
    found = [w for w in facts.workloads if w.labels.get(_NAME_LABEL) == "curriculum-operator"]
    if not found:
        remedy = "nothing starts or labels nodes without it: helm install curriculum-operator"
        return row("operator", "not installed", Verdict.FAIL, remedy=remedy)
    one = found[0]
    version = one.labels.get(_VERSION_LABEL, "")
    told = f"{version or 'unknown version'}, {one.ready} of {one.wanted} ready"
    if not one.ready:
        remedy = f"kubectl -n {one.namespace} logs deploy/{one.name}"
        return row("operator", told, Verdict.FAIL, remedy=remedy)
    if version and version != facts.client:
        remedy = "what this program renders and plans is its own version's: install the same"
        return row("operator", told, Verdict.WARN, floor=facts.client, remedy=remedy)
    return row("operator", told)


def training_operator(facts: ClusterFacts) -> Check:
    """Whether PyTorchJobs are served and driven."""
    if not facts.serves_jobs:
        remedy = "install Kubeflow's training-operator, 1.9"
        return row("training-operator", "no PyTorchJob served", Verdict.FAIL, remedy=remedy)
    found = [w for w in facts.workloads if _runs(w, "training-operator")]
    if not found:
        # A cloud's own, or one that this user may not see.
        return row("training-operator", "PyTorchJob is served")
    one = found[0]
    told = f"{_tag(one, 'training-operator')}, {one.ready} of {one.wanted} ready"
    if one.ready:
        return row("training-operator", told)
    remedy = f"kubectl -n {one.namespace} logs deploy/{one.name}"
    return row("training-operator", told, Verdict.FAIL, remedy=remedy)


def device_plugin(facts: ClusterFacts) -> Iterable[Check]:
    """NVIDIA's device plugin, where a GB10 needs a new one."""
    sparks = any(_is_spark(node) for node in facts.nodes)
    found = [w for w in facts.workloads if _runs(w, "k8s-device-plugin")]
    floor = _spelt(SOUND_PLUGIN) if sparks else ""
    if not found:
        if sparks:
            remedy = "a GB10 is offered to pods by NVIDIA's k8s-device-plugin: install it"
            yield row("device plugin", "not found", Verdict.WARN, floor=floor, remedy=remedy)
        return
    for one in found:
        tag = _tag(one, "k8s-device-plugin")
        version = _version(tag)
        told = f"{tag or 'unknown version'}, {one.ready} of {one.wanted} ready"
        if sparks and version is not None and version < SOUND_PLUGIN:
            remedy = f"it ends on a GB10: install {floor} or newer"
            yield row("device plugin", told, Verdict.FAIL, floor=floor, remedy=remedy)
        elif one.ready < one.wanted:
            remedy = f"kubectl -n {one.namespace} get pods -o wide | grep {one.name}"
            yield row("device plugin", told, Verdict.WARN, floor=floor, remedy=remedy)
        else:
            yield row("device plugin", told, floor=floor)


def gpu_operator(facts: ClusterFacts) -> Iterable[Check]:
    """NVIDIA's GPU Operator, where there is one."""
    sparks = any(_is_spark(node) for node in facts.nodes)
    floor = _spelt(SOUND_GPU_OPERATOR) if sparks else ""
    for one in facts.workloads:
        if not _runs(one, "gpu-operator"):
            continue
        tag = _tag(one, "gpu-operator")
        version = _version(tag)
        old = sparks and version is not None and version < SOUND_GPU_OPERATOR
        remedy = f"its device plugin ends on a GB10: install {floor} or newer" if old else ""
        verdict = Verdict.FAIL if old else Verdict.PASS
        yield row("GPU Operator", tag or "unknown version", verdict, floor=floor, remedy=remedy)


def kueue(facts: ClusterFacts) -> Iterable[Check]:
    """Whether Kueue queues what asks for a queue."""
    queues = sorted({c.spec.queue_name for c in facts.curricula or () if c.spec.queue_name})
    if facts.kueue is None:
        if queues:
            remedy = "queueName does nothing without Kueue: install it, or remove the name"
            yield row(
                "Kueue", f"not found; queues {', '.join(queues)}", Verdict.WARN, remedy=remedy
            )
        return
    frameworks = _frameworks(facts.kueue)
    if QUEUED_KIND in frameworks:
        yield row("Kueue", f"queues {QUEUED_KIND}", floor=QUEUED_KIND)
        return
    yield row(
        "Kueue",
        f"queues {', '.join(frameworks) or 'nothing'}",
        Verdict.FAIL if queues else Verdict.WARN,
        floor=QUEUED_KIND,
        remedy="phases would start at once, past every quota: add it to integrations.frameworks",
    )


def node_policy(facts: ClusterFacts) -> Iterable[Check]:
    """Whether something holds the operator to its own prefix."""
    if facts.policies is None:
        return
    if any("curriculum" in name for name in facts.policies):
        yield row("node policy", "in place")
        return
    remedy = "nothing limits what the operator writes to nodes: nodePolicy.enabled=true"
    yield row("node policy", "absent", Verdict.WARN, remedy=remedy)


def recognition(facts: ClusterFacts) -> Iterable[Check]:
    """Nodes that have an accelerator and no class, or not the right one."""
    unclaimed, wrong = [], []
    for node in facts.nodes:
        found = recognise.verdict(node, facts.classes)
        if node.labels.get(names.MANAGED_LABEL) == "false":
            continue
        if found.name != node.labels.get(names.CLASS_LABEL):
            wrong.append(node.name)
        elif found.name is None and found.seen:
            unclaimed.append(node.name)
    if wrong:
        remedy = "the operator puts labels right within seconds: look at its log"
        yield row("labels", f"not up to date: {some(wrong)}", Verdict.FAIL, remedy=remedy)
    if unclaimed:
        yield row(
            "recognition", f"an accelerator and no class: {some(unclaimed)}", Verdict.WARN,
            remedy=f"see why: curriculum doctor --node {unclaimed[0]}",
        )  # fmt: skip


def of_classes(facts: ClusterFacts) -> Iterable[Check]:
    """How many nodes of each class can be used."""
    for name in sorted(facts.classes):
        nodes = [n for n in facts.nodes if n.labels.get(names.CLASS_LABEL) == name]
        if not nodes:
            continue
        useless = [node.name for node in nodes if obstacle(node, facts.classes[name], facts)]
        told = f"{len(nodes) - len(useless)} of {len(nodes)} nodes can be used"
        remedy = f"not {some(useless)}: curriculum doctor --node {useless[0]}" if useless else ""
        verdict = Verdict.PASS
        if useless:
            verdict = Verdict.FAIL if len(useless) == len(nodes) else Verdict.WARN
        yield row(f"class {name}", told, verdict, remedy=remedy)
    if facts.curricula is not None and not facts.classes:
        remedy = "the chart brings GB10 and B200: acceleratorClasses.create=true"
        yield row("classes", "none", Verdict.FAIL, remedy=remedy)


def obstacle(node: observe.Node, kind: observe.AcceleratorClass, facts: ClusterFacts) -> str | None:
    """Why no phase of the class can have the node, whatever runs there; None where one can."""
    rented = pools_of([node], kind, facts.pools.values())
    ways = [(), *(pool.spec.tolerations for pool in rented)]
    found = [admit.obstacle(node, kind, kind.spec.tolerations + more) for more in ways]
    if None not in found:
        return found[0]
    there = dict(node.extended).get(kind.spec.gpu_resource, 0)
    if there < kind.spec.gpus_per_node:
        return f"offers {there} of {kind.spec.gpus_per_node} {kind.spec.gpu_resource}"
    return None


def pools_of(
    nodes: Sequence[observe.Node],
    kind: observe.AcceleratorClass,
    pools: Iterable[observe.RentedPool],
) -> list[observe.RentedPool]:
    """The pools of the class that may hold all these nodes, by name."""
    return [
        pool
        for pool in sorted(pools, key=lambda pool: pool.name)
        if pool.spec.accelerator_class == kind.name
        and all(pool.spec.node_selector.items() <= node.labels.items() for node in nodes)
    ]


def row(
    name: str,
    value: str,
    verdict: Verdict = Verdict.PASS,
    *,
    floor: str = "",
    remedy: str = "",
    subject: str = "",
) -> Check:
    """One row."""
    return Check(
        subject=subject, name=name, verdict=verdict, value=value, floor=floor, remedy=remedy
    )


_NAME_LABEL = "app.kubernetes.io/name"
_VERSION_LABEL = "app.kubernetes.io/version"


def _is_spark(node: observe.Node) -> bool:
    labels = node.labels
    capability = (labels.get(names.GPU_MAJOR_LABEL), labels.get(names.GPU_MINOR_LABEL))
    return ".".join(part or "" for part in capability) == UNIFIED


def _runs(workload: Workload, program: str) -> bool:
    return bool(_images(workload, program))


def _images(workload: Workload, program: str) -> list[str]:
    """Images whose name, without registry, tag and digest, is the program's."""
    return [
        image
        for image in workload.images
        if image.split("@")[0].rpartition("/")[2].partition(":")[0] == program
    ]


def _tag(workload: Workload, program: str) -> str:
    return _images(workload, program)[0].split("@")[0].rpartition("/")[2].partition(":")[2]


def _version(tag: str) -> tuple[int, ...] | None:
    """`v0.17.4-ubi9` as numbers; None for a tag without any, such as a commit's."""
    found = re.match(r"v?(\d+)\.(\d+)(?:\.(\d+))?", tag)
    return tuple(int(part or 0) for part in found.groups()) if found else None


def _frameworks(configuration: str) -> list[str]:
    try:
        document = yaml.safe_load(configuration)
        found = document["integrations"]["frameworks"]
        return [str(name) for name in found]
    except (yaml.YAMLError, KeyError, TypeError):
        return []


def some(found: Sequence[str]) -> str:
    """The first few of these names."""
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return ", ".join(found[:NAMED]) + more


def _spelt(version: Sequence[int]) -> str:
    return ".".join(map(str, version))
