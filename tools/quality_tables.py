"""What tools/measure_quality.py has measured, as the Markdown tables of docs/quality.md, and the published figures of
AutoRound beside it.

Python's standard library alone.
"""

# AutoRound 0.16.1, 200 steps on 128 samples of 512 tokens of calibration.txt, 140 s on an H100; its GGUF files measured
# with quern on 40 x 512 tokens of validation.txt. Only for the model and the text below.
AUTOROUND = {
    "model": "bookworm-27m",
    "text": "5814b1d0423b23d8edb0569f34584ab5d7ceeeacecfbd20cf97d833bdb3c0cb7",
    "context": 512,
    "chunks": 40,
    "seconds": 140.0,
    # type: KL, perplexity, bytes
    "figures": {
        "q4_0": (0.0216, 27.099, 16_636_960),
        "q4_k_m": (0.0184, 26.972, 17_110_048),
        "q3_k_m": (0.0449, 27.148, 14_545_952),
        "q2_k_s": (0.2426, 30.367, 11_230_240),
    },
}
METHODS = [("plain", "plain"), ("imatrix", "imatrix"), ("calibrate", "--calibrate"), ("autoround", "AutoRound")]


def published(top, entries):
    """Entries of AutoRound's figures, if they hold for this model and text. Its files have the layout of quern's, so the
    bits per weight are those of an entry of the same type."""
    first = top["texts"][0]
    same = (top["model"], first["sha256"], top["context"], top["chunks"]) == tuple(
        AUTOROUND[key] for key in ("model", "text", "context", "chunks"))
    found = []
    for scheme, (kl, perplexity, size) in AUTOROUND["figures"].items() if same else ():
        alike = next((e for e in entries if e["scheme"] == scheme), None)
        if alike:
            reference = alike["texts"][0]["reference_perplexity"]
            found.append({
                "scheme": scheme, "imatrix": False, "method": "autoround", "file_size": size,
                "seconds": AUTOROUND["seconds"], "kl_mean": kl, "perplexity_ratio": perplexity / reference,
                "bits_per_weight": alike["bits_per_weight"], "layer_bits_per_weight": alike["layer_bits_per_weight"],
                "texts": [{"text": first["text"], "kl_mean": kl, "perplexity": perplexity}],
            })
    return found


def method(entry):
    """Which column of the table of types an entry is in."""
    if entry.get("method"):
        return entry["method"]
    if entry.get("calibrated"):
        return "calibrate"
    return "imatrix" if entry["imatrix"] else "plain"


def bits(entry):
    return f"{entry['layer_bits_per_weight']:.2f} ({entry['bits_per_weight']:.2f})"


def seconds(entry):
    return f"{entry['seconds']:.0f} s" if entry and entry.get("seconds") is not None else "–"


def cell(entry, number):
    """KL and perplexity on one text."""
    if entry is None or number >= len(entry["texts"]):
        return "–"
    text = entry["texts"][number]
    return f"{text['kl_mean']:.4f} ({text['perplexity']:.2f})"


def rows(header, body):
    """A table, without columns that are empty."""
    kept = [i for i in range(len(header)) if any(row[i] != "–" for row in body)]
    header, body = [header[i] for i in kept], [[row[i] for i in kept] for row in body]
    print("| " + " | ".join(header) + " |")
    print("|" + "---|" * len(header))
    for row in body:
        print("| " + " | ".join(row) + " |")
    print()


def show(top, labelled, others):
    """All tables: GGUF types by text, sizes chosen by --to auto, and the rest."""
    texts = [text["text"] for text in top["texts"]]
    kinds = {"auto", "gptq", "nf4", "fp4", "int8"}
    types = {}
    for entry in [entry for _, entry in labelled] + others:
        if entry["scheme"] not in kinds:
            types.setdefault(entry["scheme"], {})[method(entry)] = entry
    for number, text in enumerate(texts):
        present = [(key, words) for key, words in METHODS
                   if any(number < len(by[key]["texts"]) for by in types.values() if key in by)]
        if not present:
            continue
        print(f"GGUF types, {text}: mean KL (perplexity)\n")
        body = []
        for scheme, by in types.items():
            any_entry = next(iter(by.values()))
            row = [f"`{scheme}`", bits(any_entry), f"{any_entry['file_size'] / 1e6:.2f}"]
            row += [cell(by.get(key), number) for key, _ in present]
            body.append(row + [seconds(by.get(key)) for key in ("plain", "calibrate")])
        header = ["type", "bits per weight, layers (model)", "MB"] + [words for _, words in present]
        rows(header + ["time, plain", "time, --calibrate"], body)
    auto = [entry for _, entry in labelled if entry["scheme"] == "auto"]
    if auto:
        print("`--to auto`: mean KL (perplexity)\n")
        body = [[f"{entry['target_bpw']:g}", "yes" if entry.get("calibrated") else "no", bits(entry),
                 f"{entry['file_size'] / 1e6:.2f}", *(cell(entry, number) for number in range(len(texts))),
                 seconds(entry)] for entry in auto]
        rows(["`--target-bpw`", "`--calibrate`", "bits per weight, layers (model)", "MB", *texts, "time"], body)
    rest = [(label, entry) for label, entry in labelled if entry["scheme"] in kinds - {"auto"}]
    if rest:
        print("Other schemes: mean KL (perplexity)\n")
        body = [[label, bits(entry), f"{entry['file_size'] / 1e6:.2f}",
                 *(cell(entry, number) for number in range(len(texts))), seconds(entry)] for label, entry in rest]
        rows(["scheme", "bits per weight, layers (model)", "MB", *texts, "time"], body)
