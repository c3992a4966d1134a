"""The objects that the operator would create for a curriculum, as YAML.

The very builders of the operator make them. What only a cluster knows is left out: the nodes that
admission would pick, the curriculum's UID, and the checkpoint of the phase before.
"""

from collections.abc import Iterable
from datetime import UTC, datetime

import yaml

from curriculum_api.v1alpha1.curriculum import Phase
from curriculum_cli.documents import Documents
from curriculum_operator import observe
from curriculum_operator.build import meta, pytorchjob, run, verification


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
    if not documents.curricula:
        raise ValueError("the files hold no TrainingCurriculum")
    rendered = [
        built
        for curriculum in documents.curricula
        for phase in curriculum.spec.phases
        if only in ("", phase.name)
        for built in _objects(curriculum, phase, documents)
    ]
    if not rendered:
        known = ", ".join(p.name for c in documents.curricula for p in c.spec.phases)
        raise ValueError(f'there is no phase "{only}"; known: {known}')
    return yaml.dump_all(rendered, Dumper=_Readable, sort_keys=False, explicit_start=True)


def _objects(
    curriculum: observe.Curriculum, phase: Phase, documents: Documents
) -> Iterable[meta.Object]:
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
    yield run.config_map(curriculum, phase, kind.spec, attempt=1)
    yield pytorchjob.pytorchjob(
        curriculum,
        phase,
        kind.spec,
        pool,
        attempt=1,
        nodes=(),
        progress_url=observe.Policy().progress_url,
    )
    yield verification.verification(curriculum, phase, _world(documents), attempt=1)


def _world(documents: Documents) -> observe.World:
    return observe.World(
        curricula={},
        classes=documents.classes,
        pools=documents.pools,
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
