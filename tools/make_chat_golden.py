"""Makes fixtures/golden/chat.json: what transformers' apply_chat_template gives for the tiny models' templates.

    python tools/make_chat_golden.py

For each model of fixtures/architectures that has a chat template, and each conversation: the text and the ids of
`apply_chat_template(..., add_generation_prompt=True)`. Models with the same tokenizer and template appear once.

Under "features", small templates that each use what templates of well-known models use, and what transformers makes of
them with MESSAGES and VARIABLES. Under "parts", templates that take content as a list of parts and nothing else, and
what transformers makes of them with content in that form.
"""

import datetime
import json
from pathlib import Path

import tiny_tokenizers
import transformers
from transformers import AutoTokenizer
from transformers.utils import chat_template_utils

FIXTURES = Path(__file__).parent.parent / "fixtures"
USER, ASSISTANT, SYSTEM = "user", "assistant", "system"
CONVERSATIONS = [
    [(USER, "Hello, who are you?")],
    [(SYSTEM, "You are a miller."), (USER, "What do you grind?")],
    [(USER, "One"), (ASSISTANT, "Two, three."), (USER, " Four\n\nFive ")],
    [
        (SYSTEM, "Be brief."),
        (USER, "A <b>bold</b> \"question\" & more, déjà vu 🙂"),
        (ASSISTANT, "{{ nothing }} {% if %}"),
        (USER, "Last"),
    ],
]


