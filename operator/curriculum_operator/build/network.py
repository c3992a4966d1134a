"""What a fabric adds to a pod, as Kubernetes writes it."""

from collections.abc import Iterable, Mapping, Sequence

from curriculum_api import run as contract
from curriculum_api.v1alpha1.accelerator_class import AcceleratorClassSpec
from curriculum_api.v1alpha1.curriculum import Phase
from curriculum_api.wire import Outcome, Transport
from curriculum_operator import observe
from curriculum_operator.build import meta
from curriculum_operator.fabric import rendered
from curriculum_operator.fabric.rendered import Rendered

# The script is read once, before there is any other process; its own exit status says nothing.
_AFTER_SCRIPT = (
    'test -r "$0" || {{ echo "fabric: no script $0 on this node" >&2; exit {code}; }};'
    ' source "$0"; exec "$@"'
)


def promise(
    kind: AcceleratorClassSpec,
    pool: observe.RentedPool | None,
    phase: Phase,
    *,
    site: Mapping[str, str],
) -> contract.RunFabric:
    """What the trainer may count on, and is to prove."""
    fabric = rendered.render(kind, pool.spec if pool else None, phase, site=site)
    transport = Transport.RDMA if fabric.rdma else Transport.SOCKETS
    return contract.RunFabric(profile=fabric.profile, transport=transport)


def environment(fabric: Rendered) -> dict[str, str]:
    """The profile's variables, and where the loader looks."""
    libraries = {"LD_LIBRARY_PATH": ":".join(fabric.libraries)} if fabric.libraries else {}
    return {**libraries, **fabric.environment}


def command(
    fabric: Rendered, trainer: Sequence[str], environment: Sequence[meta.Object]
) -> list[str]:
    """The trainer's command line; after the provider's script where the fabric has one.

    The script sets variables of NCCL's too. What we set is set again after it, as its recipe does.
    """
    if fabric.script is None:
        return list(trainer)
    after = _AFTER_SCRIPT.format(code=contract.EXIT_CODES[Outcome.FABRIC_ERROR])
    ours = [f"{v['name']}={v['value']}" for v in environment if v["name"].startswith("NCCL_")]
    return ["bash", "-c", after, fabric.script, "env", *ours, *trainer]


def volumes(fabric: Rendered) -> Iterable[meta.Object]:
    """Folders of the node."""
    for folder in fabric.folders:
        yield {"name": folder.name, "hostPath": {"path": folder.path, "type": "Directory"}}


def mounts(fabric: Rendered) -> Iterable[meta.Object]:
    """Where the container sees them: it never writes to the node."""
    for folder in fabric.folders:
        yield {"name": folder.name, "mountPath": folder.mount_path, "readOnly": True}
