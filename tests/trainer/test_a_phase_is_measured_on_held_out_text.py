"""Evaluation and gate: the same figures under every layout, and a phase ends on what it says."""

import json
import math
import os
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from curriculum_api.run import PhaseResult, PhaseRun, RunGate
from curriculum_trainer import collective, evaluate, gate, needles, result, train, verify
from curriculum_trainer.data import IGNORED
from curriculum_trainer.evaluate import Evaluation
from curriculum_trainer.failures import PhaseFailure
from curriculum_trainer.sharding import Sharding
from curriculum_trainer.source import Source
from curriculum_trainer.tokenizing import Encoder

from .phases import CONTEXT, SEQUENCE_PARALLEL, Phases

EVALUATION: dict[str, Any] = {"source": "long", "sequences": 5, "needles": 3}
CONTEXTS: dict[str, Any] = {"context_length": 8 * CONTEXT, "global_batch_tokens": 16 * CONTEXT}

LAYOUTS = [
    pytest.param({"processes_per_node": 2}, id="DDP-2"),
    pytest.param({"processes_per_node": 2, "strategy": "ZeRO2"}, id="ZeRO2-2"),
    pytest.param(SEQUENCE_PARALLEL, id="ZeRO3-SP2"),
]


def _figures(text: str) -> dict[str, float]:
    (line,) = [line for line in text.splitlines() if line.startswith('{"evaluation"')]
    return cast("dict[str, float]", json.loads(line)["evaluation"])


@pytest.mark.trainer
def test_the_figures_are_the_same_under_every_layout(
    phases: Phases, capfd: pytest.CaptureFixture[str]
) -> None:
    run = phases.run("alone", steps=2, evaluation=EVALUATION, **CONTEXTS)
    ended = phases.launch(run.model_copy(update={"tokens": 2 * 16 * CONTEXT}))
    assert ended.outcome == "Succeeded", ended.message
    said = capfd.readouterr().out
    assert 'phase "alone" on held-out text: perplexity ' in said
    assert _figures(said) == ended.evaluation
    assert {"perplexity", "perplexity_before", "perplexity/0-256", "perplexity/256-512",
            "needle", "needle/0", "needle/50", "needle/100"} == set(ended.evaluation)  # fmt: skip
    assert ended.evaluation["perplexity"] < ended.evaluation["perplexity_before"]
    for number, layout in enumerate(LAYOUTS):
        other = phases.run(
            f"layout-{number}",
            evaluation=EVALUATION,
            **CONTEXTS,
            **cast("dict[str, Any]", layout.values[0]),
        )
        found = phases.launch(other.model_copy(update={"tokens": 2 * 16 * CONTEXT}))
        assert found.outcome == "Succeeded", found.message
        assert found.evaluation == pytest.approx(ended.evaluation, rel=1e-5), layout.id


class _Answers:
    """A model that gives every target the same score, and knows the answers of some rows."""

    def __init__(self, known: int) -> None:
        self._known = known
        self._rows = 0

    def scores(self, *inputs: Any, last: bool = True) -> torch.Tensor:
        _, positions, targets, _, hits = inputs
        if not hits:
            # a token at position p is expected with probability 1 / (1 + p // 256)
            return -torch.log1p(torch.div(positions, 256, rounding_mode="floor").float())
        self._rows += 1
        found = targets != IGNORED
        if self._rows > self._known:
            # all but the answer's last token
            found[0, -1] = False
        return found.float()


def _measured(run: PhaseRun) -> dict[str, float]:
    place = collective.place()
    device = collective.device(place)
    collective.join(device, place)
    from curriculum_trainer import batch

    evaluation = Evaluation(run, batch.layout(run, rank=0), place, device)
    return evaluation.figures(cast("Sharding", _Answers(known=2)), beat=lambda: None)


@pytest.mark.trainer
def test_perplexity_is_by_position_and_a_needle_is_found_as_a_whole(phases: Phases) -> None:
    run = phases.run(evaluation=EVALUATION, **CONTEXTS)
    (figures,) = phases.together(run, _measured)

    assert figures["perplexity/0-256"] == pytest.approx(1)
    assert figures["perplexity/256-512"] == pytest.approx(2)
    assert 1 < figures["perplexity"] < 2
    # the third, which is all but right, is not found
    assert (figures["needle"], figures["needle/0"], figures["needle/50"]) == (2 / 3, 1, 1)
    assert figures["needle/100"] == 0


