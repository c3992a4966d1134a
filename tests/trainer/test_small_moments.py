"""AdamW with moments in 8 and 4 bits: a fraction of the memory, nearly the same model."""

import itertools
import math
import warnings
from statistics import fmean
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from curriculum_api.run import RunOptimizer
from curriculum_trainer import memory
from curriculum_trainer.manifest import MODEL_FILE, OPTIMIZER_FILE, sha256
from curriculum_trainer.optimizer import Fragment, adamw

from .phases import MODEL, SEQUENCE_PARALLEL, Phases, load_and_save, losses_of

with warnings.catch_warnings():
    # what torch and torchao deprecate in each other is not ours to mend
    warnings.simplefilter("ignore")
    from torchao.optim.subclass_4bit import OptimState4bit
    from torchao.optim.subclass_8bit import OptimState8bit

    from curriculum_trainer import blockwise

pytestmark = pytest.mark.trainer

WIDE = {"config": MODEL | {"hidden_size": 96, "intermediate_size": 192}}
"""Its matrices have more than 4,096 values, on each of two ranks too."""

BITS = pytest.mark.parametrize("name", ["AdamW8bit", "AdamW4bit"])

LAYOUTS = [
    pytest.param({}, id="DDP"),
    pytest.param({"processes_per_node": 2, "strategy": "ZeRO1"}, id="ZeRO1-2"),
    pytest.param({"processes_per_node": 2, "strategy": "ZeRO2"}, id="ZeRO2-2"),
    pytest.param(SEQUENCE_PARALLEL, id="ZeRO3-SP2"),
]

OFFLOADED = [
    pytest.param(
        {"processes_per_node": 2, "strategy": strategy, "memory": {"offload_optimizer": True}},
        id=f"{strategy}-2-offloaded",
    )
    for strategy in ("ZeRO2", "ZeRO3")
]


def _optimizer(name: str, **changes: Any) -> dict[str, Any]:
    return {"name": name, "learning_rate": 3e-3, "schedule": "Constant"} | changes


STATES = [
    pytest.param(kind, signed, id=f"{bits}-bit-{'signed' if signed else 'unsigned'}")
    for (kind, bits), signed in itertools.product(
        [(OptimState8bit, 8), (OptimState4bit, 4)], [True, False]
    )
]


def _values(*, signed: bool) -> torch.Tensor:
    """Blocks of every size of number, some with their largest below zero, some of zeros."""
    chance = torch.Generator().manual_seed(3)
    blocks = torch.randn((64, 256), generator=chance) ** 3
    sizes = torch.logspace(-20, 8, 64)[:, None]
    values = blocks * sizes
    values[::9] = 0
    return (values if signed else values.abs()).flatten()


@pytest.mark.parametrize(("kind", "signed"), STATES)
def test_what_was_dequantised_goes_back_to_the_same_values(kind: Any, signed: bool) -> None:
    block = 256 if kind is OptimState8bit else 128
    first = kind.zeros((64 * 256,), signed, block)
    first.copy_(_values(signed=signed))
    second = kind.zeros((64 * 256,), signed, block)
    blockwise.quantise(first.dequantize(), second)

    assert torch.equal(second.dequantize(), first.dequantize())


@pytest.mark.parametrize(("kind", "signed"), STATES)
def test_a_value_that_was_never_quantised_goes_where_torchao_puts_it(
    kind: Any, signed: bool
) -> None:
    values = _values(signed=signed)
    values[values.view(-1, 256)[:, :1].expand(-1, 256).flatten() == 0] = 1.0
    block = 256 if kind is OptimState8bit else 128
    expected = kind.zeros((64 * 256,), signed, block)
    expected.copy_(values)
    found = kind.zeros((64 * 256,), signed, block)
    blockwise.quantise(values, found)

    assert torch.equal(found.codes, expected.codes)
    assert torch.equal(found.scale, expected.scale)


def test_torchao_alone_would_shrink_the_first_moment() -> None:
    """Why there is a way of our own back into a quantised state."""
    first = OptimState8bit.zeros((256,), True, 256)
    first.copy_(torch.linspace(-1, 0.5, 256))
    second = OptimState8bit.zeros((256,), True, 256)
    second.copy_(first.dequantize())

    assert second.dequantize().abs().sum() < 0.995 * first.dequantize().abs().sum()


def test_a_fresh_state_is_zero_and_stays_zero() -> None:
    for kind, block in ((OptimState8bit, 256), (OptimState4bit, 128)):
        state = kind.zeros((512,), False, block)
        blockwise.quantise(state.dequantize(), state)
        assert not state.dequantize().any()


