"""`curriculum doctor` says of this machine what holds, what does not and what to do."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from curriculum_api.check import Check, Verdict
from curriculum_cli import doctor, machine_checks
from curriculum_cli.machine_checks import Facts, Gpu
from curriculum_cli.main import app
from curriculum_trainer import machine

GIB = 1 << 30
SPARK = Gpu("NVIDIA GB10", (12, 1), "580.142")
SOUND = Facts(
    python=(3, 13, 1),
    torch="2.15.0",
    deepspeed="0.19.8",
    architecture="aarch64",
    kernel="6.17.0-1030-nvidia",
    kernel_options="ro quiet",
    cpus=20,
    memory_free=100 * GIB,
    shared_memory=60 * GIB,
    folder="checkpoints",
    disk_free=2000 * GIB,
    write_rate=3e9,
    gpu_files=1,
    gpus=(SPARK,),
    nccl=(2, 30, 7),
)


def row(facts: Facts, name: str) -> Check:
    """The one row of a check."""
    (found,) = [row for row in machine_checks.rows(facts) if row.name == name]
    return found


def test_a_sound_spark_passes_every_check_and_needs_no_remedy() -> None:
    rows = list(machine_checks.rows(SOUND))

    assert {Verdict.PASS} == {row.verdict for row in rows}
    assert [row.name for row in rows if row.remedy] == []


def test_a_laptop_without_a_gpu_passes_and_has_no_row_about_nccl() -> None:
    laptop = replace(SOUND, architecture="x86_64", gpu_files=0, gpus=(), nccl=None)
    rows = list(machine_checks.rows(laptop))

    assert {Verdict.PASS} == {row.verdict for row in rows}
    assert "NCCL" not in {row.name for row in rows}


@pytest.mark.parametrize(
    ("changes", "name", "verdict", "remedy"),
    [
        pytest.param({"python": (3, 10, 9)}, "Python", "FAIL", "newer", id="old-python"),
        pytest.param({"torch": None}, "torch", "FAIL", "[trainer]", id="no-torch"),
        pytest.param({"deepspeed": None}, "DeepSpeed", "WARN", "ZeRO", id="no-deepspeed"),
        pytest.param(
            {"kernel": "7.0.0-1019-nvidia"}, "kernel", "WARN", "kho=off", id="broken-kernel"
        ),
        pytest.param({"cpus": 1}, "CPUs", "WARN", "two", id="one-processor"),
        pytest.param({"memory_free": 3 * GIB}, "memory free", "WARN", "limit", id="low-memory"),
        pytest.param({"memory_free": GIB}, "memory free", "FAIL", "limit", id="no-memory"),
        pytest.param({"shared_memory": 64 << 20}, "/dev/shm", "WARN", "--shm-size", id="shm"),
        pytest.param({"disk_free": 5 * GIB}, "disk free", "WARN", "--checkpoints", id="low-disk"),
        pytest.param({"disk_free": GIB // 2}, "disk free", "FAIL", "--checkpoints", id="full-disk"),
        pytest.param({"write_rate": 120e6}, "disk write", "WARN", "MBps to 120", id="slow-disk"),
        pytest.param({"write_rate": None}, "disk write", "FAIL", "writable", id="read-only"),
        pytest.param({"gpus": ()}, "GPUs", "FAIL", "nvidia-smi", id="silent-driver"),
        pytest.param(
            {"gpus": (Gpu("Tesla T4", (7, 5), "580"),)},
            "GPU 0 capability", "WARN", "FP32", id="no-bf16",
        ),
        pytest.param({"nccl": (2, 29, 2)}, "NCCL", "FAIL", "2.29.3", id="deadlocking-nccl"),
        pytest.param({"nccl": None}, "NCCL", "WARN", "CUDA", id="no-nccl"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_remedy(
    changes: dict[str, object], name: str, verdict: str, remedy: str
) -> None:
    found = row(replace(SOUND, **changes), name)  # type: ignore[arg-type]

    assert verdict == found.verdict
    assert remedy in found.remedy


def test_nccl_is_old_on_arm_alone() -> None:
    found = row(replace(SOUND, architecture="x86_64", nccl=(2, 28, 9)), "NCCL")

    assert found.verdict is Verdict.PASS


def test_the_kernel_that_was_told_how_to_live_with_it_passes() -> None:
    mended = replace(SOUND, kernel="7.0.0-31-generic", kernel_options="ro kho=off quiet")

    assert row(mended, "kernel").verdict is Verdict.PASS


def test_the_drivers_table_is_read() -> None:
    told = "NVIDIA GB10, 12.1, 580.142\nNVIDIA B200, 10.0, 590.44\nNo devices were found\n"

    assert doctor.parsed(told) == [SPARK, Gpu("NVIDIA B200", (10, 0), "590.44")]


def test_facts_of_this_machine_need_no_torch_and_leave_no_file(tmp_path: Path) -> None:
    found = doctor.facts(tmp_path / "not" / "there")

    assert found.write_rate
    assert found.write_rate > 0
    assert found.disk_free > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("changes", "code"), [({}, 0), ({"cpus": 1}, 0), ({"torch": None}, 1)])
def test_only_a_failed_check_is_exit_code_1(
    changes: dict[str, object], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "facts", lambda _: replace(SOUND, **changes))  # type: ignore[arg-type]
    ended = CliRunner().invoke(app, ["doctor", "-o", "json"])

    assert ended.exit_code == code
    checks = json.loads(ended.stdout)["checks"]
    assert {"subject", "name", "verdict", "value", "floor", "remedy"} == checks[0].keys()


def test_the_table_shows_every_row_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "facts", lambda _: replace(SOUND, nccl=(2, 28, 9)))
    ended = CliRunner().invoke(app, ["doctor"])

    assert ended.exit_code == 1
    (nccl,) = [line for line in ended.stdout.splitlines() if "NCCL" in line]
    assert nccl.split()[:4] == ["FAIL", "NCCL", "2.28.9", "2.29.3"]
    assert "install 2.29.3 or newer" in nccl


def test_a_file_comes_with_calibrate_alone(tmp_path: Path) -> None:
    ended = CliRunner().invoke(app, ["doctor", "-o", str(tmp_path / "cpu.yaml")])

    assert ended.exit_code == 1
    assert "a file comes with --calibrate" in ended.stderr


@pytest.mark.parametrize(("share", "told"), [(0.04, ""), (0.38, "# other programs took 38% of")])
def test_a_class_says_when_others_were_in_the_way(share: float, told: str) -> None:
    said = doctor.disturbed(share)

    assert said.startswith(told)
    assert bool(said) == bool(told)
    assert yaml.safe_load(said + "kind: AcceleratorClass") == {"kind": "AcceleratorClass"}


def test_neighbours_are_what_this_process_did_not_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """10 seconds of two processors: all programs took 12 processor-seconds, this one 7."""
    now = {"busy": 100.0, "own": 3.0, "clock": 0.0}
    monkeypatch.setattr(machine, "busy_seconds", lambda: now["busy"])
    monkeypatch.setattr(machine, "_own_seconds", lambda: now["own"])
    monkeypatch.setattr("time.monotonic", lambda: now["clock"])
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    neighbours = machine.Neighbours()
    now.update(busy=112.0, own=10.0, clock=10.0)

    assert neighbours.share() == pytest.approx(0.25)


def test_this_machines_processors_are_counted() -> None:
    before = machine.busy_seconds()
    sum(range(3_000_000))

    assert machine.busy_seconds() >= before > 0
