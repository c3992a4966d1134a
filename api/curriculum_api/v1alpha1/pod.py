"""The few parts of a pod that users may shape: a bounded subset of Kubernetes' own fields."""

from typing import Annotated, Any, Literal

from pydantic import Field

from curriculum_api.wire import ListMap, Name, Wire

ShortText = Annotated[str, Field(max_length=256)]
LongText = Annotated[str, Field(max_length=4096)]
Labels = Annotated[dict[str, ShortText], Field(max_length=32)]

FreeForm = Annotated[dict[str, Any], Field(max_length=256)]
"""A document of another project's making, kept as it is."""


class EnvVar(Wire):
    """One environment variable of the training container."""

    name: Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
    """Name of the variable; rendezvous and fabric variables are reserved."""

    value: LongText
    """Value of the variable."""


class Toleration(Wire):
    """A node taint that the pods tolerate, as in Kubernetes."""

    key: ShortText | None = None
    """Taint key; empty with operator Exists tolerates everything."""

    operator: Literal["Exists", "Equal"] = "Equal"
    """How the taint's value is compared."""

    value: ShortText | None = None
    """Taint value to equal."""

    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Taint effect to tolerate; all effects where absent."""


class Volume(Wire):
    """A volume of the pod: a claim, or an empty folder."""

    name: Name
    """Name that the mounts refer to."""

    claim_name: Annotated[str, Field(min_length=1, max_length=253)] | None = None
    """PersistentVolumeClaim in the curriculum's namespace; an empty folder where absent."""

    read_only: bool = False
    """Mount the claim read-only."""


class VolumeMount(Wire):
    """Where the training container sees a volume."""

    name: Name
    """Name of the volume."""

    mount_path: Annotated[str, Field(min_length=2, max_length=512, pattern=r"^/[^:]*$")]
    """Absolute path in the container."""

    sub_path: Annotated[str, Field(max_length=512)] | None = None
    """Folder inside the volume."""

    read_only: bool = False
    """Mount read-only."""


class Resources(Wire):
    """CPU and memory of each training pod; the accelerators come from the phase."""

    requests: Annotated[dict[str, ShortText], Field(max_length=16)] = {}
    """Least amounts, as Kubernetes quantities by resource name."""

    limits: Annotated[dict[str, ShortText], Field(max_length=16)] = {}
    """Most amounts, as Kubernetes quantities by resource name."""


class PodTemplate(Wire):
    """What is added to the pods that the operator builds; nothing it sets is replaced."""

    labels: Labels = {}
    """Labels added to each pod."""

    annotations: Labels = {}
    """Annotations added to each pod."""

    env: Annotated[tuple[EnvVar, ...], Field(max_length=64), ListMap(("name",))] = ()
    """Environment added to the training container."""

    volumes: Annotated[tuple[Volume, ...], Field(max_length=16), ListMap(("name",))] = ()
    """Volumes added to each pod."""

    mounts: Annotated[tuple[VolumeMount, ...], Field(max_length=32), ListMap(("mountPath",))] = ()
    """Mounts added to the training container."""

    resources: Resources = Resources()
    """CPU and memory of the training container."""
