"""What two nodes exchange, over the transport that training uses: NCCL, or gloo without a GPU.

    ping-pong -> latency;  a probe -> how much fits in the time;  one way, the other -> bandwidth

The group is its own, and gone afterwards: NCCL makes a communicator for each pair, and a pair that
hangs takes no other one along. For the same reason nothing is sent in batches: those go through
one communicator of all processes.
"""

import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from curriculum_api.preflight.figures import Check, Figures
from curriculum_trainer import interfaces
from curriculum_trainer.interfaces import Interfaces
from curriculum_trainer.precision import Device

PINGS = 20
PROBE_BYTES = 1 << 20
CHUNK_BYTES = 64 << 20
SECONDS = 0.5
"""How long each way of the exchange that counts is to take."""

REDUCE_BYTES = {"cuda": 256 << 20, "cpu": 8 << 20}
FEW_PACKETS = 200
"""A share of fewer packets than this is chance."""

GB = 1e9


class Line:
    """One process's end of every pair."""

    def __init__(self, device: Device, rank: int, uses: Interfaces) -> None:
        self._device = device
        self._rank = rank
        self._uses = uses
        self._group = dist.new_group(backend=device.backend)

    def meet(self, other: int, number: int) -> Figures:
        """Exchange with another process; `number` tells this meeting from those before it."""
        return self._on_stream(lambda: self._meet(other, number))

    def reduce(self) -> Figures:
        """An all-reduce with all processes: its bus bandwidth and its latency."""
        return self._on_stream(self._reduce)

    def close(self) -> None:
        """Give back what the pairs took."""
        dist.destroy_process_group(self._group)

    def _meet(self, other: int, number: int) -> Figures:
        first = self._rank < other
        tiny = self._tensor(8)
        self._ping(tiny, other, number, first)  # connects
        began = time.perf_counter()
        for _ in range(PINGS):
            self._ping(tiny, other, number, first)
        latency = (time.perf_counter() - began) / PINGS / 2
        times = self._agree(self._probe(other, number, first), other, number, first)
        size = min(CHUNK_BYTES, times * PROBE_BYTES)
        rounds = max(1, times * PROBE_BYTES // CHUNK_BYTES)
        chunk = self._tensor(size)
        before = self._sent_again()
        seconds = max(
            self._one_way(chunk, rounds, other, number, sends=sends) for sends in (first, not first)
        )
        after = self._sent_again()
        figures = {Check.LINK: rounds * size / seconds / GB, Check.LATENCY: 1000 * latency}
        sent, again = (new - old for new, old in zip(after, before, strict=True))
        if sent >= FEW_PACKETS:
            figures[Check.LOSS] = 100 * again / sent
        return figures

    def _reduce(self) -> Figures:
        ranks = dist.get_world_size()
        tiny = self._tensor(4)
        large = torch.zeros(REDUCE_BYTES[self._device.kind] // 4, device=self._device.name)
        latency = self._timed(lambda: self._all_reduce(tiny), PINGS)
        seconds = self._timed(lambda: self._all_reduce(large), 4)
        bus = large.numel() * 4 / seconds * 2 * (ranks - 1) / ranks
        return {Check.REDUCE: bus / GB, Check.LATENCY: 1000 * latency}

    def _timed(self, work: Callable[[], object], rounds: int) -> float:
        work()
        began = time.perf_counter()
        for _ in range(rounds):
            work()
        return (time.perf_counter() - began) / rounds

    def _probe(self, other: int, number: int, first: bool) -> float:
        """Seconds that a probe takes one way, once the way is open."""
        probe = self._tensor(PROBE_BYTES)
        for _ in range(2):
            ways = [
                self._one_way(probe, 1, other, number, sends=sends) for sends in (first, not first)
            ]
        return max(ways)

    def _agree(self, probed: float, other: int, number: int, first: bool) -> int:
        """Probes that fit into the time, as the first of the two has it."""
        most = 64 * CHUNK_BYTES // PROBE_BYTES
        asked = max(1, min(most, int(SECONDS / max(probed, 1e-6))))
        told = torch.tensor([asked], dtype=torch.int64, device=self._device.name)
        if first:
            dist.send(told, other, group=self._group, tag=number)
        else:
            dist.recv(told, other, group=self._group, tag=number)
        return int(told)

    def _ping(self, tiny: Any, other: int, number: int, first: bool) -> None:
        for sends in (first, not first):
            self._one_way(tiny, 1, other, number, sends=sends)

    def _one_way(self, values: Any, rounds: int, other: int, number: int, *, sends: bool) -> float:
        """Seconds until the other has, or this one has, all of it."""
        began = time.perf_counter()
        for _ in range(rounds):
            if sends:
                dist.send(values, other, group=self._group, tag=number)
            else:
                dist.recv(values, other, group=self._group, tag=number)
        if self._device.kind == "cuda":
            torch.cuda.current_stream().synchronize()
        return time.perf_counter() - began

    def _all_reduce(self, values: Any) -> None:
        dist.all_reduce(values, group=self._group)
        if self._device.kind == "cuda":
            torch.cuda.current_stream().synchronize()

    def _tensor(self, num_bytes: int) -> Any:
        return torch.zeros(num_bytes, dtype=torch.uint8, device=self._device.name)

    def _sent_again(self) -> tuple[int, int]:
        """Packets that were sent, and sent again, by TCP and by the HCAs."""
        tcp, hca = interfaces.segments(), self._uses.resent()
        return tcp[0] + hca[0], tcp[1] + hca[1]

    def _on_stream(self, work: Callable[[], Figures]) -> Figures:
        if self._device.kind != "cuda":
            return work()
        # a stream of its own: what hangs on it holds up nothing else
        torch.cuda.set_device(self._device.index)
        with torch.cuda.stream(torch.cuda.Stream(self._device.index)):
            return work()
