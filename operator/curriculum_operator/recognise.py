"""Which accelerator class a node is of, by what the node says of itself, and why.

Pure. Evidence has four kinds; an earlier one is stronger:

    compute capability   nvidia.com/gpu.compute.major and .minor
    product              nvidia.com/gpu.product
    label                any other label: a cloud's own, a site's own
    machine              nvidia.com/gpu.machine, the machine's DMI product name

A class claims a node by the strongest of its rules that hold. The class with the strongest claim
has it; names decide nothing, so two claims of equal strength are a conflict and nobody has it.

Nothing goes by `nvidia.com/gpu.family`, which GB10 and B200 share, nor by `nvidia.com/gpu.memory`,
which a GB10 does not have.
"""

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from enum import IntEnum

from curriculum_api.v1alpha1.accelerator_class import AcceleratorClassSpec, MatchRule
from curriculum_operator import names, observe


class Kind(IntEnum):
    """Kinds of evidence, the strongest first."""

    CAPABILITY = 0
    PRODUCT = 1
    LABEL = 2
    MACHINE = 3


Strength = tuple[bool, ...]
"""Which kinds of evidence a rule asks for. The greater is the stronger: one strong kind outweighs
all weaker ones, and between rules with the same strong kind the one that asks for more."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One thing that a rule asks of a node, and what the node says."""

    kind: Kind
    what: str
    wanted: str
    found: str | None

    @property
    def holds(self) -> bool:
        return self.found == self.wanted

    def __str__(self) -> str:
        if self.holds:
            return f"{self.what} {self.wanted}"
        return f"{self.what} is {self.found or 'absent'}, not {self.wanted}"


@dataclass(frozen=True, slots=True)
class Claim:
    """That a node is of a class, by one of its rules."""

    name: str
    rule: int
    """Its place in the class, from 1."""

    strength: Strength
    evidence: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of all classes' rules: the strongest claims, by name."""

    claims: tuple[Claim, ...]
    seen: str
    """What the node says of its accelerators; empty where it says nothing."""

    @property
    def name(self) -> str | None:
        """The node's class; None where no class claims it, or several alike."""
        return self.claims[0].name if len(self.claims) == 1 else None

    @property
    def conflict(self) -> bool:
        return len(self.claims) > 1

    @property
    def reason(self) -> str | None:
        """Why, in one line; None for a node without accelerators."""
        match self.claims:
            case ():
                return f"no AcceleratorClass claims {self.seen}" if self.seen else None
            case (claim,):
                return f"by {claim.evidence}"
        told = ", ".join(f'"{claim.name}" by {claim.evidence}' for claim in self.claims)
        return (
            f"conflict, so no class: claimed alike as {told};"
            f" have one rule ask for more, or set {names.CLASS_LABEL} by hand with"
            f" {names.MANAGED_LABEL}=false"
        )


def verdict(node: observe.Node, classes: Mapping[str, observe.AcceleratorClass]) -> Verdict:
    """Hold a node against all classes."""
    claims = [claim for name in sorted(classes) if (claim := _claim(node, classes[name]))]
    strongest = max((claim.strength for claim in claims), default=())
    return Verdict(
        claims=tuple(claim for claim in claims if claim.strength == strongest),
        seen=", ".join(_seen(node, {kind.spec.gpu_resource for kind in classes.values()})),
    )


def explain(node: observe.Node, classes: Mapping[str, observe.AcceleratorClass]) -> list[str]:
    """Why a node is or is not of a class, line by line, for people."""
    found = verdict(node, classes)
    label = node.labels.get(names.CLASS_LABEL)
    lines = [f'node "{node.name}": {found.seen or "says nothing of an accelerator"}']
    if node.labels.get(names.MANAGED_LABEL) == "false":
        lines.append(
            f"{names.CLASS_LABEL} is {label or 'absent'}, and stays so:"
            f" {names.MANAGED_LABEL} is false, an administrator's own"
        )
    else:
        wanted = found.name or "absent"
        state = "as it should be" if label == found.name else f"to become {wanted}"
        lines.append(f"{names.CLASS_LABEL} is {label or 'absent'}, {state}")
    if found.conflict and found.reason:
        lines.append(found.reason)
    for name in sorted(classes):
        lines += _told(node, classes[name], found)
    return lines


