"""A model's first weights, one tensor at a time: a process holds its share, never all of them.

    blank                       the model as it is built up, its parameters without memory
    pretrained, drawing         their values from a folder of `transformers` weights, or a seed
    checkpoint                  or from a checkpoint of ours

Each of these hands every parameter in full to a `Take`, in the same order in every process; what
that keeps of it is the sharding's business.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.modules.module import register_module_parameter_registration_hook
from transformers import AutoModelForCausalLM, initialization

Take = Callable[[str, torch.Tensor], None]
"""Takes a parameter's name and its value in full, on the CPU; it copies what it keeps."""

Fill = Callable[[Take], None]
"""Hands every parameter to a `Take`."""

Registered = Callable[[Any, str, torch.nn.Parameter], torch.nn.Parameter | None]
"""Sees a module get a parameter by some name; what it returns, if anything, is there instead."""


def blank(config: Any, *, attention: str, device: str) -> Any:
    """A decoder with all of its shapes, ties and buffers, whose parameters have no memory.

    Buffers that no file holds, like rotary frequencies, are computed here and right.
    """
    with registering(lambda _module, _name, parameter: on_meta(parameter)):
        decoder = AutoModelForCausalLM.from_config(
            config, dtype=torch.float32, attn_implementation=attention
        )
    made: dict[torch.Tensor, torch.nn.Parameter] = {}
    for module in decoder.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = made.setdefault(parameter, _placed(parameter, device))
    return decoder


def give(decoder: Any, fill: Fill) -> None:
    """Give every parameter of `decoder` its value in full."""
    parameters = dict(decoder.named_parameters())
    fill(lambda name, value: put(parameters[name], value))


def put(parameter: torch.nn.Parameter, value: torch.Tensor) -> None:
    """Give a blank parameter a copy of `value`, where it belongs."""
    shape, device = parameter.shape, parameter.device
    parameter.data = torch.empty(shape, dtype=parameter.dtype, device=device).copy_(value)


def twin(config: Any) -> Any:
    """The same model on tensors without storage and untied, so that every name is its own."""
    with torch.device("meta"), initialization.no_tie_weights():
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def tied(decoder: Any) -> dict[str, list[str]]:
    """By name, all names of the same parameter; the first is the one that counts."""
    groups: dict[torch.Tensor, list[str]] = defaultdict(list)
    for name, parameter in decoder.named_parameters(remove_duplicate=False):
        groups[parameter].append(name)
    return {name: group for group in groups.values() for name in group}


@contextmanager
def registering(hook: Registered) -> Iterator[None]:
    """Call `hook` for every parameter that any module of this process gets meanwhile."""
    handle = register_module_parameter_registration_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def on_meta(parameter: torch.nn.Parameter) -> torch.nn.Parameter | None:
    """The parameter without its storage; None where it has none."""
    if parameter.is_meta:
        return None
    return torch.nn.Parameter(parameter.data.to("meta"), requires_grad=parameter.requires_grad)


def paths(model: Any) -> dict[Any, str]:
    """By module, what the names of its parameters begin with."""
    return {module: f"{path}." if path else "" for path, module in model.named_modules()}


def _placed(parameter: torch.nn.Parameter, device: str) -> torch.nn.Parameter:
    """A parameter of that shape with the memory of one number; its `data` is set later."""
    full = torch.zeros((), dtype=torch.float32, device=device).expand(parameter.shape)
    return torch.nn.Parameter(full, requires_grad=parameter.requires_grad)
