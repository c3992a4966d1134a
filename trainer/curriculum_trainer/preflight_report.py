"""What a preflight says: one line of figures, a sentence for every suspect, a file that is kept."""

import json
from collections.abc import Sequence
from contextlib import suppress

from curriculum_api.preflight import diagnose
from curriculum_api.preflight.diagnose import Diagnosis
from curriculum_api.preflight.figures import AT_MOST, OWN, PAIR, UNITS, Check, Measured, digits
from curriculum_api.run import PhaseRun
from curriculum_trainer import result

FILE = "preflight.json"
"""What was measured last, beside the phase's checkpoints."""

SUSPECTS = 3
"""Suspects that the attempt's message names; the rest are counted."""


def keep(run: PhaseRun, measured: Measured) -> None:
    """Beside the checkpoints, for whoever looks later; a full disk is told of by other means."""
    folder = result.phase_folder(run)
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        document = measured.model_dump(mode="json", by_alias=True)
        (folder / FILE).write_text(json.dumps(document, indent=2) + "\n")


def summary(measured: Measured) -> str:
    """What was measured, in one line: the worst of each check and where it was found."""
    told = []
    for check in OWN:
        known = [(n.figures[check], n.node) for n in measured.nodes if check in n.figures]
        if known:
            told.append(_least(check, known))
    for check in PAIR:
        met = [(p.figures[check], "-".join(p.nodes)) for p in measured.pairs if check in p.figures]
        if met:
            told.append(_least(check, met))
    for check, value in measured.together.items():
        told.append(
            f"all-reduce {check if check is Check.LATENCY else ''}".strip()
            + f" {digits(value)} {UNITS[check]}"
        )
    return (
        f"preflight of {len(measured.nodes)} nodes and {len(measured.pairs)} pairs in "
        f"{measured.seconds:.1f} s; worst: {', '.join(told)}"
    )


def _least(check: Check, known: Sequence[tuple[float, str]]) -> str:
    choose = max if check in AT_MOST else min
    value, where = choose(known)
    return f"{check} {digits(value)} {UNITS[check]} ({where})"


def message(found: Diagnosis) -> str:
    """Every suspect in a sentence, as far as a message goes."""
    findings = found.findings
    told = [diagnose.sentence(suspect) for suspect in findings.suspects]
    told += [diagnose.pair_line(pair) for pair in findings.pairs]
    left = len(told) - SUSPECTS + findings.more
    more = f"; and {left} more" if left > 0 else ""
    return f"preflight: {'; '.join(told[:SUSPECTS])}{more}"
