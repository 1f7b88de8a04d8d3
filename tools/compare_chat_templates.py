"""Compares chat templates rendered by quern with transformers' apply_chat_template; run manually.

    python tools/compare_chat_templates.py TOKENIZER_DIRECTORY TEMPLATE.jinja...

Needs `cargo build -p quern-model --example render_chat`; its path may be given in RENDER_CHAT. Any directory of
templates can be used (llama.cpp's sources have many in models/templates). Each is rendered for several
conversations; text and token ids must be equal, and where one side refuses, both must.
"""

import datetime
import json
import os
import subprocess
import sys
from pathlib import Path

from transformers import AutoTokenizer

USER, ASSISTANT, SYSTEM = "user", "assistant", "system"
CONVERSATIONS = [
    [(USER, "Hello, who are you?")],
    [(SYSTEM, "You are a miller."), (USER, "What do you grind?")],
    [(USER, "One"), (ASSISTANT, "Two"), (USER, "Three")],
    [
        (SYSTEM, "  Be brief.\n"),
        (USER, " leading and trailing \n"),
        (ASSISTANT, "<think>\nhm {{ x }}\n</think>\n\nAn answer: \"é\" <b>&'</b> 🙂"),
        (USER, "line 1\n\n  line 2\t{% if %}"),
        (ASSISTANT, ""),
        (USER, "Last"),
    ],
]


def main():
    directory, *templates = sys.argv[1:]
    tokenizer = AutoTokenizer.from_pretrained(directory)
    program = os.environ.get("RENDER_CHAT", "target/debug/examples/render_chat")
    now = datetime.datetime.now()
    requests, expected = [], []
    for file in templates:
        source = Path(file).read_text()
        for index, conversation in enumerate(CONVERSATIONS):
            messages = [{"role": role, "content": content} for role, content in conversation]
            system = None
            if messages[0]["role"] == SYSTEM:
                system = messages[0]["content"]
            requests.append(
                {
                    "template": source,
                    "now": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
                    "system": system,
                    "messages": messages[system is not None :],
                }
            )
            try:
                text = tokenizer.apply_chat_template(
                    messages, chat_template=source, tokenize=False, add_generation_prompt=True
                )
                ids = tokenizer(text, add_special_tokens=False)["input_ids"]
                expected.append((file, index, text, ids))
            except Exception as error:  # noqa: BLE001 - whatever the template does
                expected.append((file, index, error, None))
    lines = "".join(json.dumps(request) + "\n" for request in requests)
    done = subprocess.run([program, directory], input=lines, capture_output=True, text=True)
    print(done.stderr, file=sys.stderr, end="")
    equal = refused = 0
    for (file, index, text, ids), line in zip(expected, done.stdout.splitlines(), strict=True):
        got, name = json.loads(line), f"{Path(file).name}, conversation {index}"
        if isinstance(text, Exception):
            if "error" in got:
                refused += 1
            elif got["system_moved"]:
                refused += 1
            else:
                print(f"{name}: transformers refuses ({text!r}), quern does not")
        elif "error" in got:
            print(f"{name}: {got['error']}")
        elif got["text"] != text and got["system_moved"]:
            print(f"{name}: the template ignores the system prompt, quern moves it")
        elif got["text"] != text:
            print(f"{name}: texts differ\n  transformers {text!r}\n  quern        {got['text']!r}")
        elif got["tokens"] != ids and got["tokens"][1:] != ids:
            print(f"{name}: ids differ for {text!r}\n  {ids}\n  {got['tokens']}")
        else:
            equal += 1
    print(f"{equal} equal, {refused} refused by both, of {len(expected)}")


main()