def _claim(node: observe.Node, kind: observe.AcceleratorClass) -> Claim | None:
    """The strongest claim of a class; of rules alike the first."""
    best: Claim | None = None
    for place, rule in enumerate(kind.spec.match, 1):
        asked = tuple(_asked(rule, node.labels))
        # A rule that asks for nothing recognises nothing.
        if not asked or not all(one.holds for one in asked) or _against(rule, kind.spec, node):
            continue
        kinds = {one.kind for one in asked}
        strength = tuple(one in kinds for one in Kind)
        if best is None or strength > best.strength:
            best = Claim(kind.name, place, strength, " and ".join(str(one) for one in asked))
    return best


def _asked(rule: MatchRule, labels: Mapping[str, str]) -> Iterator[Asked]:
    if rule.compute_capability is not None:
        found = _capability(labels)
        yield Asked(Kind.CAPABILITY, "compute capability", rule.compute_capability, found)
    if rule.product is not None:
        product = labels.get(names.GPU_PRODUCT_LABEL)
        yield Asked(Kind.PRODUCT, "product", rule.product, product)
    for key, value in sorted(rule.labels.items()):
        kind = Kind.MACHINE if key == names.GPU_MACHINE_LABEL else Kind.LABEL
        yield Asked(kind, key, value, labels.get(key))


def _against(rule: MatchRule, kind: AcceleratorClassSpec, node: observe.Node) -> str:
    """What speaks against a rule that holds; empty where nothing does.

    Other evidence is shared: B200 and GB200 have one compute capability. So a rule that names no
    product does not hold on a node whose product is none of the class's, nor on another CPU.
    """
    if rule.product is not None:
        return ""
    products = {other.product for other in kind.match} - {None}
    product = node.labels.get(names.GPU_PRODUCT_LABEL)
    if products and product is not None and product not in products:
        return f"product {product} is none of the class's"
    arch = node.labels.get(names.ARCH_LABEL, kind.cpu_architecture)
    if arch != kind.cpu_architecture:
        return f"{names.ARCH_LABEL} is {arch}, not {kind.cpu_architecture}"
    return ""


def _capability(labels: Mapping[str, str]) -> str | None:
    major, minor = labels.get(names.GPU_MAJOR_LABEL), labels.get(names.GPU_MINOR_LABEL)
    return f"{major}.{minor}" if major and minor else None


def _seen(node: observe.Node, resources: Set[str]) -> Iterator[str]:
    capability = _capability(node.labels)
    if capability is not None:
        yield f"compute capability {capability}"
    for what, key in (
        ("product", names.GPU_PRODUCT_LABEL),
        ("machine", names.GPU_MACHINE_LABEL),
    ):
        if key in node.labels:
            yield f"{what} {node.labels[key]}"
    # Not how many: that changes while a device plugin restarts.
    yield from (f"resource {name}" for name, _ in node.extended if name in resources)


def _told(node: observe.Node, kind: observe.AcceleratorClass, found: Verdict) -> Iterator[str]:
    """What became of each rule of a class; one line where one of them holds."""
    claim = _claim(node, kind)
    if claim is not None:
        weaker = "" if claim in found.claims else ", which is weaker evidence"
        yield f'class "{kind.name}": yes by rule {claim.rule}: {claim.evidence}{weaker}'
        return
    for place, rule in enumerate(kind.spec.match, 1):
        asked = tuple(_asked(rule, node.labels))
        misses = [str(one) for one in asked if not one.holds]
        why = ", ".join(misses) or _against(rule, kind.spec, node) or "it asks for nothing"
        yield f'class "{kind.name}": no by rule {place}: {why}'


def memory_gib(node: observe.Node, kind: AcceleratorClassSpec) -> tuple[float | None, str]:
    """What one accelerator has, None where nothing says it, and what says it.

    Where CPU and GPU share one memory, it is the node's.
    """
    if kind.unified_memory:
        gib, where = node.memory_bytes / 2**30, "capacity.memory, shared with the CPU"
    else:
        label = node.labels.get(names.GPU_MEMORY_LABEL, "")
        gib = int(label) / 2**10 if label.isdecimal() else 0.0
        where = names.GPU_MEMORY_LABEL
    return gib or None, where
