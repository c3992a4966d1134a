"""Fabric: how processes on a class's nodes reach each other, or on a pool's where that differs."""

from typing import Annotated

from pydantic import Field

from curriculum_api.wire import ListSet, Wire

Interface = Annotated[str, Field(min_length=1, max_length=15, pattern=r"^[A-Za-z0-9_.-]+$")]
"""A network device, as the kernel names it."""

Hca = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[A-Za-z0-9_]+(:[0-9]{1,2})?$")]
"""An RDMA device, or what the names of several begin with, and a port where one is meant."""

Text = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[!-~]+$")]
"""Printable and without spaces, since it may become a variable's value."""


class FabricValues(Wire):
    """Inputs of a profile: each takes some of these and has its own defaults."""

    bootstrap_interface: Interface | None = None
    """Device of the rendezvous and of plain sockets: a Spark's 10GbE port, a pod's eth0."""

    interfaces: Annotated[tuple[Interface, ...] | None, Field(max_length=16), ListSet()] = None
    """Devices that carry the data; their speed and MTU are what a check looks at."""

    hcas: Annotated[tuple[Hca, ...] | None, Field(min_length=1, max_length=16), ListSet()] = None
    """RDMA devices; a Spark's port is two of them, and both are needed for its bandwidth."""

    mtu: Annotated[int, Field(ge=1280, le=9978)] | None = None
    """MTU that the data's devices must have; it is set on the nodes and the switch, not here."""

    traffic_class: Annotated[int, Field(ge=0, le=255)] | None = None
    """TC byte of RoCE packets: DSCP times 4, plus ECN bits."""

    address_range: (
        Annotated[str, Field(min_length=3, max_length=49, pattern=r"^[0-9A-Fa-f.:]+/[0-9]{1,3}$")]
        | None
    ) = None
    """Addresses that RoCE may use, where the devices have several: fd02::/16."""

    net_plugin: (
        Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9_./-]+$")] | None
    ) = None
    """NCCL's network plugin, by name or by file."""

    networks: Annotated[
        tuple[
            Annotated[
                str,
                Field(
                    min_length=1,
                    max_length=253,
                    pattern=r"^([a-z0-9.-]+/)?[a-z0-9.-]+(@[A-Za-z0-9_.-]{1,15})?$",
                ),
            ],
            ...,
        ]
        | None,
        Field(min_length=1, max_length=16),
    ] = None
    """Multus networks of the pods, [namespace/]name[@interface], in place of the node's network."""

    extra: Annotated[dict[str, Text], Field(max_length=32)] = {}
    """Inputs that only a site's own profile knows."""


class Fabric(Wire):
    """How processes on these nodes reach each other."""

    profile: Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9][a-z0-9-]*$")]
    """Name of a profile: one that comes with the operator, or a site's own."""

    values: FabricValues = FabricValues()
    """Inputs of the profile; what is absent is as the profile has it."""

    host_network: bool | None = None
    """Pods use the node's network; as the profile has it where absent."""

    rdma_resource: (
        Annotated[
            str,
            Field(
                min_length=3,
                max_length=317,
                pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?/[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?$",
            ),
        ]
        | None
    ) = None
    """Extended resource that gives a pod its RDMA devices, where the profile names none or another;
    it brings the IPC_LOCK capability."""

    rdma_count: Annotated[int, Field(ge=1, le=64)] | None = None
    """How much of that resource a pod takes: 1 of a shared one, one for each device of others."""
