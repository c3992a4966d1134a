"""NCCL's own lines, of many releases, and what is read from them.

Each text stands as NCCL printed it in the thread that is named, but for hosts and processes; where
no thread shows a line, it is as NCCL's source (5067397) formats it.
"""

from dataclasses import replace

import pytest

from curriculum_trainer import nccl_report
from curriculum_trainer.nccl_report import NcclReport, parse

ROCE = """\
h:460770:460770 [0] NCCL INFO Bootstrap : Using enp220s0np0:11.1.128.136<0>
h:460770:460770 [0] NCCL INFO NET/Plugin : dlerror=libnccl-net.so: cannot open shared object file: \
No such file or directory No plugin found (libnccl-net.so), using internal implementation
NCCL version 2.19.3+cuda12.3
h:460770:460842 [0] NCCL INFO NET/IB : Using [0]mlx5_10:1/RoCE [1]mlx5_11:1/RoCE [RO]; OOB \
enp220s0np0:11.1.128.136<0>
h:460770:460842 [0] NCCL INFO Using non-device net plugin version 0
h:460770:460842 [0] NCCL INFO Using network IB
"""
"""https://github.com/NVIDIA/nccl-tests/issues/185"""

SPARK = """\
h:315:315 [0] NCCL INFO NCCL_IB_HCA set to roce
h:315:315 [0] NCCL INFO NET/IB : Using [0]rocep1s0f1:1/RoCE [1]roceP2p1s0f1:1/RoCE [RO]; OOB \
enp1s0f1np1:10.100.216.2<0>
h:315:401 [0] NCCL INFO NCCL_IB_GID_INDEX set by environment to 3.
h:315:315 [0] NCCL INFO Assigned NET plugin IB to comm
h:315:315 [0] NCCL INFO Using network IB
h:315:401 [0] NCCL INFO Channel 00/0 : 1[0] -> 0[0] [receive] via NET/IB/0
"""
"""https://github.com/MiaAI-Lab/DeepSeek-v4-Flash-DSpark-2x-DGX-Spark/pull/95 (2.30.7); the rest is
source: src/plugin/net.cc, src/init.cc, src/transport/net.cc"""

INFINIBAND = """\
h:2620971:2620971 [3] NCCL INFO NCCL_IB_DISABLE set by environment to 0.
h:2620971:2620971 [3] NCCL INFO NCCL_IB_HCA set to mlx5_0
h:3769901:3769901 [1] NCCL INFO NET/Plugin: Could not find: libnccl-net.so
h:2620971:2620971 [3] NCCL INFO NET/IB : Using [0]mlx5_0:1/IB [RO]; OOB eth0:172.25.30.42<0>
h:2620971:2620971 [3] NCCL INFO Initialized NET plugin IB
h:2620971:2620971 [3] NCCL INFO Assigned NET plugin IB to comm
h:2620971:2620971 [3] NCCL INFO Using network IB
"""
"""https://github.com/NVIDIA/nccl/issues/1925"""

GPU_DIRECT = """\
h:523:564 [0] NCCL INFO NCCL_NET_GDR_LEVEL set by environment to SYS
h:523:564 [0] NCCL INFO Channel 00/0 : 9[1] -> 0[0] [receive] via NET/IB/0/GDRDMA
h:523:564 [0] NCCL INFO Channel 08/0 : 9[1] -> 0[0] [receive] via NET/IB/0/GDRDMA
"""
"""https://github.com/Azure/aks-rdma-infiniband/pull/36"""

OLD_GPU_DIRECT = """\
h:120890:121560 [0] NCCL INFO Channel 01 : 2[c7000] -> 0[87000] [receive] via NET/IB/5/GDRDMA
"""
"""https://github.com/NVIDIA/nccl/issues/707"""

