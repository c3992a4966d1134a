"""The PhaseRun of an attempt, and the ConfigMap that carries it."""

from pathlib import PurePosixPath

from curriculum_api import run
from curriculum_api.estimate import phase as phases
from curriculum_api.preflight.figures import RunPreflight
from curriculum_api.v1alpha1.accelerator_class import AcceleratorClassSpec
from curriculum_api.v1alpha1.curriculum import Phase
from curriculum_api.wire import API_VERSION
from curriculum_operator import names, observe
from curriculum_operator.build import grace, meta

RUN_FILE = PurePosixPath(run.RUN_PATH).name


def phase_run(
    curriculum: observe.Curriculum,
    phase: Phase,
    kind: AcceleratorClassSpec,
    *,
    attempt: int,
    preflight: RunPreflight | None = None,
    fabric: run.RunFabric | None = None,
) -> run.PhaseRun:
    """Everything that the trainer needs for this attempt."""
    spec = curriculum.spec
    before = _phase_before(curriculum, phase)
    checkpoint = curriculum.phase_status(before.name).checkpoint if before else None
    optimizer = phase.optimizer
    return run.PhaseRun(
        namespace=curriculum.namespace,
        curriculum=curriculum.name,
        curriculum_uid=curriculum.uid,
        phase=phase.name,
        attempt=attempt,
        objective=phase.objective,
        model=run.RunModel(
            preset=spec.model.preset, config=spec.model.config, weights=spec.model.weights
        ),
        tokenizer=spec.tokenizer.path,
        checkpoint_path=names.checkpoint_path(
            curriculum.namespace, curriculum.name, curriculum.uid, phase.name
        ),
        init_from=checkpoint.uri if checkpoint else None,
        init_digest=checkpoint.digest if checkpoint else None,
        tokens=phase.tokens,
        context_length=phase.context_length,
        global_batch_tokens=phases.global_batch_tokens(phase, kind),
        micro_batch_size=phase.micro_batch_size,
        precision=phase.precision,
        strategy=phase.strategy,
        sequence_parallel=phase.sequence_parallel,
        nodes=phase.nodes,
        processes_per_node=phase.gpus_per_node or kind.gpus_per_node,
        fabric=fabric,
        accelerator_class=phase.accelerator_class,
        allowed_precisions=kind.trains,
        optimizer=run.RunOptimizer(
            name=optimizer.name,
            learning_rate=float(optimizer.learning_rate),
            betas=(float(optimizer.beta1), float(optimizer.beta2)),
            weight_decay=float(optimizer.weight_decay),
            clip_norm=float(optimizer.clip_norm),
            schedule=optimizer.schedule,
            warmup_tokens=optimizer.warmup_tokens,
        ),
        checkpoint=run.RunCheckpoint(
            every_steps=phase.checkpoint.every_steps,
            every_seconds=phase.checkpoint.every_seconds,
            keep_last=phase.checkpoint.keep_last,
            keep_every=phase.checkpoint.keep_every,
        ),
        data=tuple(
            run.RunSource(
                source=d.source,
                weight=d.weight,
                context_length=d.context_length,
                packing=d.packing,
            )
            for d in phase.data
        ),
        dpo_beta=float(phase.dpo_beta),
        rope=_rope(curriculum, phase),
        memory=run.RunMemory.model_validate(phase.memory.model_dump()),
        compile=phase.compile,
        max_skipped_steps=phase.max_skipped_steps,
        evaluation=_evaluation(phase),
        gate=_gate(phase),
        preflight=preflight,
        deadline_seconds=phase.active_deadline_seconds,
        seed=spec.seed,
        grace_seconds=grace.seconds(spec.model, kind),
    )


def config_map(
    curriculum: observe.Curriculum,
    phase: Phase,
    kind: AcceleratorClassSpec,
    *,
    attempt: int,
    preflight: RunPreflight | None = None,
    fabric: run.RunFabric,
) -> meta.Object:
    """The ConfigMap of an attempt; immutable, as an attempt is."""
    document = phase_run(
        curriculum, phase, kind, attempt=attempt, preflight=preflight, fabric=fabric
    )
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": meta.metadata(
            curriculum,
            name=names.attempt_name(curriculum.name, phase.name, attempt),
            phase=phase.name,
            attempt=attempt,
            role=names.ROLE_TRAIN,
        ),
        "immutable": True,
        "data": {RUN_FILE: document.model_dump_json(by_alias=True, indent=2, exclude_none=True)},
    }


def progress_url(base: str, curriculum: observe.Curriculum, phase: str, attempt: int) -> str:
    """Where the trainer of an attempt reports its progress."""
    return (
        f"{base}/apis/{API_VERSION}/namespaces/{curriculum.namespace}"
        f"/trainingcurricula/{curriculum.name}/phases/{phase}/attempts/{attempt}/status"
    )


def _rope(curriculum: observe.Curriculum, phase: Phase) -> tuple[run.RunRope, ...]:
    """What the phases up to this one set: a context that was extended stays so."""
    phases = curriculum.spec.phases
    so_far = phases[: [other.name for other in phases].index(phase.name) + 1]
    return tuple(
        run.RunRope(
            theta=_number(rope.theta),
            scaling=rope.scaling,
            factor=_number(rope.factor),
            original_context_length=rope.original_context_length,
        )
        for rope in (other.rope for other in so_far)
        if rope is not None
    )


def _evaluation(phase: Phase) -> run.RunEvaluation | None:
    asked = phase.evaluation
    return run.RunEvaluation.model_validate(asked.model_dump()) if asked else None


def _gate(phase: Phase) -> run.RunGate | None:
    if phase.gate is None:
        return None
    return run.RunGate(
        min_needle=_number(phase.gate.min_needle),
        max_perplexity_rise=_number(phase.gate.max_perplexity_rise),
    )


def _number(text: str | None) -> float | None:
    return None if text is None else float(text)


def _phase_before(curriculum: observe.Curriculum, phase: Phase) -> Phase | None:
    before = None
    for other in curriculum.spec.phases:
        if other.name == phase.name:
            return before
        before = other
    raise ValueError(f'curriculum "{curriculum.name}" has no phase "{phase.name}"')
