#!/usr/bin/env python3
"""Compiles the CUDA kernels in crates/compute/kernels to PTX and machine code, as modules.toml lists them.

    build_kernels.py              compiles all modules; writes kernels/compiled/*, kernels/registers.txt and
                                  src/cuda/images.rs
    build_kernels.py --check      compiles all modules; fails if any of these files differs, and names it
    build_kernels.py --recorded   compiles nothing; fails if a module was compiled from other sources than these, or if
                                  files are missing or of no module (this is what CI runs: to compile takes minutes)
    build_kernels.py --only NAME  compiles modules whose names begin so, and leaves the others as they are

Needs Python 3.11 and no GPU. NVRTC, its headers and ptxas come from PyPI, once, in the versions below (into
target/cuda-12.4, or the folder given by --toolkit): a newer NVRTC would write PTX that drivers of CUDA 12.4 refuse.
Exit code 0: done, or nothing differs; 1: a kernel does not compile, or something differs; 3: the compiler cannot be
had here (no network, or not Linux on x86-64). What was compiled once from the same sources is kept in that folder and
taken from there; --anew compiles it again.

The files in compiled/ are LZMA streams of machine code, or of PTX without comments, white space at line starts, and
debug information; whether one differs is decided on what it unpacks to. registers.txt is what ptxas 12.4 makes of each
module for each architecture.
"""

import argparse
import concurrent.futures
import ctypes
import hashlib
import lzma
import os
import pathlib
import pickle
import re
import subprocess
import sys
import tempfile

PACKAGES = ["nvidia-cuda-nvrtc-cu12==12.4.127", "nvidia-cuda-runtime-cu12==12.4.127", "nvidia-cuda-nvcc-cu12==12.4.131"]
ROOT = pathlib.Path(__file__).resolve().parent.parent
KERNELS = ROOT / "crates/compute/kernels"
COMPILED = KERNELS / "compiled"
REGISTERS = KERNELS / "registers.txt"
SOURCES = KERNELS / "sources.txt"
TABLE = ROOT / "crates/compute/src/cuda/images.rs"
# A window of 2 MiB spans the largest module; the unpacker allocates as much.
FILTERS = [{"id": lzma.FILTER_LZMA1, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 2 << 20}]
# Architectures whose registers are recorded.
CARDS = ["sm_75", "sm_80", "sm_90a"]


