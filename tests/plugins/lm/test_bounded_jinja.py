"""A chat template takes neither memory nor time without end, and renders what transformers renders."""

import resource
import time
from typing import Any

import pytest
from mmalign_lm import bounded_jinja, jinja_meter
from transformers.utils.chat_template_utils import render_jinja_template

from mmalign.errors import BadSample
from tests.support.project import SUPPORT

MESSAGES = [{"role": "user", "content": "Hi, \u2603!"}, {"role": "assistant", "content": "Hello.\n\nYou?"}]
DOUBLING = "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = STEP %}{% endfor %}{{ ns.x|length }}"
LARGE = {
    "repeated": "{{ 'x' * 6000000000 }}",
    "repeated the other way": "{{ 6000000000 * messages[0].content }}",
    "a list": "{{ ([1] * 900000000)|length }}",
    "centred": "{{ 'x'|center(6000000000) }}",
    "ljust": "{{ 'x'.ljust(6000000000) }}",
    "zfill": "{{ 'x'.zfill(6000000000) }}",
    "expandtabs": "{{ ('\t' * 100000).expandtabs(100000) }}",
    "format": "{{ '{:>6000000000}'.format('x') }}",
    "format, nested": "{{ '{:>{w}}'.format('x', w='6000000000') }}",
    "format_map": "{{ '{x:>6000000000}'.format_map({'x': 1}) }}",
    "format filter": "{{ '%6000000000d'|format(1) }}",
    "percent": "{{ '%6000000000d' % 1 }}",
    "percent star": "{{ '%*d' % (600000000, 1) }}",
    "power": "{{ (10 ** (10 ** 10)) % 7 }}",
    "replace": "{{ ('x' * 9000000).replace('x', 'y' * 9000000)|length }}",
    "replace filter": "{{ ('x' * 9000000)|replace('', 'y' * 9000000)|length }}",
    "indent": "{{ ('\n' * 900000)|indent(900000)|length }}",
    "join": "{{ ([('x' * 9000000)] * 1)|join|length }}{{ (['x'] * 90000)|join('y' * 9000000)|length }}",
    "join method": "{{ ('y' * 9000000).join(['x'] * 90000)|length }}",
    "json": "{{ [[[[1]]]]|tojson(indent=900000000) }}",
    "lorem": "{{ lipsum(9000000)|length }}",
    "doubling +": DOUBLING.replace("STEP", "ns.x + ns.x"),
    "doubling ~": DOUBLING.replace("STEP", "ns.x ~ ns.x"),
    "doubling lists": DOUBLING.replace("STEP", "[ns.x, ns.x]").replace("|length", ""),
    "doubling dicts": DOUBLING.replace("STEP", "dict(a=ns.x, b=ns.x)").replace("|length", "|tojson"),
    "doubling block": "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set y %}{{ ns.x }}{{ ns.x }}"
    "{% endset %}{% set ns.x = y %}{% endfor %}{{ ns.x|length }}",
    "written": "{% for i in range(99999) %}{{ messages[0].content.center(9999) }}{% endfor %}",
    "many values": "{% set ns = namespace(x=[]) %}{% for i in range(900) %}{% set ns.x = ns.x + [('x' * 900000) ~ i] %}"
    "{% endfor %}{{ ns.x|length }}",
}
SLOW = {
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% set c = a %}{% endfor %}{% endfor %}",
    "calls": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(90) }}",
}


def render(source: str, messages: Any = MESSAGES, **more: Any) -> str:
    return bounded_jinja.render(source, {"messages": messages, "tools": None, **more})[0]


@pytest.mark.parametrize("name", LARGE)
def test_no_memory_is_taken_past_the_limit(name) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises((BadSample, TypeError, bounded_jinja.jinja2.TemplateError)):
        render(LARGE[name])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000  # kilobytes


@pytest.mark.parametrize("name", SLOW)
def test_no_time_is_taken_past_the_limit(name, monkeypatch) -> None:
    monkeypatch.setattr(jinja_meter, "MAX_SECONDS", 0.2)
    start = time.thread_time()
    with pytest.raises(BadSample, match="takes more than"):
        render(SLOW[name])
    assert time.thread_time() - start < 5


def test_it_renders_what_transformers_renders() -> None:
    sources = [
        "{% for m in messages %}{{ loop.index ~ m.role | upper }}: {{ m['content'] + '!' * 3 }}\n{% endfor %}",
        "{%- for m in messages -%}\n {% if loop.first %}{% continue %}{% endif %}\n{{ m|tojson(indent=2) }}{%endfor%}",
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 2 ** 3 %}{% endfor %}{{ ns.n }}",
        "{{ 'a%sb' % messages[0].role }}{{ '{} {:>4}'.format(1, 'x') }}{{ '%5d'|format(3) }}{{ messages|length }}",
        "{% macro f(x) %}[{{ x }}]{% endmacro %}{{ f(messages[1].content.split('\n')[0]) }}{{ [1, [2]] }}",
        "{{ messages|map(attribute='role')|join(', ') }}{{ ['a', 2]|join }}{{ messages|join(';', attribute='role') }}",
        "{{ dict(a=1)|items|list }}{{ 'x'|center(5)|replace(' ', '-') }}{{ strftime_now('%Y') }}{{ 1.5 * 2 }}",
        "{{ [0] * 3 }}{{ 'a\nb'|indent(2, true) }}{{ messages[-1:][0].content[::-1] }}{{ messages|string }}",
    ]
    for source in sources:
        assert [render(source)] == render_jinja_template([MESSAGES], chat_template=source)[0]


def test_generation_marks_the_same_places() -> None:
    source = (
        "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}{% generation %}{{ m.content }}</s>"
        "{% endgeneration %}{% else %}{{ m.content }}{% endif %}\n{% endfor %}"
    )
    wanted = render_jinja_template([MESSAGES * 2], chat_template=source, return_assistant_tokens_mask=True)
    text, spans = bounded_jinja.render(source, {"messages": MESSAGES * 2, "tools": None})
    assert ([text], [spans]) == (wanted[0], wanted[1]) and len(spans) == 2
    assert bounded_jinja.render("{{ messages }}", {"messages": []})[1] is None


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ namespace(__class__=1) }}{% set ns = namespace() %}{% set ns['__init__'] = 1 %}",
        "{{ dict.__globals__.x }}",
        "{{ raise_exception.__globals__.x }}",
        "{% include '/etc/passwd' %}",
        "{{ ''.format.__globals__.x }}",
        "{{ 'x'.format.__closure__[0] }}",
    ],
)
def test_the_sandbox_holds(source) -> None:
    with pytest.raises((bounded_jinja.jinja2.TemplateError, TypeError, BadSample)):
        print(render(source))


def test_published_templates_are_far_from_the_limits() -> None:
    """A long conversation in a template of each family."""
    long = [{"role": m["role"], "content": m["content"] * 200} for m in MESSAGES * 50]
    for path in sorted((SUPPORT / "templates").glob("*.jinja")):
        start = time.thread_time()
        source = path.read_text(encoding="utf-8")
        text = bounded_jinja.render(
            source, {"messages": long, "add_generation_prompt": True, "bos_token": "", "eos_token": ""}
        )
        assert len(text[0]) > 150_000 and time.thread_time() - start < jinja_meter.MAX_SECONDS / 4, path.name
