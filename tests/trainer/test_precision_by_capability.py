"""A precision trains only where its kernels are, and only in the layers that it is for.

Transformer Engine is a CUDA build and not here: a fake stands in at its interface. What is shown
is the choice, the conversion and that checkpoints do not change, and nothing about a kernel.
"""

import itertools
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from curriculum_api.run import PhaseRun
from curriculum_api.wire import Precision
from curriculum_trainer import low_precision, precision
from curriculum_trainer.failures import PhaseFailure
from curriculum_trainer.manifest import MODEL_FILE, OPTIMIZER_FILE
from curriculum_trainer.precision import Device

from . import fake_transformer_engine as fake
from .phases import MODEL, Phases, load_and_save

pytestmark = pytest.mark.trainer

CPU = Device(kind="cpu", index=0, backend="gloo", reason="no CUDA device is visible")

ALLOWED = {
    (8, 0): "FP32 BF16",
    (8, 6): "FP32 BF16",
    (8, 9): "FP32 BF16 FP8",
    (9, 0): "FP32 BF16 FP8",
    (10, 0): "FP32 BF16 FP8 MXFP8 NVFP4",
    (10, 3): "FP32 BF16 FP8 MXFP8 NVFP4",
    (11, 0): "FP32 BF16 FP8",
    (12, 0): "FP32 BF16 FP8",
    (12, 1): "FP32 BF16 FP8",
    None: "FP32 BF16",
}
"""What each compute capability trains; None is the CPU."""

DEEP = {
    "config": MODEL | {"num_hidden_layers": 12, "intermediate_size": 64, "num_key_value_heads": 4}
}

SCALED = pytest.mark.parametrize("asked", precision.SCALED)


def _on(capability: tuple[int, int] | None) -> Device:
    if capability is None:
        return CPU
    return Device(kind="cuda", index=0, backend="nccl", reason="1 visible", capability=capability)


def _run(phases: Phases, asked: str, **changes: Any) -> PhaseRun:
    return phases.run(precision=asked, allowed_precisions=list(Precision), **changes)


def _decoder(**changes: Any) -> Any:
    torch.manual_seed(1)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(**DEEP["config"] | changes))


@pytest.mark.parametrize(
    ("capability", "asked"),
    [
        pytest.param(capability, asked, id=f"{asked}-on-{capability}")
        for capability, asked in itertools.product(ALLOWED, Precision)
    ],
)
def test_a_precision_is_trained_where_its_kernels_are(
    phases: Phases, capability: tuple[int, int] | None, asked: Precision
) -> None:
    reason = precision.refusal(_run(phases, asked), _on(capability))

    if asked in ALLOWED[capability].split():
        assert reason is None
        return
    assert reason is not None
    where = (
        "cpu (no CUDA device is visible)"
        if capability is None
        else "capability {}.{} ".format(*capability)
    )
    assert asked in reason
    assert where in reason
    assert "choose BF16" in reason


def test_a_class_that_does_not_list_a_precision_refuses_it_on_any_device(phases: Phases) -> None:
    run = phases.run(precision="NVFP4", accelerator_class="gb10-sm121")
    for device in (None, CPU, _on((10, 0))):
        reason = precision.refusal(run, device)
        assert reason is not None
        assert '"gb10-sm121" trains FP32, BF16, not NVFP4' in reason


@pytest.mark.parametrize("allowed", [["BF16"], list(Precision)])
def test_a_phase_with_a_refused_precision_ends_as_the_users_error(
    phases: Phases, allowed: list[str]
) -> None:
    ended = phases.launch(phases.run(precision="NVFP4", allowed_precisions=allowed))

    assert (ended.outcome, ended.step) == ("UserError", 0)
    assert "NVFP4" in ended.message


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("FP32", ["FP32 throughout"]),
        ("BF16", ["BF16 autocast over FP32 weights"]),
        ("FP8", ["FP8 in the linear layers of all blocks,", "Float8CurrentScaling"]),
        ("MXFP8", ["MXFP8 in the linear layers of all blocks,", "MXFP8BlockScaling"]),
        (
            "NVFP4",
            ["all blocks but the first 2 and the last 8,", "NVFP4BlockScaling", "capability 10.0",
             "BF16 autocast in all else, embeddings and head too"],
        ),
    ],
)  # fmt: skip
def test_the_choice_names_what_runs_in_what_and_why(
    phases: Phases, asked: str, words: list[str]
) -> None:
    said = precision.choice(_run(phases, asked), _on((10, 0)))

    assert "\n" not in said
    for word in words:
        assert word in said


BLOCKS = {"FP8": range(12), "MXFP8": range(12), "NVFP4": range(2, 4)}


@SCALED
def test_only_the_chosen_blocks_multiply_in_the_format(
    phases: Phases, monkeypatch: pytest.MonkeyPatch, asked: Precision
) -> None:
    fake.install(monkeypatch)
    decoder = _decoder()
    low_precision.convert(decoder, _run(phases, asked))
    decoder(input_ids=torch.arange(64)[None])
    found = {
        name: module.recipes
        for name, module in decoder.named_modules()
        if isinstance(module, fake.Linear)
    }
    layers = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
              "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]  # fmt: skip

    assert found == {
        f"model.layers.{block}.{layer}": [precision.RECIPES[asked]]
        for block in BLOCKS[asked]
        for layer in layers
    }