class Toolkit:
    """The compiler in a folder."""

    def __init__(self, folder, anew):
        self.root = folder / "nvidia"
        self.cache = None if anew else folder / "compiled"
        self.library = self.root / "cuda_nvrtc/lib/libnvrtc.so.12"
        self.ptxas = self.root / "cuda_nvcc/bin/ptxas"
        if not self.library.exists():
            print(f"fetching {', '.join(PACKAGES)} into {folder}", file=sys.stderr)
            fetch = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), *PACKAGES]
            if subprocess.run(fetch).returncode != 0 or not self.library.exists():
                print("kernels: NVRTC 12.4 cannot be fetched, so they were not compiled", file=sys.stderr)
                sys.exit(3)
        self.ptxas.chmod(0o755)

    def cached(self, key, make):
        """What `make` gives, or gave before for the same key: all that goes into it."""
        if self.cache is None:
            return make()
        path = self.cache / hashlib.sha256(repr((PACKAGES, key)).encode()).hexdigest()
        try:
            return pickle.loads(path.read_bytes())
        except (OSError, EOFError, pickle.UnpicklingError):
            made = make()
        self.cache.mkdir(exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}")
        part.write_bytes(pickle.dumps(made))
        part.replace(path)
        return made

    def compile(self, module, target):
        """The PTX of a module, without what a driver does not need."""
        source = KERNELS / module["sources"].get(target, module["source"])
        options = [f"--gpu-architecture={target}", "--std=c++17"]
        options += [f"-D{define}" for define in module["defines"]] + module["options"]
        return self.cached((options, closure(source)), lambda: self.compile_anew(module["name"], source, target, options))

    def compile_anew(self, name, source, target, options):
        ptx, log = self.nvrtc(source, [*options, f"-I{KERNELS}"], "PTX")
        if ptx is None:
            raise Failure(f"{name} for {target} does not compile:\n{log}")
        if log:
            print(f"{name} for {target}:\n{log}", file=sys.stderr)
        return strip(ptx.rstrip(b"\0").decode())

    def nvrtc(self, source, options, what):
        """What NVRTC makes of a source ("PTX" or "CUBIN"; none if it does not compile), and what it says of it."""
        library, program = ctypes.CDLL(str(self.library)), ctypes.c_void_p()

        def output(name):
            size = ctypes.c_size_t()
            getattr(library, f"nvrtcGet{name}Size")(program, ctypes.byref(size))
            buffer = ctypes.create_string_buffer(size.value)
            getattr(library, f"nvrtcGet{name}")(program, buffer)
            return buffer.raw

        options = options + [f"-I{self.root / part / 'include'}" for part in ("cuda_runtime", "cuda_nvcc")]
        if library.nvrtcCreateProgram(ctypes.byref(program), source.read_bytes(), source.name.encode(), 0, None, None):
            raise Failure(f"{source.name}: NVRTC refuses it")
        arguments = (ctypes.c_char_p * len(options))(*[option.encode() for option in options])
        failed = library.nvrtcCompileProgram(program, len(options), arguments)
        log = output("ProgramLog").rstrip(b"\0").decode().strip()
        made = None if failed else output(what)
        library.nvrtcDestroyProgram(ctypes.byref(program))
        return made, log

    def assemble(self, name, ptx, card):
        """Machine code for a card, and what each kernel takes: {kernel: "registers/spills/local/shared"}."""
        return self.cached((ptx, card), lambda: self.assemble_anew(name, ptx, card))

    def assemble_anew(self, name, ptx, card):
        with tempfile.TemporaryDirectory() as folder:
            source, code = pathlib.Path(folder, "kernels.ptx"), pathlib.Path(folder, "kernels.cubin")
            source.write_text(ptx)
            command = [self.ptxas, "-v", f"-arch={card}", "-o", code, source]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode != 0:
                raise Failure(f"{name}: ptxas for {card}: {done.stderr.strip()}")
            code = code.read_bytes()
        found, kernel, properties = {}, None, None
        for line in done.stderr.splitlines():
            if entry := re.search(r"Compiling entry function '(\w+)'", line):
                kernel, properties = entry[1], None
            elif stack := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line):
                properties = properties or (stack[1], int(stack[2]) + int(stack[3]))
            elif used := re.search(r"Used (\d+) registers", line):
                shared = re.search(r"(\d+) bytes smem", line)
                local, spills = properties or (0, 0)
                found[kernel] = f"{used[1]}/{spills}/{local}/{shared[1] if shared else 0}"
        return code, found


class Failure(Exception):
    """A sentence about what does not work."""


def closure(source, seen=None):
    """A source and all that it includes of ours: {path: contents}."""
    seen = {} if seen is None else seen
    name = str(source.relative_to(KERNELS))
    if name not in seen:
        seen[name] = source.read_text()
        for included in re.findall(r'^\s*#\s*include\s*"([^"]+)"', seen[name], re.MULTILINE):
            beside, above = source.parent / included, KERNELS / included
            closure((beside if beside.exists() else above).resolve(), seen)
    return seen


def strip(ptx):
    """PTX without comments, indentation, empty lines and debug information."""
    lines = (re.sub(r"//.*", "", line).strip() for line in ptx.splitlines())
    kept = [re.sub(r"[ \t]+", " ", line) for line in lines if line and not line.startswith((".loc ", ".file "))]
    return "\n".join(kept) + "\n"


