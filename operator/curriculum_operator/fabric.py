"""The NCCL and RoCE environment of an accelerator class, from its profile's template.

A template is text that a site may edit, so it is treated as such: rendered in Jinja2's sandbox
with undefined names refused, parsed line by line, bounded and checked. It yields `NAME=value`
lines and nothing else.
"""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined, Template, TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from curriculum_api.v1alpha1.accelerator_class import AcceleratorClassSpec

MAX_BYTES = 8192
MAX_VARIABLES = 64

_NAME = re.compile(r"[A-Z][A-Z0-9_]{0,127}")
_VALUE = re.compile(r"[\x21-\x7e]{1,512}")

RESERVED = frozenset(
    {
        "MASTER_ADDR", "MASTER_PORT", "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE",
        "PATH", "PYTHONPATH", "LD_PRELOAD", "LD_LIBRARY_PATH", "HOME",
    }
)  # fmt: skip
"""Rendezvous belongs to the training-operator and the trainer, the process's own to the image."""

RESERVED_PREFIXES = ("PET_", "KUBEFLOW_TRAINER_", "KUBERNETES_")

NEVER_SET = {
    "NCCL_IB_GID_INDEX": "the index differs between nodes and drifts; NCCL finds it by itself",
}


def render(kind: AcceleratorClassSpec) -> dict[str, str]:
    """The environment of the class's fabric profile, in the template's order.

    Raises:
        ValueError: the profile is unknown, an input is missing, or the output is not acceptable.
    """
    fabric = kind.fabric
    inputs = {
        "rdma": fabric.rdma_resource is not None,
        "host_network": fabric.host_network,
        "gpus_per_node": kind.gpus_per_node,
        "values": dict(fabric.values),
    }
    text = _template(fabric.profile)
    known = _values(text)
    for name in sorted(fabric.values):
        if name not in known:
            # It would be ignored in silence, and the default of what was meant be taken.
            raise ValueError(
                f'fabric profile "{fabric.profile}" has no input "{name}";'
                f" known: {', '.join(sorted(known)) or 'none'}"
            )
    return render_text(text, inputs, profile=fabric.profile)


def render_text(text: str, inputs: Mapping[str, object], *, profile: str) -> dict[str, str]:
    """Render and check one template."""
    output = ""
    try:
        for chunk in _compiled(text).generate(inputs):
            output += chunk
            if len(output) > MAX_BYTES:
                raise ValueError(f"renders more than {MAX_BYTES} bytes")
    except Exception as error:  # A template may raise anything: a division by zero, a wrong type.
        raise ValueError(f'fabric profile "{profile}": {error}') from error
    return _parse(output, profile)


class _Sandbox(ImmutableSandboxedEnvironment):
    """Without the operators that make much of little."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:  # noqa: ARG002
        raise SecurityError(f'operator "{operator}" is not allowed')


def reserved(variables: Iterable[str]) -> str | None:
    """The first variable that only the operator may set."""
    for name in variables:
        if name in RESERVED or name.startswith(RESERVED_PREFIXES):
            return name
    return None


def _parse(output: str, profile: str) -> dict[str, str]:
    at = f'fabric profile "{profile}"'
    variables: dict[str, str] = {}
    for line in output.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, equals, value = line.strip().partition("=")
        if not equals or not _NAME.fullmatch(name):
            raise ValueError(f'{at}: line "{line.strip()}" is not NAME=value')
        if name in NEVER_SET:
            raise ValueError(f"{at}: {name} must not be set: {NEVER_SET[name]}")
        if reserved([name]):
            raise ValueError(f"{at}: {name} is reserved for the operator")
        if not _VALUE.fullmatch(value):
            # An empty variable is not an unset one: NCCL reads an empty number as 0.
            raise ValueError(f'{at}: {name} has the value "{value}"; 1 to 512 printable, no spaces')
        if name in variables:
            raise ValueError(f"{at}: {name} is set twice")
        variables[name] = value
    if len(variables) > MAX_VARIABLES:
        raise ValueError(f"{at}: renders more than {MAX_VARIABLES} variables")
    return variables


@cache
def _compiled(text: str) -> Template:
    # Rendered at every look at a curriculum that waits: compiling takes milliseconds.
    environment = _Sandbox(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(text)


@cache
def _values(text: str) -> frozenset[str]:
    """The names that a template reads from `values`."""
    try:
        reads = Environment().parse(text).find_all(nodes.Getattr)
    except TemplateError:
        return frozenset()
    return frozenset(
        read.attr
        for read in reads
        if isinstance(read.node, nodes.Name) and read.node.name == "values"
    )


@cache
def _template(profile: str) -> str:
    folder = resources.files("curriculum_operator") / "templates"
    file = folder / f"{profile}.env.j2"
    if not file.is_file():
        names = (entry.name for entry in folder.iterdir() if entry.name.endswith(".env.j2"))
        known = ", ".join(sorted(name.removesuffix(".env.j2") for name in names))
        raise ValueError(f'fabric profile "{profile}" does not exist; known: {known}')
    return file.read_text()
