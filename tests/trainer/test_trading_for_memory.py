"""What is traded for memory changes no gradient, under any sharding."""

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.profiler import profile

from curriculum_api.run import PhaseRun
from curriculum_trainer import (
    batch,
    begin,
    collective,
    memory,
    model,
    sequence_parallel,
    weights,
)
from curriculum_trainer.failures import PhaseFailure
from curriculum_trainer.manifest import MODEL_FILE, OPTIMIZER_FILE, sha256
from curriculum_trainer.result import Reached
from curriculum_trainer.saving import Saver

from .gradients import assert_same_gradients, gradients
from .phases import MODEL, SEQUENCE_PARALLEL, Phases, losses_of

pytestmark = [pytest.mark.trainer, pytest.mark.usefixtures("nothing_is_small")]

TILES = {"tile_tokens": 24, "tiled_mlp": True}
"""Three tiles of a row of 64, the last one shorter; two of half a row."""

LAYOUTS = [
    pytest.param({"processes_per_node": 2}, id="DDP"),
    pytest.param({"processes_per_node": 2, "strategy": "ZeRO1"}, id="ZeRO1"),
    pytest.param({"processes_per_node": 2, "strategy": "ZeRO2"}, id="ZeRO2"),
    pytest.param({"processes_per_node": 2, "strategy": "ZeRO3"}, id="ZeRO3"),
    pytest.param({"processes_per_node": 2, "sequence_parallel": 2}, id="DDP-SP2"),
    pytest.param(SEQUENCE_PARALLEL, id="ZeRO3-SP2"),
]


def _both(phases: Phases, *, tied: bool = True, **changes: Any) -> None:
    common: dict[str, Any] = {
        "model": {"config": MODEL | {"tie_word_embeddings": tied}},
        "data": [{"source": "short", "weight": 1}],
        "micro_batch_size": 1,
    }
    alone = phases.run("alone", **common)
    assert_same_gradients(phases, alone, phases.run("spread", **common, **changes))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_tiles_change_no_gradient(phases: Phases, layout: dict[str, Any], *, tied: bool) -> None:
    """Two passes per step and rank, so that gradients are added up as well."""
    _both(phases, tied=tied, memory=TILES, **layout)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_computing_blocks_again_changes_no_gradient(phases: Phases, layout: dict[str, Any]) -> None:
    _both(phases, memory=TILES | {"activation_checkpointing": True}, **layout)


def test_tiles_compute_again_in_the_precision_of_the_forward_pass(phases: Phases) -> None:
    """What is not tiled sees it: in FP32 another gradient would come back through the tiles."""
    ((_, expected),) = phases.together(phases.run("whole", precision="BF16"), gradients)
    tiled = phases.run("tiled", precision="BF16", memory=TILES)
    ((_, found),) = phases.together(tiled, gradients)
    attention = [name for name in expected if "self_attn" in name]

    assert attention
    for name in attention:
        error = np.linalg.norm(found[name] - expected[name]) / np.linalg.norm(expected[name])
        assert error < 1e-5, (name, error)


def test_recomputed_blocks_leave_no_copy_of_their_weights(phases: Phases) -> None:
    """Counted where the last block is done, still inside autocast."""
    sequence_parallel.register(None)
    config = MODEL | {"num_hidden_layers": 12}
    run = phases.run(
        model={"config": config}, precision="BF16", memory={"activation_checkpointing": True}
    )
    decoder = weights.blank(model.config(run), attention=sequence_parallel.NAME, device="cpu")
    weights.give(decoder, partial(model.fill, run, decoder))
    memory.arrange(decoder, run, device_kind="cpu")
    tokens = torch.ones(1, 2, dtype=torch.long)
    with torch.autocast("cpu", torch.bfloat16), profile(profile_memory=True) as seen:
        kept = decoder.get_decoder()(
            input_ids=tokens, use_cache=False, documents=sequence_parallel.Documents(((2,),))
        )
    events = seen.profiler.kineto_results.events()
    left = sum(event.nbytes() for event in events if event.name() == "[memory]")
    copies = 2 * sum(p.numel() for block in memory.blocks(decoder) for p in block.parameters())

    assert kept.last_hidden_state.requires_grad
    assert left < copies / 4


