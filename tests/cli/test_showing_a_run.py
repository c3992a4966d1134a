"""How a local run shows itself, in a terminal and in a log."""

import io

import pytest
from rich.console import Console

from curriculum_api.summary import CurriculumSummary, PhaseSummary
from curriculum_api.wire import State, Strategy
from curriculum_cli import training
from curriculum_cli.screen import Pace, Screen, duration
from curriculum_cli.summary import table
from curriculum_cli.training import Step


def step(number: int, *, tokens_per_second: float = 100.0) -> Step:
    return Step(number, number * 10, loss=3.0, tokens_per_second=tokens_per_second)


def test_a_log_gets_the_first_and_the_last_step_and_few_between() -> None:
    """A hundred steps within ten seconds are two lines."""
    out = io.StringIO()
    screen = Screen(Console(file=out))
    with screen.following("pretrain", tokens=1000) as on_step:
        for number in range(1, 101):
            on_step(step(number))

    lines = out.getvalue().splitlines()
    assert [line.split(", loss")[0] for line in lines] == [
        "pretrain: 1 %, step 1",
        "pretrain: 100 %, step 100",
    ]


def test_a_terminal_gets_a_bar_with_the_figures() -> None:
    out = io.StringIO()
    screen = Screen(Console(file=out, force_terminal=True, width=120))
    with screen.following("pretrain", tokens=1000) as on_step:
        on_step(step(50))

    assert "50%" in out.getvalue()
    assert "loss 3.0000, 100 tokens/s, 5s left" in out.getvalue()


def test_the_time_left_follows_from_this_attempts_own_pace() -> None:
    """What an earlier attempt did counts as done, not as fast."""
    pace = Pace(tokens=1000)

    pace.told(step(50), now=100.0)

    assert "50 tokens/s, 8s left" in pace.told(step(60), now=102.0)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0s"), (59.4, "59s"), (137, "2m17s"), (11100, "3h05m")]
)
def test_a_duration_reads_well(seconds: float, text: str) -> None:
    assert text == duration(seconds)


def test_only_lines_of_steps_are_steps() -> None:
    line = '{"step": 3, "tokens": 30, "loss": null, "tokens_per_second": 5.0}'

    found = training.parse(line)

    assert found is not None
    assert (3, 30) == (found.step, found.tokens)
    assert found.loss != found.loss, "a loss that is not finite is null on the wire"
    assert training.parse('{"evaluation": {"needle": 1.0}}') is None
    assert training.parse("device cpu with gloo") is None
    assert training.parse('{"step": 3') is None


def test_a_sweeps_settings_are_columns_and_a_failed_one_shows_dashes() -> None:
    phase = PhaseSummary(
        name="first",
        accelerator_class="local",
        nodes=("here",),
        strategy=Strategy.DDP,
        context_length=64,
        settings={"tokens": "64"},
    )
    out = io.StringIO()

    summary = CurriculumSummary(state=State.FAILED, phases=(phase,))
    Console(file=out, width=160).print(table(summary, places=False))

    assert "tokens" in out.getvalue()
    assert "class" not in out.getvalue()
    assert " - " in out.getvalue()
    plain = phase.model_copy(update={"settings": None})
    (document,) = CurriculumSummary(state=State.FAILED, phases=(plain,)).document()["phases"]
    assert "settings" not in document
