"""The docstrings below a class's attributes, read from its source when a schema is printed.

pydantic can read them when a class is made; every start of every program would then parse the
source of all models, for texts that only schemas carry.
"""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from functools import cache
from itertools import pairwise

_OTHERS = frozenset({"builtins", "pydantic"})
"""Packages of base classes that say nothing of our attributes."""


def of(cls: type) -> dict[str, str]:
    """Attribute names to their docstrings, inherited ones too."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        found.update(_own(base))
    return found


@cache
def _own(cls: type) -> dict[str, str]:
    if cls.__module__.split(".")[0] in _OTHERS:
        return {}
    try:
        source = inspect.getsource(cls)
    except OSError:  # made by a program, not written in a file
        return {}
    tree = ast.parse(textwrap.dedent(source))
    (body,) = tree.body
    assert isinstance(body, ast.ClassDef)
    return dict(_pairs(body))


def _pairs(body: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for attribute, below in pairwise(body.body):
        if (
            isinstance(attribute, ast.AnnAssign)
            and isinstance(attribute.target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
            and isinstance(below.value.value, str)
        ):
            yield attribute.target.id, inspect.cleandoc(below.value.value)
