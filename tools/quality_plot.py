"""Draws what tools/measure_quality.py has measured: KL divergence over bits per weight, one line a method, as SVG.

The colours are readable on a light and on a dark background, and methods differ by the shape of their points too. Of
each method, the line joins the schemes that no smaller one of it beats; the others are points without a line. Types are
named at their lowest point, where there is room for the name.

Python's standard library alone.
"""

import html
import math

WIDTH, HEIGHT = 880, 560
LEFT, RIGHT, TOP, BOTTOM = 66, 24, 24, 58
INK = "#76808b"
# Beyond these a model is of no use, or cannot be distinguished from the original.
MOST_KL, LEAST_KL = 1.2, 1e-3

# Name, colour and shape of the methods, in the order in which they are drawn.
METHODS = {
    "plain": ("GGUF, plain", "#8a939d", "ring"),
    "imatrix": ("GGUF, importance matrix", "#3d85d8", "circle"),
    "calibrate": ("GGUF, --calibrate", "#db5a12", "diamond"),
    "auto": ("--to auto", "#2c9c5a", "square"),
    "auto-calibrate": ("--to auto --calibrate", "#c2479b", "square"),
    "autoround": ("AutoRound, GGUF", "#9460d6", "triangle"),
    "gptq": ("GPTQ", "#12959b", "cross"),
    "nf4": ("NF4", "#b08313", "plus"),
}
# Types that are published points, not a range of sizes.
NO_LINE = {"autoround", "nf4"}


def method(entry):
    """Which line an entry belongs to; None if to no line."""
    scheme = entry["scheme"]
    if entry.get("method"):
        return entry["method"]
    if scheme in ("f16", "fp4", "int8"):
        return None
    if scheme == "auto":
        return "auto-calibrate" if entry.get("calibrated") else "auto"
    if scheme == "gptq":
        return "gptq" if entry.get("symmetric") else None
    if scheme == "nf4":
        return "nf4" if entry.get("double_quant") else None
    if entry.get("calibrated"):
        return "calibrate"
    return "imatrix" if entry["imatrix"] else "plain"


def name(entry):
    """What a point is called."""
    if entry["scheme"] == "gptq":
        return f"{entry['bits']}-bit g{entry['group_size']}"
    if entry["scheme"] == "auto":
        return f"auto {entry['target_bpw']:g}"
    return entry["scheme"]


def efficient(points):
    """Of (x, kl, entry), those that no other with as few bits beats, by x."""
    best, kept = math.inf, []
    for point in sorted(points, key=lambda p: (p[0], p[1])):
        if point[1] < best:
            best = point[1]
            kept.append(point)
    return kept


def marker(shape, x, y, colour, size=3.6):
    x, y = round(x, 1), round(y, 1)
    fill = f'fill="{colour}"'
    stroke = f'fill="none" stroke="{colour}" stroke-width="1.6"'
    if shape == "ring":
        return f'<circle cx="{x}" cy="{y}" r="{size - 0.8:.1f}" {stroke}/>'
    if shape == "circle":
        return f'<circle cx="{x}" cy="{y}" r="{size - 0.3:.1f}" {fill}/>'
    paths = {
        "diamond": f"M{x} {y - size - 1:.1f}l{size + 1:.1f} {size + 1:.1f}l{-size - 1:.1f} {size + 1:.1f}"
                   f"l{-size - 1:.1f} {-size - 1:.1f}z",
        "square": f"M{x - size + 0.6:.1f} {y - size + 0.6:.1f}h{2 * size - 1.2:.1f}v{2 * size - 1.2:.1f}"
                  f"h{1.2 - 2 * size:.1f}z",
        "triangle": f"M{x} {y - size - 1:.1f}l{size + 0.6:.1f} {2 * size:.1f}h{-2 * size - 1.2:.1f}z",
        "cross": f"M{x - size + 0.4:.1f} {y - size + 0.4:.1f}l{2 * size - 0.8:.1f} {2 * size - 0.8:.1f}"
                 f"m0 {0.8 - 2 * size:.1f}l{0.8 - 2 * size:.1f} {2 * size - 0.8:.1f}",
        "plus": f"M{x - size:.1f} {y}h{2 * size:.1f}M{x} {y - size:.1f}v{2 * size:.1f}",
    }
    return f'<path d="{paths[shape]}" {stroke if shape in ("cross", "plus") else fill}/>'


def text(x, y, words, size=12, anchor="middle", colour=INK, more=""):
    return (f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{colour}"{more}>'
            f"{html.escape(words)}</text>")


class Boxes:
    """Where something is already drawn."""

    def __init__(self):
        self.taken = []

    def add(self, x, y, width, height):
        self.taken.append((x, y, x + width, y + height))

    def free(self, x, y, width, height):
        inside = LEFT < x and x + width < WIDTH - RIGHT and TOP < y and y + height < HEIGHT - BOTTOM
        return inside and all(x > right or x + width < left or y > bottom or y + height < top
                              for left, top, right, bottom in self.taken)

    def add_line(self, points):
        """Small boxes along it."""
        for (x, y), (to_x, to_y) in zip(points, points[1:]):
            steps = max(1, int(math.hypot(to_x - x, to_y - y) / 4))
            for i in range(steps + 1):
                self.add(x + (to_x - x) * i / steps - 1, y + (to_y - y) * i / steps - 1, 2, 2)


