// Sampling an image at points, each made of K corners: pixel at[n, k, o] (-1: none) with the weight w[n, k, o]. A
// thread has a few channels (PLANES of threads.h), for which index and weight are read once. REAL is float or double.

#include "threads.h"

// y[n, c, o] = sum over k of w[n, k, o] x[n, c, at[n, k, o]], x (N, C, P) to y (N, C, L).
extern "C" __global__ void sample(const REAL* x, const REAL* w, const long long* at, REAL* y, INDEX tasks, int C, int K,
                                  INDEX P, INDEX L) {
    INDEX thread = thread_number();
    if (thread >= tasks) return;
    int groups = (C + PLANES - 1) / PLANES;
    INDEX o = thread % L, n = thread / L / groups, c = thread / L % groups * PLANES;
    REAL acc[PLANES] = {};
    for (int k = 0; k < K; ++k) {
        INDEX corner = (n * K + k) * L + o;
        REAL weight = w[corner];
        long long i = at[corner];
        for (int p = 0; p < PLANES; ++p)
            if (c + p < C) acc[p] += weight * (i < 0 ? REAL(0) : x[(n * C + c + p) * P + i]);
    }
    for (int p = 0; p < PLANES; ++p)
        if (c + p < C) y[(n * C + c + p) * L + o] = acc[p];
}

// gw[n, k, o] = sum over c of x[n, c, at[n, k, o]] gy[n, c, o]: a thread a corner.
extern "C" __global__ void sample_weight(const REAL* x, const REAL* gy, const long long* at, REAL* gw, INDEX corners,
                                         int C, int K, INDEX P, INDEX L) {
    INDEX corner = thread_number();
    if (corner >= corners) return;
    INDEX o = corner % L, n = corner / L / K;
    long long i = at[corner];
    REAL acc = 0;
    for (INDEX c = n * C; c < n * C + C; ++c) acc += (i < 0 ? REAL(0) : x[c * P + i]) * gy[c * L + o];
    gw[corner] = acc;
}

// gx[n, c, i] = sum of w gy[n, c, o] over the corners at pixel i. `order` lists all corners of all images sorted by
// their pixel, those of pixel j = n P + i from ends[j] up to ends[j + 1]: without atomics, always in the same order.
extern "C" __global__ void sample_input(const REAL* gy, const REAL* w, const long long* order, const long long* ends,
                                        REAL* gx, INDEX tasks, int C, int K, INDEX P, INDEX L) {
    INDEX thread = thread_number();
    if (thread >= tasks) return;
    int groups = (C + PLANES - 1) / PLANES;
    INDEX i = thread % P, n = thread / P / groups, c = thread / P % groups * PLANES;
    REAL acc[PLANES] = {};
    for (INDEX j = ends[n * P + i]; j < ends[n * P + i + 1]; ++j) {
        INDEX corner = order[j], o = corner % L;
        REAL weight = w[corner];
        for (int p = 0; p < PLANES; ++p)
            if (c + p < C) acc[p] += weight * gy[(n * C + c + p) * L + o];
    }
    for (int p = 0; p < PLANES; ++p)
        if (c + p < C) gx[(n * C + c + p) * P + i] = acc[p];
}
