"""Compares quern's tokenizers with those of the tokenizers library and of transformers, on difficult texts.

    cargo build --release -p quern-model --example tokenize
    python3 tools/compare_tokenizers.py target/release/examples/tokenize MODEL…

MODEL is a Hugging Face directory or a GGUF file. For a directory these must give the ids, and the text from the ids,
that the tokenizers library gives from tokenizer.json (without one: transformers' AutoTokenizer):

- quern from the directory,
- quern from the metadata a GGUF file of it would have,
- AutoTokenizer, the tokenizers library, and for SentencePiece vocabularies sentencepiece, from the files that quern
  rebuilds from that metadata, and quern from them.

For a GGUF file quern itself is compared with what it rebuilds. Needs transformers 5, tokenizers, sentencepiece.
"""

import json
import pathlib
import random
import subprocess
import sys
import tempfile

import sentencepiece
import tokenizers
import transformers

ARCHITECTURES = {"mistral": "llama", "mixtral": "llama", "phi": "phi2", "gpt_neox": "gptneox",
                 "qwen3_moe": "qwen3moe", "gemma3_text": "gemma3"}

WORDS = ["", " ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", "\t\t", "a", "the", "The", "I'm", "we'LL", "don't", "'s", "'",
         "’s", "1", "12", "123", "1234567", "3.14", "½", "²", "x²", "٣٤", "é", "e\u0301", "ñ", "ﬁ", "ß", "İ", "ſ", "'ſ",
         "東京", "カナ", "한국어", "한", "ไทย", "हिन्दी", "🙂", "👩‍👩‍👧", "🇩🇪", "\u200b", "\u00a0", "\u3000", "\u2028", "\ufeff",
         "▁", "▁▁", "Ġ", "Ċ", "<0x0A>", "<s>", "</s>", "<unk>", "<|endoftext|>", "<|im_start|>", "[INST]", "<", "|", ">",
         "_", "__init__", "foo_bar", "camelCase", "HTTPServer", "://", "...", "!!!", "???", "```", "/*", "*/", "{", "}",
         "\\n", "\u0000", "\u007f", "\u0085", "\U0010ffff", "ⅷ", "Ⅷ", "①", "$5", "€", "№", "–", "—", "“q”", "«v»", "،", "।"]


def texts(special):
    """Fixed difficult texts, and random ones that are the same on every run."""
    rng = random.Random(7)
    out = ["", "Hello, world!", " leading", "trailing ", "a" * 300, " " * 70 + "x", "x" + "\n" * 40, "\t" * 33,
           "ab " * 200, "0" * 50, "▁" * 9, "e\u0301" * 20, "🙂" * 20, "A\u030a\u0323", "\u1100\u1161\u11a8 \uac01"]
    out += [f"a {s} b{s}c  {s}{s}\n{s}" for s in special[:60]]
    words = WORDS + special[:20]
    out += ["".join(rng.choice(words) + rng.choice(["", "", " "]) for _ in range(rng.randrange(1, 25)))
            for _ in range(600)]
    out += ["".join(chr(rng.choice([rng.randrange(32, 127), rng.randrange(0xA0, 0x2FF), rng.randrange(0x300, 0xD7FF),
                                    rng.randrange(0xE000, 0x1FFFF)])) for _ in range(rng.randrange(1, 40)))
            for _ in range(400)]
    return out


def run(binary, model, cases, *options):
    done = subprocess.run([binary, model, *options], input=json.dumps(cases), capture_output=True, text=True)
    for line in done.stderr.splitlines():
        if line.startswith("note:") or done.returncode:
            print("     ", line)
    return json.loads(done.stdout) if done.returncode == 0 else None


def by_library(tokenizer, cases):
    """What the tokenizers library makes of the texts."""
    tokenizer.no_truncation()
    tokenizer.no_padding()
    parsed = [tokenizer.encode(t, add_special_tokens=False).ids for t in cases]
    full = [tokenizer.encode(t).ids for t in cases]
    return {"parsed": parsed, "full": full, "decoded": [tokenizer.decode(ids) for ids in parsed]}


def by_transformers(tokenizer, cases):
    parsed = [tokenizer.encode(t, add_special_tokens=False) for t in cases]
    full = [tokenizer.encode(t) for t in cases]
    return {"parsed": parsed, "full": full,
            "decoded": [tokenizer.decode(ids, skip_special_tokens=True) for ids in parsed]}