def place(boxes, x, y, words):
    """Anchor and position of a label near a point: below on the left, where the lines are not; None without room."""
    width, height = 6.3 * len(words) + 4, 13
    places = [("end", -7, 13), ("end", -8, 5), ("end", -4, 20), ("start", 8, -6), ("middle", 0, 19), ("start", 9, 4),
              ("end", -14, 26), ("start", 5, 17)]
    for anchor, dx, dy in places:
        left = x + dx - {"start": 0, "middle": width / 2, "end": width}[anchor]
        if boxes.free(left, y + dy - 10, width, height):
            boxes.add(left, y + dy - 10, width, height)
            return anchor, x + dx, y + dy
    return None


def draw(top, entries, bits="layer_bits_per_weight"):
    """The SVG of these entries (those of measure_quality.py); `bits` is the key of the horizontal axis."""
    lines = {key: [] for key in METHODS}
    for entry in entries:
        key = method(entry)
        if key and LEAST_KL <= entry["kl_mean"] <= MOST_KL:
            lines[key].append((entry[bits], entry["kl_mean"], entry))
    lines = {key: points for key, points in lines.items() if points}
    every = [point for points in lines.values() for point in points]
    if not every:
        raise ValueError("there is nothing to draw yet")
    low, high = min(p[0] for p in every), max(p[0] for p in every)
    low, high = math.floor(2 * low - 0.2) / 2, math.ceil(2 * high + 0.2) / 2
    least, most = min(p[1] for p in every) / 1.35, max(p[1] for p in every) * 1.25

    def at(bits_per_weight, kl):
        share = (math.log(most) - math.log(kl)) / (math.log(most) - math.log(least))
        return (LEFT + (bits_per_weight - low) / (high - low) * (WIDTH - LEFT - RIGHT),
                TOP + share * (HEIGHT - TOP - BOTTOM))

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
           "font-family=\"system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif\">",
           f"<title>KL divergence over bits per weight, {html.escape(top['model'])}</title>"]
    # Grid and axes.
    step = 1 if high - low > 4 else 0.5
    tick = math.ceil(low / step) * step
    while tick <= high + 1e-9:
        x, _ = at(tick, most)
        out.append(f'<path d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="{INK}" stroke-opacity=".16"/>')
        out.append(text(x, HEIGHT - BOTTOM + 18, f"{tick:g}"))
        tick += step
    for power in range(-4, 2):
        for factor in (1, 2, 5):
            kl = factor * 10.0 ** power
            if least <= kl <= most:
                _, y = at(low, kl)
                opacity = ".3" if factor == 1 else ".12"
                out.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="{INK}" stroke-opacity="{opacity}"/>')
                out.append(text(LEFT - 8, y + 4, f"{kl:g}", anchor="end"))
    whole = bits == "bits_per_weight"
    counted = "whole model" if whole else "matrices of the layers; embedding and output head not counted"
    out.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 16, f"bits per weight ({counted})", 13))
    middle = (TOP + HEIGHT - BOTTOM) / 2
    out.append(text(16, middle, "mean KL divergence from the original, nats", 13,
                    more=f' transform="rotate(-90 16 {middle:.0f})"'))

    boxes = Boxes()
    # The legend, where no line comes: above on the right.
    right, y = WIDTH - RIGHT - 12, TOP + 16
    width = 7 * max(len(METHODS[key][0]) for key in lines) + 30
    title = f"{top['model']}, {top['texts'][0]['text']}"
    out.append(text(right, y, title, 13, "end"))
    boxes.add(right - max(width, 7.5 * len(title)), TOP, max(width, 7.5 * len(title)) + 12, 26 + 20 * len(lines))
    for key in lines:
        words, colour, shape = METHODS[key]
        y += 20
        out.append(marker(shape, right - 6, y - 4, colour))
        if key not in NO_LINE:
            out.append(f'<path d="M{right - 20} {y - 4}h28" stroke="{colour}" stroke-width="1.6"/>')
        out.append(text(right - 28, y, words, 12, "end"))
    # Lines first, then points, then names in what room is left.
    for key, points in lines.items():
        if key in NO_LINE:
            continue
        path = [at(x, kl) for x, kl, _ in efficient(points)]
        boxes.add_line(path)
        drawn = "L".join(f"{x:.1f} {y:.1f}" for x, y in path)
        out.append(f'<path d="M{drawn}" fill="none" stroke="{METHODS[key][1]}" stroke-width="1.6" '
                   'stroke-linejoin="round"/>')
    # By name: a point on a line before one beside it, then the lowest.
    lowest = {}
    for key, points in lines.items():
        on_line = points if key in NO_LINE else efficient(points)
        for point in points:
            x, y = at(point[0], point[1])
            boxes.add(x - 4, y - 4, 8, 8)
            faint = "" if point in on_line else ' opacity=".45"'
            described = f"{name(point[2])}, {METHODS[key][0]}: {point[0]:.2f} bits, KL {point[1]:.4f}"
            out.append(f"<g{faint}><title>{html.escape(described)}</title>"
                       f"{marker(METHODS[key][2], x, y, METHODS[key][1])}</g>")
            if key not in NO_LINE:
                rank = (point not in on_line, point[1])
                label = name(point[2])
                lowest[label] = min(lowest.get(label, (rank, point)), (rank, point), key=lambda item: item[0])
    names = []
    for label, (_, point) in sorted(lowest.items(), key=lambda item: item[1][0]):
        x, y = at(point[0], point[1])
        found = place(boxes, x, y, label)
        if found:
            anchor, x, y = found
            names.append(text(x, y, label, 11, anchor))
    return "\n".join(out + names + ["</svg>"]) + "\n"