# What the templates of "features" and "parts" see.
MESSAGES = [
    {"role": SYSTEM, "content": "Be brief."},
    {"role": USER, "content": "Hi there\nyou"},
    {"role": ASSISTANT, "content": "<think>\nhm\n</think>\n\nYo"},
    {"role": USER, "content": "Bye <b>now</b>"},
]
VARIABLES = {
    "numbers": [3, 1, 2],
    "empty": [],
    "nothing": None,
    "quoted": "<é\"&'>",
    "objects": [{"name": "x", "rank": 2, "on": True}, {"name": "y", "rank": 1, "on": False}, {"name": "z", "rank": 3}],
    "tool": {"name": "weather", "parameters": {"city": {"type": "string"}, "days": [1, 2.5, None, True]}},
}
FEATURES = {
    "percent": "{{ '%s is %d' % ('a', 5) }}|{{ '%02d:%5.2f' % (7, 3.14159) }}|{{ '%s' % nothing }}|{{ '%r' % 'q' }}|"
    "{{ '100%%' % () }}|{{ '%(a)s-%(b)s' % {'a': 1, 'b': 2} }}|{{ '%s' % numbers }}|{{ '%-4s|%+d|%x' % ('l', 3, 255) }}",
    "percent_precedence": "{{ 'a' ~ '%s' % 1 ~ 'b' }}|{{ 'a' + '%s' % 'x' | upper }}|{{ 2 * 7 % 4 }}|{{ -7 % 3 }}|"
    "{{ 7 % 4 % 2 }}|{{ numbers[4 % 3] }}|{{ not 4 % 2 }}|{{ ['%s' % 1, {'k': '%s' % 2}] }}|{{ 7.5 % 2 }}|{{ +1 }}",
    "percent_alternates": "{% for m in messages[1:] %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('no') }}{% endif %}{% set form = '[%s]' %}{{ form % m.role }}{% endfor %}",
    "partition": "{{ messages[2].content.partition('</think>')[2].strip() }}|{{ 'a-b-c'.rpartition('-') }}|"
    "{{ 'abc'.partition('-') }}",
    "affixes": "{{ 'pre-x'.removeprefix('pre-') }}|{{ 'x.txt'.removesuffix('.txt') }}|{{ 'abc'.removeprefix('x') }}",
    "lines": "{{ messages[1].content.splitlines() }}|{{ 'a\r\nb\rc\n'.splitlines(true) }}",
    "split": "{{ 'a b  c '.split() }}|{{ 'a,b,c'.split(',', 1) }}|{{ 'a,b,c'.rsplit(',', maxsplit=1) }}|"
    "{{ ' a b '.split(none, 1) }}|{{ ' a b '.rsplit(none, 1) }}|{{ messages[2].content.split('</think>')[-1].lstrip('\n') }}",
    "begins": "{{ 'abc'.startswith(('x', 'a')) }}{{ 'abc'.endswith(('x', 'y')) }}{{ 'abc'.startswith('b', 1) }}",
    "find": "{{ 'hello'.find('l') }}{{ 'hello'.rfind('l') }}{{ 'hello'.index('l') }}{{ 'hello'.count('l') }}"
    "{{ 'hello'.find('z') }}{{ 'hello'.find('l', 3) }}{{ numbers.index(1) }}{{ numbers.count(1) }}",
    "fill": "{{ '5'.zfill(3) }}|{{ '-5'.zfill(4) }}|{{ 'a'.ljust(3) }}|{{ 'a'.rjust(3, '.') }}|{{ 'abc'.center(8, '*') }}",
    "case": "{{ \"they're in\".title() }}|{{ 'aB c'.swapcase() }}|{{ 'hELLO'.capitalize() }}|{{ 'ab'|title }}",
    "format": "{{ '{} {}'.format(1, 'b') }}|{{ '{a:>5}|{b:.2f}'.format(a='x', b=2.5) }}|{{ '%s-%s'|format(1, 2) }}",
    "tojson": "{{ tool|tojson }}|{{ tool|tojson(indent=2) }}|{{ quoted|tojson }}|{{ quoted|tojson(ensure_ascii=true) }}|"
    "{{ tool|tojson(separators=(',', ':')) }}|{{ tool|tojson(sort_keys=true) }}|{{ empty|tojson(indent=4) }}|"
    "{{ '🙂'|tojson(true) }}|{{ {1: 2, none: 3}|tojson }}|{{ 1e20|tojson }}",
    "slices": "{{ numbers[::-1] }}|{{ numbers[-2:] }}|{{ 'hello'[::-1] }}|{{ messages[1:]|length }}|{{ numbers[:1] + [9] }}",
    "namespace": "{% set ns = namespace(found=false, n=0) %}{% for m in messages[::-1] %}{% if not ns.found and "
    "m.role == 'user' %}{% set ns.found = true %}{% set ns.n = loop.index0 %}{% endif %}{% endfor %}{{ ns.found }}{{ ns.n }}"
    "{% set ns = namespace({'a': 1}, b=2) %}{{ ns.a }}{{ ns.b }}",
    "loop": "{% for m in messages %}{% if loop.previtem and loop.previtem.role != m.role %}>{% endif %}{{ loop.index }}"
    "{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.nextitem is defined }}{{ loop.cycle('a', 'b') }}{% endfor %}",
    "break": "{% for n in numbers %}{% if n == 1 %}{% continue %}{% endif %}{{ n }}{% if n == 2 %}{% break %}{% endif %}{% endfor %}",
    "attributes": "{{ objects|selectattr('on')|map(attribute='name')|join(',') }}|{{ objects|rejectattr('on', 'defined')|list }}|"
    "{{ objects|map(attribute='on', default=5)|list }}|{{ objects|selectattr('rank', '>', 1)|list|length }}|"
    "{{ objects|join(', ', attribute='name') }}|{{ objects|sort(attribute='rank')|map(attribute='name')|join }}|"
    "{{ messages|selectattr('role', 'in', ['user', 'system'])|map(attribute='role')|unique|list }}",
    "dictionaries": "{% for k, v in tool.items() %}{{ k }}{{ v is mapping }}{% endfor %}{{ tool.keys()|list }}{{ tool.get('x') }}"
    "{{ tool.get('x', 'y') }}{% for k, v in tool|items %}{{ k }}{% endfor %}{{ tool.values()|list|length }}{{ tool|dictsort|first }}"
    "{{ dict(a=1, b=2) }}{{ dict([('a', 1)], c=3) }}",
    "repeat": "{{ '=' * 5 }}|{{ 3 * 'ab' }}|{{ [0] * 3 }}|{{ 'a' * 0 }}",
    "tests": "{{ tool is mapping }}{{ tool is sequence }}{{ 'a' is sequence }}{{ numbers is sequence }}{{ 'a' is string }}"
    "{{ 'a' is iterable }}{{ nothing is iterable }}{{ nothing is sequence }}{{ missing is defined }}{{ nothing is none }}"
    "{{ 1 is number }}{{ true is boolean }}{{ 3 is odd }}{{ 1.5 is float }}{{ 2 is divisibleby 2 }}{{ 1 is in numbers }}",
    "generation": "{% for m in messages %}{% generation %}{% set inner = m.role %}{{ inner }}{% endgeneration %}"
    "{{ inner is defined }}{% endfor %}",
    "generation_blanks": "a\n  {%- generation -%}\n b {% endgeneration %}\nc\n  {% generation %}\nd\n  {% endgeneration %}\ne",
    "concatenation": "{{ 'a' ~ 1 ~ nothing ~ true ~ 1.0 ~ numbers ~ {'k': none} ~ missing }}",
    "printing": "{{ none }}{{ true }}{{ 1.0 }}{{ 1e16 }}{{ 1e-7 }}{{ 0.1 }}{{ 7 / 2 }}{{ 7 // 2 }}{{ [1, 'a', none, \"it's\"] }}{{ (1,) }}",
    "macros": "{% macro m(a, b=2) %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}{{ m(b=1, a=3) }}{{ m(*[4, 5]) }}{{ m(**{'a': 6}) }}"
    "{% macro w() %}[{{ caller() }}]{% endmacro %}{% call w() %}in{% endcall %}",
    "defaults": "{{ missing|default('a') }}{{ ''|default('b', true) }}{{ nothing|default('c', boolean=true) }}{{ nothing|default('d') }}"
    "{{ missing|d(default_value='e') }}{{ tool.x|default(none) }}",
    "blocks": "{% set x %}a{{ numbers[0] }}{% endset %}{{ x|upper }}{% filter upper %}b{% endfilter %}{% set a, b = 1, 2 %}{{ a }}{{ b }}"
    "{% with c = 3 %}{{ c }}{% endwith %}{{ c is defined }}",
    "escapes": "{{ \"a\\tb\" }}|{{ \"\\u00e9\" }}|{{ \"\\d\" }}|{{ \"\\/\" }}|{{ '\\'' }}|{{ 'a' 'b' }}|{{ quoted|e }}",
    "blanks": "a\n  {%- if true %}\n  b\n  {%- endif %}\n\n  {% if true -%}\n  c\n  {%+ if true %} d {% endif +%}\n e\n{% endif %}",
    "line_ends": "a\r\n{% if true %}\r\nb\r\n{% endif %}\r\n{{ 'c' }}\r\n",
    "raw": "{% raw %}{{ x % y }}{% endraw %}{#- 5 % 2 -#} {{ '{{' }}{{ '%}' }}{{ {'a': {'b': 1}}.a.b }}",
    "date": "{{ strftime_now('%d %b %Y') }}|{{ strftime_now('%Y-%m-%d %H:%M') }}|{{ strftime_now('%-d %B, %A') }}",
    "joiner": "{% set comma = joiner(', ') %}{% for n in numbers %}{{ comma() }}{{ n }}{% endfor %}{% set c = cycler('a', 'b') %}"
    "{{ c.next() }}{{ c.next() }}{{ c.next() }}",
}
PARTS = {
    "indexed": "{% for m in messages %}<{{ m.role }}>{{ m.content[0].text }}{% endfor %}",
    "looped": "{% for m in messages %}<{{ m['role'] }}>{% for part in m['content'] %}{% if part['type'] == 'text' %}"
    "{{ part['text'] }}{% elif part['type'] == 'image' %}<image>{% endif %}{% endfor %}{% endfor %}",
    "selected": "{% for m in messages %}{{ m.role + ': ' }}{% for p in m['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ p['text'] + ' ' }}{% endfor %}{% endfor %}",
}


