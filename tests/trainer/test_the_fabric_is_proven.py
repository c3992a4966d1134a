"""Before anything is loaded the processes say what joins them; less than promised ends all."""

import os
import re
import socket

import pytest

from curriculum_api.run import FABRIC_METRIC, PhaseRun, RunFabric
from curriculum_api.wire import Outcome, Transport
from curriculum_trainer import collective, counters, fabric_pod, failures, nccl_report, transport
from curriculum_trainer.collective import Place
from curriculum_trainer.fabric_cause import Pod
from curriculum_trainer.precision import Device
from curriculum_trainer.progress import Progress
from curriculum_trainer.result import Reached
from curriculum_trainer.telling import Telling

from .phases import Phases, steps_of
from .test_what_nccl_says import FALLEN, ROCE

pytestmark = pytest.mark.trainer

PROMISED = RunFabric(profile="gb10-switch", transport=Transport.RDMA)
TWO_NODES = {"nodes": 2, "fabric": PROMISED}
NCCL = Device(kind="cpu", index=0, backend="nccl", reason="as far as it is told")


def test_gloo_says_its_interface_and_counts_and_fails_nothing(
    phases: Phases, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counters, "INTERVAL_SECONDS", 1e-9)
    ended = phases.launch(phases.run(steps=2, processes_per_node=2, fabric=PROMISED))
    told = capfd.readouterr().out

    assert ended.outcome == "Succeeded"
    assert re.search(r"^fabric: gloo over lo, [\d.e+-]+ GB/s$", told, re.MULTILINE)
    sent = [step["fabric/max_sent(GB/s)"] for step in steps_of(told)]
    assert len(sent) == 2
    assert min(sent) > 0
    assert ended.metrics["fabric/max_errors(1/s)"] == 0


def test_a_lone_process_has_no_fabric(phases: Phases, capfd: pytest.CaptureFixture[str]) -> None:
    phases.launch(phases.run(steps=1))
    told = capfd.readouterr().out
    assert "fabric" not in told


def _proven(run: PhaseRun) -> str:
    """What a process of a gang says at the end of the proof, or why it ended."""
    place = collective.place()
    collective.join(collective.device(place), place)
    try:
        seen = transport.prove(run, place, NCCL)
    except failures.PhaseFailure as error:
        return f"{error.outcome}: {error.message}"
    return seen.text if seen.proven else f"{seen.text}, unproven"


def _gang(monkeypatch: pytest.MonkeyPatch, reports: tuple[str, str], pod: Pod) -> None:
    """Two processes whose NCCL wrote `reports`."""
    monkeypatch.setattr(transport, "_report", lambda: reports[int(os.environ["RANK"])])
    monkeypatch.setattr(transport, "_bus_bandwidth", lambda *_: 2.0)
    monkeypatch.setattr(fabric_pod, "read", lambda _: pod)
    monkeypatch.setattr(socket, "gethostname", lambda: "spark-" + os.environ["RANK"])


def test_a_fall_on_one_process_ends_all_with_its_cause(
    phases: Phases, monkeypatch: pytest.MonkeyPatch
) -> None:
    _gang(monkeypatch, (ROCE, FALLEN), Pod(locked_bytes=65536))
    run = phases.run(processes_per_node=2)
    both = phases.together(run, lambda run: _proven(run.model_copy(update=TWO_NODES)))
    said = (
        'FabricError: phase "first": spark-1 fell to sockets over ens5f0np0, ens3f0np0, 2 GB/s, '
        'but fabric profile "gb10-switch" promises RDMA: only 64 KiB of memory may be locked '
        "(ulimit -l): set LimitMEMLOCK=infinity in the systemd unit of the node's container "
        "runtime; IPC_LOCK alone helps root only"
    )
    assert [said, said] == both


def test_a_pod_without_verbs_ends_before_it_meets_anybody(
    phases: Phases, monkeypatch: pytest.MonkeyPatch
) -> None:
    _gang(monkeypatch, (ROCE, ROCE), Pod(verbs=False))
    run = phases.run(processes_per_node=2)
    first, _ = phases.together(run, lambda run: _proven(run.model_copy(update=TWO_NODES)))
    assert 'spark-0 has no RDMA, but fabric profile "gb10-switch" promises RDMA' in first
    assert "the pod has no /dev/infiniband" in first


@pytest.mark.parametrize(
    ("update", "said"),
    [
        ({"nodes": 2, "fabric": None}, FALLEN),
        ({"nodes": 2, "fabric": RunFabric(profile="roce", transport=Transport.SOCKETS)}, FALLEN),
        ({"nodes": 1, "fabric": PROMISED}, FALLEN),
        ({"nodes": 2, "fabric": PROMISED}, ROCE),
        # somebody turned its report off: nothing is known, so nothing is held against it
        ({"nodes": 2, "fabric": PROMISED}, ""),
    ],
)
def test_what_was_not_promised_or_is_kept_ends_nothing(
    update: dict[str, object],
    said: str,
    phases: Phases,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _gang(monkeypatch, (said, said), Pod())
    run = phases.run(processes_per_node=2)
    first, second = phases.together(run, lambda run: _proven(run.model_copy(update=update)))
    assert first == second
    assert first.endswith("2 GB/s" if said else "2 GB/s, unproven")
    assert "FabricError" not in first


def test_a_failed_call_is_told_with_its_cause(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    warning = "Call to ibv_reg_mr failed with error Cannot allocate memory"
    monkeypatch.setattr(transport, "_report", lambda: f"h:1:1 [0] a.cc:1 NCCL WARN {warning}")
    monkeypatch.setattr(fabric_pod, "read", lambda _: Pod(locked_bytes=65536))
    outcome, message = failures.classify(ConnectionResetError("reset"))
    told = transport.explained(outcome, message)
    assert told.startswith("only 64 KiB of memory may be locked")
    assert told.endswith(message)
    assert warning in capfd.readouterr().err
    assert "as it is" == transport.explained(Outcome.DATA_ERROR, "as it is")


def test_what_is_not_proven_is_no_proof_for_the_operator(
    phases: Phases, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    told: list[dict[str, object]] = []
    monkeypatch.setattr(Progress, "tell", lambda *_, metrics, **__: told.append(metrics))
    telling = Telling(phases.run(), Place(0, 0, 2), Reached(), Progress({}, leads=True))
    telling.joined("NCCL, not proven", proven=False)
    telling.joined("IB over mlx5_0", proven=True)
    assert [None, "IB over mlx5_0"] == [metrics.get(FABRIC_METRIC) for metrics in told]
    assert "fabric: NCCL, not proven\n" in capfd.readouterr().out


def test_a_workers_nccl_is_told_to_report(
    phases: Phases, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def show(*_: object) -> transport.Seen:
        print({name: os.environ[name] for name in nccl_report.ASKED})
        assert os.environ["NCCL_DEBUG_FILE"].endswith("/nccl-0.log")
        return transport.Seen()

    monkeypatch.setattr(transport, "prove", show)
    assert phases.launch(phases.run(steps=1), NCCL_DEBUG="TRACE").outcome == "Succeeded"
    assert "'NCCL_DEBUG': 'TRACE', 'NCCL_DEBUG_SUBSYS': 'INIT,NET,ENV'" in capfd.readouterr().out
