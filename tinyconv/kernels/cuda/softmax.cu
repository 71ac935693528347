// Softmax and cross-entropy. x is seen as (A, C, L); the sums run over c. A thread makes one (a, l): neighbouring
// threads have neighbouring l, so that a warp reads whole lines of memory. REAL is float or double.

// The largest of the C numbers from x on, `step` apart; NaN if one is.
__device__ REAL largest(const REAL* x, int C, long long step) {
    REAL top = x[0];
    for (int c = 1; c < C; ++c) {
        REAL value = x[c * step];
        if (value > top || value != value) top = value;
    }
    return top;
}

// y = e^(x - top) / sum e^(x - top), or where `logarithm` is 1 its logarithm: shifted by the largest, no e overflows.
extern "C" __global__ void softmax(const REAL* x, REAL* y, long long columns, int C, long long L, int logarithm) {
    long long column = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= columns) return;
    long long start = column / L * C * L + column % L;
    REAL top = largest(x + start, C, L), sum = 0;
    for (int c = 0; c < C; ++c) sum += exp(x[start + c * L] - top);
    for (int c = 0; c < C; ++c) {
        REAL z = x[start + c * L] - top;
        y[start + c * L] = logarithm ? z - log(sum) : exp(z) / sum;
    }
}

// dx = y (g - sum g y), or g - e^y sum g.
extern "C" __global__ void softmax_grad(const REAL* g, const REAL* y, REAL* dx, long long columns, int C, long long L,
                                        int logarithm) {
    long long column = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= columns) return;
    long long start = column / L * C * L + column % L;
    REAL sum = 0;
    for (int c = 0; c < C; ++c) sum += logarithm ? g[start + c * L] : g[start + c * L] * y[start + c * L];
    for (int c = 0; c < C; ++c) {
        long long i = start + c * L;
        dx[i] = logarithm ? g[i] - exp(y[i]) * sum : y[i] * (g[i] - sum);
    }
}

// loss[n, j] = factor (log_sum + top - x[n, target, j]), 0 where not valid; a thread a (n, j) of (N, L).
extern "C" __global__ void cross_entropy(const REAL* x, const long long* target, const REAL* factor, const bool* valid,
                                         REAL* loss, REAL* top, REAL* log_sum, long long columns, int C, long long L) {
    long long column = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= columns) return;
    long long start = column / L * C * L + column % L;
    REAL most = largest(x + start, C, L), sum = 0;
    for (int c = 0; c < C; ++c) sum += exp(x[start + c * L] - most);
    top[column] = most;
    log_sum[column] = log(sum);
    REAL chosen = x[start + target[column] * L] - most;
    loss[column] = valid[column] ? (log(sum) - chosen) * factor[column] : REAL(0);
}

// dx[n, c, j] = factor g (e^(x - top - log_sum) - [c = target]), 0 where not valid; a thread an element.
extern "C" __global__ void cross_entropy_grad(const REAL* g, const REAL* x, const long long* target, const REAL* factor,
                                              const bool* valid, const REAL* top, const REAL* log_sum, REAL* dx,
                                              long long elements, int C, long long L) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= elements) return;
    long long column = i / L / C * L + i % L;
    REAL scale = valid[column] ? g[column] * factor[column] : REAL(0);
    REAL p = exp(x[i] - top[column] - log_sum[column]);
    dx[i] = scale * (p - (i / L % C == target[column] ? REAL(1) : REAL(0)));
}
