"""RentedPool: nodes that cost money, and how they are reached."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from curriculum_api.v1alpha1 import cel
from curriculum_api.v1alpha1.fabric import Fabric
from curriculum_api.v1alpha1.meta import AGE, ObjectMeta
from curriculum_api.v1alpha1.pod import Labels, Toleration
from curriculum_api.wire import API_VERSION, Column, Name, Resource, Rule, Tally, Wire

Price = Annotated[
    str, Field(max_length=32, pattern=r"^[0-9]{1,6}(\.[0-9]{1,12})?([eE]-[0-9]{1,2})?$")
]
"""US dollars as text, below a million: what no status could hold is no price."""


class RentedPoolSpec(Wire):
    """Nodes that cost money."""

    accelerator_class: Name
    """AcceleratorClass of the nodes."""

    provider: Literal["Static"] = "Static"
    """How the nodes are obtained; Static takes those that are there."""

    node_selector: Labels = {}
    """Labels that tell the pool's nodes from others of the class."""

    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=16)] = ()
    """Taints of the pool's nodes that pods tolerate."""

    fabric: Fabric | None = None
    """How processes reach each other here, in place of the class's: clouds differ in it."""

    price_per_gpu_hour: Annotated[Price, Field(alias="pricePerGPUHour")]
    """Price of one accelerator for one hour in US dollars, a decimal as text."""

    lead_time_seconds: Tally = 0
    """Seconds between asking for nodes and having them, paid for from the moment they run."""

    minimum_seconds: Tally = 0
    """Least time that a node is paid for once it is asked for."""

    max_nodes: Annotated[int, Field(ge=1, le=4096)]
    """Most nodes of the pool that curricula may hold at once."""


class RentedPool(Wire):
    """Nodes that cost money: their class, how they are reached, their price."""

    rules: ClassVar[tuple[Rule, ...]] = (cel.NAME,)
    resource: ClassVar[Resource] = Resource(
        plural="rentedpools",
        short_names=("rpool",),
        scope="Cluster",
        columns=(
            Column("Class", ".spec.acceleratorClass", description="What the nodes are."),
            Column("Provider", ".spec.provider", description="How the nodes are obtained."),
            Column("Nodes", ".spec.maxNodes", "integer", "Most nodes held at once."),
            Column("USD per GPU hour", ".spec.pricePerGPUHour", description="Price."),
            AGE,
        ),
    )

    api_version: str = API_VERSION
    kind: str = "RentedPool"
    metadata: ObjectMeta = ObjectMeta()
    spec: RentedPoolSpec
    """Which nodes, how they are reached and what they cost."""
