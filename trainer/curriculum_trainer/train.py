"""The training loop of one phase, top to bottom. Every process runs it, in step with the others.

    forward and backward -> agree -> update, or skip -> report -> save; at the end, evaluate

What decides whether a process updates, skips, stops, saves or fails is summed over all of them
first, so that none is left waiting in a collective, and nothing that is not finite gets into the
weights of any.
"""

import contextlib
import math
import time

from curriculum_api.run import PhaseRun
from curriculum_api.wire import Outcome
from curriculum_trainer import (
    begin,
    collective,
    counters,
    failures,
    gate,
    metrics,
    precision,
    preflight,
    transport,
)
from curriculum_trainer.begin import Work
from curriculum_trainer.collective import Place
from curriculum_trainer.counters import Watch
from curriculum_trainer.evaluate import Evaluation
from curriculum_trainer.failures import PhaseFailure
from curriculum_trainer.metrics import Step
from curriculum_trainer.prefetch import Prefetcher
from curriculum_trainer.progress import Progress
from curriculum_trainer.result import Reached
from curriculum_trainer.saving import Saver
from curriculum_trainer.schedule import learning_rate
from curriculum_trainer.stop import Stop
from curriculum_trainer.telling import Telling


def train(
    run: PhaseRun,
    place: Place,
    reached: Reached,
    *,
    progress: Progress,
    stop: Stop,
) -> Outcome:
    """Train the phase to its end, or until any process is asked to stop; saves in both cases."""
    device = collective.device(place)
    refused = precision.refusal(run, device)
    if refused is not None:
        raise failures.user_error(refused)
    telling = Telling(run, place, reached, progress)
    telling.say(precision.choice(run, device))
    telling.stage("starting")
    collective.join(device, place)
    seen = transport.prove(run, place, device)
    telling.joined(seen.text, proven=seen.proven)
    preflight.prove(run, place, device, reached, telling)
    work = begin.prepare(
        run, place, device, reached, beat=lambda: telling.stage("evaluating the start")
    )
    telling.begin(work)
    saver = Saver(work, reached, say=telling.say)
    stop.arm()
    watch = seen.watch(place)
    mixture, layout = work.mixture, work.layout
    made = Prefetcher(mixture, layout, device=device.name, first_step=reached.step)
    with contextlib.closing(made) as feed:
        ended = _steps(
            work, reached, feed=feed, saver=saver, stop=stop, telling=telling, watch=watch
        )
    # an attempt that ended between its last checkpoint and here is followed by one that takes no
    # step, and evaluates
    if ended is Outcome.SUCCEEDED and work.evaluation is not None:
        _evaluate(work, work.evaluation, reached, stop=stop, telling=telling)
    return ended


