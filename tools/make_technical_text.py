"""Writes a technical text in English, with code, to measure models on: another domain than novels.

    python3 tools/make_technical_text.py OUT.txt

The text is the documentation comments of regex 1.13.2, rayon 1.12.0 and jiff 1.0.2 (all under the MIT licence, among
others), which Cargo downloads to build quern: `cargo fetch` puts them into its registry. It is not part of this
repository. The SHA-256 is printed; docs/quality.md and crates/inspect/data/quality.json name the one they used.
"""

import hashlib
import os
import pathlib
import re
import sys

CRATES, EACH = ["regex-1.13.2", "rayon-1.12.0", "jiff-1.0.2"], 100_000


def comments(crate: pathlib.Path) -> str:
    """The documentation comments of a crate: one paragraph for each run of comment lines, files by name."""
    parts = []
    for file in sorted(crate.glob("src/**/*.rs")):
        run = []
        for line in file.read_text(encoding="utf-8").splitlines() + [""]:
            found = re.match(r"\s*//[!/] ?(.*)$", line)
            if found:
                run.append(found.group(1))
            elif run:
                parts.append("\n".join(run).strip())
                run = []
    return "\n\n".join(part for part in parts if len(part) > 400)


def main() -> None:
    home = pathlib.Path(os.environ.get("CARGO_HOME", pathlib.Path.home() / ".cargo"))
    text = []
    for name in CRATES:
        found = sorted(home.glob(f"registry/src/*/{name}"))
        if not found:
            sys.exit(f"{name} is not in {home}/registry/src: run cargo fetch in this repository")
        text.append(comments(found[0])[:EACH])
    data = "\n\n\n".join(text).encode("utf-8")
    pathlib.Path(sys.argv[1]).write_bytes(data)
    print(f"{sys.argv[1]}: {len(data)} bytes, SHA-256 {hashlib.sha256(data).hexdigest()}")


main()
