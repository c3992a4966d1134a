"""`curriculum run`: the phases one after another on this machine, or a sweep over one of them.

    for each phase:  verified already? ─▶ skip
                     else train ─▶ verify ─▶ the next phase starts from its checkpoint

What the operator does on a cluster, without the cluster: the same runs, the same trainer, the same
checkpoints. One program at a time works in a curriculum's folder.
"""

import contextlib
import fcntl
import os
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from curriculum_api.run import PhaseResult, PhaseRun
from curriculum_api.summary import (
    SUMMARY_FILE,
    CheckpointSummary,
    CurriculumSummary,
    PhaseSummary,
)
from curriculum_api.v1alpha1.accelerator_class import AcceleratorClassSpec
from curriculum_api.v1alpha1.curriculum import Phase
from curriculum_api.wire import Outcome, State
from curriculum_cli import local, sweep, training
from curriculum_cli.documents import Documents
from curriculum_cli.local import Here
from curriculum_cli.screen import Screen
from curriculum_cli.summary import table
from curriculum_cli.training import Stop
from curriculum_operator import observe

LOCK_FILE: Final = ".lock"
LOCK_SECONDS: Final = 5.0
"""How long a run that is just ending is waited for."""

_STATES: Final = {Outcome.SUCCEEDED: State.SUCCEEDED, Outcome.PREEMPTED: State.SUSPENDED}


@dataclass(slots=True)
class Local:
    """One curriculum on this machine."""

    curriculum: observe.Curriculum
    documents: Documents
    here: Here
    screen: Screen
    stop: Stop
    done: list[PhaseSummary] = field(default_factory=list)
    succeeded: int = 0

    def run(self, phases: Sequence[Phase]) -> State:
        """Train each of these phases that has no verified checkpoint yet, up to a bad end."""
        for phase in phases:
            if self.stop.asked:
                return State.SUSPENDED
            ended = self._phase(phase, self._run(phase))
            if ended.outcome is not Outcome.SUCCEEDED:
                return _STATES.get(ended.outcome, State.FAILED)
            self._hand_on(phase, ended)
        return State.SUCCEEDED

    def sweep(self, combinations: Sequence[sweep.Combination]) -> State:
        """Train every combination, each in a checkpoint folder of its own."""
        state = State.SUCCEEDED
        for number, each in enumerate(combinations, start=1):
            if self.stop.asked:
                return State.SUSPENDED
            self.screen.say(f"combination {number} of {len(combinations)}: {each.text}")
            built = self._run(each.phase)
            folder = Path(built.checkpoint_path).parent / sweep.FOLDER / built.phase / each.folder
            own = built.model_copy(update={"checkpoint_path": str(folder)})
            ended = self._phase(each.phase, own, settings=each.settings)
            if ended.outcome is Outcome.PREEMPTED:
                return State.SUSPENDED
            if ended.outcome is not Outcome.SUCCEEDED:
                state = State.FAILED
        return state

    def start_from(self, phase: Phase | None) -> None:
        """Take the verified checkpoint of the phase before, where it is there."""
        if phase is None:
            return
        known = training.verify(self._run(phase))
        if known.outcome is Outcome.SUCCEEDED:
            self._hand_on(phase, known)
            return
        self.screen.say(
            f'phase "{phase.name}" before it has no good checkpoint here ({known.message}): '
            "starting fresh"
        )

    def _hand_on(self, phase: Phase, ended: PhaseResult) -> None:
        assert ended.checkpoint is not None, "a verification names what it verified"
        self.curriculum = local.succeeded(self.curriculum, phase, ended.checkpoint)

    def _class(self, phase: Phase) -> AcceleratorClassSpec | None:
        known = self.documents.classes.get(phase.accelerator_class)
        return known.spec if known else None

    def _run(self, phase: Phase) -> PhaseRun:
        return local.phase_run(self.curriculum, phase, self._class(phase), self.here)

    def _phase(
        self, phase: Phase, run: PhaseRun, *, settings: dict[str, str] | None = None
    ) -> PhaseResult:
        """Skip or train one phase, and note what it came to."""
        earlier = training.before(run)
        attempts = earlier.attempt if earlier else 0
        ended = training.finished(run)
        if ended is not None:
            self.screen.say(f'phase "{phase.name}": verified already, skipped')
        else:
            attempts += 1
            ended = self._train(phase, run.model_copy(update={"attempt": attempts}))
        self.done.append(_summary(run, ended, attempts=attempts, settings=settings))
        self.succeeded += ended.outcome is Outcome.SUCCEEDED
        return ended

    def _train(self, phase: Phase, run: PhaseRun) -> PhaseResult:
        self.screen.say(local.placement_line(phase, run, self._class(phase)))
        environment = os.environ | {each.name: each.value for each in phase.env}
        with self.screen.following(phase.name, tokens=run.tokens) as on_step:
            ended = training.train(
                run, environment, stop=self.stop, on_step=on_step, on_text=self.screen.say
            )
        if ended.outcome is Outcome.SUCCEEDED:
            ended = training.verify(run)
        if ended.outcome is Outcome.SUCCEEDED:
            self.screen.say(f'phase "{phase.name}": checkpoint verified')
        elif not (self.stop.asked and ended.outcome is Outcome.PREEMPTED):
            self._tell_failure(run, ended)
        return ended

    def _tell_failure(self, run: PhaseRun, ended: PhaseResult) -> None:
        for line in training.log_tail(run):
            self.screen.say(f"  {line}")
        self.screen.say(f"log: {training.folder(run) / training.LOG_FILE}")
        self.screen.say(f'phase "{run.phase}": {ended.outcome}: {ended.message}')