FALLEN = """\
h:7839:7839 [0] NCCL INFO NET/Plugin: Failed to find ncclNetPlugin_v6 symbol.
h:7839:7839 [0] NCCL INFO NET/Plugin: Loaded net plugin NCCL RDMA Plugin (v5)
h:7839:7911 [0] NCCL INFO Plugin Path : /opt/hpcx/nccl_rdma_sharp_plugin/lib/libnccl-net.so
h:7839:7911 [0] NCCL INFO P2P plugin IBext
h:7839:7911 [0] NCCL INFO NET/IB : No device found.
h:7839:7911 [0] NCCL INFO NET/IB : No device found.
h:7839:7911 [0] NCCL INFO NET/Socket : Using [0]ens5f0np0:10.220.178.201<0> \
[1]ens3f0np0:192.17.3.33<0>
h:7839:7911 [0] NCCL INFO Using network Socket
"""
"""https://github.com/NVIDIA/nccl/issues/941"""

NEW_FALLEN = """\
h:1:1 [0] NCCL INFO NET/IB : No device found.
h:1:1 [0] NCCL INFO NET/IB : Using ; OOB eth0:10.0.0.7<0>
h:1:1 [0] NCCL INFO Failed to initialize NET plugin IB
h:1:1 [0] NCCL INFO NET/Socket : Using [0]eth0:10.0.0.7<0>
h:1:1 [0] NCCL INFO Initialized NET plugin Socket
h:1:1 [0] NCCL INFO Using network Socket
"""
"""https://github.com/NVIDIA/nccl/blob/5067397/src/transport/net_ib/init.cc: after "No device
found" it goes on to say what it uses."""

OLD_SOCKETS = """\
h:117326:117390 [0] NCCL INFO Ring 00 : 15 -> 0 [receive] via NET/Socket/0
"""
"""https://github.com/NVIDIA/nccl/issues/367"""

EFA = """\
h:417138:417176 [7] NCCL INFO NET/OFI Using aws-ofi-nccl 1.4.0aws
h:417133:417133 [2] NCCL INFO NET/Plugin: Failed to find ncclCollNetPlugin_v6 symbol.
h:417138:417176 [7] NCCL INFO NET/OFI Selected Provider is efa
h:417138:417176 [7] NCCL INFO Using network AWS Libfabric
"""
"""https://github.com/NVIDIA/nccl/issues/527"""

INSIDE = """\
h:2017630:2017697 [7] NCCL INFO Channel 00/0 : 7[7] -> 6[6] via P2P/direct pointer/read
h:2017630:2017697 [7] NCCL INFO Using network Socket
"""
"""https://github.com/NVIDIA/nccl/issues/1412, on one node"""


@pytest.mark.parametrize(
    ("text", "network", "hcas", "words"),
    [
        (ROCE, "IB", ("mlx5_10", "mlx5_11"), "IB over mlx5_10, mlx5_11 (RoCE)"),
        (SPARK, "IB", ("rocep1s0f1", "roceP2p1s0f1"), "IB over rocep1s0f1, roceP2p1s0f1 (RoCE)"),
        (INFINIBAND, "IB", ("mlx5_0",), "IB over mlx5_0"),
        (INFINIBAND + GPU_DIRECT, "IB", ("mlx5_0",), "IB over mlx5_0, GDRDMA"),
        (OLD_GPU_DIRECT, "IB", (), "IB, GDRDMA"),
        (FALLEN, "Socket", (), "sockets over ens5f0np0, ens3f0np0"),
        (NEW_FALLEN, "Socket", (), "sockets over eth0"),
        (OLD_SOCKETS, "Socket", (), "sockets"),
        (EFA, "AWS Libfabric", (), "AWS Libfabric over efa"),
        (EFA.replace("is efa", "is tcp"), "AWS Libfabric", (), "AWS Libfabric (tcp)"),
        ("", "", (), "NCCL, not proven: its report was turned off"),
    ],
)
def test_the_network_is_read_from_every_release(
    text: str, network: str, hcas: tuple[str, ...], words: str
) -> None:
    report = parse(text)
    assert (network, hcas) == (report.network, report.hcas)
    assert words == nccl_report.describe(report, nodes=2)


