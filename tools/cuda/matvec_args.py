"""MatvecArgs and the launch geometry, as in crates/compute/kernels/matvec/args.cuh and crates/compute/src/cuda/formats.rs."""
import ctypes
import formats

P, I, F = ctypes.c_void_p, ctypes.c_int, ctypes.c_float
PLAIN, RMS, LAYER = 0, 1, 2
STORE, ADD, GATED = 0, 1, 2
BLOCK = 1024


class Matrix(ctypes.Structure):
    _fields_ = [("plane", P * 5), ("rows", I), ("columns", I)]


class Region(ctypes.Structure):
    _fields_ = [("address", P), ("bytes", ctypes.c_uint64)]


class Args(ctypes.Structure):
    _fields_ = [("m", Matrix * 3), ("bias", P * 3), ("x", P), ("permutation", P), ("norm_weight", P), ("norm_bias", P),
                ("out", P), ("expert", P), ("share", P), ("x_stride", I), ("out_stride", I), ("matrices", I),
                ("prologue", I), ("epilogue", I), ("activation", I), ("slots", I), ("sum_slots", I), ("regions", I),
                ("eps", F), ("x_scale", F), ("share_input", I), ("ahead", Region * 8)]


class RepackArgs(ctypes.Structure):
    _fields_ = [("raw", P), ("first", ctypes.c_uint64), ("chunks", ctypes.c_uint64), ("matrix", Matrix)]


def planes(name):
    return [(16, 8 if formats.FLOATS[name] == 2 else 4)] if name in formats.FLOATS else formats.FORMATS[name][2]


def piece(name):
    return planes(name)[0][1] if name in formats.FLOATS else 32


# Sums of codes that a format's input has for each 32 values.
SUMS = {"q8_0": 0, "iq4_nl": 0, "nf4": 0, "fp4": 0, "mxfp4": 0, "nvfp4": 0, "iq4_xs": 0, "iq2_xxs": 0, "iq2_xs": 0,
        "iq2_s": 0, "iq3_xxs": 0, "iq3_s": 0, "q2_K": 2, "q3_K": 2, "q6_K": 2, "iq1_m": 2}


def vector_bytes(name, columns):
    pieces = (columns + 31) // 32 * 32 // piece(name)
    size = 4 * piece(name) if name in formats.FLOATS else 36 + 4 * SUMS.get(name, 1)
    return (pieces * size + 15) // 16 * 16


def geometry(name, rows, columns, vectors, sms):
    """Blocks and shared memory."""
    return min(sms, rows), vectors * vector_bytes(name, columns)


def ahead(args, name, matrices, gated, budget):
    """Fills in args.ahead: about `budget` bytes of what the next launch reads first. matrices: (plane addresses, rows, columns)."""
    total = sum(rows * columns * size // values for _, rows, columns in matrices for size, values in planes(name))
    left = sum(rows for _, rows, _ in matrices) * min(1, budget / total)
    regions = []
    for addresses, rows, columns in matrices:
        take = int(left / len(matrices) if gated else min(left, rows))
        left -= 0 if gated else take
        regions += [(take * columns // values * size // 16 * 16, address)
                    for address, (size, values) in zip(addresses, planes(name))]
    regions = sorted((r for r in regions if r[0] > 0), reverse=True)[:8]
    args.regions = len(regions)
    for i, (size, address) in enumerate(regions):
        args.ahead[i].address, args.ahead[i].bytes = address, size