@pytest.mark.parametrize(
    ("name", "bytes_each"), [("AdamW", 8.0), ("AdamW8bit", 2.0), ("AdamW4bit", 1.0)]
)
def test_both_moments_take_8_2_and_1_bytes_a_parameter(name: str, bytes_each: float) -> None:
    """And for a scale per block: 4 bytes for 256 values twice, or for 128 values twice."""
    layer = torch.nn.Linear(2048, 2048)
    optimizer = adamw(layer, RunOptimizer.model_validate({"name": name, "learning_rate": 1e-3}))
    for number, group in enumerate(optimizer.param_groups):
        for tensor in group["params"]:
            optimizer.hold(tensor, [Fragment(0, tensor.numel())], group=number)
    count = sum(p.numel() for p in layer.parameters())
    if isinstance(optimizer, blockwise.BlockwiseAdamW):
        found = optimizer.num_bytes() / count
    else:
        states = optimizer.state.values()  # type: ignore[attr-defined]
        found = sum(s[k].nbytes for s in states for k in ("exp_avg", "exp_avg_sq")) / count

    assert bytes_each <= found < bytes_each + 0.08


@BITS
def test_a_tensor_of_any_length_is_updated_as_a_whole(name: str) -> None:
    """5,000 values are no whole number of blocks; torchao alone would keep all of them in FP32."""
    layer = torch.nn.Linear(50, 100, bias=False)
    exact = layer.weight.detach().clone().requires_grad_(True)
    settings = RunOptimizer.model_validate({"name": name, "learning_rate": 1e-2})
    optimizer = adamw(layer, settings)
    part = Fragment(0, 5000)
    optimizer.hold(layer.weight, [part], group=0)
    plain = torch.optim.AdamW([exact], lr=1e-2, betas=settings.betas, weight_decay=0.1)
    optimizer.param_groups[0]["lr"] = 1e-2
    for step in range(5):
        gradient = torch.randn((100, 50), generator=torch.Generator().manual_seed(step))
        layer.weight.grad, exact.grad = gradient, gradient.clone()
        optimizer.step()
        plain.step()
    left = 5000 % blockwise.BLOCKS[settings.name]

    assert optimizer.num_bytes() < 0.4 * 5000 * 8  # type: ignore[attr-defined]
    assert torch.allclose(layer.weight.flatten()[-left:], exact.flatten()[-left:], atol=1e-6)
    assert not torch.equal(layer.weight, exact)
    assert (layer.weight - exact).abs().mean() < 0.2 * 5e-2