def test_a_process_is_as_slow_as_its_slowest_communicator() -> None:
    assert parse(ROCE + FALLEN).sockets
    assert not parse(ROCE).sockets


def test_libfabric_over_tcp_is_sockets_too() -> None:
    assert not parse(EFA).sockets
    assert parse(EFA.replace("is efa", "is tcp")).sockets


def test_inside_a_node_the_network_is_not_what_carries_the_data() -> None:
    assert "NCCL inside the node, P2P" == nccl_report.describe(parse(INSIDE), nodes=1)


def test_what_nccl_heeds_is_known_wherever_it_was_set() -> None:
    assert {"NCCL_IB_DISABLE": "0", "NCCL_IB_HCA": "mlx5_0"} == parse(INFINIBAND).settings


@pytest.mark.parametrize(
    ("line", "trouble"),
    [
        # src/plugin/plugin_open.cc, with NCCL_NET_PLUGIN=ofi
        (
            "h:1:1 [0] NCCL INFO NET/Plugin: Could not find: ofi libnccl-net-ofi.so",
            "NET/Plugin: Could not find: ofi libnccl-net-ofi.so",
        ),
        # https://github.com/NVIDIA/nccl/issues/1504
        (
            "h:1:1 [0] NCCL INFO NET/Plugin: No plugin found (libnccl-net.so)",
            "NET/Plugin: No plugin found (libnccl-net.so)",
        ),
        # https://github.com/NVIDIA/nccl/issues/1267: about collectives, and harmless
        ("h:1:1 [0] NCCL INFO NET/Plugin: Failed to find ncclCollNetPlugin symbol (>= v5).", ""),
        ("h:1:1 [0] NCCL INFO Failed to initialize NET plugin IB", ""),
        (
            "h:1:1 [0] NCCL INFO Failed to initialize NET plugin AWS Libfabric",
            "Failed to initialize NET plugin AWS Libfabric",
        ),
    ],
)
def test_a_plugin_that_is_not_in_use_is_told_in_nccls_words(line: str, trouble: str) -> None:
    assert trouble == parse(line).plugin


def test_nccl_is_asked_only_for_what_nobody_has_set() -> None:
    assert {
        "NCCL_DEBUG": "INFO",
        "NCCL_DEBUG_SUBSYS": "INIT,NET,ENV",
        "NCCL_DEBUG_FILE": "/tmp/x",
    } == nccl_report.wanted({}, "/tmp/x")
    own = {"NCCL_DEBUG": "WARN", "NCCL_DEBUG_FILE": "/tmp/%h", "NCCL_DEBUG_SUBSYS": "ALL"}
    assert {} == nccl_report.wanted(own, "/tmp/x")


def test_what_somebody_asked_nccl_for_is_still_printed() -> None:
    assert nccl_report.RELAY_ENV in nccl_report.wanted({"NCCL_DEBUG": "INFO"}, "/tmp/x")
    assert nccl_report.RELAY_ENV not in nccl_report.wanted({}, "/tmp/x")


def test_a_files_name_is_made_as_nccl_makes_it() -> None:
    made = nccl_report.file_name("/tmp/%h.%p.%%.%d", host="spark-1.lab", pid=7)
    assert "/tmp/spark-1.7.%.%d" == made


@pytest.mark.parametrize(
    "report",
    [
        parse(SPARK + GPU_DIRECT),
        replace(parse(ROCE), hcas=tuple(f"mlx5_{n}" for n in range(8))),
        NcclReport(network="Socket", interfaces=("a" * 15, "b" * 15)),
        NcclReport(network="some plugin with a long name" * 4),
    ],
)
def test_what_is_seen_fits_into_a_progress_report(report: NcclReport) -> None:
    words = nccl_report.with_rate(nccl_report.describe(report, nodes=2), 1234.5678)
    assert len(words) <= nccl_report.TEXT_CHARACTERS
    assert words.endswith("GB/s")
