"""Makes fixtures/tiktoken/NAME/: tiny vocabularies of the tiktoken library and the ids that it makes of texts.

    python3 tools/make_tiktoken_golden.py

Made with tiktoken 0.14, tokenizers 0.23, sentencepiece 0.2.3 (which tiny_tokenizers.py imports). Two runs write the same
bytes. Each folder holds the vocabulary, tokenizer_config.json, the program's statement of the pattern (tiny_tokenizers.py)
and tokenize.json, a list of texts with their ids: those of make_tiny_models.py and passages of fixtures/text.

- kimi: as Moonshot publishes Kimi K2, but four pieces are numbered in front of their parts: no list of merges makes them.
- hunyuan, qwen: as Tencent and Alibaba published Hunyuan-A13B and Qwen 1.
"""

import ast
import json
import pathlib

import tiny_tokenizers

ROOT = pathlib.Path(__file__).resolve().parent.parent
OUT = ROOT / "fixtures/tiktoken"
FOLDERS = {"kimi": ("kimi_k2", {"merges": 96, "swap": 4}), "hunyuan": ("hunyuan_ranked", {"merges": 96}),
           "qwen": ("qwen_ranked", {"merges": 96})}


def texts():
    """TEXTS of make_tiny_models.py (which imports torch), special tokens, and passages."""
    tree = ast.parse((ROOT / "tools/make_tiny_models.py").read_text())
    lists = [node.value for node in tree.body if isinstance(node, ast.Assign) and node.targets[0].id == "TEXTS"]
    prose = (ROOT / "fixtures/text/calibration.txt").read_text(encoding="utf-8", errors="ignore")
    own = ["東京は日本の首都です。北京是中国的首都，ok？", "DON'T it'S We'Ll", "x<|im_end|><|extra_7|>[EOS] y<|reserved_token_400|>",
           "漢字ABC漢字abc", " " * 40 + "\n" * 7 + "\t \t", "1234567890１２３", "e" * 60 + "the" * 30]
    return ast.literal_eval(lists[0]) + own + [prose[at:at + 250] for at in (3000, 20000, 50000)]


def main():
    for name, (family, options) in FOLDERS.items():
        folder = OUT / name
        folder.mkdir(parents=True, exist_ok=True)
        tiny_tokenizers.write(family, folder, **options)
        tokenizer = tiny_tokenizers.Ranked(family, folder)
        cases = [json.dumps({"text": text, "ids": tokenizer.encode(text).ids}) for text in texts()]
        (folder / "tokenize.json").write_text("[\n" + ",\n".join(cases) + "\n]\n", encoding="utf-8")
        print(f"{name:8} {sum(p.stat().st_size for p in folder.iterdir()) / 1024:.1f} KiB")


if __name__ == "__main__":
    main()
