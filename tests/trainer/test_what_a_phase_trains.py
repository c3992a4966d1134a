"""Objectives and precisions: what comes out loads elsewhere, and what cannot be is refused."""

import math
import shutil
import warnings
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from safetensors import safe_open

from curriculum_trainer.tokenizing import Encoder

from .corpus import VOCAB, write_source
from .phases import CONTEXT, SEQUENCE_PARALLEL, Phases, losses_of, steps_of

pytestmark = pytest.mark.trainer

PAIRS = {"objective": "DPO", "data": [{"source": "pairs", "weight": 1}], "dpo_beta": 0.5}


def _generate(folder: Path) -> tuple[int, torch.dtype, int, str]:
    """The number of new tokens, the weights' dtype, the context and the prompt read back."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import AutoModelForCausalLM, AutoTokenizer

        model = AutoModelForCausalLM.from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        words = tokenizer("def decode(", return_tensors="pt")
        out = model.generate(**words, max_new_tokens=8, do_sample=False)
    new = out.shape[1] - words["input_ids"].shape[1]
    said = tokenizer.decode(words["input_ids"][0])
    return new, model.dtype, model.config.max_position_embeddings, said


def test_the_last_checkpoint_loads_with_transformers_and_generates(trained: Phases) -> None:
    # in a process of its own: torch's threads here would hang the processes forked by later tests
    (found,) = trained.together(trained.run(), lambda run: _generate(trained.folder(run, 2)))

    assert found == (8, torch.float32, CONTEXT, "def decode(")


def test_a_curriculum_of_growing_context_lowers_the_loss(
    phases: Phases, capfd: pytest.CaptureFixture[str]
) -> None:
    first = phases.run("short", steps=6)
    phases.launch(first)
    before = losses_of(capfd.readouterr().out)
    data = [
        {"source": "long", "weight": 3},
        {"source": "text", "weight": 1, "context_length": CONTEXT},
    ]
    longer = phases.after(
        first,
        "long",
        steps=6,
        objective="ContextExtension",
        context_length=4 * CONTEXT,
        data=data,
        **SEQUENCE_PARALLEL,
    )
    assert phases.launch(longer).outcome == "Succeeded"
    after = losses_of(capfd.readouterr().out)

    assert before[-1] < before[0]
    assert after[-1] < after[0] < before[0]


def test_dpo_starts_at_the_reference_and_raises_the_margin(
    trained: Phases, capfd: pytest.CaptureFixture[str]
) -> None:
    """In shards as well: its first steps are those of one process, which is quicker over many."""
    # slowly: answers of twelve tokens that nobody has seen before tell little each
    optimizer = {"learning_rate": 1e-3, "schedule": "Constant"}
    run = trained.after(trained.run(), "dpo", steps=60, optimizer=optimizer, **PAIRS)
    assert trained.launch(run).outcome == "Succeeded"
    lines = steps_of(capfd.readouterr().out)
    sharded = trained.after(
        trained.run(), "dpo-sharded", steps=8, optimizer=optimizer, **PAIRS, **SEQUENCE_PARALLEL
    )
    assert trained.launch(sharded).outcome == "Succeeded"
    same = steps_of(capfd.readouterr().out)

    assert len(same) == 8
    for line, other in zip(lines, same, strict=False):
        assert math.isclose(line["loss"], other["loss"], rel_tol=1e-5)
        assert math.isclose(line["reward_margin"], other["reward_margin"], abs_tol=1e-4)
    for first in (lines[0], same[0]):
        assert math.isclose(first["loss"], math.log(2), rel_tol=1e-5)
        assert abs(first["reward_margin"]) < 1e-4
    # every step sees other pairs: one step's margin says little, ten steps' mean says enough
    assert fmean(line["reward_margin"] for line in lines[-10:]) > 0.01
    assert fmean(line["loss"] for line in lines[-10:]) < lines[0]["loss"]


def test_a_resumed_dpo_keeps_the_reference_of_the_start(
    trained: Phases, capfd: pytest.CaptureFixture[str]
) -> None:
    trained.launch(trained.after(trained.run(), "dpo-whole", steps=4, **PAIRS))
    expected = losses_of(capfd.readouterr().out)
    trained.launch(trained.after(trained.run(), "dpo-halves", steps=2, **PAIRS))
    # the reference of a longer phase has more pairs, and must still be that of the start
    rest = trained.after(trained.run(), "dpo-halves", steps=4, attempt=2, **PAIRS)
    assert trained.launch(rest).outcome == "Succeeded"

    assert losses_of(capfd.readouterr().out) == pytest.approx(expected, rel=1e-6)


def test_bf16_is_near_fp32_and_its_weights_stay_fp32(
    phases: Phases, capfd: pytest.CaptureFixture[str]
) -> None:
    phases.launch(phases.run("fp32"))
    expected = losses_of(capfd.readouterr().out)
    run = phases.run("bf16", precision="BF16")
    assert phases.launch(run).outcome == "Succeeded"
    found = losses_of(capfd.readouterr().out)

    assert found != expected
    assert found == pytest.approx(expected, rel=5e-3)
    with safe_open(phases.folder(run, 2) / "model.safetensors", framework="pt") as file:
        kinds = {file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118
    assert kinds == {torch.float32}


def test_bf16_computes_the_same_under_zero3(
    phases: Phases, capfd: pytest.CaptureFixture[str]
) -> None:
    phases.launch(phases.run("ddp", precision="BF16"))
    expected = losses_of(capfd.readouterr().out)
    phases.launch(phases.run("zero", precision="BF16", strategy="ZeRO3"))

    assert losses_of(capfd.readouterr().out) == pytest.approx(expected, rel=1e-4)


WRONG = [
    pytest.param({"global_batch_tokens": 3 * CONTEXT, "processes_per_node": 2}, "UserError",
                 "3 sequences of 64, not divisible by 2", id="batch"),
    pytest.param({"sequence_parallel": 2}, "UserError", "not divisible", id="degree"),
    pytest.param({"model": {"preset": "gpt-9"}}, "UserError", 'model.preset "gpt-9"', id="preset"),
    pytest.param({"model": {"preset": "tiny-1m"}, "tokenizer": "none"}, "DataError",
                 "no tokenizer at", id="tokenizer"),
    pytest.param({"data": [{"source": "none", "weight": 1}]}, "DataError", "no source at",
                 id="source"),
    pytest.param({"data": [{"source": "pairs", "weight": 1}]}, "DataError",
                 "holds preference, objective Pretrain needs text", id="kind"),
    pytest.param({"data": [{"source": "text", "weight": 1, "context_length": 48}]}, "UserError",
                 "contextLength 48", id="sample"),
    pytest.param({"model": {"config": {"model_type": "llama", "vocab_size": 10}}}, "UserError",
                 "set vocab_size to 300 or more", id="vocabulary"),
    pytest.param({"nodes": 2}, "UserError", "PET_NODE_RANK", id="nodes"),
    pytest.param({"optimizer": {"learning_rate": 1e30}}, "NonFinite", "learningRate", id="rate"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "outcome", "words"), WRONG)
def test_what_cannot_work_says_so_in_one_line(
    phases: Phases, changes: dict[str, Any], outcome: str, words: str
) -> None:
    ended = phases.launch(phases.run(steps=4, **changes))

    assert ended.outcome == outcome, ended.message
    assert words in ended.message
    assert "\n" not in ended.message


def test_a_batch_in_which_nothing_can_be_predicted_is_named(phases: Phases, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(phases.data / "tokenizer", data / "tokenizer")
    alone = [[number % VOCAB] for number in range(400)]
    digest = Encoder(data / "tokenizer").sha256
    write_source(data / "alone", alone, tokenizer_sha256=digest)
    ended = phases.launch(phases.run(data_dir=str(data), data=[{"source": "alone", "weight": 1}]))

    assert ended.outcome == "DataError"
    assert 'phase "first", step 1: nothing can be predicted in' in ended.message
    assert "of alone" in ended.message
