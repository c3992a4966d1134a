"""A folder of `transformers` weights, read tensor by tensor.

Names and layouts are the library's own business: a mixture's experts, for one, lie apart in a file
and together in the model. It sets what it has converted into a model without storage, and from
there each parameter goes on and leaves nothing behind.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import convert_and_load_state_dict_in_model
from transformers.modeling_utils import LoadStateDictConfig
from transformers.utils import logging

from curriculum_trainer import failures, weights
from curriculum_trainer.weights import Take

INDEX_FILE = "model.safetensors.index.json"
WHOLE_FILE = "model.safetensors"

NOT_AHEAD = "HF_DEACTIVATE_ASYNC_LOAD"


def read(decoder: Any, folder: Path, take: Take) -> None:
    """Every parameter of `decoder`, FP32, by the names and layouts that `transformers` knows."""
    names = weights.tied(decoder)
    twin = weights.twin(decoder.config)
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

    paths = weights.paths(twin)

    def hook(module: Any, name: str, parameter: torch.nn.Parameter) -> Any:
        if module not in paths:
            # DeepSpeed's own
            return None
        taken(paths[module] + name, parameter.data)
        return weights.on_meta(parameter)

    with ExitStack() as stack:
        slices: dict[str, Any] = {}
        for path in _files(folder):
            try:
                file = stack.enter_context(safe_open(path, framework="pt"))
            except SafetensorError as error:
                raise failures.data_error(
                    f'model.weights: "{path}" cannot be read: {failures.one_line(str(error), 200)}:'
                    " it is cut, or no safetensors"
                ) from error
            slices |= {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        stack.enter_context(_one_by_one())
        stack.enter_context(weights.registering(hook))
        settings = LoadStateDictConfig(
            dtype=torch.float32, weight_mapping=get_model_conversion_mapping(twin)
        )
        told, _ = convert_and_load_state_dict_in_model(twin, slices, settings)
    _check(folder, told)
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


def _check(folder: Path, told: Any) -> None:
    for name, have, want in sorted(told.mismatched_keys):
        raise failures.data_error(
            f'model.weights: "{folder}": "{name}" has shape {list(have)}, its own configuration '
            f"says {list(want)}: it is another model"
        )
    for name, problem in sorted(told.conversion_errors.items()):
        raise failures.data_error(
            f'model.weights: "{folder}": "{name}": {failures.one_line(str(problem), 200)}'
        )


@contextmanager
def _one_by_one() -> Iterator[None]:
    """Without bars, and without the threads that would read ahead as far as memory goes."""
    bars, ahead = logging.is_progress_bar_enabled(), os.environ.get(NOT_AHEAD)
    os.environ[NOT_AHEAD] = "1"
    logging.disable_progress_bar()
    try:
        yield
    finally:
        os.environ.pop(NOT_AHEAD)
        if ahead is not None:
            os.environ[NOT_AHEAD] = ahead
        if bars:
            logging.enable_progress_bar()


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
