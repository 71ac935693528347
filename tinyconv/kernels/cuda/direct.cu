// The convolution and its two gradients as they are defined: the bottom of the ladder on a GPU, to be read first.
//
// Windows have three axes; signals and images have axes of one pixel in front. Which pixel a tap reads, and which
// output reads a pixel, stands in window.h. All three kernels gather: a thread, or a block, sums up one result, so that
// nothing is written twice and each call gives the same bits.
//
// REAL is float or double. Offsets are 64 bit: three axes soon have more than 2^31 elements.

// y[n, co, o] = sum over ci, k of x[n, ci, pixel(o, k)] w[co, ci, k]: one thread an output.
extern "C" __global__ void conv(const REAL* x, const REAL* w, REAL* y, long long elements, int C_in, int C_out,
                                int groups, Window g) {
    long long at = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= elements) return;
    Place o = output_at(g, at);
    long long plane = at / outputs(g);
    int co = plane % C_out, n = plane / C_out;
    int C_group = C_in / groups, first = co / (C_out / groups) * C_group;  // the input channels of co's group
    REAL acc = 0;
    for (int ci = 0; ci < C_group; ++ci) {
        const REAL* image = x + ((long long)n * C_in + first + ci) * pixels(g);
        const REAL* filter = w + ((long long)co * C_group + ci) * taps(g);
        int tap = 0;
        for (int kd = 0; kd < g.d.kernel; ++kd)
            for (int kh = 0; kh < g.h.kernel; ++kh)
                for (int kw = 0; kw < g.w.kernel; ++kw) {
                    long long i = pixel(g, o, {kd, kh, kw});
                    acc += (i < 0 ? REAL(0) : image[i]) * filter[tap++];  // padding takes part: 0 * inf is NaN
                }
    }
    y[at] = acc;
}

// gx[n, ci, i] = sum over co and the (o, k) that read i of gy[n, co, o] w[co, ci, k]: one thread a pixel.
extern "C" __global__ void conv_input(const REAL* gy, const REAL* w, REAL* gx, long long elements, int C_in, int C_out,
                                      int groups, Window g) {
    long long at = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= elements) return;
    Place i = pixel_at(g, at);
    long long plane = at / pixels(g);
    int c = plane % C_in, n = plane / C_in;
    int C_group = C_in / groups, ci = c % C_group, outs = C_out / groups, first = c / C_group * outs;
    REAL acc = 0;  // stays 0 for a pixel that no window reads
    for (int co = first; co < first + outs; ++co) {
        const REAL* given = gy + ((long long)n * C_out + co) * outputs(g);
        const REAL* filter = w + ((long long)co * C_group + ci) * taps(g);
        int tap = 0;
        for (int kd = 0; kd < g.d.kernel; ++kd)
            for (int kh = 0; kh < g.h.kernel; ++kh)
                for (int kw = 0; kw < g.w.kernel; ++kw, ++tap) {
                    long long o = reader(g, i, {kd, kh, kw});
                    if (o >= 0) acc += given[o] * filter[tap];
                }
    }
    gx[at] = acc;
}

// gw[co, ci, k] = sum over n, o of x[n, ci, pixel(o, k)] gy[n, co, o]: one block a weight. Each thread sums up every
// 128th output; then half of the threads add the sums of the other half, and so on: the order is always the same.
extern "C" __global__ void conv_weight(const REAL* x, const REAL* gy, REAL* gw, int N, int C_in, int C_out, int groups,
                                       Window g) {
    __shared__ REAL sums[128];
    int C_group = C_in / groups, ci = blockIdx.x / taps(g) % C_group, co = blockIdx.x / taps(g) / C_group;
    int c = co / (C_out / groups) * C_group + ci;
    Place k = tap_at(g, blockIdx.x);
    REAL acc = 0;
    for (int n = 0; n < N; ++n) {
        const REAL* image = x + ((long long)n * C_in + c) * pixels(g);
        const REAL* given = gy + ((long long)n * C_out + co) * outputs(g);
        for (int o = threadIdx.x; o < outputs(g); o += 128) {
            long long i = pixel(g, output_at(g, o), k);
            acc += (i < 0 ? REAL(0) : image[i]) * given[o];
        }
    }
    sums[threadIdx.x] = acc;
    for (int half = 64; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
    }
    if (threadIdx.x == 0) gw[blockIdx.x] = sums[0];
}
