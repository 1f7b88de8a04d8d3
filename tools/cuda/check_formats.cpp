// check_formats FORMAT ROWS COLUMNS PLANES < raw rows > decoded f32: repacks raw blocks into planes of the sizes given
// (bytes, separated by commas), then decodes every chunk. Built with -D FORMAT=Q4_0 by tools/cuda/check_formats.py.
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>
#include "host_shim.h"
#include "../../crates/compute/kernels/repack.cuh"

int main(int argc, char** argv) {
    const int rows = atoi(argv[1]), columns = atoi(argv[2]);
    Matrix m = {};
    m.rows = rows, m.columns = columns;
    std::vector<size_t> sizes;
    for (char* p = strtok(argv[3], ","); p; p = strtok(nullptr, ",")) {
        const size_t bytes = atoll(p), plane = sizes.size();
        m.plane[plane] = (u8*)aligned_alloc(256, (bytes + 511) / 256 * 256);
        memset((void*)m.plane[plane], 0xee, bytes + 16);
        sizes.push_back(bytes);
    }
    std::vector<u8> raw;
    for (int c; (c = getchar()) != EOF;) raw.push_back((u8)c);
    const u32 chunks = (u32)rows * (columns / 32);
    for (u32 at = 0; at < chunks; at++) Repack<FORMAT>::chunk(raw.data(), m, at);
    std::vector<float> out(32ull * chunks);
    for (u32 at = 0; at < chunks; at++) {
        const Chunk c = FORMAT::decode(FORMAT::load(m, at), at);
        for (int i = 0; i < 32; i++) {
            const int h = FORMAT::SCALES == 2 ? i / 16 : 0, code = (i8)(c.q[i / 4] >> (i % 4 * 8));
            if (!FORMAT::SIGNED && code < 0) return fprintf(stderr, "negative code\n"), 2;
            out[32ull * at + i] = c.scale[h] * (float)(code - FORMAT::ZERO) - (FORMAT::MIN ? c.min[h] : 0.0f);
        }
    }
    fwrite(out.data(), 4, out.size(), stdout);
    // Nothing was written after the last record of a plane.
    for (size_t p = 0; p < sizes.size(); p++)
        for (size_t i = 0; i < 16; i++)
            if (m.plane[p][sizes[p] + i] != 0xee) return fprintf(stderr, "written past the end of plane %zu\n", p), 3;
    return 0;
}
