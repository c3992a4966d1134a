"""Proof of what joins the processes of a phase: asked of NCCL itself, after a first collective.

NCCL takes sockets without a word where it finds no RDMA device, and a phase then runs at a tenth
of its speed. Where RDMA was promised that ends the attempt, before anything is measured or loaded.
"""

import os
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from curriculum_api.run import PhaseRun
from curriculum_api.wire import Outcome, Transport
from curriculum_trainer import counters, fabric_cause, fabric_pod, nccl_report
from curriculum_trainer.collective import Place
from curriculum_trainer.counters import Watch
from curriculum_trainer.failures import PhaseFailure
from curriculum_trainer.nccl_report import NcclReport
from curriculum_trainer.precision import Device

REPORT_BYTES = 8 << 20
PROBE_BYTES = {"cuda": 32 << 20, "cpu": 1 << 20}
PROBES = 3


@dataclass(frozen=True, slots=True)
class Seen:
    """What joins the processes."""

    text: str = ""
    """For people and for the operator; empty where there is one process."""

    proven: bool = True
    """False where NCCL was told by somebody to keep silent."""

    hcas: tuple[str, ...] = ()
    interfaces: tuple[str, ...] = ()

    def watch(self, place: Place) -> Watch:
        """The counters of this node, in one of its processes."""
        if not self.text or place.local_rank != 0:
            return Watch(None)
        return Watch(lambda at: counters.read(self.hcas, self.interfaces, at=at))


def prove(run: PhaseRun, place: Place, device: Device) -> Seen:
    """Let all processes meet once, and see over what.

    Raises:
        PhaseFailure: RDMA was promised and is not used; a fall ends all processes alike.
    """
    if place.world_size == 1:
        return Seen()
    if device.backend != "nccl":
        rate = _bus_bandwidth(place, device)
        name = fabric_pod.gloo_interface(os.environ)
        return Seen(nccl_report.with_rate(f"gloo over {name}", rate), interfaces=(name,))
    promised = run.nodes > 1 and _rdma_promised(run)
    pod = fabric_pod.read(os.environ)
    missing = fabric_cause.no_verbs(NcclReport(), pod)
    if promised and missing:
        # not to wait until NCCL finds peers that speak another way
        raise PhaseFailure(Outcome.FABRIC_ERROR, _failure(run, "has no RDMA", str(missing)))
    rate = _bus_bandwidth(place, device)
    written = _report()
    if nccl_report.RELAY_ENV in os.environ:
        print(written, end="", flush=True)
    report = nccl_report.parse(written)
    text = nccl_report.with_rate(nccl_report.describe(report, nodes=run.nodes), rate)
    complaint = ""
    if promised and report.sockets:
        cause = fabric_cause.of_fall(report, pod)
        complaint = _failure(run, f"fell to {text}", str(cause))
    _agree(complaint, place)
    # a plugin names no devices: then all that the pod has
    hcas = () if report.sockets else report.hcas or tuple(hca.name for hca in pod.hcas)
    return Seen(text, bool(report.network), hcas=hcas, interfaces=report.interfaces)


def explained(outcome: Outcome, message: str) -> str:
    """The message of a failed collective, with the cause where NCCL's report tells it."""
    if outcome is not Outcome.FABRIC_ERROR:
        return message
    report = nccl_report.parse(_report())
    for warning in report.warnings:
        print(f"NCCL: {warning}", file=sys.stderr, flush=True)
    cause = fabric_cause.of_error(report, fabric_pod.read(os.environ))
    return f"{cause}; {message}" if cause else message


def _rdma_promised(run: PhaseRun) -> bool:
    return run.fabric is not None and run.fabric.transport is Transport.RDMA


def _failure(run: PhaseRun, what: str, cause: str) -> str:
    profile = run.fabric.profile if run.fabric else ""
    return (
        f'phase "{run.phase}": {socket.gethostname()} {what}, but fabric profile "{profile}" '
        f"promises RDMA: {cause}"
    )


def _agree(complaint: str, place: Place) -> None:
    """End on every process where any has a complaint, with the first one's words."""
    all_said: list[str] = [""] * place.world_size
    dist.all_gather_object(all_said, complaint)
    said = [one for one in all_said if one]
    if said:
        also = f" (and on {len(said) - 1} more processes)" if len(said) > 1 else ""
        raise PhaseFailure(Outcome.FABRIC_ERROR, said[0] + also)


def _bus_bandwidth(place: Place, device: Device) -> float:
    """GB/s of the best of a few all-reduces, as nccl-tests counts it; the first one connects."""
    values = torch.ones(PROBE_BYTES[device.kind] // 4, device=device.name)
    best = 0.0
    for number in range(1 + PROBES):
        began = time.perf_counter()
        dist.all_reduce(values)
        if device.kind == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - began
        if number:
            best = max(best, values.nbytes / seconds / 1e9)
    return best * 2 * (place.world_size - 1) / place.world_size


def _report() -> str:
    """What NCCL has written of this process so far."""
    named = os.environ.get(nccl_report.FILE_ENV, "")
    path = Path(nccl_report.file_name(named, host=socket.gethostname(), pid=os.getpid()))
    if not path.is_file():
        # /dev/stdout, for one, cannot be read back
        return ""
    with path.open(errors="replace") as file:
        return file.read(REPORT_BYTES)
