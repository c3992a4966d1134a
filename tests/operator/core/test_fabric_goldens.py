"""Every profile that comes with the operator, line by line: rendered, sourced, shown."""

import json
import re
from typing import Any

import pytest
import yaml

from curriculum_operator import names, project
from curriculum_operator.fabric import profile, rendered

from . import fabric_goldens
from .builders import accelerator, curriculum, phase, scene
from .fabric_goldens import CASES, HERE, PAGE, PARTS, SOURCES, lines, of


def test_every_profile_has_a_golden_and_no_golden_is_left_over() -> None:
    assert sorted(CASES) == sorted(profile.shipped())
    assert sorted(CASES) == sorted(file.stem for file in HERE.iterdir())


@pytest.mark.parametrize("name", CASES)
def test_a_profile_renders_its_golden(name: str) -> None:
    assert (HERE / f"{name}.yaml").read_text() == fabric_goldens.golden(name), "make generate"


def test_the_page_shows_what_is_rendered() -> None:
    text = PAGE.read_text()
    assert text == fabric_goldens.page(text), "make generate"


def test_the_pages_example_of_a_sites_profile_works() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    documents = [document for block in blocks for document in yaml.safe_load_all(block)]
    (site,) = [d for d in documents if d["kind"] == "ConfigMap"]
    profiles = project.fabric_profiles(site)
    values = {"trafficClass": 106, "extra": {"rail": "b"}}
    kind = accelerator(fabric={"profile": "lab", "rdmaResource": "rdma/x", "values": values})
    found = rendered.render(kind.spec, None, curriculum().spec.phases[0], site=profiles)
    assert found.environment == {
        "NCCL_SOCKET_IFNAME": "=bond0", "NCCL_IB_HCA": "mlx5_2,mlx5_3", "NCCL_IB_TC": "106",
    }  # fmt: skip


def golden_lines(name: str) -> list[tuple[str, str]]:
    documents = yaml.safe_load_all((HERE / f"{name}.yaml").read_text())
    return [
        line
        for document in documents
        for line in lines({k: v for k, v in document.items() if k in PARTS})
    ]


@pytest.mark.parametrize("name", CASES)
def test_every_line_of_a_golden_is_what_its_source_says(name: str) -> None:
    for at, value in golden_lines(name):
        line = of(name, at, value)
        assert line["why"]
        assert line["sources"]
        assert {*line["sources"]} <= {*SOURCES["links"], "ours"}


def test_nothing_that_a_source_says_is_left_out() -> None:
    shown = {(name, *line) for name in CASES for line in golden_lines(name)}
    said = {(name, s["at"], s["value"]) for s in SOURCES["lines"] for name in s["profiles"]}
    assert said == shown


@pytest.mark.parametrize("name", CASES)
def test_no_profile_sets_a_gid_index_or_leaves_a_twin_out(name: str) -> None:
    found = dict(golden_lines(name))
    assert not [at for at in found if at.endswith("GID_INDEX")]
    hcas = found.get("environment.NCCL_IB_HCA", "").split(",")
    for port in ("0", "1"):
        assert (f"rocep1s0f{port}" in hcas) is (f"roceP2p1s0f{port}" in hcas)


def job(fabric: dict[str, Any], **fields: Any) -> dict[str, Any]:
    kind = accelerator(fabric=fabric, **fields)
    made: dict[str, Any] = scene(classes={"gb10-sm121": kind}).step().creates[1]
    return made


def template(made: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = made["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]
    return found


@pytest.mark.parametrize("name", sorted(CASES.keys() - {"gb10-ring"}))
def test_the_job_has_all_that_is_rendered(name: str) -> None:
    given = {"profile": name, **CASES[name][0].fabric}
    document = rendered.render(
        accelerator(fabric=given).spec, None, curriculum().spec.phases[0], site={}
    ).document()
    made = template(job(given))
    spec, (container,) = made["spec"], made["spec"]["containers"]
    pod = document["pod"]
    environment = {v["name"]: v.get("value") for v in container["env"]}
    assert document["environment"].items() <= environment.items()
    assert pod.get("limits", {}).items() <= container["resources"]["limits"].items()
    assert pod.get("requests", {}).items() <= container["resources"]["requests"].items()
    assert pod.get("annotations", {}).items() <= made["metadata"].get("annotations", {}).items()
    assert pod.get("hostNetwork") == spec.get("hostNetwork")
    assert pod.get("dnsPolicy") == spec.get("dnsPolicy")
    assert pod.get("capabilities") == container["securityContext"]["capabilities"].get("add")
    assert all(t in spec["tolerations"] for t in pod.get("tolerations", []))
    assert ":".join(pod.get("libraries", [])) == environment.get("LD_LIBRARY_PATH", "")
    (shm,) = [v["emptyDir"] for v in spec["volumes"] if v["name"] == "shm"]
    assert shm == {"medium": "Memory", "sizeLimit": pod["sharedMemory"]}
    paths = {v["name"]: v["hostPath"]["path"] for v in spec["volumes"] if "hostPath" in v}
    seen = [
        f"{paths[m['name']]} at {m['mountPath']}, read-only"
        for m in container["volumeMounts"]
        if m["name"] in paths and m["readOnly"]
    ]
    assert seen == pod.get("folders", [])


def test_the_providers_script_is_read_first_and_our_variables_hold_after_it() -> None:
    (container,) = template(job({"profile": "b200-gke"}))["spec"]["containers"]
    shell, option, text, script, *rest = container["command"]
    assert (shell, option, script) == ("bash", "-c", "/usr/local/gib/scripts/set_nccl_env.sh")
    assert 'source "$0"; exec "$@"' in text
    assert rest[0] == "env"
    assert "NCCL_SOCKET_IFNAME=eth0,eth1" in rest
    assert rest[-3:] == ["python3", "-m", "curriculum_trainer"]
    assert all(word.startswith("NCCL_") for word in rest[1:-3])
    assert container["args"][0] == "--run"


def test_the_job_names_its_profile_and_a_changed_one_is_another_digest() -> None:
    before, after = (
        job({"profile": "gb10-switch", "rdmaResource": "a/b", "values": {"mtu": mtu}})["metadata"]
        for mtu in (9000, 4200)
    )
    at = names.FABRIC_DIGEST_ANNOTATION
    assert before["annotations"][names.FABRIC_ANNOTATION] == "gb10-switch"
    assert before["annotations"][at].startswith("sha256:")
    assert before["annotations"][at] != after["annotations"][at]
    assert "gb10-switch" not in json.dumps(before["labels"])


def test_a_sites_profile_is_what_the_job_gets() -> None:
    text = "about: ours\n---\nNCCL_IB_HCA=mlx5_9\n"
    found = scene(profiles={"gb10-switch": text}).step().creates[1]
    (container,) = template(found)["spec"]["containers"]
    assert {"name": "NCCL_IB_HCA", "value": "mlx5_9"} in container["env"]
    broken = scene(
        curriculum(phases=(phase(),)), profiles={"gb10-switch": "about: ours\n---\n{{ x }}"}
    ).step()
    assert (broken.rule, broken.creates) == ("invalid", ())
