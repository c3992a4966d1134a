"""Everything that is watched, but for the curricula themselves: one store per kind.

It keeps what the watches say and tells the engine what changed. It decides nothing.
"""

from collections.abc import Callable, Mapping
from typing import Any, Generic, Protocol, TypeVar

from curriculum_operator import names, observe, project
from curriculum_operator.cluster import (
    CLAIMS,
    CLASSES,
    CONFIGMAPS,
    JOBS,
    NODES,
    PODS,
    POOLS,
    PYTORCHJOBS,
    Cluster,
    Kind,
    Raw,
)
from curriculum_operator.observe import Key
from curriculum_operator.watch import Reflector

OURS = names.CURRICULUM_UID_LABEL
NOT_OURS = f"!{names.CURRICULUM_UID_LABEL}"
UNFINISHED = "status.phase!=Succeeded,status.phase!=Failed"

T = TypeVar("T")
C = TypeVar("C", bound=observe.Child)
OnChange = Callable[[Key, T | None, T | None], None]


class Listener(Protocol):
    """Who is told of changes; None stands for absent."""

    def job_changed(self, old: observe.Job | None, new: observe.Job | None) -> None: ...
    def verification_changed(
        self, old: observe.Verification | None, new: observe.Verification | None
    ) -> None: ...
    def pod_changed(self, old: observe.Pod | None, new: observe.Pod | None) -> None: ...
    def occupant_changed(
        self, old: observe.Occupant | None, _: observe.Occupant | None
    ) -> None: ...
    def node_changed(self, old: observe.Node | None, new: observe.Node | None) -> None: ...
    def claim_changed(self) -> None: ...
    def offer_changed(self) -> None:
        """An AcceleratorClass, a RentedPool or the site's fabric profiles changed."""


class Children(Generic[C]):
    """Children by key and, for the pure core, by their curriculum's UID."""

    def __init__(self) -> None:
        self.by_key: dict[Key, C] = {}
        self.by_owner: dict[str, tuple[C, ...]] = {}

    def put(self, key: Key, old: C | None, new: C | None) -> None:
        """Replace `old` by `new`."""
        if old is not None:
            rest = tuple(c for c in self.by_owner[old.curriculum_uid] if c.uid != old.uid)
            if rest:
                self.by_owner[old.curriculum_uid] = rest
            else:
                del self.by_owner[old.curriculum_uid]
            del self.by_key[key]
        if new is not None:
            self.by_key[key] = new
            self.by_owner[new.curriculum_uid] = (*self.by_owner.get(new.curriculum_uid, ()), new)


class Stores:
    """The reflectors and what they keep.

    `scopes` are the clusters that namespaced kinds are watched in, by namespace; "" for all.
    Other people's pods outside these namespaces are then not seen: such an operator must be the
    only one that places work on its nodes.
    `home` is the operator's own namespace, and `profiles` the ConfigMap in it with the site's
    fabric profiles, by namespace and name.
    """

    def __init__(
        self,
        cluster: Cluster,
        scopes: Mapping[str, Cluster],
        listener: Listener,
        *,
        home: Cluster,
        profiles: Key | None,
    ) -> None:
        self.jobs: Children[observe.Job] = Children()
        self.verifications: Children[observe.Verification] = Children()
        self.pods: Children[observe.Pod] = Children()
        self.nodes: dict[str, observe.Node] = {}
        self.classes: dict[str, observe.AcceleratorClass] = {}
        self.pools: dict[str, observe.RentedPool] = {}
        self.profiles: dict[str, str] = {}
        self.claims: dict[Key, observe.Claim] = {}
        self.occupants: dict[Key, observe.Occupant] = {}
        self.reflectors: list[Reflector[Any]] = []
        self._written: dict[tuple[Kind, str], Reflector[Any]] = {}
        """Of the kinds that this process writes, by namespace; empty for all."""

        tell = listener

        def add(
            where: Cluster,
            kind: Kind,
            read: Callable[[Raw], T | None],
            on_change: OnChange[T],
            label_selector: str = "",
            field_selector: str = "",
        ) -> Reflector[T]:
            reflector = Reflector(
                where,
                kind,
                project=read,
                on_change=on_change,
                label_selector=label_selector,
                field_selector=field_selector,
            )
            self.reflectors.append(reflector)
            return reflector

        def job(key: Key, old: observe.Job | None, new: observe.Job | None) -> None:
            self.jobs.put(key, old, new)
            tell.job_changed(old, new)

        def verification(
            key: Key, old: observe.Verification | None, new: observe.Verification | None
        ) -> None:
            self.verifications.put(key, old, new)
            tell.verification_changed(old, new)

        def pod(key: Key, old: observe.Pod | None, new: observe.Pod | None) -> None:
            self.pods.put(key, old, new)
            tell.pod_changed(old, new)

        def occupant(key: Key, old: observe.Occupant | None, new: observe.Occupant | None) -> None:
            _keep(self.occupants, key, new)
            tell.occupant_changed(old, new)

        def claim(key: Key, _: object, new: observe.Claim | None) -> None:
            _keep(self.claims, key, new)
            tell.claim_changed()

        def node(key: Key, old: observe.Node | None, new: observe.Node | None) -> None:
            _keep(self.nodes, key[1], new)
            tell.node_changed(old, new)

        def accelerator_class(key: Key, _: object, new: observe.AcceleratorClass | None) -> None:
            _keep(self.classes, key[1], new)
            tell.offer_changed()

        def pool(key: Key, _: object, new: observe.RentedPool | None) -> None:
            _keep(self.pools, key[1], new)
            tell.offer_changed()

        def site(_: Key, __: object, new: Mapping[str, str] | None) -> None:
            # Replaced, not changed: a world that was handed out stays as it was.
            self.profiles = dict(new or {})
            tell.offer_changed()

        add(cluster, CLASSES, project.accelerator_class, accelerator_class)
        add(cluster, POOLS, project.rented_pool, pool)
        self._of_nodes = add(cluster, NODES, project.node, node)
        self._written[NODES, ""] = self._of_nodes
        if profiles is not None:
            namespace, name = profiles
            only = f"metadata.namespace={namespace},metadata.name={name}"
            add(home, CONFIGMAPS, project.fabric_profiles, site, field_selector=only)
        for namespace, scope in scopes.items():
            jobs = add(scope, PYTORCHJOBS, project.job, job, OURS)
            checks = add(scope, JOBS, project.verification, verification, OURS)
            self._written |= {(PYTORCHJOBS, namespace): jobs, (JOBS, namespace): checks}
            add(scope, PODS, project.pod, pod, OURS)
            add(scope, PODS, project.occupant, occupant, NOT_OURS, UNFINISHED)
            add(scope, CLAIMS, project.claim, claim)

    def newest_node(self, name: str) -> observe.Node | None:
        """A node at the version of its last event, which may show no change."""
        return self._of_nodes.store.get(("", name))

    def learn(self, kind: Kind, raw: Raw) -> None:
        """Take in an object that a write returned, before the watch tells of it."""
        namespace = raw["metadata"].get("namespace") or ""
        for where in (namespace, ""):
            reflector = self._written.get((kind, where))
            if reflector is not None:
                reflector.learn(raw)
                return


def _keep(store: dict[Any, T], key: object, new: T | None) -> None:
    if new is None:
        store.pop(key, None)
    else:
        store[key] = new
