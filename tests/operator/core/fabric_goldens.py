"""Every profile of the operator, rendered: `python -m tests.operator.core.fabric_goldens` writes.

One file a profile, one document a case; docs/fabric.md's tables are made of the same documents and
of fabric_sources.yaml. `make generate` runs it, and a test refuses what is stale.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from curriculum_api.classes import CLASSES
from curriculum_api.v1alpha1.accelerator_class import AcceleratorClassSpec
from curriculum_api.v1alpha1.curriculum import Phase
from curriculum_operator.fabric import profile, rendered

HERE = Path(__file__).parent / "golden"
PAGE = Path(__file__).parents[3] / "docs" / "fabric.md"
BEGIN, END = "<!-- generated: make generate -->\n", "<!-- end of what is generated -->\n"

SOURCES = yaml.safe_load((Path(__file__).parent / "fabric_sources.yaml").read_text())

SPARK, B200 = "gb10-sm121", "b200-sm100"
SHARED = {"rdmaResource": "rdma/rdma_shared_device_a"}
SOCKETS = "no RDMA resource named"


@dataclass(frozen=True, slots=True)
class Case:
    """A profile in use."""

    name: str
    kind: str
    nodes: int = 2
    fabric: Mapping[str, Any] = field(default_factory=dict)


CASES: Mapping[str, tuple[Case, ...]] = {
    "gb10-pair": (
        Case("RoCE on the node's network", SPARK, fabric=SHARED),
        Case(SOCKETS, SPARK),
    ),
    "gb10-switch": (
        Case(
            "RoCE on the node's network, the switch's priority 3 lossless",
            SPARK,
            nodes=20,
            fabric={**SHARED, "values": {"trafficClass": 106}},
        ),
        Case(
            "RoCE in Multus networks",
            SPARK,
            nodes=20,
            fabric={
                "rdmaResource": "nvidia.com/cx7_qsfp",
                "rdmaCount": 2,
                "values": {"networks": ["fabric/twin-a", "fabric/twin-b"]},
            },
        ),
        Case(SOCKETS, SPARK, nodes=20),
    ),
    "gb10-ring": (
        Case("three nodes", SPARK, nodes=3, fabric=SHARED),
        Case("more nodes", SPARK, nodes=4, fabric=SHARED),
        Case(SOCKETS, SPARK, nodes=4),
    ),
    "b200-gke": (Case("a4-highgpu-8g", B200),),
    "b200-eks": (Case("p6-b200.48xlarge", B200),),
    "b200-coreweave": (Case("b200-8x", B200),),
    "infiniband": (
        Case("a shared device plugin", B200, fabric={"rdmaResource": "rdma/hca_shared_devices_a"}),
        Case(
            "a device for each accelerator, on Azure",
            B200,
            fabric={"rdmaResource": "rdma/ib", "rdmaCount": 8, "values": {"netPlugin": "none"}},
        ),
        Case(SOCKETS, B200),
    ),
    "roce": (
        Case("RoCE on the node's network", B200, fabric=SHARED),
        Case(
            "addresses of one range, a traffic class",
            B200,
            fabric={**SHARED, "values": {"trafficClass": 96, "addressRange": "fd02::/16"}},
        ),
        Case(SOCKETS, B200),
    ),
}


def documents(name: str) -> list[dict[str, Any]]:
    """A profile's cases, each with what the pods get."""
    return [{"case": case.name, **_render(name, case)} for case in CASES[name]]


def _render(name: str, case: Case) -> dict[str, Any]:
    fabric = {"fabric": {"profile": name, **case.fabric}}
    kind = AcceleratorClassSpec.model_validate(CLASSES[case.kind] | {"image": "trainer"} | fabric)
    phase = Phase.model_validate(
        {
            "name": "pretrain", "acceleratorClass": case.kind, "nodes": case.nodes,
            "tokens": 65536, "contextLength": 256, "optimizer": {"learningRate": "3e-4"},
            "data": [{"source": "text"}],
        }
    )  # fmt: skip
    return rendered.render(kind, None, phase, site={}).document()


def lines(document: Mapping[str, Any], above: str = "") -> Iterable[tuple[str, str]]:
    """A document as lines, `environment.NCCL_IB_HCA` and its value."""
    for key, value in document.items():
        at = f"{above}.{key}" if above else key
        match value:
            case dict() if "key" not in value:
                yield from lines(value, at)
            case list():
                yield at, "; ".join(_flat(one) for one in value)
            case bool():
                yield at, str(value).lower()
            case _:
                yield at, str(value)


def _flat(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {one}" for key, one in value.items())
    return str(value)


def golden(name: str) -> str:
    """The text of a profile's file."""
    return yaml.safe_dump_all(
        documents(name), sort_keys=False, explicit_start=True, width=2000, allow_unicode=True
    )


def page(before: str) -> str:
    """docs/fabric.md with its tables made anew."""
    head, _, rest = before.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{''.join(map(_section, CASES))}{END}{tail}"


def _section(name: str) -> str:
    about = profile.find(name, {}).head.about
    told = [f"### {name}\n\n{about[0].upper()}{about[1:]}.\n\n"]
    for document in documents(name):
        told.append(f"{document['case'][0].upper()}{document['case'][1:]}:\n\n")
        told.append("| what | value | why | source |\n|---|---|---|---|\n")
        for at, value in lines({k: v for k, v in document.items() if k in PARTS}):
            line = of(name, at, value)
            told.append(f"| `{at}` | `{value}` | {line['why']} | {_links(line)} |\n")
        told.append("\n")
    return "".join(told)


PARTS = ("environment", "pod", "expects")


def _links(line: Mapping[str, Any]) -> str:
    links = SOURCES["links"]
    return ", ".join(
        f"[{links[s]['text']}]({links[s]['url']})" if s in links else s for s in line["sources"]
    )


def of(name: str, at: str, value: str) -> Mapping[str, Any]:
    """The one line of the sources that holds for this."""
    found: list[Mapping[str, Any]] = [
        line
        for line in SOURCES["lines"]
        if (line["at"], line["value"]) == (at, value) and name in line["profiles"]
    ]
    if len(found) != 1:
        raise LookupError(f'{name}: {at} "{value}" has {len(found)} sources, not 1')
    return found[0]


def main() -> None:
    """Write the goldens and the page."""
    HERE.mkdir(exist_ok=True)
    for file in HERE.iterdir():
        if file.stem not in CASES:
            file.unlink()
    for name in CASES:
        (HERE / f"{name}.yaml").write_text(golden(name))
    PAGE.write_text(page(PAGE.read_text()))


if __name__ == "__main__":
    main()
