"""A model's random weights, drawn as its own code does, tensor by tensor.

The same from a seed whatever the strategy and the number of processes: each of them draws all.
"""

import itertools
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from transformers import AutoModelForCausalLM, initialization
from transformers.modeling_utils import PreTrainedModel

from curriculum_trainer import weights
from curriculum_trainer.weights import Take


def draw(decoder: Any, seed: int, take: Take) -> None:
    """Every parameter of `decoder` as the model's own code draws it, in the order it does.

    A parameter exists from the first to the last part of that code that writes to it, which was
    found out beforehand on tensors without storage.
    """
    names = weights.tied(decoder)
    twin = weights.twin(decoder.config)
    writers = _writers(twin)
    own = [name for name in names if names[name][0] == name]
    begins, ends = defaultdict(list), defaultdict(list)
    for name in own:
        if name in writers:
            begins[writers[name][0]].append(name)
            ends[writers[name][-1]].append(name)

    def visit(number: int, initialize: Callable[[], None]) -> None:
        for name in begins[number]:
            _set(twin, name, torch.empty(twin.get_parameter(name).shape))
        initialize()
        for name in ends[number]:
            take(name, twin.get_parameter(name).data)
            _set(twin, name, torch.empty(twin.get_parameter(name).shape, device="meta"))

    torch.manual_seed(seed)
    _visited(twin, visit)
    for name, value in _constructed(decoder.config, {*own} - writers.keys()).items():
        take(name, value)


def _constructed(config: Any, wanted: set[str]) -> dict[str, torch.Tensor]:
    """What those parameters are made as, where no later code writes to them: few, and small."""
    if not wanted:
        return {}
    seen: list[tuple[Any, str]] = []
    with weights.registering(lambda module, name, _: seen.append((module, name))):
        paths = weights.paths(weights.twin(config))
    kept = {n for n, (module, name) in enumerate(seen) if paths.get(module, "-") + name in wanted}
    number = itertools.count()
    with (
        weights.registering(
            lambda *given: None if next(number) in kept else weights.on_meta(given[2])
        ),
        initialization.no_tie_weights(),
    ):
        made = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return {name: made.get_parameter(name).data for name in sorted(wanted)}


def _writers(twin: Any) -> dict[str, list[int]]:
    """By parameter, which calls of the model's `_init_weights` write to it, by their number."""
    found: dict[str, list[int]] = defaultdict(list)
    named = list(twin.named_parameters())

    def visit(number: int, initialize: Callable[[], None]) -> None:
        before = [parameter._version for _, parameter in named]
        initialize()
        for (name, parameter), version in zip(named, before, strict=True):
            if parameter._version != version:
                found[name].append(number)

    _visited(twin, visit)
    return found


def _visited(twin: Any, visit: Callable[[int, Callable[[], None]], None]) -> None:
    """Run the model's initialization with every single call of it passed through `visit`."""
    count = 0

    def counted(owner: Any, module: Any, *_: Any) -> None:
        nonlocal count
        visit(count, partial(owner._init_weights, module))
        count += 1

    owners = [module for module in twin.modules() if isinstance(module, PreTrainedModel)]
    for owner in owners:
        owner._initialize_weights = partial(counted, owner)
    try:
        twin.initialize_weights()
    finally:
        for owner in owners:
            del owner._initialize_weights


def _set(model: Any, name: str, value: torch.Tensor) -> None:
    path, _, last = name.rpartition(".")
    model.get_submodule(path)._parameters[last] = torch.nn.Parameter(value)
