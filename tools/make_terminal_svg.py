"""Records docs/quern.svg, the terminal session in the README: runs quern on the demo model and draws what it prints.

    cargo build --release && python3 tools/make_terminal_svg.py target/release/quern docs/quern.svg

The commands are those below; their output is what the program printed, lines that are left out shown as an ellipsis. The
image is one SVG with text that can be selected. Lines appear one after the other (CSS); with prefers-reduced-motion, and
where CSS animations do not run, all of them are there from the start. Colours follow prefers-color-scheme. Needs Python's
standard library alone.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# What is typed, and which lines of the answer are shown (None: all).
SESSION = [
    ("# What is this model? (4 million parameters, trained on old books)", None),
    ("quern inspect bookworm-4m", ["container", "architecture", "scheme", "parameters", "shape", "context", "tensors"]),
    ("# Make it a third of the size, with the bytes that llama-quantize writes", None),
    ("quern quantize bookworm-4m --to q4_k_m -o q4.gguf", None),
    ("# What did that change?", None),
    ("quern perplexity q4.gguf --text books.txt --chunks 16 --reference bookworm-4m", None),
    ("# And what does it write?", None),
    ('quern run q4.gguf -p "It was a dark night, and the old captain" -n 50 --temp 0.7 --seed 5', None),
    ("# The other family: 4-bit GPTQ for transformers and vLLM, calibrated in seconds", None),
    ("quern quantize bookworm-4m --to gptq --samples 32 --context 256 -o GPTQ", ["GPTQ:"]),
]
COLUMNS = 100
SIZE, LINE, WIDTH, LEFT, TOP = 13, 18, 830, 20, 46
TITLE = "A terminal session with quern"
TYPING, PAUSE, ANSWER = 0.035, 0.7, 0.06


def run(quern, folder):
    """The lines to draw: (kind, text), kind one of comment, command, output, gap."""
    for command, shown in SESSION:
        if command.startswith("#"):
            yield "comment", command
            continue
        environment = dict(os.environ, PATH=f"{quern.parent}{os.pathsep}{os.environ['PATH']}")
        done = subprocess.run(command + " --quiet", shell=True, cwd=folder, env=environment, text=True,
                              capture_output=True)
        if done.returncode:
            raise SystemExit(f"{command}: exit code {done.returncode}\n{done.stderr}")
        for number, part in enumerate(wrapped(command, COLUMNS - 2)):
            yield "command" if number == 0 else "continued", part
        lines = [line.rstrip() for line in done.stdout.splitlines()]
        kept = [line for line in lines if shown is None or any(line.startswith(word) for word in shown)]
        for line in kept:
            for part in wrapped(line, COLUMNS) or [""]:
                yield "output", part
        if len(kept) < len([line for line in lines if line]):
            yield "note", "…"
        yield "gap", ""


def wrapped(text, columns):
    """As a terminal of so many columns shows it, broken at spaces."""
    parts = []
    while len(text) > columns:
        at = text.rfind(" ", 0, columns + 1)
        at = at if at > 0 else columns
        parts.append(text[:at])
        text = text[at:].lstrip()
    return parts + [text] if text or parts else []


def draw(lines):
    body, rules, clock, y = [], [], 0.5, TOP
    for number, (kind, text) in enumerate(lines):
        y += LINE
        if kind == "gap":
            y -= LINE // 2
            clock += PAUSE
            continue
        prompt = '<tspan class="p">$ </tspan>' if kind == "command" else ""
        text = "  " + text if kind == "continued" else text
        typed = kind in ("command", "continued")
        seconds = max(0.2, len(text) * TYPING) if typed else ANSWER
        css = {"comment": "c", "note": "c", "command": "t", "continued": "t", "output": "o"}[kind]
        style = f"animation-delay:{clock:.2f}s"
        if typed:
            style += f";animation-duration:{seconds:.2f}s;animation-timing-function:steps({len(text) + 2})"
        body.append(f'<text class="l {css}" x="{LEFT}" y="{y}" style="{style}" xml:space="preserve">'
                    f"{prompt}{escape(text, quote=False)}</text>")
        clock += seconds + (PAUSE if typed or kind == "comment" else 0)
    height = y + 22
    what = "; ".join(text for kind, text in lines if kind in ("command",))
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img" aria-labelledby="t d">
<title id="t">{TITLE}</title>
<desc id="d">Commands and what they print: {escape(what, quote=False)}</desc>
<style>
:root{{--back:#f6f8fa;--edge:#d0d7de;--text:#24292f;--dim:#57606a;--prompt:#116329;--command:#0550ae}}
@media (prefers-color-scheme:dark){{:root{{--back:#0d1117;--edge:#30363d;--text:#e6edf3;--dim:#8b949e;--prompt:#56d364;--command:#79c0ff}}}}
text{{font:{SIZE}px ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;fill:var(--text);white-space:pre}}
.c{{fill:var(--dim)}}.t{{fill:var(--command);font-weight:600}}.p{{fill:var(--prompt)}}
.l{{animation:show .06s steps(1) both}}.t{{animation-name:type}}
@keyframes show{{from{{opacity:0}}to{{opacity:1}}}}
@keyframes type{{from{{clip-path:inset(0 100% -4px 0)}}to{{clip-path:inset(0 0 -4px 0)}}}}
@media (prefers-reduced-motion:reduce){{.l{{animation:none}}}}
</style>
<rect x=".5" y=".5" width="{WIDTH - 1}" height="{height - 1}" rx="8" fill="var(--back)" stroke="var(--edge)"/>
<g fill="var(--edge)"><circle cx="22" cy="20" r="6"/><circle cx="42" cy="20" r="6"/><circle cx="62" cy="20" r="6"/></g>
<text class="c" x="{WIDTH / 2}" y="25" text-anchor="middle">quern</text>
{os.linesep.join(body)}
</svg>
""", clock


def main():
    quern, output = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(ROOT / "fixtures/bookworm-4m", Path(folder) / "bookworm-4m")
        shutil.copy(ROOT / "fixtures/text/validation.txt", Path(folder) / "books.txt")
        image, seconds = draw(list(run(quern, folder)))
    size = len(image.encode())
    if size > 60_000:
        raise SystemExit(f"the image has {size} bytes, more than 60000")
    output.write_text(image)
    print(f"{output}: {size} bytes, {seconds:.0f} s")


if __name__ == "__main__":
    main()
