"""What a phase's pods get of their fabric: the environment, and the pod's own parts."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any

from curriculum_api import nccl
from curriculum_api.v1alpha1.accelerator_class import AcceleratorClassSpec
from curriculum_api.v1alpha1.curriculum import Phase
from curriculum_api.v1alpha1.fabric import Fabric, FabricValues
from curriculum_api.v1alpha1.pod import Toleration
from curriculum_api.v1alpha1.rented_pool import RentedPoolSpec
from curriculum_operator.fabric import template
from curriculum_operator.fabric.profile import HostFolder, PodPart, Profile, find

MULTUS = "k8s.v1.cni.cncf.io/networks"


@dataclass(frozen=True, slots=True)
class Rendered:
    """A profile, rendered for one phase."""

    profile: str
    site: bool
    environment: Mapping[str, str]
    refuses: Mapping[str, str]
    rdma: bool
    """The pods have RDMA devices, and so the right to lock memory."""

    host_network: bool
    annotations: Mapping[str, str]
    limits: Mapping[str, str]
    requests: Mapping[str, str]
    folders: tuple[HostFolder, ...]
    libraries: tuple[str, ...]
    script: str | None
    tolerations: tuple[Toleration, ...]
    shared_memory_gib: int
    interfaces: tuple[str, ...]
    mtu: int | None
    """What the data's devices must have, where there is RDMA."""

    nccl: str
    """The oldest NCCL that the trainer takes on these nodes; empty where any will do."""

    def document(self) -> dict[str, Any]:
        """For people, and for the digest: all of it, without what is empty."""
        pod = {
            "hostNetwork": self.host_network,
            "dnsPolicy": "ClusterFirstWithHostNet" if self.host_network else None,
            "capabilities": ["IPC_LOCK"] if self.rdma else None,
            "annotations": dict(self.annotations),
            "limits": dict(self.limits),
            "requests": dict(self.requests),
            "sharedMemory": f"{self.shared_memory_gib}Gi",
            "folders": [f"{f.path} at {f.mount_path}, read-only" for f in self.folders],
            "libraries": list(self.libraries),
            "script": self.script,
            "tolerations": [
                t.model_dump(by_alias=True, exclude_none=True) for t in self.tolerations
            ],
        }
        wanted = {"nccl": self.nccl, "mtu": self.mtu, "interfaces": list(self.interfaces)}
        expects = {key: value for key, value in wanted.items() if value}
        return {
            "profile": self.profile,
            "origin": "site" if self.site else "operator",
            "environment": dict(self.environment),
            "pod": {key: value for key, value in pod.items() if value},
            **({"expects": expects} if expects else {}),
        }

    def digest(self) -> str:
        """Changes with whatever the pods get."""
        text = json.dumps(self.document(), sort_keys=True)
        return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def render(
    kind: AcceleratorClassSpec,
    pool: RentedPoolSpec | None,
    phase: Phase,
    *,
    site: Mapping[str, str],
) -> Rendered:
    """Render the profile of the pool's fabric, or else of the class's.

    Raises:
        ValueError: the profile is unknown, an input is missing, or the output is not acceptable.
    """
    fabric = (pool.fabric if pool else None) or kind.fabric
    profile = find(fabric.profile, site)
    try:
        return _render(profile, fabric, kind, phase)
    except ValueError as error:
        raise ValueError(f'fabric profile "{profile.name}": {error}') from error


