"""What a phase's processes measure of their nodes before the model is built.

    each node alone -> rounds of disjoint pairs -> diagnose -> the suspects once more -> diagnose
                                                                   all together, if all is well

Every process knows all figures and comes to the same verdict, so nothing has to be agreed on. A
suspect is measured a second time, and the better of the two counts, before it is named: what a
neighbour disturbed once is not a bad node. Nodes that share a machine multiply in turns.
"""

import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curriculum_api.preflight import diagnose, schedule
from curriculum_api.preflight.diagnose import Diagnosis
from curriculum_api.preflight.figures import (
    OWN,
    Check,
    Figures,
    Measured,
    NodeFigures,
    PairFigures,
    RunPreflight,
    measured_as,
    worse,
)
from curriculum_api.preflight.schedule import Pair
from curriculum_api.run import NODE_NAME_ENV, PhaseRun
from curriculum_api.wire import Outcome
from curriculum_trainer import failures, interfaces, preflight_node, preflight_report, result
from curriculum_trainer.collective import Place
from curriculum_trainer.failures import PhaseFailure
from curriculum_trainer.interfaces import Interfaces
from curriculum_trainer.meeting import Meeting, within
from curriculum_trainer.precision import Device
from curriculum_trainer.preflight_node import Product
from curriculum_trainer.preflight_pair import Line
from curriculum_trainer.result import Reached

if TYPE_CHECKING:
    # it brings the model's libraries along, which who only measures does not need
    from curriculum_trainer.telling import Telling

MESSAGE_NODES = 8
"""Nodes that a message names."""

HANGS = {Check.LINK: 0.0}


def prove(
    run: PhaseRun, place: Place, device: Device, reached: Reached, telling: "Telling"
) -> None:
    """Measure the gang's nodes where the run asks for it.

    Raises:
        PhaseFailure: a node or a pair is not good enough; `reached.preflight` says which.
    """
    if run.preflight is None:
        return
    telling.stage("preflight")
    meeting = Meeting(place, run.preflight.seconds)
    try:
        measured, found = measure(
            run, run.preflight, place, device, meeting, beat=lambda: telling.stage("preflight")
        )
        if place.leads:
            preflight_report.keep(run, measured)
        telling.measured(measured, [preflight_report.summary(measured), *found.remarks])
        if not found.good:
            reached.preflight = found.findings
            telling.flush()
            raise PhaseFailure(Outcome.FABRIC_ERROR, preflight_report.message(found))
    except PhaseFailure:
        meeting.part()
        raise


def measure(
    run: PhaseRun,
    asked: RunPreflight,
    place: Place,
    device: Device,
    meeting: Meeting,
    *,
    beat: Callable[[], None] = lambda: None,
) -> tuple[Measured, Diagnosis]:
    """What the gang's nodes do, and what follows from it; the same on every process.

    Raises:
        PhaseFailure: it could not be measured.
    """
    gang = _Gang(run, asked, place, device, meeting, beat=beat)
    found = gang.measure()
    return gang.measured, found


