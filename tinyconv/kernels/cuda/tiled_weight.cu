// The gradient of the weights of a convolution as a matrix product, with the tiles of tile.h.
#include "tile.h"

// What four neighbouring columns have in common: what their tap adds to the place of an output on each axis; how many
// of the four are channels, and where the first is in an image.
struct Columns { int d, h, w, channels; long long offset; };

// What `weight_parts` below is given.
struct Pair { const REAL *x, *gy; int N, C, rows, groups, splits; Window g; };

// Sums up this block's share. A slice is 8 outputs, which are neighbours in memory: 8 threads read them side by side,
// each from four rows and from four columns. From slice to slice the place moves on by addition.
__device__ __forceinline__ void sum_share(const Pair& p, const Part& part, const Columns* fours, const int* planes,
                                          Slice* slices, Four (*acc)[ACROSS]) {
    const Window& g = p.g;
    const int LINES = THREADS / DEPTH, EACH = COLUMNS / 4 / LINES;
    const int plane = planes[0], plane_made = planes[1], depth = threadIdx.x % DEPTH, line = threadIdx.x / DEPTH;
    long long outputs_all = (long long)p.N * plane_made, slices_all = (outputs_all + DEPTH - 1) / DEPTH;
    long long begin = slices_all * part.split / p.splits, q = begin * DEPTH + depth, n = q / plane_made;
    int more = slices_all * (part.split + 1) / p.splits - begin, now = 0;
    // In how many slices this thread has an output.
    int left = (min((begin + more) * DEPTH, outputs_all) - q + DEPTH - 1) / DEPTH;
    if (!more) return;
    Place o = output_at(g, q);
    int rows_here = 4 * line < ROWS ? p.rows - part.row - 4 * line : 0;
    const REAL* given = p.gy + q % plane_made;
    given += ((n * p.groups + part.group) * p.rows + part.row + 4 * line) * plane_made;
    const REAL* image = p.x + (n * p.groups + part.group) * p.C * plane;
    Four a, b[EACH];
    auto load = [&]() {
        int rows_now = left > 0 ? rows_here : 0;
#pragma unroll
        for (int j = 0; j < 4; ++j) a.at[j] = j < rows_now ? given[(long long)plane_made * j] : REAL(0);
#pragma unroll
        for (int e = 0; e < EACH; ++e) {
            const Columns& four = fours[line + LINES * e];
            int d = o.d * g.d.stride + four.d, h = o.h * g.h.stride + four.h, w = o.w * g.w.stride + four.w;
            bool inside = unsigned(d) < g.d.size && unsigned(h) < g.h.size && unsigned(w) < g.w.size;  // so not below 0
            int channels = left > 0 && inside ? four.channels : 0;
            const REAL* pixel = image + four.offset + ((d * g.h.size + h) * g.w.size + w);
#pragma unroll
            for (int j = 0; j < 4; ++j) b[e].at[j] = j < channels ? pixel[(long long)plane * j] : REAL(0);
        }
        --left, given += DEPTH, o.w += DEPTH;
        while (o.w >= g.w.output) {
            o.w -= g.w.output;
            if (++o.h < g.h.output) continue;
            o.h = 0;
            if (++o.d < g.d.output) continue;
            o.d = 0;  // the next image
            given += ((long long)p.groups * p.rows - 1) * plane_made, image += (long long)p.groups * p.C * plane;
        }
    };
    auto store = [&](Slice& slice) {
        if (4 * line < ROWS) *(Four*)&slice.a[depth][4 * line] = a;
#pragma unroll
        for (int e = 0; e < EACH; ++e) *(Four*)&slice.b[depth][4 * (line + LINES * e)] = b[e];
    };
    load();
    store(slices[0]);
    __syncthreads();
#pragma unroll 1
    while (--more) {
        load();
        multiply(slices[now], corner(), acc);
        now ^= 1;
        store(slices[now]);
        __syncthreads();
    }
    multiply(slices[now], corner(), acc);
}

// A share of the weight gradient:
//
//     parts[s, group, row, k, c] = sum over (n, o) of gy[n, group, row, o] x[n, group, c, pixel(o, k)],
//
// of the outputs (n, o) that are its own.
// Rows are output channels, columns the (k, c), with the channels padded to a multiple of 4, so that four neighbouring
// columns have one tap. There are few of either and many outputs to sum over, so `splits` blocks share the sum
// ("split-K").
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) weight_parts(
    const REAL* x, const REAL* gy, REAL* parts, int N, int C, int rows, int groups, int column_tiles, int splits,
    Window g) {
    __shared__ Slice slices[2];
    __shared__ Columns fours[COLUMNS / 4];
    __shared__ int planes[2];  // read from here, or they are worked out again and again
    const int padded_C = (C + 3) / 4 * 4, columns = taps(g) * padded_C;
    const Part part = part_of(rows, column_tiles, splits);
    if (threadIdx.x == 0) planes[0] = pixels(g), planes[1] = outputs(g);
    if (threadIdx.x < COLUMNS / 4) {
        int column = part.column + 4 * threadIdx.x, c = column % padded_C;
        Place t = tap_at(g, column / padded_C);
        fours[threadIdx.x] = {t.d * g.d.dilation - g.d.padding, t.h * g.h.dilation - g.h.padding,
                              t.w * g.w.dilation - g.w.padding, column < columns ? C - c : 0, c * pixels(g)};
    }
    __syncthreads();
    Four acc[8][ACROSS] = {};
    sum_share({x, gy, N, C, rows, groups, splits, g}, part, fours, planes, slices, acc);

    Corner my = corner();
    long long first = ((long long)part.split * groups + part.group) * rows;
#pragma unroll
    for (int i = 0; i < 8; ++i)
#pragma unroll
        for (int p = 0; p < ACROSS; ++p) {
            int row = part.row + row_of(my, i), column = part.column + my.column + 32 * p;
            if (row < rows && column < columns) *(Four*)&parts[(first + row) * columns + column] = acc[i][p];
        }
}