def hidden(tokenizer):
    """Tokens that quern and llama.cpp treat as special by their spelling, so that decoding leaves them out."""
    def looks(t):
        return t in ("<pad>", "<mask>", "<2mass>", "[@BOS@]") or any(
            t.startswith(a) and t.endswith(b) for a, b in (("<|", "|>"), ("<｜", "｜>"), ("<unused", ">")))
    return {i for i, t in tokenizer.get_added_tokens_decoder().items() if not t.special and looks(t.content)}


def compare(name, got, want, cases, hidden=frozenset()):
    """Texts with `hidden` tokens need not decode to the same text."""
    if got is None:
        print(f"   FAILED {name}")
        return
    counts = []
    for key in ("parsed", "full", "decoded"):
        if key not in got:
            continue
        bad = [i for i in range(len(cases)) if got[key][i] != want[key][i]]
        if key == "decoded":
            bad = [i for i in bad if hidden.isdisjoint(want["parsed"][i])]
        counts.append(f"{key} {len(bad)}")
        if bad:
            worst = min(bad, key=lambda i: len(cases[i]))
            print(f"      {name}: {key} of {cases[worst]!r}\n        {got[key][worst]!r}\n        {want[key][worst]!r}")
    print(f"   {'same  ' if all(c.endswith(' 0') for c in counts) else 'DIFFER'} {name}: {', '.join(counts)}")


def main():
    binary, models = sys.argv[1], sys.argv[2:]
    transformers.logging.set_verbosity_error()
    for model in models:
        path = pathlib.Path(model)
        print(path.parent.name if path.name in ("models", "package") else path.name)
        with tempfile.TemporaryDirectory() as out:
            if path.is_dir():
                from_directory(binary, path, out)
            else:
                cases = texts(["<s>", "</s>", "<|endoftext|>", "<|eot_id|>", "<|im_end|>", "<|assistant|>"])
                want = run(binary, model, cases, "--rebuild", out)
                rebuilt(binary, out, want, cases)


def from_directory(binary, path, out):
    config = json.loads((path / "config.json").read_text()) if (path / "config.json").exists() else {}
    if (path / "tokenizer.json").exists():
        library = tokenizers.Tokenizer.from_file(str(path / "tokenizer.json"))
    else:
        library = transformers.AutoTokenizer.from_pretrained(path)._tokenizer
    special = [t.content for t in library.get_added_tokens_decoder().values()]
    cases = texts(special)
    want = by_library(library, cases)
    unseen = hidden(library)
    compare("quern, directory", run(binary, str(path), cases), want, cases, unseen)
    architecture = config.get("model_type", "llama")
    size = config.get("vocab_size", max(library.get_vocab().values()) + 1)
    options = ("--gguf", ARCHITECTURES.get(architecture, architecture), str(size), "--rebuild", out)
    compare("quern, GGUF metadata", run(binary, str(path), cases, *options), want, cases, unseen)
    if config:
        # transformers chooses the tokenizer's class by the model's type too
        (pathlib.Path(out) / "config.json").write_text(json.dumps(config))
    rebuilt(binary, out, want, cases, unseen)
    auto = by_transformers(transformers.AutoTokenizer.from_pretrained(path), cases)
    compare("(AutoTokenizer on the original)", auto, want, cases, unseen)


def rebuilt(binary, out, want, cases, unseen=frozenset()):
    """The files in `out` against what is wanted."""
    library = tokenizers.Tokenizer.from_file(f"{out}/tokenizer.json")
    compare("rebuilt, tokenizers library", by_library(library, cases), want, cases, unseen)
    auto = transformers.AutoTokenizer.from_pretrained(out)
    compare("rebuilt, AutoTokenizer", by_transformers(auto, cases), want, cases, unseen)
    compare("rebuilt, quern", run(binary, out, cases), want, cases, unseen)
    if pathlib.Path(f"{out}/tokenizer.model").exists():
        # Control pieces are never made from text by sentencepiece, nor does it know of added tokens' blanks.
        model = sentencepiece.SentencePieceProcessor(model_file=f"{out}/tokenizer.model")
        plain = [i for i, t in enumerate(cases) if "<" not in t and "\u0000" not in t and "▁" not in t]
        got = {"parsed": [model.encode(cases[i]) for i in plain]}
        compare("rebuilt, sentencepiece", got, {"parsed": [want["parsed"][i] for i in plain]},
                [cases[i] for i in plain])


if __name__ == "__main__":
    main()
