// Softmax and cross-entropy. x is seen as (A, C, L); the sums run over c, of each column (a, l). Where L is large a
// thread has a column: its neighbours have the columns beside it, so that a warp reads whole lines of memory. Where it
// is small a warp shares a column. REAL is float or double.

#include "threads.h"

// The column of this thread's team: its number, its first element, whether there is one (else it only takes part in the
// exchange), and the place of the thread in the team.
struct Column { INDEX number, start; bool real; int lane; };

__device__ Column column(INDEX columns, int C, INDEX L, int lanes) {
    INDEX number = team_number(lanes);
    bool real = number < columns;
    if (!real) number = 0;
    return {number, number / L * C * L + number % L, real, int(threadIdx.x % lanes)};
}

__device__ REAL larger(REAL a, REAL b) { return b > a || b != b ? b : a; }  // NaN if one is

// The largest of a column of C numbers from x on, L apart, and the sum of e^(x - top): shifted so, no e overflows.
struct Sum { REAL top, sum; };

__device__ Sum exponentials(const REAL* x, int C, INDEX L, int lane, int lanes) {
    REAL top = -REAL(1e308 * 10), sum = 0;  // minus infinity, for which there is no name without a header
    for (int c = lane; c < C; c += lanes) top = larger(top, x[c * L]);
    for (int step = lanes / 2; step > 0; step /= 2) top = larger(top, __shfl_xor_sync(0xffffffff, top, step));
    for (int c = lane; c < C; c += lanes) sum += exp(x[c * L] - top);
    return {top, team_sum(sum, lanes)};
}

// y = e^(x - top) / sum e^(x - top), or where `logarithm` is 1 its logarithm.
extern "C" __global__ void softmax(const REAL* x, REAL* y, INDEX columns, int C, INDEX L, int lanes, int logarithm) {
    Column at = column(columns, C, L, lanes);
    Sum s = exponentials(x + at.start, C, L, at.lane, lanes);
    REAL log_sum = log(s.sum), factor = 1 / s.sum;
    for (int c = at.lane; at.real && c < C; c += lanes) {
        REAL z = x[at.start + c * L] - s.top;
        y[at.start + c * L] = logarithm ? z - log_sum : exp(z) * factor;
    }
}

// dx = y (g - sum g y), or g - e^y sum g.
extern "C" __global__ void softmax_grad(const REAL* g, const REAL* y, REAL* dx, INDEX columns, int C, INDEX L,
                                        int lanes, int logarithm) {
    Column at = column(columns, C, L, lanes);
    REAL sum = 0;
    for (int c = at.lane; c < C; c += lanes) {
        INDEX i = at.start + c * L;
        sum += logarithm ? g[i] : g[i] * y[i];
    }
    sum = team_sum(sum, lanes);
    for (int c = at.lane; at.real && c < C; c += lanes) {
        INDEX i = at.start + c * L;
        dx[i] = logarithm ? g[i] - exp(y[i]) * sum : y[i] * (g[i] - sum);
    }
}

// loss[n, j] = factor (log_sum + top - x[n, target, j]), 0 where not valid; (n, j) of (N, L).
extern "C" __global__ void cross_entropy(const REAL* x, const long long* target, const REAL* factor, const bool* valid,
                                         REAL* loss, REAL* top, REAL* log_sum, INDEX columns, int C, INDEX L,
                                         int lanes) {
    Column at = column(columns, C, L, lanes);
    Sum s = exponentials(x + at.start, C, L, at.lane, lanes);
    if (!at.real || at.lane) return;
    top[at.number] = s.top;
    log_sum[at.number] = log(s.sum);
    REAL chosen = x[at.start + target[at.number] * L] - s.top;
    loss[at.number] = valid[at.number] ? (log(s.sum) - chosen) * factor[at.number] : REAL(0);
}

// dx[n, c, j] = factor g (e^(x - top - log_sum) - [c = target]), 0 where not valid.
extern "C" __global__ void cross_entropy_grad(const REAL* g, const REAL* x, const long long* target, const REAL* factor,
                                              const bool* valid, const REAL* top, const REAL* log_sum, REAL* dx,
                                              INDEX columns, int C, INDEX L, int lanes) {
    Column at = column(columns, C, L, lanes);
    if (!at.real) return;
    REAL scale = valid[at.number] ? g[at.number] * factor[at.number] : REAL(0);
    REAL most = top[at.number], rest = log_sum[at.number];
    int chosen = target[at.number];
    for (int c = at.lane; c < C; c += lanes) {
        REAL p = exp(x[at.start + c * L] - most - rest);
        dx[at.start + c * L] = scale * (p - (c == chosen ? REAL(1) : REAL(0)));
    }
}
