"""What NCCL says of itself: which network it took, over which devices, and what went wrong.

Its own report is the only place that says so. The lines differ between its releases; each is read
in every form that releases since 2.4 print. Pure.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

FILE_ENV = "NCCL_DEBUG_FILE"
ASKED = {"NCCL_DEBUG": "INFO", "NCCL_DEBUG_SUBSYS": "INIT,NET,ENV"}
"""What makes NCCL tell."""

RELAY_ENV = "CURRICULUM_NCCL_RELAY"
"""Somebody asked NCCL to tell, and its file is ours: what it writes there is printed."""

TEXT_CHARACTERS = 64
"""What a metric of a progress report may hold."""

NAMES_CHARACTERS = 36

SOCKET = "Socket"
SLOW_PROVIDERS = frozenset({"net", "sockets", "tcp", "udp"})
"""Providers of libfabric that are sockets under another name."""

_PLUGIN_TROUBLE = (
    "Could not find",
    "No plugin found",
    "cannot open",
    "Failed to initialize NET plugin",
    "is unsupported",
)

_NETWORK = re.compile(r"NCCL INFO Using network (.+)")
_HCAS = re.compile(r"NET/\w*IB\w* ?: Using(.*?); OOB ")
_HCA = re.compile(r"\[\d+\]([^\s:\[\]]+):[^\s/]*/(\w+)")
_SOCKETS = re.compile(r"NET/Socket ?: Using(.*)")
_SOCKET = re.compile(r"\[\d+\]([^\s:\[\]]+):")
_CHANNEL = re.compile(r"(?:Channel|Ring) .* via (?:NET/([^/]+)/\d+\S*|(P2P|SHM)\b)")
_PROVIDER = re.compile(r"NET/OFI Selected [Pp]rovider is ([\w-]+)")
_SETTING = re.compile(r"NCCL INFO (NCCL_\w+) set (?:by environment )?to (.*?)\.?$")


@dataclass(frozen=True, slots=True)
class NcclReport:
    """What one process's NCCL has said so far."""

    network: str = ""
    """Name of the network that was taken: IB, Socket, AWS Libfabric; empty where it is not said."""

    hcas: tuple[str, ...] = ()
    link: str = ""
    """RoCE or IB."""

    interfaces: tuple[str, ...] = ()
    """What sockets would go over."""

    provider: str = ""
    """Libfabric's, where it is used."""

    gpu_direct: bool = False
    """The devices reach the GPU's memory by themselves."""

    inside: tuple[str, ...] = ()
    """What joins processes of one node: P2P, SHM."""

    settings: Mapping[str, str] = field(default_factory=dict)
    """Variables that NCCL heeds, also those of /etc/nccl.conf."""

    plugin: str = ""
    """Why its plugin is not in use; of no matter where none was asked for."""

    said: tuple[str, ...] = ()
    """What it said of networks and libraries."""

    warnings: tuple[str, ...] = ()

    @property
    def sockets(self) -> bool:
        """Whether the data goes over plain sockets."""
        return self.network == SOCKET or self.provider in SLOW_PROVIDERS

    def mentions(self, *texts: str) -> str:
        """The first line that holds all the texts; empty where none does."""
        lines = (*self.warnings, *self.said)
        return next((line for line in lines if all(text in line for text in texts)), "")


def wanted(environment: Mapping[str, str], path: str) -> dict[str, str]:
    """What is to be set so that NCCL tells, where nobody has set it."""
    told = {**ASKED, FILE_ENV: path}
    ours = {name: value for name, value in told.items() if name not in environment}
    return ours | ({RELAY_ENV: "1"} if FILE_ENV in ours and "NCCL_DEBUG" in environment else {})


def file_name(pattern: str, *, host: str, pid: int) -> str:
    """The file that NCCL makes of a pattern: %h is the host, %p the process."""
    known = {"%%": "%", "%h": host.partition(".")[0], "%p": str(pid)}
    return re.sub("%[%hp]", lambda found: known[found[0]], pattern)


def parse(text: str) -> NcclReport:
    """Read a report; what is not known is passed over."""
    lines = [line.strip() for line in text.splitlines()]
    hcas = [pair for found in _all(_HCAS, lines) for pair in _HCA.findall(found[1])]
    networks = [found[1].strip() for found in _all(_NETWORK, lines)]
    channels = list(_all(_CHANNEL, lines))
    networks += [found[1] for found in channels if found[1]]
    # a process that has several communicators is as slow as the slowest
    network = SOCKET if SOCKET in networks else next(iter(networks), "")
    providers = [found[1] for found in _all(_PROVIDER, lines)]
    trouble = [line for line in lines if _speaks_of_a_plugin(line)]
    return NcclReport(
        network=network,
        hcas=tuple(dict.fromkeys(name for name, _ in hcas)),
        link=next((layer for _, layer in hcas), ""),
        interfaces=tuple(
            dict.fromkeys(
                name for found in _all(_SOCKETS, lines) for name in _SOCKET.findall(found[1])
            )
        ),
        provider=next(iter(providers), ""),
        gpu_direct=any("/GDRDMA" in found[0] for found in channels),
        inside=tuple(dict.fromkeys(found[2] for found in channels if found[2])),
        settings={found[1]: found[2] for found in _all(_SETTING, lines)},
        plugin=_message(trouble[0]) if trouble else "",
        said=tuple(
            _message(line)
            for line in lines
            if "NCCL INFO" in line and any(sign in line for sign in ("NET/", "ibv"))
        ),
        warnings=tuple(_message(line) for line in lines if "NCCL WARN" in line),
    )


def describe(report: NcclReport, *, nodes: int) -> str:
    """What NCCL uses, in a few words."""
    if nodes == 1 and report.inside:
        return f"NCCL inside the node, {'+'.join(report.inside)}"
    if not report.network:
        return "NCCL, not proven: its report was turned off"
    if report.sockets:
        by = f"{report.network} ({report.provider})" if report.provider else "sockets"
        return f"{by}{_over(report.interfaces)}"
    text = report.network + _over(report.hcas or ((report.provider,) if report.provider else ()))
    text += f" ({report.link})" if report.link not in ("", report.network) else ""
    return text + (", GDRDMA" if report.gpu_direct else "")


def with_rate(text: str, rate: float) -> str:
    room = f", {rate:.3g} GB/s"
    return text[: TEXT_CHARACTERS - len(room)] + room


def _all(pattern: re.Pattern[str], lines: Iterable[str]) -> Iterable[re.Match[str]]:
    found = (pattern.search(line) for line in lines)
    return (match for match in found if match)


def _speaks_of_a_plugin(line: str) -> bool:
    if "ollNet" in line or not any(sign in line for sign in _PLUGIN_TROUBLE):
        return False
    # that IB found no device is told so too, and is another matter
    return "lugin" in line and not line.endswith(("NET plugin IB", "NET plugin Socket"))


def _message(line: str) -> str:
    """A line without its host, process and place in NCCL's code."""
    for mark in ("NCCL INFO ", "NCCL WARN "):
        if mark in line:
            return line.partition(mark)[2].strip()
    return line


def _over(names: tuple[str, ...]) -> str:
    text = ", ".join(names)
    if not names:
        return ""
    return f" over {text}" if len(text) <= NAMES_CHARACTERS else f" over {len(names)} devices"
