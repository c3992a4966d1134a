"""Everything a phase needs before its first step, from the newest good checkpoint onwards.

a checkpoint of this phase that verifies   -> resume: weights, moments, step, tokens
else `init_from`, of the digest verified   -> hand off: weights and moments; step 0
else `model.weights`, else the seed        -> fresh
"""

import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from curriculum_api.run import PhaseRun
from curriculum_api.wire import Objective as ObjectiveName
from curriculum_trainer import (
    batch,
    checkpoint,
    collective,
    failures,
    gate,
    manifest,
    memory,
    model,
    precision,
    reference,
    result,
    sequence_parallel,
    sharding,
    weights,
)
from curriculum_trainer.batch import Layout
from curriculum_trainer.checkpoint import Found
from curriculum_trainer.collective import Place
from curriculum_trainer.data import Mixture
from curriculum_trainer.evaluate import Evaluation
from curriculum_trainer.objective import DirectPreference, NextToken, Objective
from curriculum_trainer.precision import Device
from curriculum_trainer.result import Reached
from curriculum_trainer.sharding import Sharding
from curriculum_trainer.source import TOKENIZER_FILE


@dataclass(frozen=True, slots=True)
class Work:
    """A phase, ready for its next step."""

    run: PhaseRun
    place: Place
    device: Device
    layout: Layout
    mixture: Mixture
    sharding: Sharding
    objective: Objective
    evaluation: Evaluation | None
    model_config: Any
    config_digest: str

    @property
    def folder(self) -> Path:
        """Where this phase's checkpoints lie."""
        return result.phase_folder(self.run)

    def export(self, target: Path) -> None:
        """Configuration and tokenizer beside the weights, so that `from_pretrained` loads them."""
        self.model_config.save_pretrained(target)
        for path in (Path(self.run.data_dir) / self.run.tokenizer).iterdir():
            if path.is_file() and path.name != "config.json":
                shutil.copyfile(path, target / path.name)


def prepare(
    run: PhaseRun,
    place: Place,
    device: Device,
    reached: Reached,
    *,
    beat: Callable[[], None] = lambda: None,
) -> Work:
    """Load or make everything; sets `reached` where the phase goes on."""
    layout = batch.layout(run, rank=place.rank)
    mixture = Mixture(run)
    _check_tokenizer(run, mixture)
    gate.check(run)
    evaluation = Evaluation(run, layout, place, device) if run.evaluation else None
    if evaluation is not None:
        _check_tokenizer(run, evaluation.mixture)
    model_config = model.config(run, say=_say if place.leads else lambda _: None)
    group = sequence_parallel.sequence_group(
        world_size=place.world_size, degree=run.sequence_parallel, rank=place.rank
    )
    sequence_parallel.register(group)
    if place.leads:
        for remark in memory.remarks(run, device_kind=device.kind):
            _say(remark)
    digest = config_digest(run)
    own = collective.from_leader(lambda: _own_checkpoint(run, digest), place)

    def start(origin: Found) -> Sharding:
        return _sharded(run, model_config, origin, device=device, passes=layout.passes)

    def initial() -> Sharding:
        return start(collective.from_leader(lambda: _initial(run), place))

    made: Sharding | None = None
    goal: Objective = NextToken()
    if run.objective is ObjectiveName.DPO:
        known = reference.load(run, mixture, layout, device=device, config=digest)
        if known is None:
            made = initial()
            known = reference.compute(run, mixture, layout, made, device=device, config=digest)
        goal = DirectPreference(known, beta=run.dpo_beta, layout=layout, group=group)
    if evaluation is not None:
        known_by = f"{digest} {run.init_digest} {run.evaluation}"
        if not evaluation.recall(known_by):
            made = made or initial()
            evaluation.measure_before(made, known_by, beat=beat)
    if own.folder is not None and own.manifest is not None:
        reached.resume(own.manifest, result.ref(run, own.folder, own.manifest))
        result.recall(run, reached)
        made = start(own)
    return Work(
        run=run,
        place=place,
        device=device,
        layout=layout,
        mixture=mixture,
        sharding=made or initial(),
        objective=goal,
        evaluation=evaluation,
        model_config=model_config,
        config_digest=digest,
    )


def config_digest(run: PhaseRun) -> str:
    """Digest of what a resumed attempt must share with the one before: model, data, arithmetic.

    The number of tokens, the processes and the strategy may differ.
    """
    fields = {
        "model", "tokenizer", "objective", "context_length", "global_batch_tokens", "precision",
        "optimizer", "data", "dpo_beta", "rope", "seed", "init_digest",
    }  # fmt: skip
    text = json.dumps(run.model_dump(mode="json", include=fields), sort_keys=True)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def _say(remark: str) -> None:
    print(remark, flush=True)


def _own_checkpoint(run: PhaseRun, digest: str) -> Found:
    folder = result.phase_folder(run)
    found = checkpoint.newest(folder)
    checkpoint.sweep(folder)
    for reason in found.skipped:
        print(f"checkpoint not used: {reason}", file=sys.stderr, flush=True)
    if found.manifest is not None and found.manifest.config_digest != digest:
        raise failures.checkpoint_error(
            f'"{found.folder}" was made with another model, data, seed or optimizer than phase '
            f'"{run.phase}" has now: restore them, or use another checkpoint folder'
        )
    return found


def _initial(run: PhaseRun) -> Found:
    """What the phase starts from when it has no checkpoint of its own."""
    if run.init_from is None:
        return Found()
    folder = Path(run.checkpoints_dir) / run.init_from
    return Found(folder=folder, manifest=checkpoint.verified(folder, digest=run.init_digest))


def _sharded(
    run: PhaseRun, model_config: Any, origin: Found, *, device: Device, passes: int
) -> Sharding:
    decoder = weights.blank(model_config, attention=sequence_parallel.NAME, device=device.name)
    if origin.folder is None:
        fill = partial(model.fill, run, decoder)
    else:
        fill = partial(checkpoint.load_weights, decoder, origin.folder)
    if run.precision in precision.SCALED:
        from curriculum_trainer import low_precision

        low_precision.convert(decoder, run)
    memory.arrange(decoder, run, device_kind=device.kind)
    scores = model.TokenScores(
        decoder,
        precision=run.precision,
        device_type=device.kind,
        tile_tokens=run.memory.tile_tokens,
    )
    made = sharding.shard(scores.to(device.name), run, device=device, passes=passes, fill=fill)
    if origin.folder is not None and origin.manifest is not None:
        steps = origin.manifest.optimizer_steps
        checkpoint.load_moments(made, origin.folder, optimizer_steps=steps)
    return made


def _check_tokenizer(run: PhaseRun, mixture: Mixture) -> None:
    path = Path(run.data_dir) / run.tokenizer / TOKENIZER_FILE
    if not path.is_file():
        raise failures.data_error(
            f'phase "{run.phase}": no tokenizer at "{path}": prepare one first'
        )
    digest = manifest.sha256(path)
    for member in mixture.members:
        if member.source.index.tokenizer_sha256 != digest:
            raise failures.data_error(
                f'phase "{run.phase}": source "{member.source.name}" was prepared with another '
                f'tokenizer than "{run.tokenizer}": prepare it again with this one'
            )