def _render(profile: Profile, fabric: Fabric, kind: AcceleratorClassSpec, phase: Phase) -> Rendered:
    _check_nodes(profile, phase)
    values = _values(profile, fabric.values)
    head = profile.head
    resource = fabric.rdma_resource or (head.rdma.resource if head.rdma else None)
    rdma = head.rdma is not None or resource is not None
    networks = values.get("networks") or ()
    # Without RDMA a pod is like any other.
    part = head.pod if rdma else PodPart()
    host_network = _host_network(fabric, part, networks=bool(networks))
    limits = dict(part.limits)
    if fabric.rdma_count and not resource:
        raise ValueError("rdmaCount counts nothing: name an rdmaResource, or remove it")
    if resource == kind.gpu_resource:
        raise ValueError(f"rdmaResource \"{resource}\" is the accelerators' own: name the devices'")
    if resource:
        count = fabric.rdma_count or (head.rdma.count if head.rdma else 1)
        limits[resource] = str(count)
    annotations = {key: _text(value) for key, value in part.annotations.items()}
    if networks:
        annotations[MULTUS] = ",".join(networks)
    inputs = {
        **values,
        "rdma": rdma,
        "hostNetwork": host_network,
        "nodes": phase.nodes,
        "gpusPerNode": phase.gpus_per_node or kind.gpus_per_node,
    }
    shared = kind.shared_memory_gib
    return Rendered(
        profile=profile.name,
        site=profile.site,
        environment=template.render(profile.template, inputs),
        refuses=head.refuses,
        rdma=rdma,
        host_network=host_network,
        annotations=annotations,
        limits=limits,
        requests=part.requests,
        folders=part.folders,
        libraries=part.libraries,
        script=part.script,
        tolerations=part.tolerations,
        # What a tmpfs takes on unified memory, the model lacks.
        shared_memory_gib=shared if kind.unified_memory else max(shared, part.shared_memory_gib),
        interfaces=_interfaces(values, fabric, host_network=host_network) if rdma else (),
        mtu=values.get("mtu") if rdma else None,
        nccl=nccl.SOUND if kind.cpu_architecture in nccl.UNSOUND_ON else "",
    )


def _check_nodes(profile: Profile, phase: Phase) -> None:
    nodes = profile.head.nodes
    if phase.nodes > 1 and not nodes.least <= phase.nodes <= nodes.most:
        raise ValueError(
            f"joins {nodes.least} to {nodes.most} nodes, not {phase.nodes}; take another profile,"
            " or other nodes"
        )


def _values(profile: Profile, given: FabricValues) -> dict[str, Any]:
    """What was given over the profile's defaults; every input that it takes is there."""
    takes = profile.head.inputs
    told = given.model_dump(by_alias=True, exclude_unset=True)
    defaults = profile.defaults.model_dump(by_alias=True)
    for name in told:
        if name not in takes and told[name] not in (None, {}):
            # It would be ignored in silence, and the default of what was meant be taken.
            raise ValueError(f'has no input "{name}"; known: {", ".join(sorted(takes)) or "none"}')
    for name in sorted((told.get("extra") or {}).keys() - (defaults["extra"] or {}).keys()):
        known = ", ".join(sorted(defaults["extra"])) or "none"
        raise ValueError(f'has no extra input "{name}"; known: {known}')
    values = {name: told[name] if told.get(name) is not None else defaults[name] for name in takes}
    if values.get("addressRange"):
        try:
            ip_network(values["addressRange"], strict=False)
        except ValueError as error:
            raise ValueError(
                f'addressRange "{values["addressRange"]}" is no network: {error}'
            ) from error
    if "extra" in takes:
        values["extra"] = {**defaults["extra"], **(told.get("extra") or {})}
    return values


def _host_network(fabric: Fabric, part: PodPart, *, networks: bool) -> bool:
    if fabric.host_network and networks:
        raise ValueError(
            "hostNetwork and values.networks exclude each other: Multus gives a pod on the node's"
            " network nothing; remove one"
        )
    wanted = part.host_network and not networks
    if wanted and fabric.host_network is False:
        raise ValueError(
            "hostNetwork is false, but RoCE finds no addresses in a pod's own network: remove it,"
            " or name Multus networks in values.networks"
        )
    return wanted if fabric.host_network is None else fabric.host_network


def _interfaces(
    values: Mapping[str, Any], fabric: Fabric, *, host_network: bool
) -> tuple[str, ...]:
    # A profile's defaults are the node's names; what Multus brings is called otherwise.
    known = values if host_network else {"interfaces": fabric.values.interfaces}
    return tuple(known.get("interfaces") or ())


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
