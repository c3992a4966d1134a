"""Figures and floors to verdicts: which node is bad, which pair is, and what is only worth a word.

A node is suspect by a figure of its own that is under its floor, or under half of what its peers
reach. By pairs it is suspect when it has no good one and at least one of its partners has: a sound
node that was paired with a bad one has a good pair elsewhere, and is not blamed. Where no partner
has a good pair, as with two nodes, the pair is named and nobody blamed, unless a single node is in
every bad pair, or a figure of its own tells.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from statistics import median, median_high

from curriculum_api.preflight.figures import (
    AT_MOST,
    OWN,
    PAIR,
    UNITS,
    Check,
    Figures,
    Findings,
    Measured,
    PairFigures,
    SlowPair,
    Suspect,
    better,
    digits,
)

SHARE = 0.5
"""Of what its peers reach: a node below it is suspect without any floor."""

COMPARED = frozenset({Check.MATMUL, Check.CLOCK, Check.MEMORY, Check.SPEED, Check.MTU, Check.LINK})
"""Checks in which peers are alike. Storage is not one: it is shared, and others write to it."""

SHARED = frozenset({Check.WRITE, Check.READ})
"""Checks of what all nodes share: a node is to blame where its peers do twice as well."""

NODES_COMPARED = 3
"""Links are compared from this many nodes on: with two there is one link and nothing beside it."""

REMEDIES = {
    Check.MATMUL: "look for a low clock (nvidia-smi -q -d CLOCK,PERFORMANCE) and for others at "
    "work there; a Spark stuck at a low clock needs its supply unplugged for a minute",
    Check.CLOCK: "a Spark stuck at a low clock needs its supply unplugged for a minute",
    Check.MEMORY: "see what holds the memory, and drop the page cache",
    Check.SPEED: "look at cable and port, and at what was negotiated (ethtool)",
    Check.MTU: "set the MTU of the others; firmware updates put it back",
    Check.ERRORS: "look at cable, port and driver (ethtool -S)",
    Check.WRITE: "look at the node's way to the checkpoint volume",
    Check.READ: "look at the node's way to the checkpoint volume",
    Check.LOSS: "look at cable and switch port, and at its flow control",
    Check.LINK: "look at cable, switch port and PCIe link",
    Check.LATENCY: "look at cable, switch port and PCIe link",
}
"""What to do about a node, by what it is suspect of."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What follows from the figures of one preflight."""

    suspects: tuple[Suspect, ...] = ()
    """Nodes to keep away from, each once by each check; the first one of a node tells most."""

    pairs: tuple[SlowPair, ...] = ()
    """Slow pairs that nothing explains."""

    remarks: tuple[str, ...] = ()
    """What is worth a line and no reason to stop: a slow path between two sound nodes, storage
    that is slow for all, a floor that no node reaches."""

    @property
    def good(self) -> bool:
        """Whether the phase may start."""
        return not self.suspects and not self.pairs

    @property
    def findings(self) -> Findings:
        """What is told to the operator: a node once, by what tells most of it."""
        first = {suspect.node: suspect for suspect in reversed(self.suspects)}
        suspects = [suspect for suspect in self.suspects if first[suspect.node] is suspect]
        left = max(0, len(suspects) - 8) + max(0, len(self.pairs) - 4)
        return Findings(suspects=tuple(suspects[:8]), pairs=self.pairs[:4], more=left)


@dataclass(frozen=True, slots=True)
class _Judged:
    """What the pairs say by one check."""

    suspects: Sequence[Suspect]
    pairs: Sequence[SlowPair]
    paths: Sequence[SlowPair]
    """Slow pairs of nodes that both have good partners: a bad path, and no bad node."""


def diagnose(measured: Measured, floors: Mapping[Check, float]) -> Diagnosis:
    """Judge what was measured."""
    suspects: list[Suspect] = []
    remarks: list[str] = []
    for check in OWN:
        below = list(_below(check, measured, floors))
        alone = [suspect for suspect in below if _stands_out(suspect, below, measured)]
        suspects += alone
        if len(alone) < len(below):
            remarks.append(_of_all(check, below))
    judged = [
        _by_pairs(check, measured.pairs, _pair_limit(check, measured, floors)) for check in PAIR
    ]
    suspects += [suspect for found in judged for suspect in found.suspects]
    blamed = {suspect.node for suspect in suspects}
    unexplained = {
        pair.nodes: pair
        for found in reversed(judged)
        for pair in found.pairs
        if not blamed & set(pair.nodes)
    }
    for found in judged:
        remarks += [f"{_figure(path)}, though both have good partners" for path in found.paths]
    reached = measured.together.get(Check.REDUCE)
    if reached is not None and reached < floors.get(Check.REDUCE, 0.0):
        unit, floor = UNITS[Check.REDUCE], floors[Check.REDUCE]
        remarks.append(
            f"all-reduce over all nodes {digits(reached)} {unit}, floor {digits(floor)}, though no"
            " pair is slow: look at the switch between them"
        )
    return Diagnosis(tuple(suspects), tuple(unexplained.values()), tuple(remarks))


def line(found: Suspect) -> str:
    """A suspect's figure for people: `link 0.17 GB/s, floor 0.8`."""
    bound = f"{digits(found.floor)}"
    told = f"{found.check} {digits(found.value)} {found.unit}"
    if found.relative:
        return f"{told}, half of what its peers reach is {bound}"
    return f"{told}, {'at most' if found.check in AT_MOST else 'floor'} {bound}"


def sentence(found: Suspect) -> str:
    """A suspect in one line: which node, which figure, what to do."""
    best = f" with {found.peer}, its best partner" if found.peer else ""
    return f"{found.node}: {line(found)}{best}: {REMEDIES[found.check]}"


