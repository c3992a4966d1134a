"""A profile's template to `NAME=value` lines, and nothing else.

Two walls stand around the text. It may hold only what is listed here, so that it can call
nothing, make nothing large and takes no time: its one loop goes over an input. And it is rendered
in Jinja2's sandbox with undefined names refused. What comes out is parsed line by line.
"""

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache

from jinja2 import StrictUndefined, Template, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from curriculum_operator.fabric import variables

MAX_BYTES = 8192
MAX_VARIABLES = 64

KEPT = 64
"""Templates that are kept compiled: more than a site has, and not all that it ever had."""

FILTERS = frozenset({"default", "first", "join", "last", "length", "lower", "upper"})
TESTS = frozenset({"defined", "none", "undefined"})
LOOP = frozenset({"first", "index", "index0", "last", "length"})
"""What a template may ask of its loop."""

_HARMLESS = (
    nodes.And, nodes.Compare, nodes.CondExpr, nodes.Const, nodes.If, nodes.Not, nodes.Operand,
    nodes.Or, nodes.Output, nodes.Template, nodes.TemplateData,
)  # fmt: skip

_LINE = re.compile(r"([A-Z][A-Z0-9_]{0,127})=(.*)")
_VALUE = re.compile(r"[\x21-\x7e]{1,512}")


class Sandbox(ImmutableSandboxedEnvironment):
    """The second wall. It stands by itself: tests take the first one away."""

    def __init__(self) -> None:
        super().__init__(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
        self.globals.clear()


def render(text: str, inputs: Mapping[str, object]) -> dict[str, str]:
    """The variables of a template, in its order.

    Raises:
        ValueError: the template or what it yields is not acceptable.
    """
    output = ""
    try:
        for chunk in _compiled(text, frozenset(inputs)).generate(inputs):
            output += chunk
            if len(output) > MAX_BYTES:
                raise ValueError(f"renders more than {MAX_BYTES} bytes")
    except Exception as error:  # A template may raise anything: a wrong type, a deep recursion.
        raise ValueError(str(error) or type(error).__name__) from error
    return _parse(output)


@lru_cache(maxsize=KEPT)
def _compiled(text: str, inputs: frozenset[str]) -> Template:
    # Rendered at every look at a curriculum that waits: compiling takes milliseconds.
    sandbox = Sandbox()
    _check(sandbox.parse(text), inputs)
    return sandbox.from_string(text)


def _check(tree: nodes.Template, inputs: frozenset[str]) -> None:
    """The first wall. Raises ValueError for what a template may not hold."""
    own = {
        name.name
        for name in tree.find_all(nodes.Name)
        if name.ctx == "store" and name.name not in inputs
    }
    for node, loops in _walk(tree, 0):
        refused = _refusal(node, inputs, own, loops)
        if refused:
            raise ValueError(f"line {node.lineno}: {refused}")


def _walk(node: nodes.Node, loops: int) -> Iterator[tuple[nodes.Node, int]]:
    for child in node.iter_child_nodes():
        yield child, loops
        yield from _walk(child, loops + isinstance(child, nodes.For))


def _refusal(node: nodes.Node, inputs: frozenset[str], own: set[str], loops: int) -> str | None:
    match node:
        case nodes.Name(name=name, ctx="store"):
            return None if name in own and name != "loop" else f'"{name}" is an input'
        case nodes.Name(name=name):
            known = inputs | own | {"loop"}
            return None if name in known else f'"{name}" is no input; known: {_list(inputs)}'
        case nodes.Assign(target=nodes.Name()):
            return None
        case nodes.For(target=nodes.Name(), iter=nodes.Name(name=name), recursive=False):
            # A value made here could be long; an input is bounded, and one loop cannot multiply.
            bounded = name in inputs and not loops
            return None if bounded else "a loop goes over an input, and not inside another loop"
        case nodes.Filter(name="join", node=nodes.Name(name=name), args=args) if name in inputs:
            # A value made here between an input's items, and that between them again, has no end.
            constant = all(isinstance(one, nodes.Const) for one in args)
            return None if constant else "join takes a constant between the items"
        case nodes.Filter(name=name) if name in FILTERS - {"join"}:
            return None
        case nodes.Test(name=name) if name in TESTS:
            return None
        case nodes.Getattr(node=nodes.Name(name="loop"), attr=name) if name in LOOP:
            return None
        case nodes.Getattr(node=nodes.Name(name="extra"), attr=name) if name[0] != "_":
            return None
        case _ if isinstance(node, _HARMLESS):
            return None
    return f"a template may not hold {_called(node)}"


def _called(node: nodes.Node) -> str:
    match node:
        case nodes.Filter(name=name) | nodes.Test(name=name):
            return f'the {type(node).__name__.lower()} "{name}" here'
        case nodes.Getattr(attr=name):
            return f'the attribute "{name}" here'
        case nodes.BinExpr(operator=operator):
            return f'the operator "{operator}"'
    return f"a {type(node).__name__}"


def _list(names: frozenset[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _parse(output: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in (line.strip() for line in output.splitlines()):
        if not line or line.startswith("#"):
            continue
        assignment = _LINE.fullmatch(line)
        if assignment is None:
            raise ValueError(f'line "{line}" is not NAME=value')
        name, value = assignment.groups()
        if name in variables.NEVER_SET:
            raise ValueError(f"{name} must not be set: {variables.NEVER_SET[name]}")
        if variables.reserved([name]):
            raise ValueError(f"{name} is reserved for the operator")
        if not _VALUE.fullmatch(value):
            # An empty variable is not an unset one: NCCL reads an empty number as 0.
            raise ValueError(f'{name} has the value "{value}"; 1 to 512 printable, no spaces')
        if name in found:
            raise ValueError(f"{name} is set twice")
        found[name] = value
    if len(found) > MAX_VARIABLES:
        raise ValueError(f"renders more than {MAX_VARIABLES} variables")
    return found
