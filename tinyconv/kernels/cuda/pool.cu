// Pooling over windows of three axes, see window.h. REAL is float or double. One thread a result; nothing is written twice.

// y[c, o] = the largest pixel of the window and its flat index in the image. Of equal pixels the first wins; a NaN
// wins, and of several the last. A window that reads no pixel is minus infinity, with the index 0.
extern "C" __global__ void max_pool(const REAL* x, REAL* y, long long* indices, long long elements, Window g) {
    long long at = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= elements) return;
    const REAL* image = x + at / outputs(g) * pixels(g);
    Place o = output_at(g, at);
    REAL best = -REAL(1e308 * 10);  // minus infinity, for which there is no name without a header
    long long where = -1;
    for (int kd = 0; kd < g.d.kernel; ++kd)
        for (int kh = 0; kh < g.h.kernel; ++kh)
            for (int kw = 0; kw < g.w.kernel; ++kw) {
                long long i = pixel(g, o, {kd, kh, kw});
                if (i >= 0 && (where < 0 || image[i] > best || image[i] != image[i])) best = image[i], where = i;
            }
    y[at] = best;
    indices[at] = where < 0 ? 0 : where;
}

// y[c, o] = (sum of the window's pixels) / divisor[o].
extern "C" __global__ void avg_pool(const REAL* x, const REAL* divisor, REAL* y, long long elements, Window g) {
    long long at = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= elements) return;
    const REAL* image = x + at / outputs(g) * pixels(g);
    Place o = output_at(g, at);
    REAL acc = 0;
    for (int kd = 0; kd < g.d.kernel; ++kd)
        for (int kh = 0; kh < g.h.kernel; ++kh)
            for (int kw = 0; kw < g.w.kernel; ++kw) {
                long long i = pixel(g, o, {kd, kh, kw});
                if (i >= 0) acc += image[i];
            }
    y[at] = acc / divisor[at % outputs(g)];
}

// gx[c, i] = sum over the (o, k) that read i of gy[c, o] / divisor[o].
extern "C" __global__ void avg_pool_input(const REAL* gy, const REAL* divisor, REAL* gx, long long elements, Window g) {
    long long at = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= elements) return;
    const REAL* given = gy + at / pixels(g) * outputs(g);
    Place i = pixel_at(g, at);
    REAL acc = 0;
    for (int kd = 0; kd < g.d.kernel; ++kd)
        for (int kh = 0; kh < g.h.kernel; ++kh)
            for (int kw = 0; kw < g.w.kernel; ++kw) {
                long long o = reader(g, i, {kd, kh, kw});
                if (o >= 0) acc += given[o] / divisor[o];
            }
    gx[at] = acc;
}
