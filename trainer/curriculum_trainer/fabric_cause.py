"""Why NCCL does not use the RDMA that was promised, or fails on it, and what to do. Pure.

NCCL says little: it finds no device and takes sockets, or a call of verbs fails with an errno. The
cause lies in the pod, so both are looked at together. The first rule that fits tells.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from curriculum_trainer import interfaces
from curriculum_trainer.nccl_report import SLOW_PROVIDERS, SOCKET, NcclReport

LITTLE_LOCKED_BYTES = 64 << 20
"""Less than NCCL's buffers take."""


@dataclass(frozen=True, slots=True)
class Hca:
    """One RDMA device, as the pod sees it."""

    name: str
    interface: str = ""
    """Its network device; empty where the pod has none of it."""

    active: bool = True
    roce: bool = True
    addressed: bool = True
    """It has an address that peers reach it by."""


@dataclass(frozen=True, slots=True)
class Pod:
    """What a pod has for RDMA."""

    verbs: bool = True
    """/dev/infiniband/uverbs* is there."""

    hcas: tuple[Hca, ...] = ()
    locked_bytes: int | None = None
    """How much memory may be locked; None where there is no limit."""

    may_lock: bool = False
    """The process has IPC_LOCK, so that the limit does not count."""

    contiguous_bytes: int | None = None
    """The kernel's CmaTotal."""

    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Cause:
    """What is wrong, and what to do."""

    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what}: {self.remedy}"


Rule = Callable[[NcclReport, Pod], Cause | None]


def of_fall(report: NcclReport, pod: Pod) -> Cause:
    """Why it went to sockets."""
    return _first(_OF_FALL, report, pod) or Cause(
        "NCCL does not say why",
        "look at what ibv_devinfo prints in such a pod, and set NCCL_DEBUG_SUBSYS to ALL",
    )


def of_error(report: NcclReport, pod: Pod) -> Cause | None:
    """Why it failed, where its report and the pod say so."""
    return _first(_OF_ERROR, report, pod)


def no_verbs(_: NcclReport, pod: Pod) -> Cause | None:
    """The pod was given no RDMA device."""
    if pod.verbs:
        return None
    return Cause(
        "the pod has no /dev/infiniband",
        "see that the node offers the fabric's RDMA resource (kubectl describe node) and that its"
        " device plugin names this node's devices",
    )


def told_not_to(report: NcclReport, pod: Pod) -> Cause | None:
    """A variable, or a left-over of an image's /etc/nccl.conf, turns it off."""
    for name, value in (("NCCL_IB_DISABLE", "1"), ("NCCL_NET", SOCKET)):
        told = _setting(name, report, pod)
        if told.lower() == value.lower():
            where = "the pod's environment" if name in pod.environment else "/etc/nccl.conf"
            return Cause(f"{name} is {told}", f"remove it from {where}")
    return None


def plugin_missing(report: NcclReport, pod: Pod) -> Cause | None:
    """The plugin that was asked for is not in use; without one, NCCL's own suffice."""
    asked = _setting("NCCL_NET_PLUGIN", report, pod)
    if not report.plugin or asked.lower() in ("", "none"):
        return None
    return Cause(
        f'NCCL_NET_PLUGIN is "{asked}", and NCCL says "{report.plugin}"',
        "set values.netPlugin to the library's name without libnccl-net- and .so, and see that the"
        " image has it, and what it needs, in LD_LIBRARY_PATH",
    )


def slow_provider(report: NcclReport, _: Pod) -> Cause | None:
    """Libfabric took sockets."""
    if report.provider not in SLOW_PROVIDERS:
        return None
    return Cause(
        f'libfabric chose its provider "{report.provider}"',
        "set FI_PROVIDER to efa, and use an image with EFA's libfabric",
    )


def no_library(report: NcclReport, _: Pod) -> Cause | None:
    """The image has no user space of RDMA."""
    missing = report.mentions("open", "libibverbs.so.1") or report.mentions(
        "Failed to open libibverbs"
    )
    if not missing or report.hcas:
        return None
    return Cause(
        "the image has no libibverbs", "install rdma-core: libibverbs1 and ibverbs-providers"
    )


def not_opened(report: NcclReport, _: Pod) -> Cause | None:
    """A device is seen, and may not be used."""
    line = report.mentions("Unable to open device")
    if not line:
        return None
    return Cause(
        f"device {line.rpartition(' ')[2]} cannot be opened",
        "it is seen in /sys, but not given to the pod: take the device plugin's resource of that"
        " very device, and no bare hostPath of /dev/infiniband",
    )


def not_active(report: NcclReport, pod: Pod) -> Cause | None:
    """No link is up."""
    used = _used(report, pod)
    if not used or any(hca.active for hca in used):
        return None
    return Cause(
        f"no port of {_names(used)} is ACTIVE",
        "look at cable and switch, and at ip link on the node",
    )


