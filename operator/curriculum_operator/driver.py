"""The curricula, each driven through its steps: decide, execute, and what came of it.

Here lies what the pure core cannot know by looking at the cluster: starts that no watch has shown
yet, names that clashed, steps that were interrupted, heartbeats. All of it is lost with the
process, and nothing but time is lost with it.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Protocol, TypeVar

from curriculum_api.wire import State
from curriculum_operator import (
    clock,
    cluster,
    execute,
    kinds,
    lease,
    names,
    observe,
    project,
    status,
)
from curriculum_operator import step as steps
from curriculum_operator.clock import Clock
from curriculum_operator.cluster import Cluster, Raw
from curriculum_operator.execute import Done, End
from curriculum_operator.observe import AttemptKey, Key
from curriculum_operator.settings import Settings
from curriculum_operator.stores import Stores
from curriculum_operator.worklist import Worklist

logger = logging.getLogger(__name__)

GOING_AWAY_SECONDS = 2.0
CLASH_SECONDS = 10.0
"""A namesake's children are collected some seconds after it was deleted."""

V = TypeVar("V")


class Decide(Protocol):
    """The pure core, in one call."""

    def __call__(
        self,
        curriculum: observe.Curriculum,
        world: observe.World,
        now: datetime,
        policy: observe.Policy,
    ) -> steps.Step: ...


