"""A template is text that is not trusted: it says variables, and can do nothing else.

Each of the two walls is tried alone: the sandbox with the list of what a template may hold taken
away, and the list without the sandbox. What gets through neither is shown to get through none.
"""

import re
from typing import Any

import jinja2
import pytest
from jinja2.exceptions import SecurityError

from curriculum_operator.fabric import profile, template

INPUTS: dict[str, Any] = {"hcas": ("a", "b"), "name": "eth0", "extra": {"k": "v"}, "none": None}

ESCAPES = [
    # CVE-2016-10745: str.format reads attributes.
    pytest.param("{{ '{0.__class__}'.format(name) }}", id="2016-10745 str.format"),
    pytest.param("{{ '{a.__class__}'.format(a=name) }}", id="2016-10745 by name"),
    # CVE-2019-10906: so does str.format_map.
    pytest.param("{{ '{a.__class__}'.format_map({'a': name}) }}", id="2019-10906 format_map"),
    # CVE-2024-56326: and so they do when they are called through something else.
    pytest.param("{% set f = '{0.__class__}'.format %}{{ f(name) }}", id="2024-56326 kept"),
    pytest.param(
        "{% macro call(f) %}{{ f(name) }}{% endmacro %}{{ call('{0.__class__}'.format) }}",
        id="2024-56326 passed on",
    ),
    # CVE-2025-27516: the attr filter found the method where the sandbox did not look.
    pytest.param("{{ ('{0.__class__}'|attr('format'))(name) }}", id="2025-27516 attr"),
    pytest.param(
        "{% set f = '{a.__class__}'|attr('format_map') %}{{ f({'a': name}) }}",
        id="2025-27516 attr, kept",
    ),
    # The plain ways, which the sandbox was made for.
    pytest.param("{{ name.__class__ }}", id="attribute"),
    pytest.param("{{ name['__class__'] }}", id="item"),
    pytest.param("{{ name|attr('__class__') }}", id="attr filter"),
    pytest.param("{{ [name]|map(attribute='__class__')|list }}", id="map"),
    pytest.param("{{ [name]|map('attr', '__class__')|list }}", id="attr by map"),
    pytest.param("{{ name.__class__.__mro__ }}", id="parents"),
    pytest.param("{{ self.__init__.__globals__['__builtins__']['str'] }}", id="self"),
    pytest.param("{{ cycler.__init__.__globals__['os'].name.__class__ }}", id="cycler"),
    pytest.param("{{ lipsum.__globals__['os'].name.__class__ }}", id="lipsum"),
    pytest.param("{% macro m() %}{% endmacro %}{{ m.__class__ }}", id="macro"),
    pytest.param("{% set ns = namespace() %}{{ ns.__class__ }}", id="namespace"),
]
LEAKED = "<class "


def in_sandbox(text: str) -> str:
    try:
        return template.Sandbox().from_string(text).render(INPUTS)
    except (SecurityError, jinja2.UndefinedError):
        return "refused"


@pytest.mark.parametrize("text", ESCAPES)
def test_a_payload_is_real_and_each_wall_alone_stops_it(text: str) -> None:
    assert LEAKED in jinja2.Environment().from_string(text).render(INPUTS)

    assert LEAKED not in in_sandbox(text)

    with pytest.raises(ValueError, match=r'line 1: (a template may not hold|"\w+" is no input)'):
        template.render(f"A={text}", INPUTS)


