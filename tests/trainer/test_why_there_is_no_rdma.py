"""Each cause of a fall to sockets and of a failed RDMA call, told with its remedy."""

from dataclasses import replace

import pytest

from curriculum_trainer import fabric_cause, failures
from curriculum_trainer.fabric_cause import Hca, Pod
from curriculum_trainer.nccl_report import parse

from .test_what_nccl_says import EFA, FALLEN, NEW_FALLEN, ROCE

WELL = Pod(hcas=(Hca("rocep1s0f1", "enp1s0f1np1"), Hca("roceP2p1s0f1", "enP2p1s0f1np1")))
"""A pod of a Spark with all that RDMA needs."""

BARE = replace(WELL.hcas[0], addressed=False)

NO_PLUGIN = """\
h:1:1 [0] NCCL INFO NCCL_NET_PLUGIN set by environment to ofi
h:1:1 [0] NCCL INFO NET/Plugin: Could not find: ofi libnccl-net-ofi.so
"""
"""https://github.com/NVIDIA/nccl/blob/5067397/src/plugin/plugin_open.cc"""

OLD_NO_LIBRARY = "h:1:1 [0] misc/ibvwrap.cc:63 NCCL WARN Failed to open libibverbs.so[.1]\n"
"""https://github.com/NVIDIA/nccl/issues/259"""

NO_LIBRARY = """\
h:1:1 [0] NCCL INFO Count not open libibverbs.so
h:1:1 [0] NCCL INFO Count not open libibverbs.so.1
"""
"""https://github.com/NVIDIA/nccl/blob/5067397/src/misc/ibvsymbols.cc, spelt so"""

NOT_OPENED = """\
misc/ibvwrap.cc:212 NCCL WARN Call to ibv_open_device failed
transport/net_ib.cc:148 NCCL WARN NET/IB : Unable to open device mlx5_bond_0
h:1:1 [0] NCCL INFO NET/IB : No device found.
"""
"""https://github.com/NVIDIA/nccl/issues/451"""

NOT_LOCKED = (
    "h:1:1 [0] misc/ibvwrap.cc:278 NCCL WARN Call to ibv_reg_mr_iova2 failed with error Cannot"
    " allocate memory\n"
)
"""https://github.com/NVIDIA/nccl-tests/issues/206"""

UNREACHABLE = (
    "h:225140:225355 [0] misc/ibvwrap.cc:187 NCCL WARN Call to ibv_modify_qp failed with error"
    " Network is unreachable\n"
)
"""https://github.com/NVIDIA/nccl-tests/issues/185"""

NOT_CABLED = (
    "[2026-09-14 01:02:03] h:1:1 [0] misc/ibvwrap.cc:376 (wrap_ibv_modify_qp) NCCL WARN Call to"
    " ibv_modify_qp failed with 110 Connection timed out, on dev rocep1s0f0:1, curr state INIT,"
    " next state RTR, local GID index 3, local GID ::ffff:10.0.0.2, remote GID ::ffff:10.100.0.13\n"
)
"""https://github.com/getainode/ainode/pull/89, in the form of src/misc/ibvwrap.cc"""

LOST = (
    "h:1:1 [4] transport/net_ib.cc:1 NCCL WARN NET/IB : Got completion from peer 10.0.0.2<55921>"
    " with status=12 opcode=1 len=0 vendor err 129 (Send) localGid ::ffff:29.87.4.221 remoteGids"
    "::ffff:29.87.88.182\n"
)
"""https://github.com/NVIDIA/nccl/issues/1814"""

NEW_LOST = (
    "h:1:1 [0] p2p.cc:688 (x) NCCL WARN NET/IB: Got completion from peer 10.0.0.2<1> with"
    " status=IBV_WC_RETRY_EXC_ERR(12) opcode=IBV_WC_SEND(0) vendor_err=129  hca mlx5_0\n"
)
"""https://github.com/NVIDIA/nccl/blob/5067397/src/transport/net_ib/p2p.cc"""

OLD_LOST = (
    "w:946:988 [0] transport/net_ib.cc:839 NCCL WARN NET/IB : Got completion with error 12, opcode"
    " 1, len 0, vendor err 129\n"
)
"""https://github.com/NVIDIA/nccl/issues/426"""


