"""`curriculum render` prints what the operator would create, from files alone."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from typer.testing import CliRunner

from curriculum_cli.main import app

API = Path(__file__).parent.parent / "api"
FILES = [
    argument
    for name in ("curriculum", "accelerator-class", "rented-pool")
    for argument in ("-f", str(API / f"{name}.yaml"))
]


def test_each_phase_becomes_a_config_map_a_job_and_its_verification(tmp_path: Path) -> None:
    rented = yaml.safe_load((API / "accelerator-class.yaml").read_text())
    rented["metadata"]["name"] = "b200-sm100"
    rented["spec"]["gpusPerNode"] = 8
    other = tmp_path / "b200.yaml"
    other.write_text(yaml.safe_dump(rented))

    answer = CliRunner().invoke(app, ["render", *FILES, "-f", str(other)])

    assert answer.exit_code == 0, answer.output
    kinds = [(d["kind"], d["metadata"]["name"]) for d in yaml.safe_load_all(answer.stdout)]
    assert kinds[:3] == [
        ("ConfigMap", "slm-8b-cpp-pretrain-1"),
        ("PyTorchJob", "slm-8b-cpp-pretrain-1"),
        ("Job", "slm-8b-cpp-pretrain-1-verify"),
    ]
    assert len(kinds) % 3 == 0


def test_one_phase_is_rendered_alone() -> None:
    answer = CliRunner().invoke(app, ["render", *FILES, "--phase", "pretrain"])

    assert answer.exit_code == 0, answer.output
    assert len(list(yaml.safe_load_all(answer.stdout))) == 3
    assert "&id" not in answer.stdout


def test_a_missing_class_is_named_with_the_way_out() -> None:
    answer = CliRunner().invoke(app, ["render", "-f", str(API / "curriculum.yaml")])

    assert answer.exit_code == 1
    assert 'no AcceleratorClass "gb10-sm121"; add it with -f' in answer.stderr


def test_an_unknown_phase_is_named_with_the_known_ones() -> None:
    answer = CliRunner().invoke(app, ["render", *FILES, "--phase", "poetry"])

    assert answer.exit_code == 1
    assert 'there is no phase "poetry"; known: pretrain' in answer.stderr


def test_the_program_starts_without_kopf_and_torch() -> None:
    code = (
        "import sys, curriculum_cli.main, curriculum_cli.rendering;"
        "print([m for m in ('kopf', 'torch', 'kubernetes') if m in sys.modules])"
    )
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert seen.stdout.strip() == "[]"


def write(tmp_path: Path, name: str, document: object) -> list[str]:
    file = tmp_path / f"{name}.yaml"
    file.write_text(yaml.safe_dump(document))
    return ["-f", str(file)]


def fabric(*arguments: str, phase: str = "pretrain") -> dict[str, Any]:
    answer = CliRunner().invoke(app, ["render", *FILES, *arguments, "--phase", phase, "--fabric"])
    (shown,) = yaml.safe_load_all(answer.stdout)
    assert isinstance(shown, dict)
    assert answer.exit_code == (2 if "problems" in shown else 0), answer.output
    return shown


def test_the_fabric_of_a_phase_is_shown_alone() -> None:
    shown = fabric()

    assert (shown["phase"], shown["profile"], shown["origin"]) == (
        "pretrain", "gb10-switch", "operator",
    )  # fmt: skip
    assert shown["environment"]["NCCL_SOCKET_IFNAME"] == "=enP7s7"
    assert shown["pod"]["dnsPolicy"] == "ClusterFirstWithHostNet"
    assert shown["digest"].startswith("sha256:")
    assert "problems" not in shown


def test_a_sites_profile_is_tried_out_before_it_is_put_into_the_cluster(tmp_path: Path) -> None:
    def site(text: str) -> list[str]:
        head = "about: ours\ninputs: {bootstrapInterface: null, hcas: [mlx5_9]}\n---\n"
        data = {"gb10-switch.env.j2": head + text, "README.md": "how we cable"}
        made = {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "s"}, "data": data}
        return write(tmp_path, "site", made)

    shown = fabric(*site('NCCL_IB_HCA={{ hcas | join("+") }}\n'))
    assert (shown["origin"], shown["environment"]) == (
        "site",
        {"NCCL_IB_HCA": "rocep1s0f0+roceP2p1s0f0"},
    )

    (problem,) = fabric(*site("NCCL_IB_GID_INDEX=3\n"))["problems"]
    assert "NCCL_IB_GID_INDEX must not be set" in problem


def test_what_does_not_go_with_the_fabric_is_among_the_problems(tmp_path: Path) -> None:
    raw = yaml.safe_load((API / "accelerator-class.yaml").read_text())
    raw["spec"]["podTemplate"] = {"env": [{"name": "NCCL_SOCKET_IFNAME", "value": "eth5"}]}

    shown = fabric(*write(tmp_path, "class", raw))

    (problem,) = shown["problems"]
    assert problem.startswith(
        'env "NCCL_SOCKET_IFNAME" is "eth5", but fabric profile "gb10-switch"'
    )
