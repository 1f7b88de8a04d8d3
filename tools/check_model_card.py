#!/usr/bin/env python3
"""Checks model cards that quern writes (--card) as huggingface_hub reads them, without the network.

usage: check_model_card.py README.md...

Each card is parsed by huggingface_hub.ModelCard, whose YAML parser is PyYAML. Then the rules that the Hub's own check
has for the fields that quern writes are applied: types, repository names, relations, language codes. (The rest of the
Hub's rules is on its server: ModelCard.validate needs the network.)

Needs: huggingface_hub. Exit code 1 if a card breaks a rule.
"""

import re
import sys

from huggingface_hub import ModelCard
from huggingface_hub.utils import validate_repo_id

RELATIONS = {"finetune", "adapter", "merge", "quantized"}
TEXTS = ["base_model", "base_model_relation", "license_name", "license_link", "library_name", "pipeline_tag"]


def problems(path):
    with open(path, encoding="utf-8") as file:
        text = file.read()
    card = ModelCard(text)
    data = card.data.to_dict()
    if not data:
        yield "no front matter"
    if card.text.lstrip().startswith("---"):
        yield "the front matter does not end where it should"
    for key in TEXTS:
        if key in data and not isinstance(data[key], str):
            yield f"{key} is {type(data[key]).__name__}, not text"
    if "base_model" in data:
        validate_repo_id(data["base_model"])
        if data.get("base_model_relation") not in RELATIONS:
            yield f"base_model_relation is {data.get('base_model_relation')!r}"
    for key in ("tags", "language", "license"):
        items = data.get(key, [])
        for item in items if isinstance(items, list) else [items]:
            if not isinstance(item, str):
                yield f"{key} holds {item!r}, which is no text"
            elif key == "language" and not re.fullmatch(r"[a-z]{2,3}(-[A-Za-z0-9]+)*|multilingual|code", item):
                yield f"language {item!r} is no code of ISO 639"
    # Parsed, written and parsed again it must be the same.
    again = ModelCard(str(card)).data.to_dict()
    if again != data:
        yield f"written again, the front matter is {again}"


def main():
    broken = 0
    for path in sys.argv[1:]:
        found = list(problems(path))
        broken += bool(found)
        for problem in found:
            print(f"{path}: {problem}")
        if not found:
            print(f"{path}: sound")
    return 1 if broken or not sys.argv[1:] else 0


if __name__ == "__main__":
    sys.exit(main())
