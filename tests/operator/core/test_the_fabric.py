"""The fabric's environment: rendered from text that is not trusted, checked, bounded."""

from typing import Any

import pytest

from curriculum_operator import fabric

from .builders import accelerator


def rendered(profile: str, **fields: Any) -> dict[str, str]:
    return fabric.render(accelerator(fabric={"profile": profile, **fields}).spec)


def test_a_spark_without_rdma_says_sockets() -> None:
    assert rendered("gb10-roce") == {
        "NCCL_SOCKET_IFNAME": "=enP7s7",
        "GLOO_SOCKET_IFNAME": "enP7s7",
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": "3",
        "NCCL_IB_DISABLE": "1",
    }


def test_a_spark_with_rdma_names_both_twins_of_a_port() -> None:
    values = {"bootstrapInterface": "eth1", "trafficClass": "106"}
    assert rendered("gb10-roce", rdmaResource="rdma/hca", values=values) == {
        "NCCL_SOCKET_IFNAME": "=eth1",
        "GLOO_SOCKET_IFNAME": "eth1",
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": "3",
        "NCCL_IB_DISABLE": "0",
        "NCCL_IB_HCA": "rocep1s0f1,roceP2p1s0f1",
        "NCCL_IB_SUBNET_AWARE_ROUTING": "1",
        "NCCL_IB_TC": "106",
    }


@pytest.mark.parametrize(("rdma", "disabled"), [("rdma/ib", "0"), (None, "1")])
def test_a_b200_uses_infiniband_where_it_is_in_the_pod(rdma: str | None, disabled: str) -> None:
    environment = rendered("b200-infiniband", rdmaResource=rdma)
    assert disabled == environment["NCCL_IB_DISABLE"]
    assert ("NCCL_IB_HCA" in environment) is (rdma is not None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("NCCL_IB_GID_INDEX=3", "NCCL_IB_GID_INDEX must not be set", id="GID index"),
        pytest.param("MASTER_ADDR=x", "MASTER_ADDR is reserved", id="rendezvous"),
        pytest.param("PET_NNODES=2", "PET_NNODES is reserved", id="torchrun"),
        pytest.param("LD_PRELOAD=/x.so", "LD_PRELOAD is reserved", id="the loader"),
        pytest.param("NCCL_IB_TC=", 'NCCL_IB_TC has the value ""', id="empty"),
        pytest.param("NCCL_X=a b", 'NCCL_X has the value "a b"', id="a space"),
        pytest.param("nccl_x=1", "is not NAME=value", id="lower case"),
        pytest.param("just text", "is not NAME=value", id="no assignment"),
        pytest.param("A=1\nA=2", "A is set twice", id="twice"),
        pytest.param("A={{ values.absent }}", "has no attribute 'absent'", id="an absent input"),
        pytest.param("A={{ absent }}", "'absent' is undefined", id="an unknown name"),
        pytest.param("{% if %}", "Expected an expression", id="no template"),
        pytest.param("A={{ 1 // 0 }}", "division", id="an arithmetic fault"),
        pytest.param("A={{ 'x' + 1 }}", "concatenate", id="a type fault"),
        pytest.param(
            "\n".join(f"A{n}=1" for n in range(65)), "more than 64 variables", id="too many"
        ),
        pytest.param("# " + "x" * 8192, "more than 8192 bytes", id="too long"),
        pytest.param(
            "{% for a in range(9999) %}{% for b in range(9999) %}xx{% endfor %}{% endfor %}",
            "more than 8192 bytes", id="loops in loops",
        ),
        pytest.param("A={{ 'x' * 999999999 }}", '"*" is not allowed', id="multiplication"),
        pytest.param("A={{ 9 ** 9 ** 9 }}", '"**" is not allowed', id="a power"),
        pytest.param("{% for a in range(10 ** 9) %}x{% endfor %}", "not allowed", id="range"),
    ],
)  # fmt: skip
def test_a_template_that_says_what_it_may_not_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match='fabric profile "site": ') as caught:
        fabric.render_text(text, {"values": {}}, profile="site")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("{{ ''.__class__.__mro__ }}", id="attributes"),
        pytest.param("{{ '{0.__class__.__init__.__globals__}'.format(values) }}", id="str.format"),
        pytest.param("{{ '{a.__class__}'.format_map({'a': 1}) }}", id="format_map"),
        pytest.param("{{ ''|attr('__class__') }}", id="the attr filter"),
        pytest.param("{{ ('{0.__class__}'|attr('format'))(1) }}", id="format by attr"),
        pytest.param("{{ [values]|map('attr', '__class__')|first }}", id="attr by map"),
        pytest.param("{% set f = '{0.__class__}'.format %}{{ f(1) }}", id="indirect format"),
        pytest.param(
            "{{ ['{0.__class__}']|map('format')|list }}{{ cycler.__init__.__globals__ }}",
            id="globals of a helper",
        ),
        pytest.param("{% set _ = values.update({'a': '1'}) %}", id="a change of the inputs"),
        pytest.param("{% include 'other' %}", id="another template"),
    ],
)
def test_a_template_does_not_leave_its_sandbox(text: str) -> None:
    with pytest.raises(ValueError, match='fabric profile "site": ') as caught:
        fabric.render_text(f"A={text}", {"values": {"k": "v"}}, profile="site")
    assert "class '" not in str(caught.value).lower()
    assert "builtins" not in str(caught.value)


def test_an_unknown_profile_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(ValueError, match="known: b200-infiniband, gb10-roce"):
        rendered("spark")


def test_an_input_that_the_template_does_not_read_is_refused() -> None:
    with pytest.raises(ValueError, match='no input "interface"; known: bootstrapInterface'):
        rendered("gb10-roce", values={"interface": "eth0"})


def test_an_input_cannot_smuggle_in_a_line() -> None:
    with pytest.raises(ValueError, match="LD_PRELOAD is reserved"):
        rendered("gb10-roce", values={"bootstrapInterface": "eth0\nLD_PRELOAD=/x"})
