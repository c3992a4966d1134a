"""The objects that the operator would create for a curriculum, as YAML.

The very builders of the operator make them. What only a cluster knows is left out: the nodes that
admission would pick, the curriculum's UID, and the checkpoint of the phase before.
"""

import contextlib
from collections.abc import Iterable
from datetime import UTC, datetime

import yaml

from curriculum_api.preflight import floors
from curriculum_api.v1alpha1.curriculum import Phase
from curriculum_cli.documents import Documents
from curriculum_operator import check, observe
from curriculum_operator.build import meta, network, pytorchjob, run, verification
from curriculum_operator.fabric import rendered


class _Readable(yaml.SafeDumper):
    """YAML for people: no anchors, and texts of several lines as they are."""

    def ignore_aliases(self, _data: object) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = "|" if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Readable.add_representer(str, _text)


def render(documents: Documents, *, only: str = "") -> str:
    """YAML of every object of every phase, first attempts.

    Raises:
        ValueError: no curriculum, no such phase, or a class or pool that the files do not hold.
    """
    return _dump(_objects(*chosen, documents) for chosen in _chosen(documents, only))


def fabrics(documents: Documents, *, only: str = "") -> tuple[str, bool]:
    """YAML of what each phase's pods get of their fabric, and whether nothing stands in the way.

    Raises:
        ValueError: as `render`.
    """
    shown = [one for chosen in _chosen(documents, only) for one in _fabric(*chosen, documents)]
    return _dump([shown]), not any("problems" in one for one in shown)


def _dump(groups: Iterable[Iterable[meta.Object]]) -> str:
    objects = [one for group in groups for one in group]
    return yaml.dump_all(
        objects, Dumper=_Readable, sort_keys=False, explicit_start=True, width=2000
    )


def _chosen(documents: Documents, only: str) -> Iterable[tuple[observe.Curriculum, Phase]]:
    if not documents.curricula:
        raise ValueError("the files hold no TrainingCurriculum")
    phases = [(c, p) for c in documents.curricula for p in c.spec.phases]
    chosen = [(c, p) for c, p in phases if only in ("", p.name)]
    if not chosen:
        raise ValueError(
            f'there is no phase "{only}"; known: {", ".join(p.name for _, p in phases)}'
        )
    return chosen


def _fabric(
    curriculum: observe.Curriculum, phase: Phase, documents: Documents
) -> Iterable[meta.Object]:
    kind, pool = _place(phase, documents)
    shown: meta.Object = {"curriculum": curriculum.name, "phase": phase.name, "class": kind.name}
    if pool:
        shown["pool"] = pool.name
    site = documents.profiles
    problems = list(check.of_fabric(phase, kind, pool, site=site))
    with contextlib.suppress(ValueError):  # It is among the problems.
        fabric = rendered.render(kind.spec, pool.spec if pool else None, phase, site=site)
        shown |= {**fabric.document(), "digest": fabric.digest()}
    yield {**shown, **({"problems": problems} if problems else {})}


def _place(
    phase: Phase, documents: Documents
) -> tuple[observe.AcceleratorClass, observe.RentedPool | None]:
    kind = documents.classes.get(phase.accelerator_class)
    if kind is None:
        raise ValueError(
            f'phase "{phase.name}": the files hold no AcceleratorClass'
            f' "{phase.accelerator_class}"; add it with -f'
        )
    pool = documents.pools.get(phase.pool) if phase.pool else None
    if phase.pool and pool is None:
        raise ValueError(
            f'phase "{phase.name}": the files hold no RentedPool "{phase.pool}"; add it with -f'
        )
    return kind, pool


def _objects(
    curriculum: observe.Curriculum, phase: Phase, documents: Documents
) -> Iterable[meta.Object]:
    kind, pool = _place(phase, documents)
    measured = floors.for_run(kind.spec, phase.precision)
    promised = network.promise(kind.spec, pool, phase, site=documents.profiles)
    yield run.config_map(
        curriculum, phase, kind.spec, attempt=1, preflight=measured, fabric=promised
    )
    yield pytorchjob.pytorchjob(
        curriculum,
        phase,
        kind.spec,
        pool,
        attempt=1,
        nodes=(),
        progress_url=observe.Policy().progress_url,
        site=documents.profiles,
    )
    yield verification.verification(curriculum, phase, _world(documents), attempt=1)


def _world(documents: Documents) -> observe.World:
    return observe.World(
        curricula={},
        classes=documents.classes,
        pools=documents.pools,
        profiles=documents.profiles,
        nodes={},
        claims={},
        jobs={},
        verifications={},
        pods={},
        occupants={},
        beats={},
        assumed={},
        clashes={},
        listening_since=datetime.fromtimestamp(0, UTC),
    )
