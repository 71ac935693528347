// The pixels between which the points of a grid lie, and their weights: see tinyconv/kernels/corners.py. A thread a
// point. REAL is float or double.

#include "threads.h"

// padding: 0 zeros, 1 border, 2 reflection; first: of the neighbours, counted from the pixel below the point; order: of
// the derivative of the weights. Images of two axes have a third of one pixel in front.
struct Grid { int rank, padding, align, first, d, h, w, order_d, order_h, order_w; };

// Positions brought back into [0, size - 1] by clamping or reflection, and their derivatives. NaN becomes 0.
__device__ REAL folded(REAL position, REAL& slope, int size, int padding, int align) {
    REAL last = size - 1, low = align ? REAL(0) : REAL(-0.5), span = align ? last : REAL(size);
    if (padding == 2) {
        REAL distance = fabs(position - low), turns = span > 0 ? floor(distance / span) : REAL(0);
        REAL rest = span > 0 ? distance - turns * span : REAL(0);
        bool odd = turns / 2 != floor(turns / 2);
        slope = odd != (position < low) ? -slope : slope;
        position = (odd ? span - rest : rest) + low;
    }
    slope = position > 0 && position < last ? slope : REAL(0);
    position = position > 0 ? position : REAL(0);
    return position < last ? position : last;
}

// The N neighbours of a point on one axis: pixels (-1 outside of the image) and weights. coefficients: 4 a neighbour,
// of 1, t, t^2, t^3.
template <int N>
__device__ void neighbours(REAL x, Grid g, int size, int order, const REAL* coefficients, REAL* weight, int* index) {
    REAL slope = (g.align ? size - 1 : size) * REAL(0.5), unused = 0;
    REAL position = g.align ? (x + 1) * slope : ((x + 1) * size - 1) * REAL(0.5);
    if (g.padding && N < 4) position = folded(position, slope, size, g.padding, g.align);
    REAL start = N == 1 ? rint(position) : floor(position), t = N == 1 ? REAL(0) : position - start;
    REAL steep = 1;  // each derivative is by the coordinate
    for (int i = 0; i < order; ++i) steep *= slope;
    for (int j = 0; j < N; ++j) {
        const REAL* c = coefficients + 4 * j;
        REAL at = start + (g.first + j);
        if (g.padding && N == 4) at = folded(at, unused, size, g.padding, g.align);  // each pixel, not the point
        index[j] = at >= 0 && at <= size - 1 ? int(at) : -1;
        weight[j] = (((c[3] * t + c[2]) * t + c[1]) * t + c[0]) * steep;
    }
}

// grid (points, rank), points = N L, to w and at (N, K, L). coefficients (rank, neighbours, 4).
template <int N>
__device__ void corners(const REAL* grid, const REAL* coefficients, REAL* w, long long* at, INDEX points, INDEX L,
                        Grid g) {
    INDEX point = thread_number();
    if (point >= points) return;
    const REAL* x = grid + point * g.rank;  // the first coordinate is of the last axis
    REAL weight[3][N] = {{1}};
    int index[3][N] = {}, depths = g.rank == 3 ? N : 1, K = depths * N * N;
    const REAL* last = coefficients + (g.rank - 1) * 4 * N;
    neighbours<N>(x[0], g, g.w, g.order_w, last, weight[2], index[2]);
    neighbours<N>(x[1], g, g.h, g.order_h, last - 4 * N, weight[1], index[1]);
    if (g.rank == 3) neighbours<N>(x[2], g, g.d, g.order_d, last - 8 * N, weight[0], index[0]);
    INDEX to = point / L * K * L + point % L;
    for (int a = 0; a < N; ++a)
        for (int b = 0; b < N; ++b)
            for (int c = 0; c < N; ++c) {
                if (a >= depths) continue;
                bool inside = (index[0][a] | index[1][b] | index[2][c]) >= 0;  // none is negative
                w[to] = weight[0][a] * weight[1][b] * weight[2][c];
                at[to] = inside ? ((long long)index[0][a] * g.h + index[1][b]) * g.w + index[2][c] : -1;
                to += L;
            }
}

extern "C" __global__ void corners_nearest(const REAL* grid, const REAL* coefficients, REAL* w, long long* at,
                                           INDEX points, INDEX L, Grid g) {
    corners<1>(grid, coefficients, w, at, points, L, g);
}
extern "C" __global__ void corners_bilinear(const REAL* grid, const REAL* coefficients, REAL* w, long long* at,
                                            INDEX points, INDEX L, Grid g) {
    corners<2>(grid, coefficients, w, at, points, L, g);
}
extern "C" __global__ void corners_bicubic(const REAL* grid, const REAL* coefficients, REAL* w, long long* at,
                                           INDEX points, INDEX L, Grid g) {
    corners<4>(grid, coefficients, w, at, points, L, g);
}