class Clock(datetime.datetime):
    """The time that the tests pass to quern."""

    @classmethod
    def now(cls, tz=None):
        return cls(2024, 7, 5, 8, 9, 10)


def rendered(template, messages):
    compiled = chat_template_utils._compile_jinja_template(template)
    return compiled.render(messages=messages, tools=None, documents=None, add_generation_prompt=True, **VARIABLES)


def in_parts(message):
    return {**message, "content": [{"type": "text", "text": message["content"]}]}


def main():
    chat_template_utils.datetime = Clock
    features = {name: [source, rendered(source, MESSAGES)] for name, source in FEATURES.items()}
    parts = {name: [source, rendered(source, list(map(in_parts, MESSAGES)))] for name, source in PARTS.items()}
    models, seen = {}, set()
    for directory in sorted((FIXTURES / "architectures").iterdir()):
        if not directory.is_dir():
            continue
        config = json.loads((directory / "tokenizer_config.json").read_text())
        if "chat_template" not in config:
            continue
        files = [spec["file"] for spec in tiny_tokenizers.RANKED.values() if (directory / spec["file"]).is_file()]
        tokenizer_files = [directory / name for name in (*(files or ["tokenizer.json"]), "tokenizer_config.json")]
        key = tuple(file.read_bytes() for file in tokenizer_files)
        if key in seen:
            continue
        seen.add(key)
        ranked = tiny_tokenizers.Ranked(directory.name, directory) if files else None
        tokenizer = None if files else AutoTokenizer.from_pretrained(directory)
        models[directory.name] = []
        for conversation in CONVERSATIONS:
            messages = [{"role": role, "content": content} for role, content in conversation]
            options = {"add_generation_prompt": True}
            if ranked:
                template = chat_template_utils._compile_jinja_template(config["chat_template"])
                text = template.render(messages=messages, tools=None, documents=None, **options)
                models[directory.name].append({"messages": messages, "text": text, "ids": ranked.encode(text).ids})
                continue
            text = tokenizer.apply_chat_template(messages, tokenize=False, **options)
            ids = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False, **options)
            models[directory.name].append({"messages": messages, "text": text, "ids": ids})
    # One conversation a line.
    line = lambda conversation: json.dumps(conversation, ensure_ascii=False)  # noqa: E731
    conversations = [f'"{name}": [\n' + ",\n".join(map(line, conversations)) + "\n]" for name, conversations in models.items()]
    version = f'"transformers": "{transformers.__version__}"'
    lines = lambda cases: "{\n" + ",\n".join(f"{line(name)}: {line(case)}" for name, case in cases.items()) + "\n}"  # noqa: E731
    features = f'"features": {{\n"messages": {line(MESSAGES)},\n"variables": {line(VARIABLES)},\n"templates": {lines(features)}\n}}'
    parts = f'"parts": {lines(parts)}'
    (FIXTURES / "golden/chat.json").write_text("{\n" + ",\n".join([version, *conversations, features, parts]) + "\n}\n")


main()
