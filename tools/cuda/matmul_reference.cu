// For tools/cuda/test_matmul.py: all values of a packed matrix as f32 (-D FORMAT=...), through the decode function that
// repack's own tests compare with quern's decoders.
#include "fragment.cuh"

extern "C" __global__ void values(Matrix m, float* out) {
    const u32 at = blockIdx.x * blockDim.x + threadIdx.x, chunks = m.columns / 32;
    if (at >= m.rows * chunks) return;
    const FORMAT::Raw raw = FORMAT::load(m, at);
    const Chunk c = FORMAT::decode(raw, at);
    for (int i = 0; i < 32; i++) {
        const u32 byte = (c.q[i / 4] >> (8 * (i % 4))) & 255;
        const int q = FORMAT::SIGNED ? (int)(i8)byte : (int)byte - FORMAT::ZERO;
        const int h = FORMAT::SCALES == 2 ? i / 16 : 0;
        out[32ull * at + i] = c.scale[h] * (float)q - (FORMAT::MIN ? c.min[h] : 0.0f);
    }
}
