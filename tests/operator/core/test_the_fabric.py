"""What a phase's pods get of their fabric: by profile, class, pool and inputs."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from curriculum_api import nccl
from curriculum_api.classes import CLASSES
from curriculum_api.v1alpha1.accelerator_class import AcceleratorClassSpec
from curriculum_api.v1alpha1.curriculum import Phase
from curriculum_operator.fabric import rendered

from .builders import accelerator, b200, phase, pool

SITE = """\
about: a site's own
inputs: {hcas: [mlx5_7], extra: {rack: r1}}
---
NCCL_IB_HCA={{ hcas | join(",") }}
SITE_RACK={{ extra.rack }}
"""


def render(
    profile: str,
    *,
    nodes: int = 2,
    site: Mapping[str, str] | None = None,
    kind: Mapping[str, Any] | None = None,
    **fields: Any,
) -> rendered.Rendered:
    of = accelerator(fabric={"profile": profile, **fields}, **(kind or {})).spec
    return rendered.render(of, None, Phase.model_validate(phase(nodes=nodes)), site=site or {})


def test_a_spark_without_rdma_says_sockets_over_the_pods_own_device() -> None:
    fabric = render("gb10-switch")
    assert fabric.environment == {
        "NCCL_SOCKET_IFNAME": "=eth0",
        "GLOO_SOCKET_IFNAME": "eth0",
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": "3",
        "NCCL_IB_DISABLE": "1",
    }
    assert (False, {}, None) == (fabric.host_network, fabric.limits, fabric.mtu)


def test_what_a_class_names_goes_before_the_profiles_default() -> None:
    values = {"bootstrapInterface": "eth1", "hcas": ["rocep1s0f0", "roceP2p1s0f0"], "mtu": 1500}
    fabric = render("gb10-pair", rdmaResource="rdma/hca", values=values)
    assert fabric.environment["NCCL_SOCKET_IFNAME"] == "=eth1"
    assert fabric.environment["NCCL_IB_HCA"] == "rocep1s0f0,roceP2p1s0f0"
    assert fabric.mtu == 1500


def test_every_class_that_is_shipped_or_an_example_has_a_fabric_that_renders() -> None:
    examples = Path(__file__).parents[3] / "examples/classes.yaml"
    specs = [document["spec"] for document in yaml.safe_load_all(examples.read_text())]
    specs += [{"image": "trainer", **spec} for spec in CLASSES.values()]
    for spec in specs:
        kind = AcceleratorClassSpec.model_validate(spec)
        assert rendered.render(kind, None, Phase.model_validate(phase(nodes=2)), site={})


def test_a_pools_fabric_stands_in_place_of_its_class() -> None:
    eks = pool(fabric={"profile": "b200-eks"}).spec
    long = Phase.model_validate(phase(acceleratorClass="b200-sm100", pool="b200-cloud"))
    here = rendered.render(b200().spec, eks, long, site={})
    there = rendered.render(b200().spec, pool().spec, long, site={})
    assert ("b200-eks", "infiniband") == (here.profile, there.profile)
    assert here.limits["vpc.amazonaws.com/efa"] == "8"


def test_a_ring_of_more_than_three_is_told_to_go_around() -> None:
    three, four = (render("gb10-ring", nodes=n, rdmaResource="r/d").environment for n in (3, 4))
    assert four == {**three, "NCCL_ALGO": "Ring"}


@pytest.mark.parametrize(("profile", "nodes"), [("gb10-pair", 3), ("gb10-ring", 2)])
def test_a_fabric_that_cannot_join_so_many_nodes_says_so(profile: str, nodes: int) -> None:
    with pytest.raises(ValueError, match=f'profile "{profile}": joins .* nodes, not {nodes}'):
        render(profile, nodes=nodes)
    render(profile, nodes=1)


@pytest.mark.parametrize("profile", ["gb10-pair", "gb10-switch", "gb10-ring", "roce"])
def test_roce_needs_the_nodes_network_or_multus(profile: str) -> None:
    promised: dict[str, Any] = {"nodes": 2 + (profile == "gb10-ring"), "rdmaResource": "rdma/hca"}
    assert render(profile, **promised).host_network
    with pytest.raises(ValueError, match="RoCE finds no addresses in a pod's own network"):
        render(profile, **promised, hostNetwork=False)
    networks = {"networks": ["ns/a@net1", "b"]}
    attached = render(profile, **promised, values=networks)
    assert attached.annotations == {"k8s.v1.cni.cncf.io/networks": "ns/a@net1,b"}
    assert (False, ()) == (attached.host_network, attached.interfaces)
    with pytest.raises(ValueError, match="exclude each other"):
        render(profile, **promised, values=networks, hostNetwork=True)


def test_shared_memory_grows_with_the_profile_but_never_on_unified_memory() -> None:
    assert render("b200-gke", kind={"unifiedMemory": False}).shared_memory_gib == 250
    assert render("b200-gke", kind={"unifiedMemory": True}).shared_memory_gib == 8


def test_the_nccl_that_deadlocks_is_ruled_out_where_it_does() -> None:
    assert render("infiniband", kind={"cpuArchitecture": "arm64"}).nccl == "2.29.3"
    assert render("infiniband", kind={"cpuArchitecture": "amd64"}).nccl == ""


def test_the_trainer_image_brings_an_nccl_that_is_sound() -> None:
    lock = tomllib.loads((Path(__file__).parents[3] / "uv.lock").read_text())
    (version,) = [p["version"] for p in lock["package"] if p["name"].startswith("nvidia-nccl-cu")]
    assert not nccl.deadlocks(tuple(map(int, version.split("."))), "arm64")
    assert nccl.deadlocks((2, 29, 2), "arm64")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        pytest.param({"profile": "x"}, "does not exist; known: b200-coreweave, b2", id="profile"),
        pytest.param({"values": {"trafficClass": 3}}, 'has no input "trafficClass"', id="input"),
        pytest.param({"values": {"extra": {"x": "1"}}}, 'has no input "extra"', id="extra input"),
        pytest.param({"rdmaCount": 2}, "rdmaCount counts nothing", id="count"),
        pytest.param({"rdmaResource": "nvidia.com/gpu"}, "the accelerators' own", id="resource"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_in_one_line(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        render(**{"profile": "gb10-pair", **fields})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        {"bootstrapInterface": "eth0\nLD_PRELOAD=/x"},
        {"bootstrapInterface": "longer-than-linux-has"},
        {"hcas": "mlx5"},
        {"hcas": []},
        {"hcas": ["^mlx5"]},
        {"mtu": 100},
        {"trafficClass": 256},
        {"addressRange": "everything"},
        {"gidIndex": 3},
        {"extra": {"k": ""}},
        {"extra": {"k": "a b"}},
    ],
    ids=str,
)
def test_an_input_of_another_type_is_refused_by_the_class(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        accelerator(fabric={"profile": "roce", "values": values})


@pytest.mark.parametrize("text", ["999/999", "10.0.0.0/33", "fd02::/200"])
def test_an_address_range_that_is_no_network_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=f'addressRange "{text}" is no network'):
        render("roce", values={"addressRange": text})


@pytest.mark.parametrize("resource", ["hca", "cpu and more", "/hca", "rdma/", "rdma/a/b"])
def test_a_resource_that_kubernetes_would_refuse_is_refused_by_the_class(resource: str) -> None:
    with pytest.raises(ValidationError):
        accelerator(fabric={"profile": "roce", "rdmaResource": resource})


def test_a_sites_profile_adds_and_goes_before_the_operators() -> None:
    added = render("lab", site={"lab": SITE}, values={"extra": {"rack": "r9"}})
    assert added.environment == {"NCCL_IB_HCA": "mlx5_7", "SITE_RACK": "r9"}
    replaced = render("gb10-pair", site={"gb10-pair": SITE})
    assert (True, "r1") == (replaced.site, replaced.environment["SITE_RACK"])
    assert "lab" not in render("gb10-pair").document().values()


def test_the_digest_changes_with_whatever_the_pods_get_and_with_nothing_else() -> None:
    def digest(text: str) -> str:
        return render("lab", site={"lab": text}).digest()

    before = digest(SITE)
    assert before == digest(SITE.replace("about: a site's own", "about: reworded"))
    assert before != digest(SITE.replace("mlx5_7", "mlx5_8"))
    assert before != digest(SITE.replace("---", "rdma: {resource: a/b}\n---"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("NCCL_IB_HCA=x", 'has no line "---"', id="no head"),
        pytest.param("about: [\n---\n", "its head is not YAML", id="no YAML"),
        pytest.param("about: x\npod: {privileged: true}\n---\n", "privileged: no", id="a field"),
        pytest.param(
            "about: x\npod: {folders: [{name: a, path: /../etc, mountPath: /x}]}\n---\n",
            "pod.folders[0].path: ", id="a way up",
        ),
        pytest.param("about: x\npod: {limits: {a/b: x}}\n---\n", "pod.limits.a/b: ", id="amount"),
        pytest.param("about: x\ninputs: {gid: 3}\n---\n", 'input "gid" is unknown', id="an input"),
        pytest.param("about: x\ninputs: {gid: null}\n---\n", 'input "gid" is unk', id="no input"),
        pytest.param("about: x\ninputs: {mtu: big}\n---\n", "inputs: mtu: ", id="a default's type"),
        pytest.param("about: &a x\nrefuses: {A: *a}\n---\n", "references", id="a reference"),
        pytest.param("about: x\n---\n" + "#" * 16384, "longer than 16384 bytes", id="length"),
        pytest.param("[" * 8000 + "\n---\n", "nested too deep", id="depth"),
        pytest.param(
            "about: x\npod: {annotations: {a: 2020-01-01}}\n---\n", "pod.annotations.a: ",
            id="what is no JSON",
        ),
    ],
)  # fmt: skip
def test_a_profile_that_cannot_be_read_says_why(text: str, message: str) -> None:
    with pytest.raises(ValueError, match='fabric profile "lab": ') as caught:
        render("lab", site={"lab": text})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