def modules():
    """All modules, by name."""
    import tomllib

    table = tomllib.loads((KERNELS / "modules.toml").read_text())
    found = {}
    for entry in table["module"]:
        formats = entry.get("formats", [""])
        for format in (name for listed in formats for name in table["formats"].get(listed, [listed])):
            fill = lambda text: text.replace("{format}", format).replace("{FORMAT}", format.upper())
            module = {
                "name": fill(entry["name"]),
                "source": fill(entry["source"]),
                "sources": entry.get("sources", {}),
                "targets": entry["targets"],
                "defines": [fill(define) for define in entry.get("defines", [])],
                "options": entry.get("options", []),
            }
            if module["name"] in found:
                raise Failure(f"modules.toml has {module['name']} twice")
            found[module["name"]] = module
    return dict(sorted(found.items()))


class Target:
    """What a module is compiled for: compute_80, compute_90a (PTX), sm_90 or sm_90a (machine code)."""

    def __init__(self, name):
        kind, digits = name.split("_")
        self.name = name
        self.machine = kind == "sm"
        self.exact = digits.endswith("a")
        self.number = int(digits.rstrip("a"))
        # In this order a card prefers them; src/cuda/image.rs does the same.
        self.rank = (self.number, self.exact, self.machine)
        self.virtual = f"compute_{digits}"

    def suits(self, card):
        """Whether a card takes it."""
        if self.exact:
            return self.number == card.number
        same_major = self.number // 10 == card.number // 10
        return self.number <= card.number and (same_major or not self.machine)


def build(toolkit, module, check):
    """Images of a module by target, as (bytes, kernels), and lines for the table of registers. Files that are not up to
    date are written."""
    targets = sorted(map(Target, module["targets"]), key=lambda target: target.rank)
    ptx = {virtual: toolkit.compile(module, virtual) for virtual in sorted({t.virtual for t in targets})}
    assembled = {}

    def assemble(virtual, card):
        if (virtual, card) not in assembled:
            assembled[virtual, card] = toolkit.assemble(module["name"], ptx[virtual], card)
        return assembled[virtual, card]

    kernels, images = {}, {}
    for target in targets:
        text = ptx[target.virtual]
        code = assemble(target.virtual, target.name)[0] if target.machine else text.encode()
        images[target.name] = (code, entries(text))
    for card in map(Target, CARDS):
        target = max((t for t in targets if t.suits(card)), key=lambda t: t.rank, default=None)
        if target is not None:
            numbers = assemble(target.virtual, target.name if target.machine else card.name)[1]
            for kernel, columns in numbers.items():
                kernels.setdefault(kernel, {})[card.name] = columns
    if not check:
        for target, (code, _) in images.items():
            path = COMPILED / file_name(module["name"], target)
            # Another version of LZMA may pack the same bytes otherwise: that is no reason for a new file.
            if unpacked(path) != code:
                path.write_bytes(lzma.compress(code, format=lzma.FORMAT_ALONE, filters=FILTERS))
    lines = []
    for kernel, numbers in sorted(kernels.items()):
        columns = "".join(f"{numbers.get(card, '-'):>18}" for card in CARDS)
        lines.append(f"{module['name']:<24} {kernel:<32}{columns}")
    return images, lines


