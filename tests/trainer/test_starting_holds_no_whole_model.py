"""A phase starts one tensor at a time, and from a seed with the same numbers in every layout."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import AutoConfig, AutoModelForCausalLM, initialization

from curriculum_api.run import PhaseRun
from curriculum_trainer import begin, collective, drawing, sequence_parallel, weights, zero
from curriculum_trainer.manifest import MODEL_FILE
from curriculum_trainer.result import Reached
from curriculum_trainer.weights import Fill

from .phases import MODEL, SEQUENCE_PARALLEL, Phases

pytestmark = pytest.mark.trainer

DEEP = MODEL | {"num_hidden_layers": 24}
"""No parameter is more than a hundredth of the whole."""

ZERO3: dict[str, Any] = {"strategy": "ZeRO3", "processes_per_node": 2}

KINDS: list[dict[str, Any]] = [
    {"model_type": "llama"},
    {"model_type": "llama", "tie_word_embeddings": False},
    {"model_type": "qwen3", "pad_token_id": 2},
    # writes to a block's matrices once more after the matrices themselves
    {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4},
    # its activations have weights that only their constructor sets
    {"model_type": "apertus", "tie_word_embeddings": False},
    {"model_type": "mixtral", "num_local_experts": 3, "tie_word_embeddings": False},
    {"model_type": "deepseek_v3", "n_routed_experts": 4, "n_group": 2, "topk_group": 1},
]


def _config(kind: dict[str, Any]) -> Any:
    return AutoConfig.for_model(**(MODEL | kind))


def _blank(kind: dict[str, Any]) -> Any:
    sequence_parallel.register(None)
    return weights.blank(_config(kind), attention=sequence_parallel.NAME, device="cpu")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind['model_type']}-{len(kind)}")
def test_what_is_drawn_is_what_transformers_draws(kind: dict[str, Any]) -> None:
    with initialization.no_tie_weights():
        whole = AutoModelForCausalLM.from_config(_config(kind), dtype=torch.float32)
    for module in whole.modules():
        module.__dict__.pop("_is_hf_initialized", None)
    torch.manual_seed(5)
    whole.initialize_weights()
    decoder = _blank(kind)
    drawn: dict[str, torch.Tensor] = {}
    drawing.draw(decoder, 5, lambda name, value: drawn.update({name: value.clone()}))

    assert drawn.keys() == dict(decoder.named_parameters()).keys()
    for name, value in drawn.items():
        assert torch.equal(value, whole.get_parameter(name)), name


ROPE = {"rope_type": "yarn", "rope_theta": 5e5, "factor": 4.0,
        "original_max_position_embeddings": 32}  # fmt: skip


@pytest.mark.parametrize("kind", [*KINDS, {"model_type": "llama", "rope_parameters": ROPE}])
def test_a_blank_model_has_every_buffer_and_no_weight(kind: dict[str, Any]) -> None:
    decoder = _blank(kind)
    whole = AutoModelForCausalLM.from_config(_config(kind), dtype=torch.float32)

    for (name, value), (other, expected) in zip(
        decoder.named_buffers(), whole.named_buffers(), strict=True
    ):
        assert name == other
        assert torch.equal(value, expected), name
    shapes = [(name, p.shape) for name, p in decoder.named_parameters()]
    assert shapes == [(name, p.shape) for name, p in whole.named_parameters()]
    assert {p.untyped_storage().nbytes() for p in decoder.parameters()} == {4}


def _start(run: PhaseRun) -> Any:
    place = collective.place()
    device = collective.device(place)
    collective.join(device, place)
    return begin.prepare(run, place, device, Reached())


def _bytes(run: PhaseRun) -> dict[str, bytes]:
    sharded = _start(run).sharding
    return {name: sharded.weight(name).numpy().tobytes() for name, _ in sharded.names()}


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_a_seed_gives_the_same_weights_in_every_layout(phases: Phases, *, tied: bool) -> None:
    model = {"config": MODEL | {"tie_word_embeddings": tied}}
    (expected,) = phases.together(phases.run(model=model), _bytes)
    assert any(any(value) for value in expected.values())
    layouts: list[dict[str, Any]] = [
        {"processes_per_node": 2, "strategy": "ZeRO1"},
        {"processes_per_node": 1, "strategy": "ZeRO3"},
        {"processes_per_node": 4, "strategy": "ZeRO3"},
        {"processes_per_node": 2, "strategy": "ZeRO3", "memory": {"offload_parameters": True,
                                                                  "offload_optimizer": True}},
        SEQUENCE_PARALLEL,
    ]  # fmt: skip
    for layout in layouts:
        for found in phases.together(phases.run(model=model, **layout), _bytes):
            assert found == expected, layout


class _Filled(Exception):
    """All parameters have their values, and nothing else was made yet."""


def _peak(run: PhaseRun) -> tuple[int, int, int]:
    """Bytes of tensors at the peak of filling, of all parameters, and of the largest."""
    sizes: list[int] = []
    inner = zero._give_shares

    def outer(parameters: dict[str, Any], fill: Fill, settings: dict[str, Any]) -> None:
        sizes.extend(4 * parameter.numel() for parameter in parameters.values())
        inner(parameters, fill, settings)
        raise _Filled

    zero._give_shares = outer
    with (
        profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen,
        pytest.raises(_Filled),
    ):
        _start(run)
    now = peak = 0
    for event in seen.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return peak, sum(sizes), max(sizes)


def _save(folder: Any, _run: PhaseRun) -> None:
    AutoModelForCausalLM.from_config(AutoConfig.for_model(**DEEP)).bfloat16().save_pretrained(
        folder
    )


@pytest.mark.parametrize("origin", ["seed", "weights", "checkpoint"])
def test_a_process_of_zero_3_holds_its_share_and_a_tensor_or_two(
    phases: Phases, origin: str
) -> None:
    changes: dict[str, Any] = {"model": {"config": DEEP}}
    # a file that is mapped counts in the measure, and takes no memory that others need
    mapped = 0
    if origin == "weights":
        phases.together(phases.run(), partial(_save, phases.data / "weights-deep"))
        changes = {"model": {"weights": "weights-deep"}}
        mapped = (phases.data / "weights-deep" / "model.safetensors").stat().st_size
    run = phases.run("first", **changes, **ZERO3)
    if origin == "checkpoint":
        first = phases.run("first", steps=2, **changes)
        assert phases.launch(first).outcome == "Succeeded"
        run = phases.after(first, **changes, **ZERO3)
        mapped = (phases.folder(first, 2) / MODEL_FILE).stat().st_size

    for peak, whole, largest in phases.together(run, _peak):
        assert largest < whole / 10
        assert whole / 2 < peak - mapped < whole / 2 + 4 * largest


def test_what_is_whole_in_every_process_is_seen_to_be(phases: Phases) -> None:
    """That the test above can fail: the same measure of a model that is not cut."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        decoder = _blank(DEEP)
        weights.give(decoder, partial(drawing.draw, decoder, 1))
    now = sum(e.nbytes() for e in seen.profiler.kineto_results.events() if e.name() == "[memory]")

    assert np.isclose(now, sum(4 * p.numel() for p in decoder.parameters()), rtol=0.1)
