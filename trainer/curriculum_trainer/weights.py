"""A model's first weights, one tensor at a time: a process holds its share, never all of them.

    blank(config)     the model as it is built up, its parameters without memory of their own
    read(...)         their values from a folder of `transformers` weights
    draw(...)         or from a seed, the same whatever the number of processes

Both hand every parameter in full to a `Take`, in the same order in every process; what that keeps
of it is the sharding's business. A checkpoint of ours is read the same way, by `checkpoint`.
"""

import hashlib
import json
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch.nn.modules.module import register_module_parameter_registration_hook
from transformers import AutoModelForCausalLM, initialization
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import convert_and_load_state_dict_in_model
from transformers.modeling_utils import LoadStateDictConfig, PreTrainedModel
from transformers.utils import logging

from curriculum_trainer import failures

Take = Callable[[str, torch.Tensor], None]
"""Takes a parameter's name and its value in full, on the CPU; it copies what it keeps."""

Fill = Callable[[Take], None]
"""Hands every parameter to a `Take`."""

INDEX_FILE = "model.safetensors.index.json"
WHOLE_FILE = "model.safetensors"


def blank(config: Any, *, attention: str, device: str) -> Any:
    """A decoder with all of its shapes, ties and buffers, whose parameters have no memory.

    Buffers that no file holds, like rotary frequencies, are computed here and right.
    """
    handle = register_module_parameter_registration_hook(lambda _module, _name, p: _on_meta(p))
    try:
        decoder = AutoModelForCausalLM.from_config(
            config, dtype=torch.float32, attn_implementation=attention
        )
    finally:
        handle.remove()
    made: dict[torch.Tensor, torch.nn.Parameter] = {}
    for module in decoder.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = made.setdefault(parameter, _place(parameter, device))
    return decoder


def give(decoder: Any, fill: Fill) -> None:
    """Give every parameter of `decoder` its value in full."""
    parameters = dict(decoder.named_parameters())
    fill(lambda name, value: put(parameters[name], value))


def put(parameter: torch.nn.Parameter, value: torch.Tensor) -> None:
    """Give a blank parameter a copy of `value`, where it belongs."""
    shape, device = parameter.shape, parameter.device
    parameter.data = torch.empty(shape, dtype=parameter.dtype, device=device).copy_(value)


