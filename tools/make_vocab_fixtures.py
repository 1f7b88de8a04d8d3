"""Makes fixtures/vocab/ from llama.cpp's vocabulary files and their cases (models/ggml-vocab-NAME.gguf, .inp, .out).

    python3 tools/make_vocab_fixtures.py LLAMA_CPP_MODELS

They would take 16 MB, so they are reduced to the pieces and merges that the cases use, the 256 bytes and all special
tokens, with new ids in the old order, and the expected ids in .out renumbered. The cases give the same results: a merge
that was never made in a word may be absent. The metadata that is not of the tokenizer is left out. Needs gguf,
tokenizers, numpy.
"""

import pathlib
import shutil
import sys

import gguf
import tokenizers

OUT = pathlib.Path(__file__).resolve().parent.parent / "fixtures/vocab"
CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# name: how words are cut, whether a word that is a piece is taken whole
TWINS = {
    "gpt-2": (r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+", False),
    "llama-bpe": (CONTRACTIONS + r"\p{N}{1,3}" + REST, True),
    "qwen2": (CONTRACTIONS + r"\p{N}" + REST, False),
}
# pieces of two letters that other tests use
ALSO = ["aa"]
SEPARATOR = "\n__ggml_vocab_test__\n"


def words(regex, text):
    pre = tokenizers.pre_tokenizers
    cut = pre.Sequence([pre.Split(tokenizers.Regex(regex), "isolated"), pre.ByteLevel(False, use_regex=False)])
    return [word for word, _ in cut.pre_tokenize_str(text)] if text else []


def merge(word, ranks):
    """The pieces of a word, and the merges made on the way."""
    pieces, made = list(word), set()
    while True:
        pairs = [(ranks.get(pair, len(ranks)), i) for i, pair in enumerate(zip(pieces, pieces[1:]))]
        rank, i = min(pairs, default=(len(ranks), 0))
        if rank == len(ranks):
            return pieces, made
        made.add((pieces[i], pieces[i + 1]))
        pieces[i:i + 2] = [pieces[i] + pieces[i + 1]]


def twin(source, name):
    regex, whole = TWINS[name]
    file = source / f"ggml-vocab-{name}.gguf"
    fields = gguf.GGUFReader(file).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    types = fields["tokenizer.ggml.token_type"].contents()
    merges = [tuple(m.split(" ")) for m in fields["tokenizer.ggml.merges"].contents()]
    ranks = {m: rank for rank, m in enumerate(merges)}
    ids = {t: i for i, t in enumerate(tokens)}
    cases = file.with_name(file.name + ".inp").read_bytes().decode().split(SEPARATOR)[:-1]
    expected = [[int(i) for i in line.split()]
                for line in file.with_name(file.name + ".out").read_text().split("\n")[:len(cases)]]

    keep = {i for i, kind in enumerate(types) if kind in (gguf.TokenType.CONTROL, gguf.TokenType.USER_DEFINED)}
    keep |= {ids[c] for c in tokenizers.pre_tokenizers.ByteLevel.alphabet()}
    made = set()
    for case, want in zip(cases, expected):
        got = []
        for word in words(regex, case):
            pieces, steps = ([word], set()) if whole and word in ids else merge(word, ranks)
            made |= steps
            got += [ids[p] for p in pieces]
        assert got == want, (case, got, want)
        keep |= set(want)
    made |= {tuple(piece) for piece in ALSO if tuple(piece) in ranks}
    keep |= {ids[piece] for left, right in made for piece in (left, right, left + right)}
    kept = {tokens[i] for i in keep}
    # merges between kept pieces that no case makes are kept too: they must not be made either
    left = [m for m in merges if m[0] in kept and m[1] in kept and m[0] + m[1] in kept]
    order = sorted(keep)
    new = {old: i for i, old in enumerate(order)}

    writer = gguf.GGUFWriter(OUT / file.name, fields["general.architecture"].contents())
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(fields["tokenizer.ggml.pre"].contents())
    writer.add_token_list([tokens[i] for i in order])
    writer.add_token_types([types[i] for i in order])
    writer.add_token_merges([" ".join(m) for m in left])
    for key, add in [("bos", writer.add_bos_token_id), ("eos", writer.add_eos_token_id),
                     ("padding", writer.add_pad_token_id)]:
        if field := fields.get(f"tokenizer.ggml.{key}_token_id"):
            add(new[field.contents()])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    shutil.copyfile(file.with_name(file.name + ".inp"), OUT / (file.name + ".inp"))
    lines = ["".join(f" {new[i]}" for i in line) for line in expected]
    (OUT / (file.name + ".out")).write_text("\n".join(lines) + "\n")
    print(f"{name}: {len(order)} of {len(tokens)} tokens, {len(left)} of {len(merges)} merges, "
          f"{(OUT / file.name).stat().st_size} bytes")


def main():
    source = pathlib.Path(sys.argv[1])
    for name in TWINS:
        twin(source, name)


if __name__ == "__main__":
    main()
