"""Before the first step the nodes of a gang are measured: three real processes over gloo, and one
of them made slow by a fake at the thinnest seam."""

import os
import socket
import threading
import time
from collections.abc import Callable
from functools import partial

import pytest
import torch

from curriculum_api.preflight import schedule
from curriculum_api.preflight.figures import Check, Figures, Measured
from curriculum_api.run import PhaseResult, PhaseRun
from curriculum_trainer import (
    interfaces,
    preflight_node,
    preflight_pair,
    preflight_report,
    result,
)
from curriculum_trainer.preflight_node import Product

from .arming import arm, before
from .listener import listening
from .phases import Phases

pytestmark = pytest.mark.trainer

PRODUCT_SECONDS = 0.5
"""For one product: many times what it takes."""

SLOW_BYTES = 10e6
"""A second, over a link that carries many times that."""


@pytest.fixture(autouse=True)
def _short_bursts(monkeypatch: pytest.MonkeyPatch) -> None:
    """No quota slows these processes, and the slow ones are slower than all of this."""
    monkeypatch.setattr(preflight_node, "burst", partial(preflight_node.burst, seconds=0.1))
    monkeypatch.setattr(preflight_node, "WRITE_SECONDS", 0.2)
    monkeypatch.setattr(preflight_node, "READ_SECONDS", 0.1)
    monkeypatch.setattr(preflight_pair, "SECONDS", 0.1)


def _measured(phases: Phases, run: PhaseRun) -> Measured:
    path = result.phase_folder(run) / preflight_report.FILE
    return Measured.model_validate_json(path.read_text())


def _run(phases: Phases, nodes: int = 3, **asked: object) -> PhaseRun:
    return phases.run(
        "first",
        steps=1,
        nodes=nodes,
        preflight=asked,
        tokens=nodes * 64,
        global_batch_tokens=nodes * 64,
        micro_batch_size=1,
    )


def _pods(phases: Phases, run: PhaseRun) -> list[PhaseResult]:
    """What each pod left, as the training-operator starts them, on nodes spark-1, spark-2, ..."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    started = [
        phases.start(
            run,
            f"pod-{number}",
            PET_NODE_RANK=str(number),
            NODE_NAME=f"spark-{number + 1}",
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=port,
            GLOO_SOCKET_IFNAME="lo",
            OMP_NUM_THREADS="1",
        )
        for number in range(run.nodes)
    ]
    return [pod.ended()[1] for pod in started]


def _on(node: str, action: Callable[[], None]) -> Callable[[PhaseRun], None]:
    """Do it in the process of one node."""

    def act(_run: PhaseRun) -> None:
        if os.environ["NODE_NAME"] == node:
            action()

    return act


def _slow_products() -> None:
    before(torch, "matmul", lambda: time.sleep(PRODUCT_SECONDS))


def _slow_messages() -> None:
    def slow(real: Callable[..., None]) -> Callable[..., None]:
        def wrapped(values: torch.Tensor, *others: object, **named: object) -> None:
            time.sleep(values.nbytes / SLOW_BYTES)
            real(values, *others, **named)

        return wrapped

    for name in ("send", "recv"):
        setattr(torch.distributed, name, slow(getattr(torch.distributed, name)))


def _lost_packets() -> None:
    seen = [0]

    def segments() -> tuple[int, int]:
        # not added to the machine's own, of which others' tests have a share
        seen[0] += 10_000
        return seen[0], seen[0] // 50

    interfaces.segments = segments  # type: ignore[assignment]


def _silent() -> None:
    never = threading.Event()
    before(torch.distributed, "send", lambda: never.wait())


def test_sound_nodes_train_and_their_figures_lie_beside_the_checkpoints(
    phases: Phases, capfd: pytest.CaptureFixture[str]
) -> None:
    run = _run(phases)
    pods = _pods(phases, run)

    assert ["Succeeded"] * 3 == [pod.outcome for pod in pods], pods
    assert [None] * 3 == [pod.preflight for pod in pods]
    measured = _measured(phases, run)
    assert ["spark-1", "spark-2", "spark-3"] == [node.node for node in measured.nodes]
    for node in measured.nodes:
        assert {Check.MATMUL, Check.MEMORY, Check.WRITE, Check.READ} <= node.figures.keys()
        assert all(value > 0 for value in node.figures.values())
        assert node.boot == preflight_node.boot() != ""
    pairs = {pair.nodes for pair in measured.pairs}
    assert {("spark-1", "spark-2"), ("spark-1", "spark-3"), ("spark-2", "spark-3")} == pairs
    for pair in measured.pairs:
        assert pair.figures[Check.LINK] > 0.01
        assert 0 < pair.figures[Check.LATENCY] < 1000
    assert measured.together[Check.REDUCE] > 0
    assert "preflight of 3 nodes and 3 pairs in" in capfd.readouterr().out
    left = [path.name for path in result.phase_folder(run).iterdir()]
    assert not [name for name in left if name.startswith(".preflight")]


@pytest.mark.parametrize(
    ("harm", "check", "floors"),
    [
        pytest.param(_slow_products, Check.MATMUL, {}, id="slow products, by its peers"),
        pytest.param(_slow_messages, Check.LINK, {}, id="a slow link, by its peers"),
        pytest.param(_slow_messages, Check.LINK, {"link": 0.05}, id="a slow link, by a floor"),
        pytest.param(_lost_packets, Check.LOSS, {"loss": 0.5}, id="lost packets"),
    ],
)
def test_the_one_bad_node_is_named_by_all_and_nothing_is_trained(
    phases: Phases,
    monkeypatch: pytest.MonkeyPatch,
    harm: Callable[[], None],
    check: Check,
    floors: dict[str, float],
) -> None:
    arm(monkeypatch, _on("spark-2", harm))
    run = _run(phases, floors=floors)
    pods = _pods(phases, run)

    for pod in pods:
        assert pod.outcome == "FabricError"
        assert pod.preflight is not None
        assert ["spark-2"] == [suspect.node for suspect in pod.preflight.suspects], pod.message
        assert check is pod.preflight.suspects[0].check
        assert f"spark-2: {check}" in pod.message
        assert pod.step == 0
    assert not list(result.phase_folder(run).glob("step-*"))
    assert _measured(phases, run).pairs, "what was measured is kept"


def test_a_node_that_was_disturbed_once_is_measured_again_and_not_blamed(
    phases: Phases, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first measurement of spark-3 is slow, as where somebody else was at work there."""

    def disturb() -> None:
        calls = [0]
        real = Product.burst

        def burst(self: Product) -> Figures:
            calls[0] += 1
            figures = real(self)
            return figures | {Check.MATMUL: 1e-6} if calls[0] <= preflight_node.BURSTS else figures

        Product.burst = burst  # type: ignore[method-assign]

    arm(monkeypatch, _on("spark-3", disturb))
    pods = _pods(phases, _run(phases))
    assert ["Succeeded"] * 3 == [pod.outcome for pod in pods], pods