@pytest.mark.trainer
def test_the_start_is_measured_once_over_all_attempts(
    phases: Phases, capfd: pytest.CaptureFixture[str]
) -> None:
    asked: dict[str, Any] = {"evaluation": {"source": "long", "sequences": 2}}
    half = phases.launch(phases.run(steps=2, **asked))
    before = half.evaluation["perplexity_before"]
    kept = result.phase_folder(phases.run()) / evaluate.BEFORE_FILE
    written = kept.read_text()
    whole = phases.launch(phases.run(steps=4, attempt=2, **asked))

    assert kept.read_text() == written
    assert whole.evaluation["perplexity_before"] == before
    assert whole.evaluation["perplexity"] < half.evaluation["perplexity"]
    # without the file the first weights are made again, and give the same
    kept.write_text("{")
    again = phases.launch(phases.run(steps=5, attempt=3, **asked))
    assert again.evaluation["perplexity_before"] == before
    assert "resumed from" in capfd.readouterr().out


@pytest.mark.trainer
def test_an_attempt_after_the_last_checkpoint_only_evaluates(
    phases: Phases, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run = phases.run(evaluation=EVALUATION, **CONTEXTS, processes_per_node=2)
    sound = train._evaluate

    def killed(*_: Any) -> None:
        os._exit(9)

    monkeypatch.setattr(train, "_evaluate", killed)
    assert phases.launch(run).outcome == "Unknown"
    monkeypatch.setattr(train, "_evaluate", sound)
    capfd.readouterr()
    ended = phases.launch(run.model_copy(update={"attempt": 2}))
    said = capfd.readouterr().out

    assert ended.outcome == "Succeeded", ended.message
    assert '{"step"' not in said
    assert _figures(said) == ended.evaluation
    assert verify.verified(run).evaluation == ended.evaluation


@pytest.mark.trainer
def test_a_failed_gate_ends_the_phase_with_the_figures_and_its_checkpoint(phases: Phases) -> None:
    run = phases.run(
        steps=2,
        evaluation=EVALUATION,
        gate={"min_needle": 0.95, "max_perplexity_rise": -0.9},
        processes_per_node=2,
        **CONTEXTS,
    )
    ended = phases.launch(run)

    assert ended.outcome == "GateFailed"
    assert "needle 0 of at least 0.95; perplexity rose -" in ended.message
    assert "of at most -90 %" in ended.message
    assert ended.evaluation["needle"] == 0
    assert ended.checkpoint is not None
    assert ended.checkpoint.tokens == ended.tokens >= run.tokens
    kept = (result.phase_folder(run) / "result.json").read_text()
    assert PhaseResult.model_validate_json(kept).evaluation == ended.evaluation


@pytest.mark.trainer
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param({"gate": {"min_needle": 0.5}}, "gate needs an evaluation", id="nothing"),
        pytest.param(
            {"gate": {"min_needle": 0.5}, "evaluation": {"source": "long"}},
            "gate.minNeedle needs evaluation.needles",
            id="no-needles",
        ),
        pytest.param({"evaluation": {"source": "none"}}, "no source at", id="no-source"),
        pytest.param(
            {"evaluation": {"source": "long", "needles": 1}, "context_length": 16},
            "a needle, 3 others and its question need",
            id="short",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_trained(
    phases: Phases, changes: dict[str, Any], words: str
) -> None:
    ended = phases.launch(phases.run(**changes))

    assert words in ended.message
    assert ended.step == 0


GATES = [
    pytest.param({"min_needle": 0.95}, {"needle": 0.95}, "", id="just"),
    pytest.param(
        {"min_needle": 0.95}, {"needle": 0.62}, "needle 0.62 of at least 0.95", id="needle"
    ),
    pytest.param(
        {"max_perplexity_rise": 0.02},
        {"perplexity": 10.41, "perplexity_before": 10.0},
        "perplexity rose 4.1 % of at most 2 %",
        id="perplexity",
    ),
    pytest.param(
        {"max_perplexity_rise": 0.02}, {"perplexity": 9, "perplexity_before": 10}, "", id="fell"
    ),
    pytest.param(
        {"min_needle": 0.95, "max_perplexity_rise": 0.02},
        {"needle": 0.62, "perplexity": 10.41, "perplexity_before": 10.0},
        "needle 0.62 of at least 0.95; perplexity rose 4.1 % of at most 2 %",
        id="both",
    ),
    pytest.param(
        {"max_perplexity_rise": 0.02},
        {"perplexity": math.nan, "perplexity_before": 10.0},
        "perplexity rose nan % of at most 2 %",
        id="not-a-number",
    ),
]


@pytest.mark.parametrize(("asked", "figures", "said"), GATES)
def test_a_gate_says_what_falls_short(
    asked: dict[str, float], figures: dict[str, float], said: str
) -> None:
    assert said == gate.failed(RunGate.model_validate(asked), figures)


@pytest.mark.parametrize(
    ("context", "edges"),
    [(64, [0, 64]), (256, [0, 256]), (257, [0, 256, 257]), (1024, [0, 256, 512, 1024])],
)
def test_buckets_are_powers_of_two_up_to_the_context(context: int, edges: list[int]) -> None:
    assert edges == evaluate.buckets(context)


@pytest.mark.parametrize(
    ("count", "percents"), [(1, {50}), (3, {0, 50, 100}), (64, set(range(0, 101, 10)))]
)
def test_needles_are_counted_by_few_depths(count: int, percents: set[int]) -> None:
    assert percents == {evaluate._percent(depth, count) for depth in needles.depths(count)}


def test_a_needle_lies_at_its_depth_and_only_its_answer_is_predicted(data: Path) -> None:
    encoder = Encoder(data / "tokenizer")
    text = np.zeros(200, np.int64)
    seen = set()
    for number, depth in enumerate(needles.depths(5)):
        row = needles.row(text, encoder.encode, number=number, depth=depth, seed=1, length=200)
        assert (len(row.tokens), row.lengths) == (200, (200,))
        said = encoder.decode([int(token) for token in row.tokens if token])
        answer = encoder.decode([int(token) for token in row.targets if token != IGNORED])
        stated = [fact.split(".")[0] for fact in said.split(" Code")[1:]]
        asked, others = stated.pop(), [fact for fact in stated if not fact.endswith(answer)]
        # as many that are not asked for, about other words
        assert (len(stated), len(others)) == (1 + needles.OTHERS, needles.OTHERS)
        assert len({fact.split()[0] for fact in stated}) == len(stated)
        assert (row.targets[: -len(encoder.encode(answer))] == IGNORED).all()
        fact = encoder.encode(f"{needles.OPENING}{asked.removesuffix(answer)}")
        starts = [n for n in range(200) if [*row.tokens[n : n + len(fact)]] == fact]
        room = int((row.tokens == 0).sum())
        assert int((row.tokens[: starts[0]] == 0).sum()) == round(depth * room)
        seen.add(answer)
    assert len(seen) == 5


@pytest.mark.parametrize("times", [2, 3])
def test_training_documents_state_each_fact_once_and_then_ask(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], times: int
) -> None:
    arguments = ["--tokenizer", str(data / "tokenizer"), "--length", "400", "--documents", "7",
                 "--haystack", "python:stdlib/json", "--times", f"{times}"]  # fmt: skip
    for name in ("one", "two"):
        assert needles.main([*arguments, "--output", str(tmp_path / name)]) == 0
    assert "2800 tokens in 7 documents" in capsys.readouterr().out
    source = Source(tmp_path / "one", "one")
    encoder = Encoder(data / "tokenizer")
    for number in range(7):
        tokens = source.document(number)
        assert len(tokens) == 400
        assert tokens[-1] == encoder.end
        facts = encoder.decode([int(token) for token in tokens]).split(" Code")[1:]
        stated = [fact.split(".")[0] for fact in facts]
        assert len(stated) == times * len(set(stated)) >= 3
    same = [(tmp_path / name / "tokens-00000.bin").read_bytes() for name in ("one", "two")]
    assert same[0] == same[1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--length", "20"), "give at least"),
        (("--length", "99", "--times", "1"), "--times 1 asks"),
        (("--length", "99", "--gap", "-50"), "--gap -50 makes no document"),
        (("--length", "99", "--documents", "0"), "--documents 0 makes no document"),
    ],
)
def test_documents_that_could_teach_nothing_are_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    arguments = ["--tokenizer", str(data / "tokenizer"), "--documents", "1", *options,
                 "--haystack", "python:stdlib/json", "--output", str(tmp_path)]  # fmt: skip
    assert needles.main(arguments) == 1
    assert words in capsys.readouterr().err


def test_a_gate_is_checked_before_the_start(phases: Phases) -> None:
    with pytest.raises(PhaseFailure, match="gate needs an evaluation"):
        gate.check(phases.run(gate={"min_needle": 1.0}))