@BITS
def test_a_large_tensor_is_updated_in_parts_to_the_same_numbers(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Two parts here, the second with one block too few for a part of its own."""
    found = []
    for at_once in (1 << 20, 8192):
        monkeypatch.setattr(blockwise, "UNCOMPILED", at_once)
        torch.manual_seed(0)
        layer = torch.nn.Linear(256, 65, bias=False)
        part = Fragment(0, layer.weight.numel())
        optimizer = adamw(layer, RunOptimizer.model_validate({"name": name, "learning_rate": 1}))
        optimizer.hold(layer.weight, [part], group=0)
        optimizer.param_groups[0]["lr"] = 1e-2
        for _ in range(3):
            layer.weight.grad = torch.randn(65, 256)
            optimizer.step()
        found.append((layer.weight.detach(), optimizer.moment(layer.weight, part, "exp_avg")))

    assert len(optimizer._pieces[layer.weight]) == 2  # type: ignore[attr-defined]
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


@BITS
@pytest.mark.parametrize("layout", [*LAYOUTS, *OFFLOADED])
def test_a_resumed_run_goes_on_as_if_it_had_never_stopped(
    phases: Phases, capfd: pytest.CaptureFixture[str], name: str, layout: dict[str, Any]
) -> None:
    changes = {"model": WIDE, "optimizer": _optimizer(name)} | layout
    whole = phases.run("whole", steps=4, **changes)
    assert phases.launch(whole).outcome == "Succeeded"
    expected = losses_of(capfd.readouterr().out)
    phases.launch(phases.run("halves", steps=2, **changes))
    rest = phases.run("halves", steps=4, attempt=2, **changes)
    assert phases.launch(rest).outcome == "Succeeded"

    assert expected == losses_of(capfd.readouterr().out)
    for file in (MODEL_FILE, OPTIMIZER_FILE):
        assert sha256(phases.folder(whole, 4) / file) == sha256(phases.folder(rest, 4) / file)


@BITS
def test_every_sharding_trains_nearly_the_same(
    phases: Phases, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    """Blocks begin elsewhere in a partition of ZeRO-1 and 2, so equal they cannot be."""
    found = []
    for number, layout in enumerate(LAYOUTS):
        changes = layout.values[0]
        assert isinstance(changes, dict)
        run = phases.run(
            f"layout-{number}", steps=6, model=WIDE, optimizer=_optimizer(name), **changes
        )
        assert phases.launch(run).outcome == "Succeeded"
        found.append(losses_of(capfd.readouterr().out))

    for losses in found[1:]:
        assert losses == pytest.approx(found[0], rel=2e-3 if name == "AdamW8bit" else 1e-2)


@BITS
def test_small_moments_hand_off_to_fp32_exactly_and_back_with_every_bit(
    phases: Phases, name: str
) -> None:
    small = {"model": WIDE, "optimizer": _optimizer(name)}
    first = phases.run("first", steps=3, **small)
    assert phases.launch(first).outcome == "Succeeded"
    full = phases.after(first, "full", model=WIDE, **SEQUENCE_PARALLEL)
    assert phases.together(full, load_and_save) == [3, 3]
    back = phases.after(full, "back", **small)
    assert phases.together(back, load_and_save) == [3]

    for file in (MODEL_FILE, OPTIMIZER_FILE):
        expected = sha256(phases.folder(first, 3) / file)
        assert expected == sha256(phases.folder(full, 0) / file)
        assert expected == sha256(phases.folder(back, 0) / file)


@pytest.mark.parametrize(("name", "error"), [("AdamW8bit", 0.02), ("AdamW4bit", 0.4)])
def test_fp32_moments_become_small_ones_near_what_they_were(
    phases: Phases, name: str, error: float
) -> None:
    first = phases.run("first", steps=3, model=WIDE)
    assert phases.launch(first).outcome == "Succeeded"
    run = phases.after(first, "small", model=WIDE, optimizer=_optimizer(name))
    phases.together(run, load_and_save)
    before = load_file(phases.folder(first, 3) / OPTIMIZER_FILE)
    after = load_file(phases.folder(run, 0) / OPTIMIZER_FILE)

    assert before.keys() == after.keys()
    for key, value in before.items():
        distance = (after[key] - value).norm() / value.norm()
        assert distance < error, key
        assert (distance == 0) == (value.numel() < blockwise.SMALLEST), key


def test_the_three_reach_nearly_the_same_loss(
    phases: Phases, capfd: pytest.CaptureFixture[str]
) -> None:
    reached = {}
    for name in ("AdamW", "AdamW8bit", "AdamW4bit"):
        run = phases.run(name.lower(), steps=40, model=WIDE, optimizer=_optimizer(name))
        assert phases.launch(run).outcome == "Succeeded"
        losses = losses_of(capfd.readouterr().out)
        reached[name] = fmean(losses[-10:])
        assert reached[name] < 0.9 * losses[0]

    assert math.isclose(reached["AdamW8bit"], reached["AdamW"], rel_tol=0.02)
    assert math.isclose(reached["AdamW4bit"], reached["AdamW"], rel_tol=0.05)


@pytest.mark.parametrize(
    ("name", "kind", "compiler", "said"),
    [
        ("AdamW8bit", "cuda", "no-such-compiler", True),
        ("AdamW8bit", "cuda", "sh", False),
        ("AdamW8bit", "cpu", "no-such-compiler", False),
        ("AdamW", "cuda", "no-such-compiler", False),
    ],
)
def test_a_gpu_without_a_compiler_is_told_of(
    phases: Phases,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    kind: str,
    compiler: str,
    said: bool,
) -> None:
    monkeypatch.setenv("CC", compiler)
    remarks = memory.remarks(phases.run(optimizer=_optimizer(name)), device_kind=kind)

    assert said == any("there is no C compiler" in remark for remark in remarks)


def test_moments_in_a_checkpoint_are_fp32_whatever_they_were(phases: Phases) -> None:
    run = phases.run("first", model=WIDE, optimizer=_optimizer("AdamW4bit"))
    assert phases.launch(run).outcome == "Succeeded"
    with safe_open(phases.folder(run, 2) / OPTIMIZER_FILE, framework="pt") as file:
        kinds = {file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118

    assert kinds == {torch.float32}