def entries(ptx):
    """Kernels of some PTX, by name: the bytes that their parameters take, laid out as in a C struct, and whether they
    wait for the kernel before them, as those must that are launched before it has ended."""
    found = {}
    for name, parameters, body in re.findall(r"\.entry (\w+)\(([^)]*)\)(.*?)\n}\n", ptx, re.DOTALL):
        end = 0
        for parameter in filter(None, map(str.strip, parameters.split(","))):
            words = re.fullmatch(r"\.param(?: \.align (\d+))? \.[a-z]+(\d+)(?: \.ptr.*)? \w+(?:\[(\d+)\])?", parameter)
            if words is None:
                raise Failure(f"{name} has a parameter that is not understood: {parameter}")
            size = int(words[2]) // 8
            align = int(words[1] or size)
            end = -(-end // align) * align + size * int(words[3] or 1)
        found[name] = (end, "griddepcontrol.wait;" in body)
    return found


def file_name(module, target):
    return f"{module}.{target}.lzma"


def table_of_images(results, names):
    """The Rust source that embeds the files: results may lack modules, whose lines are then kept."""
    kept = {}
    if TABLE.exists():
        for line in TABLE.read_text().splitlines():
            if name := re.search(r'module: "(\w+)"', line):
                kept.setdefault(name[1], []).append(line)
    lines = [
        "//! Made by tools/build_kernels.py: the kernels of all modules.",
        "",
        "use super::image::{Entry, Image, Target};",
        "",
        "#[rustfmt::skip]",
        "pub(super) static IMAGES: &[Image] = &[",
    ]
    for name in names:
        if name not in results:
            lines += kept.get(name, [])
            continue
        for target_name, (_, kernels) in results[name][0].items():
            target = Target(target_name)
            flags = f"exact: {str(target.exact).lower()}, machine: {str(target.machine).lower()}"
            listed = ", ".join(
                f'Entry {{ name: "{kernel}", parameters: {size}, waits: {str(waits).lower()} }}'
                for kernel, (size, waits) in sorted(kernels.items())
            )
            lines.append(
                f'    Image {{ module: "{name}", target: Target {{ number: {target.number}, {flags} }}, '
                f'kernels: &[{listed}], packed: include_bytes!("../../kernels/compiled/{file_name(name, target_name)}") }},'
            )
    return "\n".join(lines + ["];", ""])


HEADER = (
    "# Made by tools/build_kernels.py with ptxas 12.4: for each kernel and architecture\n"
    "# registers of a thread / bytes of registers spilled and read back / bytes of local memory / bytes of shared memory\n"
)


def table_of_registers(lines):
    titles = "".join(f"{card:>18}" for card in CARDS)
    return HEADER + f"{'# module':<24} {'kernel':<32}{titles}\n" + "".join(f"{line}\n" for line in lines)


def recorded_lines():
    """Lines of the table of registers as it is, by module."""
    found = {}
    if REGISTERS.exists():
        for line in REGISTERS.read_text().splitlines():
            if not line.startswith("#"):
                found.setdefault(line.split()[0], []).append(line)
    return found


def unpacked(path):
    try:
        return lzma.decompress(path.read_bytes())
    except (OSError, lzma.LZMAError):
        return None


def digest(module):
    """What a module is compiled from: compiler, options and sources."""
    sources = {target.virtual: module["sources"].get(target.virtual, module["source"]) for target in map(Target, module["targets"])}
    inputs = {virtual: (source, closure(KERNELS / source)) for virtual, source in sources.items()}
    return hashlib.sha256(repr((PACKAGES, module["targets"], module["defines"], module["options"], sorted(inputs.items()))).encode()).hexdigest()


def digest_of_code(module):
    """What a module was compiled to: its files, unpacked."""
    files = sorted(file_name(module["name"], target) for target in module["targets"])
    return hashlib.sha256(repr([(name, unpacked(COMPILED / name)) for name in files]).encode()).hexdigest()


def recorded_digests():
    """By module the digests of its sources and of its code."""
    if not SOURCES.exists():
        return {}
    lines = (line.split() for line in SOURCES.read_text().splitlines() if not line.startswith("#"))
    return {name: tuple(digests) for name, *digests in lines}


def without_registers(lines):
    """Lines of the table without the first number of each column."""
    return [re.sub(r"\b\d+(/\d+/\d+/\d+)", r"\1", line) for line in lines]


def check(all_modules, chosen, results):
    """What differs from the recorded files, as sentences; of modules without results, only what can be seen without
    compiling them. NVRTC compiles some kernels now in one way, now in another: a module whose sources are those recorded
    may differ in its code and in registers, but not in spills and memory."""
    wrong = []
    recorded, digests = recorded_lines(), recorded_digests()
    for name in chosen:
        sources, code = digests.get(name, ("-", "-"))
        if sources != digest(all_modules[name]):
            wrong.append(f"{name} was compiled from other sources than these")
        if code != digest_of_code(all_modules[name]):
            wrong.append(f"the code of {name} is not what was compiled")
        before = recorded.get(name, [])
        if name not in results:
            if not before:
                wrong.append(f"registers.txt lacks {name}")
            continue
        images, lines = results[name]
        same = all(unpacked(COMPILED / file_name(name, target)) == code for target, (code, _) in images.items())
        if not same:
            print(f"kernels: {name} is compiled differently this time")
            lines, before = without_registers(lines), without_registers(before)
        for line in sorted(set(lines) ^ set(before)):
            wrong.append(f"registers.txt {'lacks' if line in lines else 'has'} {line}")
    wrong += [f"registers.txt has {name}, modules.toml has not" for name in recorded if name not in all_modules]
    files = {file_name(module["name"], target) for module in all_modules.values() for target in module["targets"]}
    table = TABLE.read_text() if TABLE.exists() else ""
    for name in sorted(files):
        if not (COMPILED / name).exists():
            wrong.append(f"kernels/compiled/{name} is missing")
        if f"compiled/{name}" not in table:
            wrong.append(f"src/cuda/images.rs does not list {name}")
    extra = (path.name for path in sorted(COMPILED.iterdir()) if path.name not in files)
    wrong += [f"kernels/compiled/{name} is of no module" for name in extra]
    if table != table_of_images(results, all_modules):
        wrong.append("src/cuda/images.rs does not list the modules of modules.toml")
    return wrong


def write(all_modules, results):
    """Writes the tables, and removes files of no module."""
    recorded = recorded_lines()
    lines = []
    for name in all_modules:
        lines += results[name][1] if name in results else recorded.get(name, [])
    files = {file_name(module["name"], target) for module in all_modules.values() for target in module["targets"]}
    for path in COMPILED.iterdir():
        if path.name not in files:
            path.unlink()
    REGISTERS.write_text(table_of_registers(lines))
    digests = recorded_digests()
    sources = {name: digest(module) if name in results else digests.get(name, "-")[0] for name, module in all_modules.items()}
    title = "# Made by tools/build_kernels.py: SHA-256 of what each module was compiled from (compiler, options, sources) and to\n"
    lines = [f"{name} {value} {digest_of_code(all_modules[name])}\n" for name, value in sources.items()]
    SOURCES.write_text(title + "".join(lines))
    TABLE.write_text(table_of_images(results, all_modules))
    packed = sum(path.stat().st_size for path in COMPILED.iterdir())
    print(f"{len(all_modules)} modules, {len(files)} files, {packed / 1024:.0f} KiB packed")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file differs")
    parser.add_argument("--recorded", action="store_true", help="as --check, but compile nothing")
    parser.add_argument("--only", default="", metavar="NAME", help="only modules whose names begin so")
    parser.add_argument("--toolkit", type=pathlib.Path, default=ROOT / "target/cuda-12.4", help="where NVRTC is")
    parser.add_argument("--anew", action="store_true", help="take nothing that was compiled before")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    if sys.version_info < (3, 11):
        print("kernels: Python 3.11 is needed to compile them, so they were not compiled", file=sys.stderr)
        return 3
    try:
        all_modules = modules()
        chosen = [name for name in all_modules if name.startswith(arguments.only)]
        if arguments.recorded:
            return verdict(check(all_modules, chosen, {}), f"{len(chosen)} modules were compiled from these sources")
        toolkit = Toolkit(arguments.toolkit, arguments.anew)
        COMPILED.mkdir(exist_ok=True)
        with concurrent.futures.ProcessPoolExecutor(arguments.jobs) as pool:
            jobs = [pool.submit(build, toolkit, all_modules[name], arguments.check) for name in chosen]
            results = {name: job.result() for name, job in zip(chosen, jobs)}
    except Failure as failure:
        print(f"kernels: {failure}", file=sys.stderr)
        return 1
    if not arguments.check:
        write(all_modules, results)
        return 0
    wrong = check(all_modules, chosen, results)
    return verdict(wrong, f"{len(chosen)} modules compile to the code and registers recorded")


def verdict(wrong, right):
    """Prints what is wrong, or that all is right; the exit code."""
    for sentence in wrong:
        print(f"kernels: {sentence}", file=sys.stderr)
    if wrong:
        print("kernels: run tools/build_kernels.py (just ptx) and commit what it writes", file=sys.stderr)
        return 1
    print(f"kernels: {right}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
