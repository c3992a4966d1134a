"""A profile as it is written: what it needs of the pod and what it may be told, then its template.

    about: ...                    YAML, read into the models below
    ---
    NCCL_IB_HCA={{ hcas | join(",") }}

The pod's part is data and never text: what Kubernetes gets is built from it in Python.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources
from typing import Annotated, Any

import yaml
from pydantic import Field, JsonValue, ValidationError

from curriculum_api.v1alpha1.fabric import FabricValues
from curriculum_api.v1alpha1.pod import Toleration
from curriculum_api.wire import Name, Wire, problems

SUFFIX = ".env.j2"
MAX_BYTES = 16384

KEPT = 64
"""Profiles that are kept as they were read: more than a site has, and not all that it ever had."""

Folder = Annotated[
    str, Field(min_length=2, max_length=253, pattern=r"^(/[A-Za-z0-9_+-][A-Za-z0-9_.+-]*)+$")
]
"""An absolute path, without `..`."""


Key = Annotated[str, Field(max_length=317, pattern=r"^([a-z0-9.-]+/)?[A-Za-z0-9][A-Za-z0-9._-]*$")]
"""Name of an annotation or a resource."""

Quantity = Annotated[str, Field(max_length=32, pattern=r"^[0-9]+(\.[0-9]+)?(m|[kMGTPE]i?|Ki)?$")]
"""An amount, as Kubernetes writes it: 5120Mi."""


class Nodes(Wire):
    """How many nodes such a fabric joins; one node alone needs none."""

    least: Annotated[int, Field(ge=1, le=4096)] = 1
    most: Annotated[int, Field(ge=1, le=4096)] = 4096


class Rdma(Wire):
    """RDMA devices that are there wherever this profile is."""

    resource: Key | None = None
    """Extended resource that gives them; absent where they come with the pod's networks."""

    count: Annotated[int, Field(ge=1, le=64)] = 1


class HostFolder(Wire):
    """A folder of the node that the container sees, always read-only."""

    name: Name
    path: Folder
    mount_path: Folder


class PodPart(Wire):
    """What the pod has where it has RDMA."""

    host_network: bool = False
    """RoCE finds its addresses on the node's network only, unless Multus brings devices."""

    annotations: Annotated[dict[Key, JsonValue], Field(max_length=16)] = {}
    """What is no text is written as JSON."""

    limits: Annotated[dict[Key, Quantity], Field(max_length=16)] = {}
    requests: Annotated[dict[Key, Quantity], Field(max_length=16)] = {}
    folders: Annotated[tuple[HostFolder, ...], Field(max_length=8)] = ()
    libraries: Annotated[tuple[Folder, ...], Field(max_length=8)] = ()
    """Where the loader looks for NCCL's plugin and what it needs."""

    script: Folder | None = None
    """Read by a shell before the trainer starts; the profile's variables are set after it."""

    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=8)] = ()
    shared_memory_gib: Annotated[int, Field(alias="sharedMemoryGiB", ge=1, le=4096)] = 1
    """Least size of /dev/shm; unified memory keeps to what its class says."""


class Head(Wire):
    """All of a profile but its template."""

    about: Annotated[str, Field(min_length=1, max_length=256)]
    """For people, one line."""

    nodes: Nodes = Nodes()
    inputs: Annotated[dict[str, Any], Field(max_length=32)] = {}
    """Inputs that it takes, with their defaults; null is none."""

    rdma: Rdma | None = None
    """Absent where RDMA is there only if a class or pool names its resource."""

    refuses: Annotated[dict[str, str], Field(max_length=16)] = {}
    """Variables that do not go with it, and why; a name may end in `*`."""

    pod: PodPart = PodPart()


@dataclass(frozen=True, slots=True)
class Profile:
    """A profile that was read."""

    name: str
    site: bool
    """It is the site's own."""

    head: Head
    template: str
    defaults: FabricValues


def find(name: str, site: Mapping[str, str]) -> Profile:
    """The profile of a name; a site's own goes before what comes with the operator.

    Raises:
        ValueError: there is none, or it cannot be read.
    """
    texts = {**shipped(), **site}
    if name not in texts:
        raise ValueError(f'fabric profile "{name}" does not exist; known: {", ".join(texts)}')
    try:
        return _read(name, texts[name], name in site)
    except ValueError as error:
        raise ValueError(f'fabric profile "{name}": {error}') from error


@cache
def shipped() -> dict[str, str]:
    """The profiles that come with the operator, by name."""
    folder = resources.files("curriculum_operator.fabric") / "profiles"
    return {
        file.name.removesuffix(SUFFIX): file.read_text()
        for file in sorted(folder.iterdir(), key=lambda file: file.name)
        if file.name.endswith(SUFFIX)
    }


@lru_cache(maxsize=KEPT)
def _read(name: str, text: str, site: bool) -> Profile:
    if len(text.encode()) > MAX_BYTES:
        raise ValueError(f"is longer than {MAX_BYTES} bytes")
    head, line, template = text.partition("\n---\n")
    if not line:
        raise ValueError('has no line "---" between its head and its template')
    try:
        loaded = yaml.load(head, Loader=_Loader)
        read = Head.model_validate(loaded)
    except yaml.YAMLError as error:
        raise ValueError(f"its head is not YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise ValueError("its head is nested too deep") from error
    except ValidationError as error:
        raise ValueError(problems(error)) from error
    return Profile(name, site, read, template, _defaults(read.inputs))


def _defaults(inputs: Mapping[str, Any]) -> FabricValues:
    unknown = sorted(inputs.keys() - _INPUTS)
    if unknown:
        raise ValueError(f'input "{unknown[0]}" is unknown; known: {", ".join(sorted(_INPUTS))}')
    given = {name: value for name, value in inputs.items() if value is not None}
    try:
        return FabricValues.model_validate(given)
    except ValidationError as error:
        raise ValueError(f"inputs: {problems(error)}") from error


_INPUTS = frozenset(field.alias or key for key, field in FabricValues.model_fields.items())


class _Loader(yaml.SafeLoader):
    """YAML without references: a few lines of them grow to any size."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("references (*name) are not read")
        return super().compose_node(parent, index)
