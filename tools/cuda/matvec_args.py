"""MatvecArgs and the launch geometry, as in crates/compute/kernels/matvec/args.cuh and crates/compute/src/cuda/formats.rs."""
import ctypes
import formats

P, I, F = ctypes.c_void_p, ctypes.c_int, ctypes.c_float
PLAIN, RMS, LAYER = 0, 1, 2
STORE, ADD, GATED = 0, 1, 2
BUDGET = 110 * 1024


class Matrix(ctypes.Structure):
    _fields_ = [("plane", P * 5), ("rows", I), ("columns", I)]


class Args(ctypes.Structure):
    _fields_ = [("m", Matrix * 3), ("bias", P * 3), ("x", P), ("permutation", P), ("norm_weight", P), ("norm_bias", P),
                ("out", P), ("expert", P), ("share", P), ("x_stride", I), ("out_stride", I), ("matrices", I),
                ("prologue", I), ("epilogue", I), ("activation", I), ("slots", I), ("sum_slots", I), ("stages", I),
                ("eps", F), ("x_scale", F), ("reserved", I)]


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


def slice_bytes(name, depth):
    unit = 32 * depth * piece(name)
    return sum((unit // values * size + 15) // 16 * 16 + 16 for size, values in planes(name))


def geometry(name, rows, columns, vectors, ring, sms, depth=2, budget=BUDGET, blocks=2):
    """grid, shared memory, stages."""
    inputs = vectors * vector_bytes(name, columns)
    if not ring:
        return min(blocks * sms, rows), inputs, 0
    stages = max(2, min(16, (budget - inputs) // (16 * slice_bytes(name, depth))))
    return min(sms, rows), inputs + stages * 16 * slice_bytes(name, depth), stages
