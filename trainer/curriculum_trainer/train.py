"""The training loop of one phase, top to bottom. Every process runs it, in step with the others.

    agree on the batch -> forward and backward -> agree on the loss -> update -> report -> save

What decides whether a process stops, saves or fails is summed over all of them first, so that no
process is left waiting in a collective.
"""

import json
import math
import time
from collections.abc import Callable

from curriculum_api.run import PhaseRun
from curriculum_api.wire import Outcome
from curriculum_trainer import batch, begin, checkpoint, collective, failures, precision, result
from curriculum_trainer.begin import Work
from curriculum_trainer.collective import Place
from curriculum_trainer.failures import PhaseFailure
from curriculum_trainer.manifest import Cursor, Layout, Manifest, folder_name
from curriculum_trainer.progress import Progress
from curriculum_trainer.result import Reached
from curriculum_trainer.schedule import learning_rate
from curriculum_trainer.stop import Stop


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
    refused = precision.refusal(run, capability=device.capability)
    if refused is not None:
        raise failures.user_error(refused)
    say = _printer(place)
    say(precision.choice(run, device))
    _tell(progress, run, reached, stage="starting")
    collective.join(device, place)
    work = begin.prepare(run, place, device, reached)
    say(_start_line(work, reached))
    _tell(progress, run, reached, stage="loaded")
    saved_at = time.monotonic()
    stop.arm()

    while reached.tokens < run.tokens:
        began = time.monotonic()
        rate = learning_rate(
            run.optimizer,
            tokens_done=reached.tokens,
            step_tokens=run.global_batch_tokens,
            tokens=run.tokens,
        )

        # forward and backward: the gradients of all ranks add up to that of the global batch
        parts = batch.micro_batches(
            work.mixture, work.layout, step=reached.step, device=device.name
        )
        (weight,) = collective.total(
            [sum(work.objective.weight(part) for part in parts)], device=device
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

        # agree, before anything changes
        seconds = run.checkpoint.every_seconds
        due = place.leads and seconds is not None and time.monotonic() - saved_at >= seconds
        loss, stopping, save_due, *means = collective.total(
            [loss_sum / weight, stop.asked, due, *(value / weight for value in sums.values())],
            device=device,
        )
        if not math.isfinite(loss):
            raise _non_finite(work, reached, what="loss", value=loss)

        # update
        norm = work.sharding.step(rate)
        if not math.isfinite(norm):
            raise _non_finite(work, reached, what="gradient norm", value=norm)
        elapsed = time.monotonic() - began
        reached.step += 1
        reached.tokens += run.global_batch_tokens
        reached.seconds += elapsed
        reached.loss_first = loss if reached.loss_first is None else reached.loss_first
        reached.loss_last = loss

        # report
        extra = dict(zip(sums, means, strict=True))
        reached.metrics = _metrics(run, loss=loss, norm=norm, rate=rate, elapsed=elapsed) | extra
        line = _line(run, reached, norm=norm, rate=rate, elapsed=elapsed) | extra
        say(json.dumps(line))
        _tell(progress, run, reached, stage="training", line=line)

        # save
        every = run.checkpoint.every_steps
        done = reached.tokens >= run.tokens
        if done or stopping or save_due or (every is not None and reached.step % every == 0):
            _tell(progress, run, reached, stage="saving", line=line)
            _save(work, reached)
            saved_at = time.monotonic()
            _tell(progress, run, reached, stage="saved", line=line)
        if stopping and not done:
            return Outcome.PREEMPTED
    return Outcome.SUCCEEDED


def _save(work: Work, reached: Reached) -> None:
    """Write a checkpoint, agree that it is there, and only then drop old ones."""
    run = work.run
    head = Manifest(
        phase=run.phase,
        attempt=run.attempt,
        step=reached.step,
        tokens=reached.tokens,
        optimizer_steps=work.sharding.optimizer_steps(),
        cursor=Cursor(seed=run.seed, step=reached.step),
        config_digest=work.config_digest,
        source=Layout(
            strategy=run.strategy,
            world_size=run.world_size,
            sequence_parallel=run.sequence_parallel,
        ),
        init_digest=run.init_digest,
        loss_first=reached.loss_first,
        loss_last=reached.loss_last,
        seconds=reached.seconds,
        files={},
    )
    leads = work.place.leads
    problem = checkpoint.write(work.folder, work.sharding, head, export=work.export, leads=leads)
    (failed,) = collective.total([problem is not None], device=work.device)
    if failed:
        last = reached.checkpoint.uri if reached.checkpoint else "none"
        reason = problem or "the leading process could not write it"
        raise failures.checkpoint_error(
            f"checkpoint of step {reached.step}: {reason}; the last good one is {last}: "
            "make room on the checkpoint volume"
        )
    folder = work.folder / folder_name(reached.step)
    reached.checkpoint = result.ref(run, folder, head)
    if leads:
        checkpoint.prune(work.folder, step=reached.step, keep_last=run.checkpoint.keep_last)


def _non_finite(work: Work, reached: Reached, *, what: str, value: float) -> PhaseFailure:
    first = reached.step * work.layout.batch
    return PhaseFailure(
        Outcome.NON_FINITE,
        f'phase "{work.run.phase}", step {reached.step + 1}: the {what} is {value} on sequences '
        f"{first} to {first + work.layout.batch - 1}; nothing of this step was saved: lower "
        "learningRate or look at that data",
    )


def _line(
    run: PhaseRun, reached: Reached, *, norm: float, rate: float, elapsed: float
) -> dict[str, float | int | None]:
    return {
        "step": reached.step,
        "tokens": reached.tokens,
        "loss": reached.loss_last,
        "grad_norm": norm,
        "lr": rate,
        "tokens_per_second": round(run.global_batch_tokens / elapsed, 1),
        "step_seconds": round(elapsed, 4),
    }


def _metrics(
    run: PhaseRun, *, loss: float, norm: float, rate: float, elapsed: float
) -> dict[str, float]:
    """The step's metrics by torchtitan's keys."""
    return {
        "loss_metrics/global_avg_loss": loss,
        "grad_norm": norm,
        "lr": rate,
        "throughput(tps)": run.global_batch_tokens / elapsed / run.world_size,
        "time_metrics/end_to_end(s)": elapsed,
    }


def _tell(
    progress: Progress,
    run: PhaseRun,
    reached: Reached,
    *,
    stage: str,
    line: dict[str, float | int | None] | None = None,
) -> None:
    metrics: dict[str, object] = {"stage": stage, "step": reached.step, "tokens": reached.tokens}
    if line is not None:
        metrics |= line
        metrics["lossFirst"] = reached.loss_first
    remaining = None
    if reached.tokens:
        left = max(0, run.tokens - reached.tokens)
        remaining = left * reached.seconds / reached.tokens
    progress.tell(
        percent=100 * reached.tokens / run.tokens, remaining_seconds=remaining, metrics=metrics
    )


def _start_line(work: Work, reached: Reached) -> str:
    run, layout = work.run, work.layout
    origin = "fresh"
    if reached.checkpoint is not None:
        origin = f"resumed from {reached.checkpoint.uri}"
    elif run.init_from is not None:
        origin = f"started from {run.init_from}"
    return (
        f'phase "{run.phase}" attempt {run.attempt}: {run.objective} with {run.strategy} over '
        f"{run.world_size} processes, sequenceParallel {run.sequence_parallel}; {layout.batch} "
        f"sequences of {run.context_length} per step in {layout.passes} passes of "
        f"{layout.micro_batch}; {origin} at step {reached.step}"
    )


def _printer(place: Place) -> Callable[[str], None]:
    def say(text: str) -> None:
        if place.leads:
            print(text, flush=True)

    return say