def _steps(
    work: Work,
    reached: Reached,
    *,
    feed: Prefetcher,
    saver: Saver,
    stop: Stop,
    telling: Telling,
    watch: Watch,
) -> Outcome:
    """Every step that is left."""
    run, place, device = work.run, work.place, work.device
    saved_at = time.monotonic()
    skips = 0
    while reached.tokens < run.tokens:
        began = time.monotonic()
        rate = learning_rate(
            run.optimizer,
            tokens_done=reached.tokens,
            step_tokens=run.global_batch_tokens,
            tokens=run.tokens,
        )

        # forward and backward: the gradients of all ranks add up to that of the global batch
        parts = feed.take(reached.step)
        waited = time.monotonic() - began
        own_weight = sum(work.objective.weight(part) for part in parts)
        (weight,) = collective.total([own_weight], device=device)
        if not weight:
            raise failures.data_error(
                f'phase "{run.phase}", step {reached.step + 1}: nothing can be predicted in '
                f"{_sequences(work, reached.step)}: leave out documents of a single token"
            )
        scale = place.world_size / weight
        loss_sum, sums = 0.0, dict.fromkeys(work.objective.metrics, 0.0)
        for part in parts:
            scores = work.sharding.scores(*part.inputs, last=part is parts[-1])
            share = work.objective.share(scores, part)
            work.sharding.backward(share.surrogate * scale)
            loss_sum += share.loss
            for name in sums:
                sums[name] += share.sums[name]
        norm = work.sharding.norm()

        # agree, before anything changes
        seconds = run.checkpoint.every_seconds
        due = place.leads and seconds is not None and time.monotonic() - saved_at >= seconds
        needed = saver.expected_seconds() + reached.seconds / max(1, reached.step)
        loss, infinite, asked, overdue, save_due, written, *means = collective.total(
            [
                loss_sum / weight,
                not math.isfinite(norm),
                stop.asked,
                stop.overdue(needed),
                due,
                saver.news(),
                *(value / weight for value in sums.values()),
            ],
            device=device,
        )
        loss_most, waited, memory, *traffic = collective.most(
            [
                loss_sum / own_weight if own_weight else -math.inf,
                waited,
                metrics.memory_bytes(device),
                *watch.rates(),
            ],
            device=device,
        )
        stopping = stop.agreed(asked=asked, overdue=overdue)
        saver.hear(written)

        # update, or leave everything as it is
        skipped = ""
        if math.isfinite(loss) and not infinite:
            work.sharding.step(rate)
            reached.loss_first = loss if reached.loss_first is None else reached.loss_first
            reached.loss_last = loss
        else:
            work.sharding.skip()
            skipped, skips = _sequences(work, reached.step), skips + 1
            _check_skips(run, reached, skips, loss=loss, norm=norm, sequences=skipped)
        elapsed = time.monotonic() - began
        reached.step += 1
        reached.tokens += run.global_batch_tokens
        reached.seconds += elapsed

        # report
        telling.step(
            Step(
                loss=loss,
                loss_most=loss_most,
                norm=norm,
                rate=rate,
                seconds=elapsed,
                waited=waited,
                memory_bytes=memory,
                attended=metrics.attended(parts),
                means=dict(zip(sums, means, strict=True))
                | saver.metrics()
                | counters.figures(traffic),
                skipped=skipped,
            )
        )

        # save
        every = run.checkpoint.every_steps
        done = reached.tokens >= run.tokens
        save_due = save_due or (every is not None and reached.step % every == 0)
        # not what may be broken: a skip leaves open whether the batch was, or the weights are
        if done or stopping or (save_due and not skipped):
            telling.stage("saving")
            saver.save()
            if done or stopping:
                saver.finish()
            saved_at = time.monotonic()
            telling.stage("saved")
        if stopping and not done:
            return Outcome.PREEMPTED
    return Outcome.SUCCEEDED


def _evaluate(
    work: Work, evaluation: Evaluation, reached: Reached, *, stop: Stop, telling: Telling
) -> None:
    """Measure the phase on held-out text, and end it where it does not pass its gate."""

    def beat() -> None:
        telling.stage("evaluating")
        asked, overdue = collective.total([stop.asked, stop.overdue(0.0)], device=work.device)
        if stop.agreed(asked=asked, overdue=overdue):
            raise PhaseFailure(Outcome.PREEMPTED, stop.message(reached.step))

    telling.stage("evaluating")
    reached.evaluation = evaluation.figures(work.sharding, beat=beat)
    telling.evaluated(reached.evaluation)
    short = gate.failed(work.run.gate, reached.evaluation) if work.run.gate else ""
    if short:
        raise PhaseFailure(Outcome.GATE_FAILED, short)


def _check_skips(
    run: PhaseRun, reached: Reached, skips: int, *, loss: float, norm: float, sequences: str
) -> None:
    """Whether a phase may go on after a step that was not finite on some rank."""
    last = reached.tokens + run.global_batch_tokens >= run.tokens
    if skips <= run.max_skipped_steps and not last:
        return
    why = (
        "it would be the phase's last"
        if skips <= run.max_skipped_steps
        else f"{skips - 1} steps of this attempt were skipped already, maxSkippedSteps is "
        f"{run.max_skipped_steps}"
    )
    raise PhaseFailure(
        Outcome.NON_FINITE,
        f'phase "{run.phase}", step {reached.step + 1}: loss {loss}, gradient norm {norm} on '
        f"{sequences}; it cannot be skipped: {why}; lower learningRate or look at that data",
    )


def _sequences(work: Work, step: int) -> str:
    """A step's data, so that somebody can look at it."""
    first = step * work.layout.batch
    numbers = range(first, first + work.layout.batch)
    members = work.mixture.members
    sources = sorted({members[work.mixture.samples(n)[0]].source.name for n in numbers})
    return f"sequences {first} to {numbers[-1]} of {', '.join(sources)}"
