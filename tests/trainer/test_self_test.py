"""The GPU self-test, on a machine without a GPU: its verdicts, and its own code on the CPU.

The figures that come out here are a CPU's and are looked at by nobody.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from curriculum_api.run import PhaseResult, PhaseRun
from curriculum_api.wire import Outcome
from curriculum_trainer import collective, failures, probe, processes, selftest, synthetic
from curriculum_trainer.precision import Device
from curriculum_trainer.probe import Row, Verdict
from curriculum_trainer.selftest import Machine
from curriculum_trainer.synthetic import Sizes

from .phases import MODEL

pytestmark = pytest.mark.trainer

CPU = Machine(
    device=Device(kind="cpu", index=0, backend="gloo", reason="no CUDA device is visible"),
    name="cpu",
    count=2,
    nccl=None,
)
SMALL = Sizes(model=MODEL, matmul_side=64, reduce_bytes=1 << 20, context=64, longest=128, steps=2)


def test_without_a_gpu_it_says_what_it_needs_and_exits_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["selftest"])

    assert selftest.main() == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == selftest.NO_GPU + "\n"


@pytest.mark.parametrize(("verdict", "code"), [("PASS", 0), ("SKIP", 0), ("FAIL", 1)])
def test_a_failed_check_is_its_exit_code_and_a_skipped_one_is_not(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    verdict: str,
    code: int,
) -> None:
    def rows(*_: Any) -> Iterator[Row]:
        yield Row("device", Verdict.PASS, "one")
        yield Row("all-reduce", Verdict(verdict), "two")

    monkeypatch.setattr(sys, "argv", ["selftest", "--folder", str(tmp_path)])
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr(selftest, "this_machine", lambda: CPU)
    monkeypatch.setattr(selftest, "Sizes", lambda: SMALL)
    monkeypatch.setattr(selftest, "rows", rows)

    assert selftest.main() == code
    assert capsys.readouterr().out == f"PASS  device      one\n{verdict}  all-reduce  two\n"
    assert list(tmp_path.iterdir()) == []


def test_every_check_runs(tmp_path: Path) -> None:
    synthetic.make_data(tmp_path, SMALL)
    run = selftest.launching(tmp_path, start=processes.fork)
    found = {row.check: row for row in selftest.rows(CPU, SMALL, tmp_path, run)}
    skipped = {check for check, row in found.items() if row.verdict is Verdict.SKIP}

    assert [row for row in found.values() if row.verdict is Verdict.FAIL] == []
    assert skipped == {"NCCL", "DDP, FP8", "DDP, MXFP8", "DDP, NVFP4"}
    assert "needs a CUDA device" in found["DDP, NVFP4"].says
    assert "TFLOPS; no peak is known" in found["BF16 matmul"].says
    assert "bus bandwidth" in found["all-reduce of 1 MiB over 2"].says
    longest = found["ZeRO-3, sequence parallel 2, BF16"].says
    assert longest.startswith("128 tokens of context, ")
    for check in ("DDP, BF16", "DDP, BF16, AdamW8bit", "DDP, BF16, AdamW4bit"):
        assert "tokens/s, no peak known for MFU, " in found[check].says
    assert not (tmp_path / "checkpoints").exists()


def test_a_phase_that_fails_fails_its_row(tmp_path: Path) -> None:
    """The source is gone, so nothing trains; the checks that need no data still say what is."""
    run = selftest.launching(tmp_path, start=processes.fork)
    alone = Machine(device=CPU.device, name="cpu", count=1, nccl=None)
    found = list(selftest.rows(alone, SMALL, tmp_path, run))
    failed = [row for row in found if row.verdict is Verdict.FAIL]

    assert len(failed) == 4
    for row in failed:
        assert "DataError" in row.says
    assert "one device has nobody to reduce with" in [row.says for row in found]


@pytest.mark.parametrize(
    ("version", "architecture", "verdict"),
    [
        ((2, 29, 2), "aarch64", "FAIL"),
        ((2, 28, 9), "arm64", "FAIL"),
        ((2, 29, 3), "aarch64", "PASS"),
        ((2, 30, 7), "aarch64", "PASS"),
        ((2, 28, 9), "x86_64", "PASS"),
        (None, "aarch64", "SKIP"),
    ],
)
def test_an_nccl_that_can_deadlock_fails(
    version: tuple[int, ...] | None, architecture: str, verdict: str
) -> None:
    assert probe.nccl(version, architecture).verdict == verdict


def test_an_nccl_that_can_deadlock_is_not_trained_with() -> None:
    with pytest.raises(
        failures.PhaseFailure, match=r"NCCL 2\.29\.2 can deadlock on aarch64"
    ) as end:
        collective.check_nccl((2, 29, 2), "aarch64")
    assert end.value.outcome is Outcome.USER_ERROR
    collective.check_nccl((2, 29, 3), "aarch64")
    collective.check_nccl((2, 28, 9), "x86_64")


@pytest.mark.parametrize(
    ("tera", "peak", "verdict", "words"),
    [
        (91.0, 125e12, "PASS", "91 TFLOPS, 73 % of 125"),
        (20.0, 125e12, "FAIL", "stuck at a low clock"),
        (20.0, None, "PASS", "no peak is known"),
    ],
)
def test_a_device_far_below_its_peak_fails(
    tera: float, peak: float | None, verdict: str, words: str
) -> None:
    row = probe.matmul(tera * 1e12, peak)

    assert row.verdict == verdict
    assert words in row.says


def _ended(run: PhaseRun, outcome: str, *, seconds: float = 1.0) -> PhaseResult:
    metrics = {
        "throughput(tps)": 1000.0,
        "mfu(%)": 41.26,
        "memory/max_reserved(GiB)": run.context_length / 1000,
        "time_metrics/end_to_end(s)": seconds,
    }
    return PhaseResult.model_validate(
        {"outcome": outcome, "phase": "p", "attempt": 1, "message": "said so", "world_size": 2,
         "metrics": metrics if outcome == "Succeeded" else {}}
    )  # fmt: skip


def _longest(tmp_path: Path, answer: Callable[[PhaseRun], PhaseResult]) -> tuple[Row, list[int]]:
    tried: list[int] = []

    def run(asked: PhaseRun) -> PhaseResult:
        assert (asked.strategy, asked.sequence_parallel) == ("ZeRO3", 2)
        assert asked.memory.activation_checkpointing
        tried.append(asked.context_length)
        return answer(asked)

    def phase(**changes: Any) -> PhaseRun:
        return synthetic.phase(tmp_path, sizes, devices=2, **changes)

    sizes = Sizes(context=64, longest=1024)
    return selftest.longest_context(CPU, sizes, phase, run), tried


def test_the_context_doubles_until_it_does_not_fit(tmp_path: Path) -> None:
    row, tried = _longest(
        tmp_path,
        lambda run: _ended(run, "OutOfMemory" if run.context_length > 256 else "Succeeded"),
    )

    assert tried == [64, 128, 256, 512]
    assert row.verdict == "PASS"
    assert row.says == (
        "256 tokens of context, 2000 tokens/s, MFU 41.3 %, 0.3 GiB a device at most; "
        "512 tokens did not fit"
    )


def test_or_until_a_step_would_take_too_long_or_the_list_ends(tmp_path: Path) -> None:
    slow, tried = _longest(
        tmp_path, lambda run: _ended(run, "Succeeded", seconds=80.0 * (run.context_length > 64))
    )
    assert tried == [64, 128]
    assert slow.says.endswith("; a step of 256 tokens would take more than 300 s")

    whole, tried = _longest(tmp_path, lambda run: _ended(run, "Succeeded"))
    assert tried == [64, 128, 256, 512, 1024]
    assert whole.says.endswith("; 1024 is the longest that is tried")


def test_no_context_that_fits_and_any_other_end_fail(tmp_path: Path) -> None:
    none, tried = _longest(tmp_path, lambda run: _ended(run, "OutOfMemory"))
    assert (none.verdict, tried) == ("FAIL", [64])
    assert none.says == "64 tokens did not fit: not even the shortest context"

    lost, tried = _longest(tmp_path, lambda run: _ended(run, "FabricError"))
    assert (lost.verdict, tried) == ("FAIL", [64])
    assert lost.says == "64 tokens: FabricError: said so"
