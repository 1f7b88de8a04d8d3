"""Makes fixtures/golden/chat.json: what transformers' apply_chat_template gives for the tiny models' templates.

    python tools/make_chat_golden.py

For each model of fixtures/architectures that has a chat template, and each talk: the text and the ids of
`apply_chat_template(..., add_generation_prompt=True)`. Models with the same tokenizer and template appear once.
"""

import json
from pathlib import Path

import transformers
from transformers import AutoTokenizer

FIXTURES = Path(__file__).parent.parent / "fixtures"
USER, ASSISTANT, SYSTEM = "user", "assistant", "system"
TALKS = [
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


def main():
    models, seen = {}, set()
    for directory in sorted((FIXTURES / "architectures").iterdir()):
        if not directory.is_dir():
            continue
        config = json.loads((directory / "tokenizer_config.json").read_text())
        if "chat_template" not in config:
            continue
        tokenizer_files = [directory / name for name in ("tokenizer.json", "tokenizer_config.json")]
        key = tuple(file.read_bytes() for file in tokenizer_files)
        if key in seen:
            continue
        seen.add(key)
        tokenizer = AutoTokenizer.from_pretrained(directory)
        models[directory.name] = []
        for talk in TALKS:
            messages = [{"role": role, "content": content} for role, content in talk]
            options = {"add_generation_prompt": True}
            text = tokenizer.apply_chat_template(messages, tokenize=False, **options)
            ids = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False, **options)
            models[directory.name].append({"messages": messages, "text": text, "ids": ids})
    # One talk a line.
    line = lambda talk: json.dumps(talk, ensure_ascii=False)  # noqa: E731
    talks = [f'"{name}": [\n' + ",\n".join(map(line, talks)) + "\n]" for name, talks in models.items()]
    version = f'"transformers": "{transformers.__version__}"'
    (FIXTURES / "golden/chat.json").write_text("{\n" + ",\n".join([version, *talks]) + "\n}\n")


main()