@pytest.mark.parametrize(
    ("said", "pod", "what", "remedy"),
    [
        (FALLEN, replace(WELL, verbs=False), "the pod has no /dev/infiniband", "RDMA resource"),
        (
            "h:1:1 [0] NCCL INFO NCCL_IB_DISABLE set by environment to 1.\n" + NEW_FALLEN,
            WELL, "NCCL_IB_DISABLE is 1", "remove it from /etc/nccl.conf",
        ),
        (
            FALLEN, replace(WELL, environment={"NCCL_NET": "Socket"}),
            "NCCL_NET is Socket", "remove it from the pod's environment",
        ),
        (
            NO_PLUGIN + NEW_FALLEN, WELL,
            'NCCL_NET_PLUGIN is "ofi", and NCCL says "NET/Plugin: Could not find: ofi', "netPlugin",
        ),
        (EFA.replace("is efa", "is tcp"), WELL, 'libfabric chose its provider "tcp"', "efa"),
        (OLD_NO_LIBRARY + FALLEN, WELL, "no libibverbs", "rdma-core"),
        (NO_LIBRARY + FALLEN, WELL, "no libibverbs", "rdma-core"),
        (NOT_OPENED, WELL, "device mlx5_bond_0 cannot be opened", "device plugin's resource"),
        (
            FALLEN, replace(WELL, hcas=tuple(replace(h, active=False) for h in WELL.hcas)),
            "no port of rocep1s0f1, roceP2p1s0f1 is ACTIVE", "cable",
        ),
        (
            FALLEN, replace(WELL, environment={"NCCL_IB_HCA": "mlx5"}),
            'NCCL_IB_HCA is "mlx5", and the pod has rocep1s0f1, roceP2p1s0f1', "values.hcas",
        ),
        (
            FALLEN, replace(WELL, environment={"NCCL_IB_HCA": "=rocep1s0f"}),
            'NCCL_IB_HCA is "=rocep1s0f"', "values.hcas",
        ),
        (
            # the other port is up, and nobody asked for it
            FALLEN,
            replace(
                WELL, hcas=(replace(BARE, active=False), WELL.hcas[1]),
                environment={"NCCL_IB_HCA": "rocep1s0f1"},
            ),
            "no port of rocep1s0f1 is ACTIVE", "cable",
        ),
        (
            FALLEN, replace(WELL, hcas=(BARE,)),
            "rocep1s0f1 (enp1s0f1np1) has no IPv4 address", "subnet of its own",
        ),
        (
            FALLEN, replace(WELL, locked_bytes=65536),
            "only 64 KiB of memory may be locked", "LimitMEMLOCK=infinity",
        ),
        (FALLEN, WELL, "NCCL found no RDMA device", "ibverbs-providers"),
        ("h:1:1 [0] NCCL INFO Using network Socket", WELL, "does not say why", "ibv_devinfo"),
    ],
)  # fmt: skip
def test_a_fall_to_sockets_has_its_cause_and_remedy(
    said: str, pod: Pod, what: str, remedy: str
) -> None:
    cause = fabric_cause.of_fall(parse(said), pod)
    assert what in cause.what
    assert remedy in cause.remedy
    assert "\n" not in str(cause)


@pytest.mark.parametrize(
    ("said", "pod", "what"),
    [
        (NOT_LOCKED, replace(WELL, locked_bytes=8 << 20), "only 8192 KiB of memory may be locked"),
        (NOT_LOCKED, replace(WELL, contiguous_bytes=0), "CmaTotal is 0"),
        (UNREACHABLE, replace(WELL, hcas=(BARE,)), "rocep1s0f1 (enp1s0f1np1) has no IPv4 address"),
        (UNREACHABLE, WELL, "no route to its peer"),
        (NOT_CABLED, WELL, "rocep1s0f0:1 does not reach its peer"),
        (LOST, WELL, "completion status 12"),
        (NEW_LOST, WELL, "completion status 12"),
        (OLD_LOST, WELL, "completion status 12"),
    ],
)
def test_a_failed_call_has_its_cause(said: str, pod: Pod, what: str) -> None:
    cause = fabric_cause.of_error(parse(ROCE + said), pod)
    assert cause is not None
    assert what in cause.what


@pytest.mark.parametrize(
    ("said", "pod"),
    [
        (ROCE, WELL),
        (ROCE, replace(WELL, hcas=(BARE,), locked_bytes=65536)),
        # enough may be locked: something else was short
        (NOT_LOCKED, replace(WELL, locked_bytes=65536, may_lock=True)),
    ],
)
def test_a_failure_that_nothing_explains_is_not_explained(said: str, pod: Pod) -> None:
    assert fabric_cause.of_error(parse(said), pod) is None


def test_a_plugin_that_nobody_asked_for_is_no_cause() -> None:
    said = "h:1:1 [0] NCCL INFO NET/Plugin: Could not find: libnccl-net.so\n" + NEW_FALLEN
    assert "no RDMA device" in fabric_cause.of_fall(parse(said), WELL).what


@pytest.mark.parametrize("named", ["roceP2", "=roceP2p1s0f1:1", "^rocep1", "^=rocep1s0f1"])
@pytest.mark.parametrize("hca", [BARE, replace(BARE, active=False)])
def test_a_device_that_is_left_out_needs_neither_address_nor_link(named: str, hca: Hca) -> None:
    pod = replace(WELL, hcas=(hca, WELL.hcas[1]), environment={"NCCL_IB_HCA": named})
    assert "no RDMA device" in fabric_cause.of_fall(parse(FALLEN), pod).what


def test_memory_that_may_not_be_locked_is_no_want_of_memory() -> None:
    class DistBackendError(RuntimeError):
        """As torch names it."""

    error = DistBackendError(
        "Last error: Call to ibv_reg_mr failed with error Cannot allocate memory"
    )
    assert "FabricError" == failures.classify(error)[0]
    assert "OutOfMemory" == failures.classify(DistBackendError("CUDA out of memory"))[0]
