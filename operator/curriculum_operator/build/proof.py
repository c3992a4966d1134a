"""The objects of a measurement by hand: the pods that a phase would get, on the nodes asked about.

    PyTorchJob   ends by its deadline; the training-operator removes it a while after its end
    ConfigMap    the run; it is the job's, and goes with it

Neither says that it is an attempt's, so the operator counts neither. What the pods hold of their
nodes it sees as it sees anybody's.
"""

from collections.abc import Mapping, Sequence

from curriculum_api import run as contract
from curriculum_api.preflight import floors
from curriculum_api.preflight.figures import RunPreflight
from curriculum_api.v1alpha1.accelerator_class import AcceleratorClassSpec, Preflight
from curriculum_api.v1alpha1.curriculum import DataSource, Optimizer, Phase
from curriculum_api.v1alpha1.pod import Toleration
from curriculum_api.wire import Objective, Precision, Strategy
from curriculum_operator import kinds, names, observe
from curriculum_operator.build import gang, meta, network, pod
from curriculum_operator.build.run import RUN_FILE
from curriculum_operator.fabric import profile, rendered

PROVE = ("python3", "-m", "curriculum_trainer.prove")
PHASE = "measure"

GRACE_SECONDS = 10
"""There is nothing to save."""

KEPT_SECONDS = 300
"""After its end, for whoever looks at its pods, where nobody has removed it."""

TOLERATED = (
    Toleration(key=names.QUARANTINE_TAINT, operator="Exists"),
    Toleration(key=names.UNSCHEDULABLE_TAINT, operator="Exists"),
)
"""A node that is kept from use is one that people want to measure."""

NOTHING = "nothing"
"""Stands where a run names data, which nobody reads."""


def asked(kind: AcceleratorClassSpec) -> RunPreflight:
    """What is measured of a class's nodes by hand: also where its phases measure nothing."""
    given = kind.preflight or Preflight()
    return RunPreflight(
        floors=floors.of_class(kind, precision(kind)), seconds=given.seconds, rounds=given.rounds
    )


def precision(kind: AcceleratorClassSpec) -> Precision:
    """BF16 where a class trains it, as most phases do."""
    return Precision.BF16 if Precision.BF16 in kind.trains else kind.trains[0]


def phase_run(
    *,
    nodes: int,
    processes_per_node: int,
    precision: Precision,
    preflight: RunPreflight,
    checkpoints_dir: str,
    namespace: str = NOTHING,
    accelerator_class: str = NOTHING,
    fabric: contract.RunFabric | None = None,
) -> contract.PhaseRun:
    """A run that is only measured: what it would train means nothing."""
    return contract.PhaseRun(
        namespace=namespace,
        curriculum=names.DOCTOR,
        curriculum_uid=NOTHING,
        phase=PHASE,
        attempt=1,
        objective=Objective.PRETRAIN,
        model=contract.RunModel(preset=NOTHING),
        tokenizer=NOTHING,
        checkpoints_dir=checkpoints_dir,
        checkpoint_path=names.DOCTOR,
        tokens=1,
        context_length=1,
        global_batch_tokens=1,
        precision=precision,
        strategy=Strategy.DDP,
        nodes=nodes,
        processes_per_node=processes_per_node,
        fabric=fabric,
        accelerator_class=accelerator_class,
        allowed_precisions=(precision,),
        optimizer=contract.RunOptimizer(learning_rate=0.0),
        data=(contract.RunSource(source=NOTHING, weight=1),),
        preflight=preflight,
        grace_seconds=GRACE_SECONDS,
    )


def pytorchjob(
    name: str,
    namespace: str,
    kind: observe.AcceleratorClass,
    pool: observe.RentedPool | None,
    *,
    nodes: Sequence[str],
    claim: str,
    site: Mapping[str, str],
    deadline_seconds: int,
) -> meta.Object:
    """The job that measures `nodes`; the storage too where a claim is named.

    Raises:
        ValueError: the fabric cannot be rendered.
    """
    phase = phase_of(kind, pool, nodes=len(nodes), site=site)
    labels = _labels(name)
    pods = gang.Gang(
        phase=phase,
        kind=kind.spec,
        pool=pool,
        fabric=rendered.render(kind.spec, pool.spec if pool else None, phase, site=site),
        pods=len(nodes),
        nodes=tuple(nodes),
        program=PROVE,
        config_map=name,
        labels=labels,
        told_apart_by=(names.MEASUREMENT_LABEL,),
        storage=[pod.checkpoints(claim)] if claim else [],
        grace_seconds=GRACE_SECONDS,
        tolerations=TOLERATED,
    )
    metadata = {"name": name, "namespace": namespace, "labels": labels}
    ends = {"activeDeadlineSeconds": deadline_seconds, "ttlSecondsAfterFinished": KEPT_SECONDS}
    return {
        "apiVersion": kinds.PYTORCHJOBS.api_version,
        "kind": kinds.PYTORCHJOBS.kind,
        "metadata": {**metadata, "annotations": gang.annotations(pods)},
        "spec": gang.spec(pods, policy=ends),
    }


def config_map(
    job: meta.Object,
    kind: observe.AcceleratorClass,
    pool: observe.RentedPool | None,
    *,
    nodes: Sequence[str],
    claim: str,
    site: Mapping[str, str],
) -> meta.Object:
    """The run of a job that was made, and is its owner."""
    name, namespace = job["metadata"]["name"], job["metadata"]["namespace"]
    phase = phase_of(kind, pool, nodes=len(nodes), site=site)
    document = phase_run(
        namespace=namespace,
        accelerator_class=kind.name,
        nodes=len(nodes),
        processes_per_node=kind.spec.gpus_per_node,
        precision=phase.precision,
        preflight=asked(kind.spec),
        fabric=network.promise(kind.spec, pool, phase, site=site),
        checkpoints_dir=contract.CHECKPOINTS_DIR if claim else "",
    )
    owner = {key: job[key] for key in ("apiVersion", "kind")}
    owner |= {key: job["metadata"][key] for key in ("name", "uid")}
    return {
        "apiVersion": kinds.CONFIGMAPS.api_version,
        "kind": kinds.CONFIGMAPS.kind,
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": _labels(name),
            "ownerReferences": [owner],
        },
        "immutable": True,
        "data": {RUN_FILE: document.model_dump_json(by_alias=True, indent=2, exclude_none=True)},
    }


def phase_of(
    kind: observe.AcceleratorClass,
    pool: observe.RentedPool | None,
    *,
    nodes: int,
    site: Mapping[str, str],
) -> Phase:
    """A phase that is never trained, whose pods show what a class's get: of so many nodes, or of
    the fewest that its fabric joins, as two neighbours in a ring are cabled like the ring."""
    fabric = (pool.spec.fabric if pool else None) or kind.spec.fabric
    least = profile.find(fabric.profile, site).head.nodes.least if nodes > 1 else 1
    return Phase(
        name=PHASE,
        accelerator_class=kind.name,
        nodes=max(nodes, least),
        tokens=1,
        context_length=1,
        precision=precision(kind.spec),
        optimizer=Optimizer(learning_rate="0"),
        data=(DataSource(source=NOTHING),),
    )


def _labels(name: str) -> dict[str, str]:
    return {names.MANAGED_BY_LABEL: names.DOCTOR, names.MEASUREMENT_LABEL: name}
