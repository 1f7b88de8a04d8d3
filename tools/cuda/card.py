"""The CUDA driver through ctypes: modules, launches with their attributes, graphs, timing. Memory is torch's."""
import ctypes
import torch

torch.cuda.init()
torch.zeros(1, device="cuda")  # makes torch's context the current one
lib = ctypes.CDLL("libcuda.so.1")
P, I, U = ctypes.c_void_p, ctypes.c_int, ctypes.c_uint


def call(name, *args):
    code = getattr(lib, name)(*args)
    if code:
        text = ctypes.c_char_p()
        lib.cuGetErrorString(code, ctypes.byref(text))
        raise RuntimeError(f"{name}: {code} {text.value}")


class Attribute(ctypes.Structure):
    _fields_ = [("id", I), ("pad", I), ("value", I * 16)]


class Config(ctypes.Structure):
    _fields_ = [("grid", U * 3), ("block", U * 3), ("shared", U), ("stream", P), ("attributes", P), ("count", U)]


class Module:
    def __init__(self, path):
        self.handle, self.functions = P(), {}
        call("cuModuleLoadData", ctypes.byref(self.handle), open(path, "rb").read() + b"\0")

    def function(self, name):
        if name not in self.functions:
            f = P()
            call("cuModuleGetFunction", ctypes.byref(f), self.handle, name.encode())
            call("cuFuncSetAttribute", f, 8, 208 * 1024)  # MAX_DYNAMIC_SHARED_SIZE_BYTES
            self.functions[name] = f
        return self.functions[name]

    def attribute(self, name, which):
        v = I()
        call("cuFuncGetAttribute", ctypes.byref(v), which, self.function(name))
        return v.value

    def launch(self, name, grid, block, shared, args, overlap=False):
        """`args` is a ctypes structure passed by value; overlap: programmatic stream serialization."""
        config = Config()
        config.grid[:], config.block[:] = (grid, 1, 1), (block, 1, 1)
        config.shared, config.stream = shared, torch.cuda.current_stream().cuda_stream
        attribute = Attribute()
        attribute.id, attribute.value[0] = 6, 1
        if overlap:
            config.attributes, config.count = ctypes.addressof(attribute), 1
        params = (P * 1)(ctypes.addressof(args))
        call("cuLaunchKernelEx", ctypes.byref(config), self.function(name), params, None)


def graph(launches):
    """Captures what the function launches; returns a function that replays it."""
    g = torch.cuda.CUDAGraph()
    with torch.cuda.graph(g):
        launches()
    return g.replay


def seconds(replay, repeats=15):
    """Median time of one replay."""
    for _ in range(3):
        replay()
    times = []
    for _ in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1e-3)
    return sorted(times)[len(times) // 2]
