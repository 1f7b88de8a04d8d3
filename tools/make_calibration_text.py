"""Chooses the book passages of quern's calibration text.

    python3 tools/make_calibration_text.py /work/shared/text/calibration.txt

Writes crates/quantize/src/calibration/text/books-1.txt … books-5.txt: 45 passages of whole paragraphs, about
8 KB each, spread evenly over the public-domain books in the file given (novels, tales, a play, a treatise).
The other files of that folder were written for quern by hand.
"""

import pathlib
import sys

FILES, PASSAGES, LENGTH = 5, 45, 8000
# A translation of 1941 opens the file; the shipped text starts behind it.
SKIP_TO = "_Translated by J. R. PLANCHÉ_"


def main() -> None:
    text = pathlib.Path(sys.argv[1]).read_text(encoding="utf-8")
    text = text[text.index(SKIP_TO):]
    target = pathlib.Path(__file__).parent.parent / "crates/quantize/src/calibration/text"
    passages, end = [], 0
    for i in range(PASSAGES):
        start = max(end, i * (len(text) - LENGTH) // (PASSAGES - 1))
        start = text.rindex("\n\n", 0, start) + 2 if start else 0
        start = max(start, end)
        end = text.find("\n\n", start + LENGTH)
        end = len(text) if end < 0 else end
        passages.append(text[start:end].strip() + "\n\n\n")
    for f in range(FILES):
        # every file gets something of every book
        (target / f"books-{f + 1}.txt").write_text("".join(passages[f::FILES]), encoding="utf-8")


main()
