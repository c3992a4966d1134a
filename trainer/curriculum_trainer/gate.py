"""Whether a phase may be built upon: what its gate asks of its evaluation. Pure."""

from collections.abc import Mapping

from curriculum_api.run import PhaseRun, RunGate
from curriculum_trainer import failures


def check(run: PhaseRun) -> None:
    """Refuse a gate that asks for what is not measured, before anything is trained."""
    if run.gate is None:
        return
    if run.evaluation is None:
        raise failures.user_error(f'phase "{run.phase}": gate needs an evaluation: add one')
    if run.gate.min_needle is not None and not run.evaluation.needles:
        raise failures.user_error(
            f'phase "{run.phase}": gate.minNeedle needs evaluation.needles of at least 1: ask some'
        )


def failed(gate: RunGate, figures: Mapping[str, float]) -> str:
    """What falls short, with the figures; empty where nothing does."""
    said = []
    least, most = gate.min_needle, gate.max_perplexity_rise
    # asked this way round, so that a figure which is not a number never passes
    if least is not None and not figures["needle"] >= least:
        said.append(f"needle {figures['needle']:.4g} of at least {least:g}")
    if most is not None:
        rise = figures["perplexity"] / figures["perplexity_before"] - 1
        if not rise <= most:
            said.append(f"perplexity rose {100 * rise:.1f} % of at most {100 * most:g} %")
    return "; ".join(said)