def pair_line(found: SlowPair) -> str:
    """A slow pair in one line."""
    return f"{_figure(found)}; nothing tells which of them it is"


def _figure(found: SlowPair) -> str:
    bound = "at most" if found.check in AT_MOST else "floor"
    if found.check is Check.LINK and found.value <= 0:
        what = "exchanged nothing in the time of a pair"
    else:
        what = f"{found.check} {digits(found.value)} {found.unit}, {bound} {digits(found.floor)}"
    return f"{' and '.join(found.nodes)}: {what}"


def falls_short(check: Check, figures: Figures, floors: Mapping[Check, float]) -> bool:
    """Whether a figure that is there is under its floor."""
    limit = floors.get(check, inf if check in AT_MOST else 0.0)
    return check in figures and _bad(check, figures[check], limit)


def merged(first: Figures, second: Mapping[Check, float]) -> Figures:
    """The better of two measurements, check by check."""
    both = {check: better(check, first[check], second[check]) for check in first if check in second}
    return {**first, **second, **both}


def _bad(check: Check, value: float, limit: float) -> bool:
    if check in AT_MOST:
        return value > limit
    return value < limit or value <= 0


def _below(check: Check, measured: Measured, floors: Mapping[Check, float]) -> Iterable[Suspect]:
    """Nodes that fall short of a floor or of their peers by a figure of their own."""
    known = [(node.node, node.figures[check]) for node in measured.nodes if check in node.figures]
    for name, value in known:
        limit, relative = floors.get(check), False
        peers = [other for peer, other in known if peer != name]
        if check in COMPARED and peers:
            half = SHARE * median(peers)
            if limit is None or (value >= limit and half > limit):
                limit, relative = half, True
        if limit is None:
            limit = inf if check in AT_MOST else 0.0
        if _bad(check, value, limit):
            yield Suspect(
                node=name,
                check=check,
                value=value,
                floor=limit,
                unit=UNITS[check],
                relative=relative,
            )


def _stands_out(suspect: Suspect, below: Sequence[Suspect], measured: Measured) -> bool:
    """Whether it is the node that is bad, and not the floor or what all nodes share."""
    check = suspect.check
    known = {node.node: node.figures[check] for node in measured.nodes if check in node.figures}
    peers = [value for name, value in known.items() if name != suspect.node]
    if check in SHARED:
        return bool(peers) and suspect.value < SHARE * median(peers)
    return len(below) < len(known) or len(known) < NODES_COMPARED


def _of_all(check: Check, below: Sequence[Suspect]) -> str:
    best = max(below, key=lambda suspect: suspect.value)
    if check in SHARED:
        return f"the checkpoint volume is slow for all: {line(best)} at best ({best.node})"
    return f"no node reaches its floor: {line(best)} at best ({best.node}): doubt the floor first"


def _pair_limit(
    check: Check, measured: Measured, floors: Mapping[Check, float]
) -> tuple[float, bool]:
    """What a pair must reach, and whether that comes from the others."""
    if check in AT_MOST:
        return floors.get(check, inf), False
    floor = floors.get(check, 0.0)
    best: dict[str, float] = {}
    for pair in measured.pairs:
        for node in pair.nodes:
            best[node] = max(best.get(node, 0.0), pair.figures.get(check, 0.0))
    if check not in COMPARED or len(best) < NODES_COMPARED:
        return floor, False
    # the upper one of the middle two: as many bad nodes as good ones must not set the measure
    half = SHARE * median_high(best.values())
    return (half, True) if half > floor else (floor, False)


def _by_pairs(
    check: Check,
    pairs: Iterable[PairFigures],
    limit: tuple[float, bool],
) -> "_Judged":
    """Who is to blame for the bad pairs of one check."""
    bound, relative = limit
    known = [pair for pair in pairs if check in pair.figures]
    bad = [pair for pair in known if _bad(check, pair.figures[check], bound)]
    cleared = {node for pair in known if pair not in bad for node in pair.nodes}
    met = {node for pair in bad for node in pair.nodes}
    # somebody's partner who is good elsewhere says that it is not the partner
    guilty = {
        node
        for node in met - cleared
        if any(set(pair.nodes) & cleared for pair in bad if node in pair.nodes)
    }
    open_ = [pair for pair in bad if not set(pair.nodes) & (guilty | cleared)]
    if len(open_) > 1:
        common = set.intersection(*(set(pair.nodes) for pair in open_))
        if len(common) == 1:
            guilty |= common
            open_ = []
    suspects = []
    for node in sorted(guilty):
        own = [pair for pair in bad if node in pair.nodes]
        choose = min if check in AT_MOST else max
        best = choose(own, key=lambda pair: pair.figures[check])
        (peer,) = set(best.nodes) - {node}
        suspects.append(
            Suspect(
                node=node,
                check=check,
                value=best.figures[check],
                floor=bound,
                unit=UNITS[check],
                relative=relative,
                peer=peer,
            )
        )
    between = [_slow(check, pair, bound) for pair in bad if set(pair.nodes) <= cleared]
    # slow training is better than none; a collective over a path that carries nothing hangs
    dead = [path for path in between if check is Check.LINK and path.value <= 0]
    return _Judged(
        suspects,
        pairs=[*dead, *(_slow(check, pair, bound) for pair in open_)],
        paths=[path for path in between if path not in dead],
    )


def _slow(check: Check, pair: PairFigures, bound: float) -> SlowPair:
    return SlowPair(
        nodes=pair.nodes,
        check=check,
        value=pair.figures[check],
        floor=bound,
        unit=UNITS[check],
    )