def read(decoder: Any, folder: Path, take: Take) -> None:
    """Every parameter of `decoder`, FP32, by the names and layouts that `transformers` knows."""
    names = _tied(decoder)
    twin = _twin(decoder.config)
    done: set[str] = set()
    digests: dict[str, str] = {}

    def taken(name: str, value: torch.Tensor) -> None:
        first, *others = names[name]
        if others:
            digest = hashlib.sha256(value.contiguous().view(torch.uint8).numpy()).hexdigest()
            if digests.setdefault(first, digest) != digest:
                raise failures.data_error(
                    f'model.weights: "{folder}" has other values for "{name}" than for what it is '
                    f'tied to: set "tie_word_embeddings" to false in its config.json'
                )
        if first not in done:
            take(first, value)
        done.add(first)

    with ExitStack() as stack:
        slices: dict[str, Any] = {}
        for path in _files(folder):
            file = stack.enter_context(safe_open(path, framework="pt"))
            slices |= {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        stack.enter_context(_handed_over(twin, taken))
        settings = LoadStateDictConfig(
            dtype=torch.float32, weight_mapping=get_model_conversion_mapping(twin)
        )
        told, _ = convert_and_load_state_dict_in_model(twin, slices, settings)
    for name, have, want in sorted(told.mismatched_keys):
        raise failures.data_error(
            f'model.weights: "{folder}": "{name}" has shape {list(have)}, its own configuration '
            f"says {list(want)}: it is another model"
        )
    for name, problem in sorted(told.conversion_errors.items()):
        raise failures.data_error(
            f'model.weights: "{folder}": "{name}": {failures.one_line(str(problem), 200)}'
        )
    buffers = dict(twin.named_buffers())
    for name in buffers.keys() - told.missing_keys:
        if not buffers[name].is_meta:
            decoder.get_buffer(name).copy_(buffers[name])
    optional = twin._keys_to_ignore_on_load_missing or ()
    missing = sorted(
        name
        for name in told.missing_keys
        if names.get(name, [name])[0] not in done
        and not (name in buffers and any(re.search(pattern, name) for pattern in optional))
    )
    if missing:
        raise failures.data_error(
            f'model.weights: "{folder}" has no "{missing[0]}" and {len(missing) - 1} more weights '
            "of its own configuration: it is another model, or cut"
        )


def draw(decoder: Any, seed: int, take: Take) -> None:
    """Every parameter of `decoder` as the model's own code draws it, in the order it does.

    A parameter exists from the first to the last part of that code that writes to it, which was
    found out beforehand on tensors without storage.
    """
    names = _tied(decoder)
    twin = _twin(decoder.config)
    writers = _writers(twin)
    unwritten = [name for name in names if names[name][0] == name and name not in writers]
    if unwritten:
        raise failures.user_error(
            f'model type "{decoder.config.model_type}" has no rule to draw "{unwritten[0]}" by: '
            "start from model.weights, or choose another"
        )
    begins, ends = defaultdict(list), defaultdict(list)
    for name, numbers in writers.items():
        if name in names and names[name][0] == name:
            begins[numbers[0]].append(name)
            ends[numbers[-1]].append(name)

    def visit(number: int, initialize: Callable[[], None]) -> None:
        for name in begins[number]:
            _set(twin, name, torch.empty(twin.get_parameter(name).shape))
        initialize()
        for name in ends[number]:
            take(name, twin.get_parameter(name).data)
            _set(twin, name, torch.empty(twin.get_parameter(name).shape, device="meta"))

    torch.manual_seed(seed)
    _visited(twin, visit)


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


def _twin(config: Any) -> Any:
    """The same model on tensors without storage and untied, so that every name is its own."""
    with torch.device("meta"), initialization.no_tie_weights():
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def _tied(decoder: Any) -> dict[str, list[str]]:
    """By name, all names of the same parameter; the first is the one that counts."""
    groups: dict[torch.Tensor, list[str]] = defaultdict(list)
    for name, parameter in decoder.named_parameters(remove_duplicate=False):
        groups[parameter].append(name)
    return {name: group for group in groups.values() for name in group}


@contextmanager
def _handed_over(twin: Any, take: Take) -> Iterator[None]:
    """While it lasts, a parameter that is set in `twin` goes to `take` and leaves no value."""
    paths = {module: f"{path}." if path else "" for path, module in twin.named_modules()}

    def hook(module: Any, name: str, parameter: Any) -> Any:
        # every module of the process calls it, DeepSpeed's own too
        if module not in paths:
            return None
        take(paths[module] + name, parameter.data)
        return _on_meta(parameter)

    bars, ahead = logging.is_progress_bar_enabled(), os.environ.get(_NOT_AHEAD)
    handle = register_module_parameter_registration_hook(hook)
    # its threads would read ahead as far as memory goes
    os.environ[_NOT_AHEAD] = "1"
    logging.disable_progress_bar()
    try:
        yield
    finally:
        handle.remove()
        os.environ.pop(_NOT_AHEAD)
        if ahead is not None:
            os.environ[_NOT_AHEAD] = ahead
        if bars:
            logging.enable_progress_bar()


_NOT_AHEAD = "HF_DEACTIVATE_ASYNC_LOAD"


def _files(folder: Path) -> list[Path]:
    """What `transformers` would read: the files of the index, or the one file."""
    index = folder / INDEX_FILE
    if (folder / WHOLE_FILE).is_file():
        return [folder / WHOLE_FILE]
    if not index.is_file():
        raise failures.data_error(
            f'model.weights: no "{WHOLE_FILE}" and no "{INDEX_FILE}" in "{folder}": save the model '
            "in that format"
        )
    try:
        paths = sorted(
            {folder / name for name in json.loads(index.read_text())["weight_map"].values()}
        )
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise failures.data_error(f'"{index}" cannot be read: {error!r}') from error
    for path in paths:
        if not path.is_file():
            raise failures.data_error(
                f'model.weights: "{index}" names "{path.name}", which is not there'
            )
    return paths


def _on_meta(parameter: torch.nn.Parameter | None) -> torch.nn.Parameter | None:
    if parameter is None or parameter.is_meta:
        return None
    return torch.nn.Parameter(parameter.data.to("meta"), requires_grad=parameter.requires_grad)


def _place(parameter: torch.nn.Parameter, device: str) -> torch.nn.Parameter:
    """A parameter of that shape with the memory of one number; its `data` is set later."""
    full = torch.zeros((), dtype=torch.float32, device=device).expand(parameter.shape)
    return torch.nn.Parameter(full, requires_grad=parameter.requires_grad)


def _set(model: Any, name: str, value: torch.Tensor) -> None:
    path, _, last = name.rpartition(".")
    model.get_submodule(path)._parameters[last] = torch.nn.Parameter(value)
