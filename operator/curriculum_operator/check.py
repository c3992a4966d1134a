"""What a phase asks for that cannot be: found before anything starts, each in one line.

The CRD's own rules refuse what one object shows by itself; here are the rules that need others.
"""

from collections.abc import Iterable, Mapping

from curriculum_api.estimate import phase as phases
from curriculum_api.estimate import rules
from curriculum_api.v1alpha1.accelerator_class import AcceleratorClassSpec
from curriculum_api.v1alpha1.curriculum import Phase
from curriculum_operator import observe
from curriculum_operator.build import pod
from curriculum_operator.fabric import rendered, variables

WRITE_MANY = "ReadWriteMany"
READ_MANY = frozenset({"ReadWriteMany", "ReadOnlyMany"})


def problem(observed: observe.Observed, phase: Phase) -> str | None:
    """The first thing that stands in the way of `phase`; None where nothing does."""
    return next(iter(_problems(observed, phase)), None)


def verified_on(curriculum: observe.Curriculum, phase: Phase, world: observe.World) -> Phase | None:
    """The phase on whose kind of nodes the checkpoint of `phase` is verified.

    The newest one up to it that is not rented; where all are, the newest; None where the classes
    of all of them are gone.
    """
    names = [other.name for other in curriculum.spec.phases]
    so_far = curriculum.spec.phases[: names.index(phase.name) + 1]
    there = [p for p in so_far if p.accelerator_class in world.classes]
    owned = [p for p in there if p.pool is None]
    return next(reversed(owned or there), None)


def _problems(observed: observe.Observed, phase: Phase) -> Iterable[str]:
    world = observed.world
    at = f'phase "{phase.name}"'
    kind = world.classes.get(phase.accelerator_class)
    if kind is None:
        known = ", ".join(sorted(world.classes)) or "none"
        yield f'{at}: accelerator class "{phase.accelerator_class}" does not exist; known: {known}'
        return
    yield from (f"{at}: {text}" for text in _of_class(phase, kind.spec))
    yield from (f"{at}: {text}" for text in _of_pool(phase, world))
    yield from (f"{at}: {text}" for text in _of_claims(observed))
    pool = world.pools.get(phase.pool) if phase.pool else None
    yield from (f"{at}: {text}" for text in of_fabric(phase, kind, pool, site=world.profiles))


def of_fabric(
    phase: Phase,
    kind: observe.AcceleratorClass,
    pool: observe.RentedPool | None,
    *,
    site: Mapping[str, str],
) -> Iterable[str]:
    """What stands in the way of the phase's fabric, and what does not go with it."""
    try:
        fabric = rendered.render(kind.spec, pool.spec if pool else None, phase, site=site)
    except ValueError as error:
        of_pool = pool is not None and pool.spec.fabric is not None
        whose = f'rented pool "{phase.pool}"' if of_pool else f'accelerator class "{kind.name}"'
        yield f"{whose}: {error}"
        return
    yield from _of_volumes(kind.spec, phase, fabric)
    yield from _of_environment(kind.spec, phase, fabric)
    yield from _of_annotations(kind.spec, phase, fabric)


def _of_class(phase: Phase, kind: AcceleratorClassSpec) -> Iterable[str]:
    yield from rules.beyond_class(phase, phase.accelerator_class, kind)
    yield from phases.uneven(phase, kind)


def _of_pool(phase: Phase, world: observe.World) -> Iterable[str]:
    if phase.pool is None:
        return
    pool = world.pools.get(phase.pool)
    if pool is None:
        known = ", ".join(sorted(world.pools)) or "none"
        yield f'rented pool "{phase.pool}" does not exist; known: {known}'
        return
    yield from rules.beyond_pool(phase, pool.spec)


def _of_claims(observed: observe.Observed) -> Iterable[str]:
    storage = observed.curriculum.spec.storage
    namespace = observed.curriculum.namespace
    checkpoints = observed.world.claims.get((namespace, storage.checkpoints.claim_name))
    if checkpoints is None:
        yield f'storage.checkpoints: claim "{storage.checkpoints.claim_name}" does not exist'
    elif WRITE_MANY not in checkpoints.access_modes:
        # Even on one node: the verification and the next phase mount it from other nodes.
        yield (
            f'storage.checkpoints: claim "{checkpoints.name}" is'
            f" {'/'.join(checkpoints.access_modes)}; phases on several nodes need {WRITE_MANY}"
        )
    data = observed.world.claims.get((namespace, storage.data.claim_name))
    if data is None:
        yield f'storage.data: claim "{storage.data.claim_name}" does not exist'
    elif READ_MANY.isdisjoint(data.access_modes):
        yield (
            f'storage.data: claim "{data.name}" is {"/".join(data.access_modes)}; phases on'
            f" several nodes need ReadOnlyMany or {WRITE_MANY}"
        )


def _of_environment(
    kind: AcceleratorClassSpec, phase: Phase, fabric: rendered.Rendered
) -> Iterable[str]:
    given = [
        (v.name, v.value) for v in (*kind.pod_template.env, *phase.env, *phase.pod_template.env)
    ]
    reserved = variables.reserved(name for name, _ in given)
    if reserved:
        yield f'env "{reserved}" is reserved for the operator; remove it'
    yield from variables.conflicts(
        given,
        profile=fabric.profile,
        environment=fabric.environment,
        refuses=fabric.refuses,
        rdma=fabric.rdma,
    )


def _of_annotations(
    kind: AcceleratorClassSpec, phase: Phase, fabric: rendered.Rendered
) -> Iterable[str]:
    given = {**kind.pod_template.annotations, **phase.pod_template.annotations}
    for key, value in given.items():
        if fabric.annotations.get(key, value) != value:
            yield (
                f'podTemplate: annotation "{key}" is set otherwise by fabric profile'
                f' "{fabric.profile}"; remove it'
            )
        elif key == rendered.MULTUS and fabric.host_network:
            yield (
                f'podTemplate: annotation "{key}" does nothing for pods on the node\'s network;'
                " name the networks in values.networks of the fabric instead"
            )


def _of_volumes(
    kind: AcceleratorClassSpec, phase: Phase, fabric: rendered.Rendered
) -> Iterable[str]:
    # The API server refuses such pods one by one: the gang would be waited for in vain.
    templates = (kind.pod_template, phase.pod_template)
    own = {**pod.OWN_MOUNTS, **{folder.name: folder.mount_path for folder in fabric.folders}}
    volumes = [*own, *(v.name for t in templates for v in t.volumes)]
    paths = [*own.values(), *(m.mount_path for t in templates for m in t.mounts)]
    for what, given in (("volume", volumes), ("mountPath", paths)):
        for value in sorted({value for value in given if given.count(value) > 1}):
            yield (
                f'podTemplate: {what} "{value}" is there twice or belongs to the operator;'
                " take another"
            )
    for name in sorted({m.name for t in templates for m in t.mounts} - set(volumes)):
        yield f'podTemplate: a mount names volume "{name}", which does not exist; add it'