def named_wrongly(report: NcclReport, pod: Pod) -> Cause | None:
    """NCCL_IB_HCA names nothing that is there."""
    asked = _setting("NCCL_IB_HCA", report, pod)
    if not pod.hcas or _used(report, pod):
        return None
    return Cause(
        f'NCCL_IB_HCA is "{asked}", and the pod has {_names(pod.hcas)}', "correct values.hcas"
    )


def no_address(report: NcclReport, pod: Pod) -> Cause | None:
    """RoCE goes by addresses; a device without one has only a link-local GID."""
    bare = [hca for hca in _used(report, pod) if hca.active and hca.roce and not hca.addressed]
    if not bare:
        return None
    first = f"{bare[0].name} ({bare[0].interface})" if bare[0].interface else bare[0].name
    return Cause(
        f"{first} has no IPv4 address, and so no RoCE address",
        "give it one on the node, each device in a subnet of its own, and let the pod use the"
        " node's network",
    )


def unreachable(report: NcclReport, pod: Pod) -> Cause | None:
    """The same, by what NCCL says."""
    if not report.mentions("ibv_modify_qp failed", "Network is unreachable"):
        return None
    return no_address(report, pod) or Cause(
        "a device has no route to its peer (ibv_modify_qp: Network is unreachable)",
        "give each device an IPv4 address on all nodes, in the same subnet as its peers",
    )


def not_cabled(report: NcclReport, _: Pod) -> Cause | None:
    """Devices were paired that do not reach each other."""
    line = report.mentions("ibv_modify_qp failed", "onnection timed out")
    if not line:
        return None
    device = line.partition("on dev ")[2].partition(",")[0] or "a device"
    return Cause(
        f"{device} does not reach its peer (ibv_modify_qp: Connection timed out)",
        "name in values.hcas those devices alone that are cabled to each other, in the same order",
    )


def not_locked(report: NcclReport, pod: Pod) -> Cause | None:
    """Memory that devices read must be locked."""
    if not report.mentions("ibv_", "Cannot allocate memory"):
        return None
    if pod.locked_bytes is not None and not pod.may_lock:
        return _limit(pod.locked_bytes)
    if pod.contiguous_bytes == 0:
        return Cause(
            "the kernel has no contiguous memory (CmaTotal is 0)",
            "start it with kho=off, or use linux-nvidia 6.17",
        )
    return None


def little_locked(_: NcclReport, pod: Pod) -> Cause | None:
    """Libraries look at the limit and give up without a word."""
    limit = pod.locked_bytes
    if limit is None or pod.may_lock or limit >= LITTLE_LOCKED_BYTES:
        return None
    return _limit(limit)


def lost_packets(report: NcclReport, _: Pod) -> Cause | None:
    """A peer did not acknowledge, however often it was asked."""
    if not (
        report.mentions("Got completion", "status=12")
        or report.mentions("Got completion", "IBV_WC_RETRY_EXC_ERR")
        or report.mentions("Got completion", "(12)")
        or report.mentions("Got completion with error 12")
    ):
        return None
    return Cause(
        "a peer did not answer over RDMA (completion status 12)",
        "see that all nodes and the switch have one MTU, that the switch loses nothing (PFC, ECN),"
        " and that the peer still runs",
    )


def no_device(report: NcclReport, _: Pod) -> Cause | None:
    """All looks well, and NCCL finds nothing."""
    if not report.mentions("NET/IB", "No device found"):
        return None
    return Cause(
        "NCCL found no RDMA device that it can use",
        "see that ibv_devinfo lists one in such a pod: the image needs ibverbs-providers",
    )


_OF_FALL: tuple[Rule, ...] = (
    no_verbs, told_not_to, plugin_missing, slow_provider, no_library, not_opened, named_wrongly,
    not_active, no_address, not_locked, little_locked, no_device,
)  # fmt: skip

_OF_ERROR: tuple[Rule, ...] = (not_locked, unreachable, not_cabled, lost_packets)


def _first(rules: tuple[Rule, ...], report: NcclReport, pod: Pod) -> Cause | None:
    told = (rule(report, pod) for rule in rules)
    return next((cause for cause in told if cause is not None), None)


def _limit(limit: int) -> Cause:
    return Cause(
        f"only {limit // 1024} KiB of memory may be locked (ulimit -l)",
        "set LimitMEMLOCK=infinity in the systemd unit of the node's container runtime; IPC_LOCK"
        " alone helps root only",
    )


def _setting(name: str, report: NcclReport, pod: Pod) -> str:
    return report.settings.get(name) or pod.environment.get(name, "")


def _used(report: NcclReport, pod: Pod) -> tuple[Hca, ...]:
    """Devices that NCCL_IB_HCA means; all where it is not set."""
    asked = _setting("NCCL_IB_HCA", report, pod)
    meant = interfaces.matching(asked, [hca.name for hca in pod.hcas])
    return tuple(hca for hca in pod.hcas if not asked or hca.name in meant)


def _names(hcas: tuple[Hca, ...]) -> str:
    return ", ".join(hca.name for hca in hcas)