def test_the_list_holds_without_the_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template, "Sandbox", jinja2.Environment)
    template._compiled.cache_clear()
    for escape in ESCAPES:
        with pytest.raises(ValueError, match="line 1: "):
            template.render(f"B={escape.values[0]}", INPUTS)
    template._compiled.cache_clear()


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
        pytest.param("A={{ absent }}", '"absent" is no input; known: extra, hcas', id="a name"),
        pytest.param("A={{ extra.absent }}", "has no attribute 'absent'", id="an absent input"),
        pytest.param("A={{ name }}\n{% set name = 1 %}", '"name" is an input', id="overwritten"),
        pytest.param("{% if %}", "Expected an expression", id="no template"),
        pytest.param("A={{ 1 // 0 }}", 'the operator "//"', id="arithmetic"),
        pytest.param("A={{ hcas < name }}", "not supported between", id="a type fault"),
        pytest.param("\n".join(f"A{n}=1" for n in range(65)), "than 64 variables", id="too many"),
        pytest.param("# " + "x" * 8192, "more than 8192 bytes", id="too long"),
        pytest.param("A={{ ''.join(hcas) }}", "may not hold a Call", id="a call"),
        pytest.param("{% include 'other' %}", "may not hold a Include", id="another template"),
        pytest.param("A={{ name|random }}", 'the filter "random"', id="chance"),
        pytest.param("A={{ name|filesizeformat }}", 'the filter "filesizeformat"', id="any filter"),
        pytest.param("A={{ self }}", '"self" is no input', id="itself"),
    ],
)  # fmt: skip
def test_a_template_that_says_what_it_may_not_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        template.render(text, INPUTS)


GROWS = [
    pytest.param("{% for a in range(99999) %}{% endfor %}", id="a range"),
    pytest.param("{% for a in hcas %}{% for b in hcas %}{% endfor %}{% endfor %}", id="two loops"),
    pytest.param("{% for a in hcas recursive %}{{ loop(hcas) }}{% endfor %}", id="recursion"),
    pytest.param("{{ 'x' * 999999999 }}", id="multiplication"),
    pytest.param("{{ 9 ** 9 ** 9 }}", id="a power"),
    pytest.param("{{ '%999999999d' % 1 }}", id="a format"),
    pytest.param("{{ 'x'|center(999999999) }}", id="padding"),
    pytest.param("{{ 'x'|indent(999999999) }}", id="indenting"),
    pytest.param("{{ hcas|batch(999999999, 'x')|list }}", id="filling"),
    pytest.param("{% set a = name ~ name %}{% set b = a ~ a %}{{ b }}", id="doubling"),
    pytest.param("{% set a = name|join('xx') %}{% set b = a|join('xx') %}{{ b }}", id="joining"),
    pytest.param("{% set a = name %}{% for x in a %}{% endfor %}", id="a value of its own"),
    pytest.param("{{ hcas|join(hcas|join(hcas|join('x')|replace('', name))) }}", id="replacing"),
    pytest.param("{% set a = hcas|join('x') %}{% set b = hcas|join(a) %}", id="joining by it"),
    pytest.param("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", id="a macro"),
]  # fmt: skip


@pytest.mark.parametrize("text", GROWS)
def test_nothing_that_grows_or_takes_time_is_begun(text: str) -> None:
    with pytest.raises(ValueError, match="line 1: "):
        template.render(f"A=1{text}", INPUTS)


def test_the_most_loops_that_a_template_has_room_for_go_over_few_items() -> None:
    loop = "{% for a in hcas %}{% endfor %}"
    inputs = {"hcas": ("rocep1s0f0",) * 16}
    assert template.render(loop * (profile.MAX_BYTES // len(loop)), inputs) == {}


def test_a_template_nested_without_end_is_refused() -> None:
    with pytest.raises(ValueError, match="recursion"):
        template.render("A={{ " + "not " * 4000 + "name }}", INPUTS)


def test_what_a_template_may_hold_is_enough_to_choose_and_to_list() -> None:
    text = """
        {# a comment #}
        {% set first = hcas[0] if name else "x" %}
    """
    with pytest.raises(ValueError, match="may not hold"):  # an index: `first` says it
        template.render(text, INPUTS)
    text = """
        {% set device = name | default("eth1") %}
        A={{ device }}
        B={% for hca in hcas %}{{ hca }}:1{{ "" if loop.last else "," }}{% endfor %}

        C={{ hcas | join(",") | upper }}
        {% if none is not none or name == "eth1" %}
        D=1
        {% elif "eth" in name and extra.k == "v" %}
        D=2
        {% endif %}
        E={{ hcas | first }}
    """
    assert template.render(text, INPUTS) == {
        "A": "eth0", "B": "a:1,b:1", "C": "A,B", "D": "2", "E": "a",
    }  # fmt: skip
