#!/usr/bin/env python3
"""Compiles one CUDA file with the NVRTC that build_kernels.py fetches (target/cuda-12.4).

    python3 tools/cuda/nvrtc.py FILE ARCHITECTURE [-o OUT] [-I FOLDER]... [-D NAME=VALUE]...

An architecture like compute_75 gives PTX, one like sm_90a machine code and a report of registers and spills.
"""

import argparse
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from build_kernels import ROOT, Toolkit  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=pathlib.Path)
    parser.add_argument("architecture")
    parser.add_argument("-o", type=pathlib.Path, dest="out")
    parser.add_argument("-I", action="append", default=[], dest="folders")
    parser.add_argument("-D", action="append", default=[], dest="defines")
    arguments = parser.parse_args()
    toolkit = Toolkit(ROOT / "target/cuda-12.4", True)
    machine = arguments.architecture.startswith("sm_")
    options = [f"--gpu-architecture={arguments.architecture}", "--std=c++17"]
    options += [f"-I{folder}" for folder in [arguments.file.resolve().parent, *arguments.folders]]
    options += [f"-D{define}" for define in arguments.defines]
    options += ["--ptxas-options=-v"] if machine else []
    code, log = toolkit.nvrtc(arguments.file, options, "CUBIN" if machine else "PTX")
    print(log)
    if code is not None and arguments.out:
        arguments.out.write_bytes(code if machine else code.rstrip(b"\0"))
    return 0 if code is not None else 1


if __name__ == "__main__":
    sys.exit(main())