class Driver:
    """Drives every curriculum that it is told of, once `begin` was called."""

    def __init__(
        self,
        cluster: Cluster,
        settings: Settings,
        clock: Clock,
        *,
        stores: Stores,
        lease: lease.Lease,
        freed: Callable[[], None],
        decide: Decide = steps.step,
    ) -> None:
        self.curricula: dict[str, observe.Curriculum] = {}
        self.worklist = Worklist(self._drive, workers=settings.workers)
        self.listening_since: datetime | None = None
        self._cluster = cluster
        self._settings = settings
        self._clock = clock
        self._stores = stores
        self._lease = lease
        self._freed = freed
        """Called where others may get what one curriculum does not want any more."""

        self._decide = decide
        self._uids: dict[Key, str] = {}
        self._beats: dict[AttemptKey, observe.Beat] = {}
        self._assumed: dict[AttemptKey, observe.Assumed] = {}
        self._clashes: dict[AttemptKey, str] = {}
        self._left: dict[str, tuple[steps.Step, float]] = {}
        """Unfinished steps by curriculum, and the loop time before which not to try again."""

        self._written: dict[str, float] = {}
        """Loop time of the last status write, by curriculum."""

    def begin(self) -> None:
        """Decide from now on."""
        self.listening_since = self._clock.now()
        for uid in self.curricula:
            self.wake(uid)

    def wake(self, uid: str) -> None:
        """Have a curriculum looked at soon."""
        if self.listening_since is not None and uid in self.curricula:
            self.worklist.wake(uid)

    def named(self, namespace: str, name: str) -> observe.Curriculum | None:
        """A curriculum by its name."""
        return self.curricula.get(self._uids.get((namespace, name), ""))

    def seen(self, attempt: AttemptKey) -> None:
        """The job of an attempt is in its store: what it holds needs not be assumed any more."""
        self._assumed.pop(attempt, None)

    def take(self, event: str | None, raw: Raw) -> None:
        """Take in a curriculum; ADDED, MODIFIED or None is what it is now, DELETED its end."""
        uid = raw["metadata"]["uid"]
        known = self.curricula.get(uid)
        if event == "DELETED":
            self.forget(uid)
            return
        version = int(raw["metadata"]["resourceVersion"])
        if known is not None and version <= int(known.resource_version):
            # Our own write, or an event from before it.
            return
        try:
            curriculum = project.curriculum(raw)
        except ValueError as error:
            logger.error("%s", error)
            self.forget(uid)
            return
        if known is not None and known.generation == curriculum.generation:
            # The same spec: one object for it, whatever was written meanwhile.
            curriculum = replace(curriculum, spec=known.spec)
        self.curricula[uid] = curriculum
        self._uids[curriculum.key] = uid
        self._prune(curriculum)
        self.wake(uid)
        if known is None or known.generation != curriculum.generation or curriculum.deleting:
            self._freed()

    def beat(self, curriculum_uid: str, phase: str, attempt: int, beat: observe.Beat) -> None:
        """Take in a trainer's report."""
        first = (curriculum_uid, phase, attempt) not in self._beats
        self._beats[curriculum_uid, phase, attempt] = beat
        if self.listening_since is not None:
            self.worklist.wake_in(curriculum_uid, 0.0 if first else self._settings.progress_seconds)

    def forget(self, uid: str) -> None:
        curriculum = self.curricula.pop(uid, None)
        if curriculum is None:
            return
        if self._uids.get(curriculum.key) == uid:
            del self._uids[curriculum.key]
        self._settle(uid)
        self._drop(self._beats, uid)
        self._written.pop(uid, None)
        self.worklist.forget(uid)
        self._freed()

    async def _drive(self, uid: str) -> None:
        """Finish what was left, or decide anew; never twice at once for one curriculum."""
        subject = self.curricula.get(uid)
        if subject is None:
            return
        left = self._left.get(uid)
        if left is not None:
            unfinished, not_before = left
            if not _wanted(unfinished, subject):
                self._settle(uid)
            elif clock.monotonic() >= not_before:
                done = await self._execute(unfinished, subject, write_status=False)
                if done.end is End.DONE:
                    self._left.pop(uid, None)
                    self._drop(self._clashes, uid)
                self._conclude(unfinished, subject, done)
                self.wake(uid)
                return
            else:
                self.worklist.wake_in(uid, not_before - clock.monotonic())
                if not self._clashed(uid):
                    return
        step = self._decide(subject, self._world(), self._clock.now(), self._settings.policy)
        if step.assume is not None:
            # Before the first await: nobody else may be admitted onto these nodes from now on.
            self._assumed[_key(step.assume)] = step.assume
        if step.wake_after is not None:
            self.worklist.wake_in(uid, step.wake_after)
        try:
            done = await self._execute(step, subject, write_status=self._due(subject, step))
        except BaseException:
            if step.assume is not None:
                self._assumed.pop(_key(step.assume), None)
            raise
        self._conclude(step, subject, done)
        if done.end is End.STALE:
            # Read it: the event that tells of the change may come late.
            try:
                newer = await self._cluster.get(kinds.CURRICULA, subject.name, subject.namespace)
            except cluster.NotFound:
                self.forget(uid)
            else:
                self.take(None, newer)

    async def _execute(
        self, step: steps.Step, subject: observe.Curriculum, *, write_status: bool
    ) -> Done:
        if step.creates or step.deletes or write_status:
            logger.debug("%s/%s: %s", subject.namespace, subject.name, step.rule)
        return await execute.execute(
            step,
            subject,
            self._cluster,
            check=self._lease.check,
            now=self._clock.now(),
            write_status=write_status,
        )

    def _due(self, subject: observe.Curriculum, step: steps.Step) -> bool:
        """Whether the status is to be written now; progress alone may have to wait."""
        differs = status.difference(subject.status, step.status)
        if differs is status.Difference.NONE:
            return False
        now = clock.monotonic()
        wait = self._written.get(subject.uid, -1e9) + self._settings.progress_seconds - now
        if differs is status.Difference.PROGRESS and wait > 0:
            self.worklist.wake_in(subject.uid, wait)
            return False
        self._written[subject.uid] = now
        return True

    def _conclude(self, step: steps.Step, subject: observe.Curriculum, done: Done) -> None:
        """Take in what came of a step."""
        uid = subject.uid
        if uid not in self.curricula:
            return
        if done.newest is not None:
            self.take("MODIFIED", done.newest)
        for kind, raw in done.made:
            self._stores.learn(kind, raw)
        if done.message:
            logger.warning("%s/%s: %s", subject.namespace, subject.name, done.message)
        match done.end:
            case End.DONE:
                pass
            case End.STALE | End.GONE:
                if step.assume is not None:
                    self._assumed.pop(_key(step.assume), None)
                if done.end is End.GONE:
                    self.forget(uid)
                    return
                self.worklist.wake_in(uid, GOING_AWAY_SECONDS)
            case End.WAIT:
                self._postpone(uid, done, GOING_AWAY_SECONDS)
            case End.INTERRUPTED:
                self._postpone(uid, done, max(GOING_AWAY_SECONDS, done.retry_after or 0.0))
            case End.CLASH:
                assert done.left is not None
                key = _attempt(uid, done.left)
                self._assumed.pop(key, None)
                self._clashes[key] = done.message
                self._postpone(uid, done, CLASH_SECONDS)
                self.wake(uid)

    def _postpone(self, uid: str, done: Done, seconds: float) -> None:
        assert done.left is not None
        self._left[uid] = (done.left, clock.monotonic() + seconds)
        self.worklist.wake_in(uid, seconds)

    def _settle(self, uid: str) -> None:
        """Nothing is left to be done of an earlier step."""
        self._left.pop(uid, None)
        self._drop(self._clashes, uid)
        self._drop(self._assumed, uid)

    def _clashed(self, uid: str) -> bool:
        return any(key[0] == uid for key in self._clashes)

    def _world(self) -> observe.World:
        assert self.listening_since is not None, "decided before the Lease was held"
        return observe.World(
            curricula=self.curricula,
            classes=self._stores.classes,
            pools=self._stores.pools,
            profiles=self._stores.profiles,
            nodes=self._stores.nodes,
            claims=self._stores.claims,
            jobs=self._stores.jobs.by_owner,
            verifications=self._stores.verifications.by_owner,
            pods=self._stores.pods.by_owner,
            occupants=self._stores.occupants,
            beats=self._beats,
            assumed=self._assumed,
            clashes=self._clashes,
            listening_since=self.listening_since,
        )

    def _prune(self, curriculum: observe.Curriculum) -> None:
        """Drop heartbeats of attempts that are over."""
        at_hand = curriculum.current()
        live = (at_hand[1].name, at_hand[2].attempts) if at_hand else None
        for key in [k for k in self._beats if k[0] == curriculum.uid and k[1:] != live]:
            del self._beats[key]

    @staticmethod
    def _drop(of: dict[AttemptKey, V], uid: str) -> None:
        for key in [key for key in of if key[0] == uid]:
            del of[key]


def _key(assumed: observe.Assumed) -> AttemptKey:
    return (assumed.curriculum_uid, assumed.phase, assumed.attempt)


def _attempt(uid: str, step: steps.Step) -> AttemptKey:
    labels = step.creates[0]["metadata"]["labels"]
    return (uid, labels[names.PHASE_LABEL], int(labels[names.ATTEMPT_LABEL]))


def _wanted(step: steps.Step, subject: observe.Curriculum) -> bool:
    """Whether what is left of a step still belongs to the attempt at hand."""
    if subject.deleting:
        return False
    if not step.creates:
        return True
    _, phase, attempt = _attempt(subject.uid, step)
    at = subject.phase_status(phase)
    if at.attempts != attempt:
        return False
    if at.state is State.VERIFYING:
        return True
    return at.claim_time is not None and at.end_time is None