def run(
    documents: Documents,
    here: Here,
    *,
    only: str = "",
    sweeps: Sequence[str] = (),
    screen: Screen,
) -> State:
    """Run the curriculum of the files; the result is shown and written beside the checkpoints.

    Raises:
        ValueError: the files, or what was asked for, cannot be run.
        OSError: the folders cannot be used.
    """
    curriculum = local.identified(_only(documents))
    phases, before = _chosen(curriculum, only, one=bool(sweeps))
    grid = sweep.combinations(phases[0], sweeps) if sweeps else []
    if not here.data.is_dir():
        raise ValueError(f'there is no data folder "{here.data}": name it with --data')
    stop = Stop(screen.say)
    with _locked(curriculum, here), stop.listening():
        work = Local(curriculum, documents, here, screen, stop)
        work.start_from(before)
        state = work.sweep(grid) if grid else work.run(phases)
    if grid:
        work.done.sort(key=_by_loss)
    summary = CurriculumSummary(state=state, phases=tuple(work.done))
    path = here.checkpoints / SUMMARY_FILE
    _write(path, summary)
    screen.console.print(table(summary, places=False))
    what = f"{len(grid)} combinations" if grid else f"{len(phases)} phases"
    screen.say(f"curriculum {state}: {work.succeeded} of {what}; result in {path}")
    if state is State.SUSPENDED:
        screen.say("to go on, give the same command again")
    return state


def _only(documents: Documents) -> observe.Curriculum:
    curricula = documents.curricula
    if len(curricula) != 1:
        found = ", ".join(f'"{each.name}"' for each in curricula) or "none"
        raise ValueError(f"the files must hold one TrainingCurriculum; found: {found}")
    return curricula[0]


def _chosen(
    curriculum: observe.Curriculum, only: str, *, one: bool
) -> tuple[tuple[Phase, ...], Phase | None]:
    """The phases to train, and the one before them where that is not the start."""
    phases = curriculum.spec.phases
    if not only:
        return (phases[:1] if one else phases), None
    names = [phase.name for phase in phases]
    if only not in names:
        raise ValueError(f'there is no phase "{only}"; known: {", ".join(names)}')
    place = names.index(only)
    return phases[place : place + 1], phases[place - 1] if place else None


@contextlib.contextmanager
def _locked(curriculum: observe.Curriculum, here: Here) -> Iterator[None]:
    """Hold the curriculum's folder; two trainers in one would delete each other's checkpoints."""
    folder = here.checkpoints / curriculum.namespace / f"{curriculum.name}-{curriculum.uid}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK_FILE).open("a") as file:
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ValueError(
                        f'another "curriculum run" works in "{folder}": wait for its end, or use '
                        "another --checkpoints folder"
                    ) from None
                time.sleep(0.1)
        yield


def _summary(
    run: PhaseRun, ended: PhaseResult, *, attempts: int, settings: dict[str, str] | None
) -> PhaseSummary:
    checkpoint = ended.checkpoint
    return PhaseSummary(
        name=run.phase,
        accelerator_class=run.accelerator_class,
        nodes=(platform.node(),),
        strategy=run.strategy,
        world_size=ended.world_size or run.world_size,
        context_length=run.context_length,
        tokens=checkpoint.tokens if checkpoint else 0,
        loss_first=ended.loss_first,
        loss_last=ended.loss_last,
        seconds=ended.seconds,
        attempts=attempts,
        checkpoint=CheckpointSummary(
            step=checkpoint.step if checkpoint else None,
            digest=checkpoint.digest if checkpoint else None,
        ),
        settings=settings,
    )


def _by_loss(phase: PhaseSummary) -> tuple[bool, float]:
    return (phase.loss_last is None, phase.loss_last or 0.0)


def _write(path: Path, summary: CurriculumSummary) -> None:
    part = path.with_name(f".tmp-{path.name}")
    part.write_text(summary.to_json())
    part.rename(path)