@SCALED
def test_names_weights_and_gradients_stay_as_they_were(
    phases: Phases, monkeypatch: pytest.MonkeyPatch, asked: Precision
) -> None:
    """The fake computes as torch does, so whatever differs is of the conversion."""
    fake.install(monkeypatch)
    before, after = _decoder(attention_bias=True), _decoder(attention_bias=True)
    low_precision.convert(after, _run(phases, asked))
    assert any("_extra_state" in name for name in after.state_dict())
    # 9 rows: no multiple of anything
    tokens = torch.arange(9)[None]
    for decoder in (before, after):
        decoder(input_ids=tokens, labels=tokens).loss.backward()

    assert [name for name, _ in before.named_parameters()] == [
        name for name, _ in after.named_parameters()
    ]
    for (name, one), (_, other) in zip(
        before.named_parameters(), after.named_parameters(), strict=True
    ):
        assert one.dtype == other.dtype == other.grad.dtype == torch.float32
        assert torch.equal(one, other), name
        assert torch.allclose(one.grad, other.grad, rtol=1e-4, atol=1e-7), name


def test_a_block_that_is_computed_again_is_so_in_the_same_format(
    phases: Phases, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.install(monkeypatch)
    decoder = _decoder()
    run = _run(phases, "NVFP4", memory={"activation_checkpointing": True, "tiled_mlp": True,
                                        "tile_tokens": 32})  # fmt: skip
    low_precision.convert(decoder, run)
    from curriculum_trainer import memory

    memory.arrange(decoder, run, device_kind="cpu")
    decoder.train()
    decoder(input_ids=torch.arange(64)[None]).logits.sum().backward()
    block = decoder.model.layers[2]

    assert block.self_attn.q_proj.recipes == ["NVFP4BlockScaling"] * 2
    # two tiles; forward, forward again for the block, and again for each tile's gradient
    assert block.mlp.up_proj.recipes == ["NVFP4BlockScaling"] * 6
    assert block.mlp.up_proj.weight.grad is not None


def test_the_older_name_of_autocast_serves_as_well(
    phases: Phases, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.install(monkeypatch, version="2.8")
    decoder = _decoder()
    low_precision.convert(decoder, _run(phases, "NVFP4"))
    decoder(input_ids=torch.arange(64)[None])

    assert decoder.model.layers[3].mlp.up_proj.recipes == ["NVFP4BlockScaling"]


UNFIT = [
    pytest.param("NVFP4", {"num_hidden_layers": 10}, "2.9", "the model has 10: choose BF16",
                 id="no-block-left"),
    pytest.param("NVFP4", {"intermediate_size": 48}, "2.9",
                 "block 2, gate_proj is a matrix of 48 x 32, NVFP4 needs both divisible by 32",
                 id="width"),
    pytest.param("NVFP4", {}, "2.7", 'has no recipe "NVFP4BlockScaling": use 2.8', id="too-old"),
    pytest.param("FP8", {}, None, "needs Transformer Engine 2.8 or newer, which cannot be imported",
                 id="not-there"),
]  # fmt: skip


@pytest.mark.parametrize(("asked", "changes", "version", "words"), UNFIT)
def test_a_model_or_an_image_that_does_not_fit_is_refused(
    phases: Phases,
    monkeypatch: pytest.MonkeyPatch,
    asked: str,
    changes: dict[str, Any],
    version: str | None,
    words: str,
) -> None:
    if version is not None:
        fake.install(monkeypatch, version=version)
    with pytest.raises(PhaseFailure, match="phase") as refused:
        low_precision.convert(_decoder(**changes), _run(phases, asked))

    assert refused.value.outcome == "UserError"
    assert words in refused.value.message


def test_layers_of_another_kind_are_not_passed_over_in_silence(
    phases: Phases, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.install(monkeypatch)
    gpt2 = AutoModelForCausalLM.from_config(
        AutoConfig.for_model("gpt2", n_embd=32, n_layer=2, n_head=4, vocab_size=64)
    )
    with pytest.raises(PhaseFailure, match=r"no torch\.nn\.Linear that could multiply in FP8"):
        low_precision.convert(gpt2, _run(phases, "FP8"))


@pytest.mark.parametrize("strategy", ["DDP", "ZeRO3"])
def test_a_checkpoint_holds_nothing_of_the_library(
    phases: Phases, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    fake.install(monkeypatch)
    plain = phases.run("plain", model=DEEP, strategy=strategy)
    scaled = _run(phases, "NVFP4", phase="scaled", model=DEEP, strategy=strategy)
    for run in (plain, scaled):
        phases.together(run, load_and_save)

    for file in (MODEL_FILE, OPTIMIZER_FILE):
        one, other = (load_file(phases.folder(run, 0) / file) for run in (plain, scaled))
        assert list(one) == list(other)
        for name, value in one.items():
            assert torch.equal(value, other[name]), name
