"""Interfaces and HCAs by the names that the fabric's environment gives, as NCCL reads them."""

from pathlib import Path

import pytest

from curriculum_trainer import interfaces

ROCE = {
    "NCCL_SOCKET_IFNAME": "=enP7s7",
    "GLOO_SOCKET_IFNAME": "enP7s7",
    "NCCL_IB_DISABLE": "0",
    "NCCL_IB_HCA": "rocep1s0f1,roceP2p1s0f1",
}


@pytest.fixture
def sys(tmp_path: Path) -> Path:
    """A Spark's /sys/class: the 10GbE port, both twins of a QSFP port, one of them at MTU 1500."""
    for name, speed, mtu in (
        ("lo", "", 65536), ("enP7s7", "10000", 1500), ("enp1s0f1np1", "200000", 9000),
        ("enP2p1s0f1np1", "200000", 1500), ("down", "-1", 1500),
    ):  # fmt: skip
        _write(tmp_path / "net" / name, speed=speed, mtu=mtu)
        _write(tmp_path / "net" / name / "statistics", rx_packets=100, tx_packets=100, rx_errors=2)
    for hca, net in (("rocep1s0f1", "enp1s0f1np1"), ("roceP2p1s0f1", "enP2p1s0f1np1")):
        port = tmp_path / "infiniband" / hca / "ports/1"
        _write(port, rate="200 Gb/sec (4X HDR)")
        _write(port / "counters", port_xmit_packets=1000)
        _write(port / "hw_counters", packet_seq_err=3, local_ack_timeout_err=1)
        (tmp_path / "infiniband" / hca / "device/net" / net).mkdir(parents=True)
    return tmp_path


def _write(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(f"{text}\n")


def test_the_data_goes_over_the_hcas_and_the_worse_twin_counts(sys: Path) -> None:
    uses = interfaces.named(ROCE, sys)
    assert uses.nets == ("enP7s7",)
    assert uses.ports == ("roceP2p1s0f1/1", "rocep1s0f1/1")
    assert (uses.speed(), uses.mtu()) == (200.0, 1500.0)
    assert uses.frames() == (600, 6)
    assert uses.resent() == (2000, 8)


def test_without_rdma_it_goes_over_the_socket_interface(sys: Path) -> None:
    uses = interfaces.named(ROCE | {"NCCL_IB_DISABLE": "1"}, sys)
    assert uses.ports == ()
    assert (uses.speed(), uses.mtu()) == (10.0, 1500.0)


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("=enP7s7", ("enP7s7",)),
        ("=enP7", ()),
        ("enP", ("enP2p1s0f1np1", "enP7s7")),
        ("^enP,down", ("enp1s0f1np1",)),
        ("enP7s7,enp1s0f1np1", ("enP7s7", "enp1s0f1np1")),
        ("", ()),
        ("eth0", ()),
    ],
)
def test_names_are_read_as_nccl_reads_them(sys: Path, asked: str, meant: tuple[str, ...]) -> None:
    assert meant == interfaces.named({"NCCL_SOCKET_IFNAME": asked}, sys).nets


def test_gloo_means_whole_names(sys: Path) -> None:
    assert interfaces.named({"GLOO_SOCKET_IFNAME": "enP"}, sys).nets == ()
    assert interfaces.named({"GLOO_SOCKET_IFNAME": "enP7s7"}, sys).nets == ("enP7s7",)


def test_a_port_of_an_hca_may_be_named(sys: Path) -> None:
    uses = interfaces.named({"NCCL_IB_HCA": "=rocep1s0f1:1"}, sys)
    assert uses.ports == ("rocep1s0f1/1",)


def test_an_interface_that_is_down_says_no_speed(sys: Path) -> None:
    uses = interfaces.named({"NCCL_SOCKET_IFNAME": "=down"}, sys)
    assert (uses.speed(), uses.mtu()) == (None, 1500.0)


def test_where_nothing_is_there_nothing_is_said(tmp_path: Path) -> None:
    uses = interfaces.named(ROCE, tmp_path)
    assert (uses.speed(), uses.mtu(), uses.frames(), uses.resent()) == (None, None, (0, 0), (0, 0))
    assert interfaces.segments(tmp_path) == (0, 0)


def test_segments_are_those_of_tcp(tmp_path: Path) -> None:
    (tmp_path / "snmp").write_text(
        "Ip: Forwarding OutRequests\nIp: 1 5\n"
        "Tcp: ActiveOpens OutSegs RetransSegs\nTcp: 3 1000 20\n"
        "Udp: OutDatagrams\nUdp: 4\n"
    )
    assert interfaces.segments(tmp_path) == (1000, 20)