class _Gang:
    """The processes of all nodes, as one of them sees them."""

    def __init__(
        self,
        run: PhaseRun,
        asked: RunPreflight,
        place: Place,
        device: Device,
        meeting: Meeting,
        *,
        beat: Callable[[], None],
    ) -> None:
        self._run, self._asked = run, asked
        self._place, self._device = place, device
        self._beat = beat
        self._meeting = meeting
        self._began = time.monotonic()
        self._stages = 0
        self._uses: Interfaces = interfaces.named(os.environ)
        own = {"node": _own_name(), "boot": preflight_node.boot()}
        told = self._gather("the start", own)
        per_node = run.processes_per_node
        heads = told[::per_node]
        names = _distinct([head["node"] for head in heads])
        self._nodes: Sequence[str] = names
        self._boots: Sequence[str] = [head["boot"] for head in heads]
        self._node = place.rank // per_node
        self._meeting.nodes = [names[rank // per_node] for rank in range(place.world_size)]
        self._own: list[Figures] = [{} for _ in names]
        self._product: Product | None = None
        self._stuck = False
        """Whether the device has not come back from a product."""

        self._pairs: dict[Pair, Figures] = {}
        self._together: Figures = {}

    @property
    def measured(self) -> Measured:
        """All that is known so far."""
        rows = zip(self._nodes, self._boots, map(_short, self._own), strict=True)
        return Measured(
            precision=measured_as(self._run.precision),
            nodes=tuple(NodeFigures(node=n, boot=b, figures=f) for n, b, f in rows),
            pairs=tuple(
                PairFigures(nodes=(self._nodes[one], self._nodes[other]), figures=_short(figures))
                for (one, other), figures in self._pairs.items()
            ),
            together=_short(self._together),
            seconds=round(time.monotonic() - self._began, 3),
        )

    def measure(self) -> Diagnosis:
        """Everything, by the schedule."""
        everybody = range(len(self._nodes))
        # attempts that start at another round meet other pairs
        rounds = schedule.rounds(len(self._nodes), self._asked.rounds, start=self._run.attempt - 1)
        frames = self._uses.frames()
        self._alone(everybody)
        line = self._open() if rounds else None
        for pairs in rounds:
            self._round(line, pairs)
        self._own = self._by_node({**self._own[self._node], **self._seen(frames)})
        found = self._diagnose()
        if not found.good:
            self._once_more(found, line)
            found = self._diagnose()
        if found.good and line is not None:
            self._all(line)
            line.close()
        return found

    def _diagnose(self) -> Diagnosis:
        return diagnose.diagnose(self.measured, self._asked.floors)

    def _once_more(self, found: Diagnosis, line: Line | None) -> None:
        """Measure again what was found wanting, if there is the time."""
        numbers = {name: number for number, name in enumerate(self._nodes)}
        alone = sorted({numbers[s.node] for s in found.suspects if s.check in OWN})
        doubted = {numbers[s.node] for s in found.suspects if s.check not in OWN}
        named = {tuple(sorted(numbers[node] for node in pair.nodes)) for pair in found.pairs}
        pairs = [pair for pair in self._pairs if set(pair) & doubted or pair in named]
        rounds = schedule.apart(pairs)
        needed = schedule.again_seconds(len(alone), len(rounds))
        if min(self._gather("the time that is left", self._meeting.left())) < needed:
            return
        self._alone(alone)
        for disjoint in rounds:
            self._round(line, disjoint)

    def _alone(self, nodes: Sequence[int]) -> None:
        """What each of these nodes can do by itself; nodes of one machine take turns."""
        if not nodes:
            return
        figures: Figures = {}
        turn, turns = self._turn(nodes)
        # each a burst, and round again: what else the machine does then meets all of them alike
        for number in range(preflight_node.BURSTS * turns):
            if number % turns == turn:
                figures = diagnose.merged(figures, self._multiply())
            self._gather("the matrix product")
        # at the storage, which all share, in turns as well
        slots = min(len(nodes), schedule.STORAGE_TURNS)
        mine = nodes.index(self._node) % slots if self._node in nodes else None
        for number in range(slots):
            if number == mine and self._place.local_rank == 0:
                figures |= self._store()
            self._gather("the storage")
        if self._node in nodes:
            figures |= preflight_node.memory() | self._links()
        told = self._by_node(figures)
        self._own = [diagnose.merged(old, new) for old, new in zip(self._own, told, strict=True)]

    def _multiply(self) -> Figures:
        if self._stuck:
            return {}

        def work() -> Figures:
            if self._product is None:
                precision = measured_as(self._run.precision)
                self._product = preflight_node.Product(self._device, precision)
            return self._product.burst()

        done = within(min(schedule.OWN_SECONDS, self._meeting.left()), work)
        self._stuck = done is None
        return done or {Check.MATMUL: 0.0}

    def _store(self) -> Figures:
        if not self._run.checkpoints_dir:
            return {}
        path = result.phase_folder(self._run) / f".preflight-{self._node}"
        limit = min(schedule.OWN_SECONDS, self._meeting.left())
        return within(limit, lambda: _storage(path)) or {Check.WRITE: 0.0, Check.READ: 0.0}

    def _turn(self, nodes: Sequence[int]) -> tuple[int | None, int]:
        """This node's turn among those on its machine, and how many turns there are."""
        seen: Counter[str] = Counter()
        turns: dict[int, int] = {}
        for node in nodes:
            boot = self._boots[node]
            turns[node] = seen[boot] if boot else 0
            seen[boot] += 1
        return turns.get(self._node), max(turns.values()) + 1

    def _links(self) -> Figures:
        """What the kernel shows of the fabric's interfaces."""
        shown = {Check.SPEED: self._uses.speed(), Check.MTU: self._uses.mtu()}
        return {check: value for check, value in shown.items() if value is not None}

    def _seen(self, before: tuple[int, int]) -> Figures:
        """The share of frames that were lost at this node's interfaces since then."""
        good, bad = (new - old for new, old in zip(self._uses.frames(), before, strict=True))
        return {Check.ERRORS: 100 * bad / (good + bad)} if good + bad > 0 else {}

    def _open(self) -> Line:
        limit = min(schedule.REDUCE_SECONDS, self._meeting.left())
        rank, uses = self._place.rank, self._uses
        line = within(limit, lambda: Line(self._device, rank, uses))
        opened = self._gather("connections to all others", line is not None)
        if line is None or not all(opened):
            closed = dict.fromkeys(
                name for name, done in zip(self._meeting.nodes, opened, strict=True) if not done
            )
            raise PhaseFailure(
                Outcome.FABRIC_ERROR,
                f"preflight: {_named(list(closed))} could not connect to all others within "
                f"{limit:.0f} s: look at the interfaces and ports that the fabric names",
            )
        return line

    def _round(self, line: Line | None, pairs: Iterable[Pair]) -> None:
        """Disjoint pairs at once; accelerators meet those of their own number."""
        tag, figures = self._stages + 1, None
        partner = {one: other for pair in pairs for one, other in (pair, pair[::-1])}
        other = partner.get(self._node)
        if other is not None and line is not None:
            peer = other * self._run.processes_per_node + self._place.local_rank
            limit = min(schedule.PAIR_SECONDS, self._meeting.left())
            try:
                figures = within(limit, lambda: line.meet(peer, tag)) or HANGS
            except (RuntimeError, OSError):
                # the other is gone, or the transport has given up on it
                figures = HANGS
        seen: dict[Pair, Figures] = {}
        for rank, said in enumerate(self._gather("a round of pairs", figures)):
            node = rank // self._run.processes_per_node
            if said is not None:
                pair = (min(node, partner[node]), max(node, partner[node]))
                seen[pair] = _worst(seen.get(pair, {}), said)
        for pair, told in seen.items():
            self._pairs[pair] = diagnose.merged(self._pairs.get(pair, {}), told)

    def _all(self, line: Line) -> None:
        """The all-reduce of everybody."""
        limit = min(schedule.REDUCE_SECONDS, self._meeting.left())
        figures = within(limit, line.reduce)
        told = self._gather("the all-reduce", figures)
        if any(said is None for said in told):
            raise PhaseFailure(
                Outcome.FABRIC_ERROR,
                f"preflight: an all-reduce over {_named(self._nodes)} did not end in {limit:.0f} s"
                ", though pairs of them exchange: look at the switch between them",
            )
        for said in told:
            self._together = _worst(self._together, said)

    def _by_node(self, figures: Figures) -> list[Figures]:
        """The figures of each node: the worst of its processes."""
        told: list[Figures] = [{} for _ in self._nodes]
        for rank, said in enumerate(self._gather("what each node can do", figures)):
            node = rank // self._run.processes_per_node
            told[node] = _worst(told[node], said)
        return told

    def _gather(self, what: str, value: Any = None) -> list[Any]:
        """All for one; also a sign of life."""
        self._stages += 1
        told = self._meeting.gather(self._stages, what, value)
        self._beat()
        return told


def _short(figures: Figures) -> Figures:
    """To four digits: what goes to the operator is read by people, and has a limit."""
    return {check: float(f"{value:.4g}") for check, value in figures.items()}


def _storage(path: Path) -> Figures:
    try:
        return preflight_node.storage(path)
    except OSError as error:
        # a full volume, or one that this user may not write to: no node's fault
        raise failures.checkpoint_error(
            f'preflight: the checkpoint volume cannot be written at "{path}": '
            f"{error.strerror or error}: make room, or correct its permissions"
        ) from error


def _worst(one: Figures, other: Mapping[str, float]) -> Figures:
    """The worse of two processes' figures, check by check; JSON has made texts of the checks."""
    told = {Check(check): value for check, value in other.items()}
    both = {check: worse(check, one[check], told[check]) for check in one if check in told}
    return {**one, **told, **both}


def _named(nodes: Sequence[str]) -> str:
    return ", ".join(nodes[:MESSAGE_NODES]) + (", ..." if len(nodes) > MESSAGE_NODES else "")


def _own_name() -> str:
    return os.environ.get(NODE_NAME_ENV) or socket.gethostname()


def _distinct(names: Sequence[str]) -> list[str]:
    """Where two nodes say the same name, as on one machine without Kubernetes, numbers too."""
    if len(set(names)) == len(names):
        return list(names)
    return [f"{name}-{number}" for number, name in enumerate(names)]
