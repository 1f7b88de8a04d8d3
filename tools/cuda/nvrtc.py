#!/usr/bin/env python3
"""Compiles one CUDA file with the NVRTC that build_kernels.py fetches (target/cuda-12.4).

    python3 tools/cuda/nvrtc.py FILE ARCHITECTURE [-o OUT] [-I FOLDER]... [-D NAME=VALUE]...

An architecture like compute_75 gives PTX, one like sm_90a machine code and a report of registers and spills.
"""

import argparse
import ctypes
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
    folders = [toolkit.root / "cuda_runtime/include", toolkit.root / "cuda_nvcc/include", arguments.file.resolve().parent]
    options += [f"-I{folder}" for folder in [*folders, *arguments.folders]] + [f"-D{define}" for define in arguments.defines]
    options += ["--ptxas-options=-v"] if machine else []
    library, program, size = ctypes.CDLL(str(toolkit.library)), ctypes.c_void_p(), ctypes.c_size_t()

    def read(what):
        getattr(library, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
        text = ctypes.create_string_buffer(size.value)
        getattr(library, f"nvrtcGet{what}")(program, text)
        return text.raw

    library.nvrtcCreateProgram(
        ctypes.byref(program), arguments.file.read_bytes(), arguments.file.name.encode(), 0, None, None
    )
    given = (ctypes.c_char_p * len(options))(*map(str.encode, options))
    code = library.nvrtcCompileProgram(program, len(options), given)
    library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, log)
    print(log.value.decode().strip())
    if code == 0 and arguments.out:
        arguments.out.write_bytes(read("CUBIN") if machine else read("PTX").rstrip(b"\0"))
    return code


if __name__ == "__main__":
    sys.exit(main())