def test_dropping_copies_of_weights_changes_no_bit(
    phases: Phases, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = TILES | {"activation_checkpointing": True}
    run = phases.run("first", precision="BF16", memory=asked)
    (found,) = phases.together(run, gradients)
    monkeypatch.setattr(torch, "clear_autocast_cache", lambda: None)
    (expected,) = phases.together(run, gradients)

    assert found[0] == expected[0]
    for name, gradient in expected[1].items():
        assert np.array_equal(found[1][name], gradient), name


def _gathers(run: PhaseRun) -> Counter[str]:
    """How often each kind of module has its weights gathered in a forward and backward pass."""
    from deepspeed.runtime.zero.partitioned_param_coordinator import PartitionedParameterCoordinator

    place = collective.place()
    device = collective.device(place)
    collective.join(device, place)
    work = begin.prepare(run, place, device, Reached())
    seen: Counter[str] = Counter()
    fetch = PartitionedParameterCoordinator.fetch_sub_module

    def counted(self: Any, module: Any, *, forward: bool) -> None:
        if any(True for _ in module.parameters()):
            seen[f"{type(module).__name__} {'forward' if forward else 'backward'}"] += 1
        fetch(self, module, forward=forward)

    PartitionedParameterCoordinator.fetch_sub_module = counted
    (part, *_) = batch.micro_batches(work.mixture, work.layout, step=0, device="cpu")
    work.sharding.backward(work.sharding.scores(*part.inputs, last=False).sum())
    return seen


def test_weights_of_a_tiled_part_are_gathered_once_for_all_tiles(phases: Phases) -> None:
    run = phases.run(
        strategy="ZeRO3",
        processes_per_node=2,
        micro_batch_size=1,
        memory=TILES | {"tile_tokens": 8},
    )
    for seen in phases.together(run, _gathers):
        assert (seen["Head forward"], seen["Head backward"]) == (1, 1)
        assert (seen["LlamaMLP forward"], seen["LlamaMLP backward"]) == (2, 2)
        # queries, keys, values and outputs of two blocks: nothing of the MLPs by itself
        assert (seen["Linear forward"], seen["Linear backward"]) == (8, 8)


OFFLOADS = [
    pytest.param("ZeRO1", {"offload_optimizer": True}, id="ZeRO1"),
    pytest.param("ZeRO2", {"offload_optimizer": True}, id="ZeRO2"),
    pytest.param("ZeRO3", {"offload_optimizer": True}, id="ZeRO3"),
    pytest.param("ZeRO3", {"offload_optimizer": True, "offload_parameters": True}, id="ZeRO3-all"),
]


def _load_and_save(run: PhaseRun) -> None:
    place = collective.place()
    device = collective.device(place)
    collective.join(device, place)
    reached = Reached()
    saver = Saver(begin.prepare(run, place, device, reached), reached, say=print)
    saver.save()
    saver.finish()


@pytest.mark.parametrize(("strategy", "offload"), OFFLOADS)
def test_offloaded_states_are_read_and_set_to_the_bit(
    trained: Phases, strategy: str, offload: dict[str, bool], request: pytest.FixtureRequest
) -> None:
    first = trained.run("first", steps=2)
    there = trained.after(
        first,
        f"off-{request.node.callspec.id.lower()}",
        strategy=strategy,
        processes_per_node=2,
        memory=offload,
    )
    trained.together(there, _load_and_save)

    for file in (MODEL_FILE, OPTIMIZER_FILE):
        assert sha256(trained.folder(there, 0) / file) == sha256(trained.folder(first, 2) / file)


@pytest.mark.parametrize(("strategy", "offload"), OFFLOADS)
def test_offloaded_states_are_trained_alike(
    phases: Phases, strategy: str, offload: dict[str, bool], capfd: pytest.CaptureFixture[str]
) -> None:
    """Over updates, so that the losses after the first depend on what was offloaded."""
    phases.launch(phases.run("kept", steps=4))
    expected = losses_of(capfd.readouterr().out)
    run = phases.run("parked", steps=4, strategy=strategy, processes_per_node=2, memory=offload)
    assert phases.launch(run).outcome == "Succeeded"

    assert losses_of(capfd.readouterr().out) == pytest.approx(expected, rel=1e-5)


def test_offloaded_activations_on_the_cpu_say_that_they_stay(
    phases: Phases, capfd: pytest.CaptureFixture[str]
) -> None:
    asked = {"activation_checkpointing": True, "offload_activations": True}
    assert phases.launch(phases.run(steps=1, memory=asked)).outcome == "Succeeded"

    assert "offloadActivations does nothing on the CPU" in capfd.readouterr().out


def _parked(_run: PhaseRun) -> tuple[list[tuple[int, ...]], bool]:
    """What a block keeps in the host's memory, counted instead of moved, and is it still right."""
    kept: list[tuple[int, ...]] = []

    def counted(*, pin_memory: bool) -> Any:
        assert pin_memory

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            kept.append(tuple(tensor.shape))
            return tensor.clone()

        return torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)

    torch.autograd.graph.save_on_cpu = counted
    layers = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.GELU(), torch.nn.Linear(16, 4))
    given = torch.randn(3, 4, requires_grad=True)
    memory._recomputed(layers.forward, given, parked=True).sum().backward()
    found, given.grad = given.grad, None
    layers(given).sum().backward()
    return kept, bool(torch.equal(found, given.grad))


def test_parked_is_the_input_of_a_block_alone(phases: Phases) -> None:
    assert phases.together(phases.run(), _parked) == [([(3, 4)], True)]


def test_compiled_blocks_have_the_losses_of_eager_ones(
    phases: Phases, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every row has other documents; none of them may make a block anew."""
    common: dict[str, Any] = {"steps": 3, "model": {"config": MODEL | {"num_hidden_layers": 1}}}
    phases.launch(phases.run("eager", **common))
    expected = losses_of(capfd.readouterr().out)
    monkeypatch.setattr(torch._dynamo.config, "error_on_recompile", True)
    ended = phases.launch(phases.run("compiled", compile=True, **common))

    assert ended.outcome == "Succeeded", ended.message
    assert losses_of(capfd.readouterr().out) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        pytest.param({"memory": {"offload_activations": True}}, "set both", id="activations"),
        pytest.param({"memory": {"offload_optimizer": True}}, "needs DeepSpeed", id="optimizer"),
        pytest.param(
            {"strategy": "ZeRO2", "memory": {"offload_parameters": True}},
            "needs strategy ZeRO3",
            id="parameters",
        ),
        pytest.param({"strategy": "ZeRO3", "compile": True}, "nothing under ZeRO3", id="compile"),
    ],
)
def test_trades_that_cannot_be_made_are_refused(
    phases: Phases, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(PhaseFailure, match=said) as refused:
        model.config(phases.run(**changes))

    assert refused.value.outcome == "UserError"


def test_compile_without_a_compiler_is_refused(
    phases: Phases, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(PhaseFailure, match=r"needs a C\+\+ compiler"):
        model.config(phases.run(compile=True))
