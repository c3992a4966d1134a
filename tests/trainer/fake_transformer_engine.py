"""A fake of Transformer Engine: its names and its rules, with the arithmetic of torch.nn.Linear.

It says which layers multiplied under which recipe, holds an extra state as the real one does,
and refuses shapes as the real one does. It shows nothing about any kernel.
"""

import contextlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch

ACTIVE: list[str] = []
"""Names of the recipes that are entered."""


class Linear(torch.nn.Linear):  # type: ignore[misc]  # torch is untyped here
    """`transformer_engine.pytorch.Linear`, as far as it is used."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        params_dtype: torch.dtype | None = None,
        device: str = "cuda",
    ) -> None:
        super().__init__(in_features, out_features, bias=bias, dtype=params_dtype, device=device)
        self.recipes: list[str] = []

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if ACTIVE:
            multiple = 32 if ACTIVE[-1] != "Float8CurrentScaling" else 16
            rows = inputs.shape[:-1].numel()
            if rows % multiple or inputs.shape[-1] % multiple:
                raise ValueError(f"{list(inputs.shape)} is not divisible by {multiple}")
        self.recipes.append(ACTIVE[-1] if ACTIVE else "")
        return super().forward(inputs)

    def get_extra_state(self) -> torch.Tensor:
        return torch.zeros(3, dtype=torch.uint8)

    def set_extra_state(self, _state: torch.Tensor) -> None:
        pass


@contextlib.contextmanager
def _entered(recipe: Any) -> Iterator[None]:
    ACTIVE.append(type(recipe).__name__)
    try:
        yield
    finally:
        ACTIVE.pop()


def autocast(*, enabled: bool, recipe: Any) -> Any:
    """`transformer_engine.pytorch.autocast`, since 2.9."""
    assert enabled
    return _entered(recipe)


def fp8_autocast(*, enabled: bool, fp8_recipe: Any) -> Any:
    """`transformer_engine.pytorch.fp8_autocast`, up to 2.8."""
    assert enabled
    return _entered(fp8_recipe)


def install(patch: pytest.MonkeyPatch, *, version: str = "2.9") -> None:
    """Put the fake in place of the library, for one test."""
    modules = {
        name: ModuleType(name)
        for name in (
            "transformer_engine",
            "transformer_engine.pytorch",
            "transformer_engine.common",
            "transformer_engine.common.recipe",
        )
    }
    root, engine, common, recipe = modules.values()
    root.pytorch, root.common, common.recipe = engine, common, recipe  # type: ignore[attr-defined]
    engine.Linear = Linear  # type: ignore[attr-defined]
    if version == "2.8":
        engine.fp8_autocast = fp8_autocast  # type: ignore[attr-defined]
    else:
        engine.autocast = autocast  # type: ignore[attr-defined]
    names = ["Float8CurrentScaling", "MXFP8BlockScaling"]
    if version != "2.7":
        names.append("NVFP4BlockScaling")
    for name in names:
        setattr(recipe, name, type(name, (), {}))
    for name, module in modules.items():
        patch.setitem(sys.modules, name, module)