def test_of_two_nodes_the_pair_is_named_and_neither_is_blamed(
    phases: Phases, monkeypatch: pytest.MonkeyPatch
) -> None:
    arm(monkeypatch, _on("spark-2", _slow_messages))
    pods = _pods(phases, _run(phases, nodes=2, floors={"link": 0.05}))
    for pod in pods:
        assert pod.outcome == "FabricError"
        assert pod.preflight is not None
        assert pod.preflight.suspects == ()
        assert [("spark-1", "spark-2")] == [pair.nodes for pair in pod.preflight.pairs]
        assert "spark-1 and spark-2: link" in pod.message


def test_a_node_that_exchanges_nothing_is_named_and_its_pairs_end_in_time(
    phases: Phases, monkeypatch: pytest.MonkeyPatch
) -> None:
    def action(_run: PhaseRun) -> None:
        schedule.PAIR_SECONDS = 5.0
        if os.environ["NODE_NAME"] == "spark-2":
            _silent()

    arm(monkeypatch, action)
    pods = _pods(phases, _run(phases))
    for pod in pods:
        assert pod.outcome == "FabricError"
        assert pod.preflight is not None
        assert [("spark-2", 0.0)] == [(s.node, s.value) for s in pod.preflight.suspects]


def test_a_process_that_does_not_come_is_named_when_the_time_is_over(
    phases: Phases, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stay_away() -> None:
        before(preflight_node, "boot", lambda: time.sleep(20))

    arm(monkeypatch, _on("spark-3", stay_away))
    pods = _pods(phases, _run(phases, seconds=10))
    for pod in pods[:2]:
        assert pod.outcome == "FabricError"
        assert (
            "preflight did not end in its 10 s: at the start it waited for process 2" in pod.message
        )


def test_a_node_whose_device_hangs_is_named(
    phases: Phases, monkeypatch: pytest.MonkeyPatch
) -> None:
    def action(_run: PhaseRun) -> None:
        schedule.OWN_SECONDS = 8.0
        if os.environ["NODE_NAME"] == "spark-2":
            never = threading.Event()
            before(torch, "matmul", lambda: never.wait())

    arm(monkeypatch, action)
    pods = _pods(phases, _run(phases))
    for pod in pods:
        assert pod.preflight is not None, pod.message
        (told,) = pod.preflight.suspects
        assert ("spark-2", Check.MATMUL, 0.0) == (told.node, told.check, told.value)


def test_the_figures_are_sent_with_the_progress(
    phases: Phases, monkeypatch: pytest.MonkeyPatch
) -> None:
    with listening() as listener:
        monkeypatch.setenv("KUBEFLOW_TRAINER_SERVER_URL", listener.url)
        arm(monkeypatch, _on("spark-2", _slow_products))
        pods = _pods(phases, _run(phases))
    assert pods[0].outcome == "FabricError"
    sent = [body["preflight"] for _, body in listener.posts if "preflight" in body]
    assert len(sent) == 1, "once"
    assert 3 == len(Measured.model_validate(sent[0]).nodes)


def test_two_processes_of_a_node_count_by_the_worse_of_them(phases: Phases) -> None:
    run = _run(phases, nodes=2).model_copy(
        update={"processes_per_node": 2, "tokens": 256, "global_batch_tokens": 256}
    )
    pods = _pods(phases, run)
    assert ["Succeeded"] * 2 == [pod.outcome for pod in pods], pods
    measured = _measured(phases, run)
    assert ["spark-1", "spark-2"] == [node.node for node in measured.nodes]
    assert 1 == len(measured.pairs)
