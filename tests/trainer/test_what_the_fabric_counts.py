"""Counters of devices, interfaces and TCP as rates, and what a pod has, from a made-up /sys."""

import math
import time
from dataclasses import replace
from pathlib import Path

import pytest

from curriculum_trainer import counters, fabric_pod
from curriculum_trainer.counters import Counts, Watch
from curriculum_trainer.fabric_cause import Hca

SNMP = """\
Ip: Forwarding DefaultTTL
Ip: 1 64
Tcp: RtoAlgorithm OutSegs RetransSegs InErrs
Tcp: 1 400 {} 0
"""


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.fixture
def node(tmp_path: Path) -> Path:
    port = "sys/class/infiniband/rocep1s0f1/ports/1"
    write(
        tmp_path,
        {
            f"{port}/counters/port_xmit_data": "1000\n",
            f"{port}/counters/symbol_error": "2\n",
            f"{port}/counters/link_downed": "1\n",
            f"{port}/hw_counters/packet_seq_err": "5\n",
            f"{port}/hw_counters/local_ack_timeout_err": "7\n",
            f"{port}/state": "4: ACTIVE\n",
            f"{port}/link_layer": "Ethernet\n",
            f"{port}/gids/0": "fe80:0000:0000:0000:0e42:a1ff:fe9a:6766\n",
            f"{port}/gid_attrs/types/0": "RoCE v2\n",
            "sys/class/net/eth0/statistics/tx_bytes": "50\n",
            "sys/class/net/eth0/statistics/tx_errors": "3\n",
            "sys/class/net/eth0/statistics/rx_dropped": "99\n",
            "sys/class/infiniband/rocep1s0f1/device/net/enp1s0f1np1/mtu": "9000\n",
            "proc/net/snmp": SNMP.format(11),
            "proc/self/status": "Name:\tpython\nCapEff:\t0000000000004000\n",
            "proc/meminfo": "MemTotal: 1 kB\nCmaTotal:              0 kB\n",
        },
    )
    return tmp_path


def test_a_hcas_words_are_bytes_and_its_errors_are_added_to_the_interfaces(node: Path) -> None:
    found = counters.read(["rocep1s0f1"], ["eth0"], at=1.0, root=node)
    assert Counts(at=1.0, sent_bytes=4000, again=5 + 7 + 11, errors=2 + 1 + 3) == found


def test_without_hcas_the_interface_and_tcp_are_counted(node: Path) -> None:
    found = counters.read([], ["eth0"], at=1.0, root=node)
    assert Counts(at=1.0, sent_bytes=50, again=11, errors=3) == found


def test_what_is_not_there_counts_nothing(tmp_path: Path) -> None:
    assert Counts(0.0, 0, 0, 0) == counters.read(["mlx5_0"], ["eth0"], at=0.0, root=tmp_path)


def test_rates_are_differences_over_the_time_between() -> None:
    before = Counts(at=10.0, sent_bytes=10**9, again=3, errors=1)
    after = Counts(at=14.0, sent_bytes=9 * 10**9, again=11, errors=2)
    assert (2.0, 2.0, 0.25) == counters.rates(before, after)


def test_a_counter_that_was_reset_counts_as_none() -> None:
    before = Counts(at=0.0, sent_bytes=500, again=9, errors=9)
    after = Counts(at=1.0, sent_bytes=0, again=0, errors=0)
    assert (0.0, 0.0, 0.0) == counters.rates(before, after)


def test_a_watch_looks_once_in_an_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    looks: list[float] = []

    def look(at: float) -> Counts:
        looks.append(at)
        return Counts(at, sent_bytes=int(at * 1e9), again=0, errors=0)

    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    watch = Watch(look)
    assert {} == counters.figures(watch.rates())
    now[0] += counters.INTERVAL_SECONDS
    assert 1.0 == counters.figures(watch.rates())["fabric/max_sent(GB/s)"]
    now[0] += counters.INTERVAL_SECONDS / 2
    watch.rates()
    assert [100.0, 102.0] == looks


def test_a_process_that_does_not_count_takes_no_part_in_the_largest() -> None:
    assert (-math.inf,) * 3 == Watch(None).rates()


def test_a_pod_is_read_from_what_the_kernel_shows(node: Path) -> None:
    hca = Hca("rocep1s0f1", "enp1s0f1np1", active=True, roce=True, addressed=False)
    pod = fabric_pod.read({"NCCL_IB_HCA": "roce", "HOME": "/"}, root=node)
    assert (hca,) == pod.hcas
    assert (False, True, 0) == (pod.verbs, pod.may_lock, pod.contiguous_bytes)
    assert {"NCCL_IB_HCA": "roce"} == pod.environment

    port = "sys/class/infiniband/rocep1s0f1/ports/1"
    write(node, {"dev/infiniband/uverbs0": "", f"{port}/gids/3": "0000::ffff:0a64:d802\n"})
    # an address of another network namespace has no type that can be read
    assert (hca,) == fabric_pod.read({}, root=node).hcas
    write(node, {f"{port}/gid_attrs/types/3": "RoCE v2\n"})
    pod = fabric_pod.read({}, root=node)
    assert (replace(hca, addressed=True),) == pod.hcas
    assert pod.verbs
