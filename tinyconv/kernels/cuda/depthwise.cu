// Depthwise convolution: each group has one input channel c and `times` output channels c * times + j, so there is
// nothing to sum but the taps, and the time is that of reading and writing.
//
// A block takes a share of the outputs (or pixels) of one channel, in all images one after the other. Neighbouring
// threads take neighbours; each takes every THREADS-th, and its place moves on by addition. SIZE and STRIDE are
// constants that the launcher puts in front: 3 and 1 or 2 for 3 x 3 windows with that stride on both axes and without
// dilation, whose loops are then unrolled, for strips of four outputs (of doubles two) below each other that share what
// they read; 0 and 0 for any window, and strips of one. REAL is float or double.

const int THREADS = 128, UNROLL = SIZE ? SIZE : 1, TAPS = UNROLL * UNROLL;
const int STRIP = SIZE ? 16 / sizeof(REAL) : 1;  // doubles take twice the registers

// The same window, with what the constants say in the place of what is asked at run time.
__device__ Window known(Window g) {
    if (!SIZE) return g;
    g.d = {1, 1, 1, 1, 1, 0};
    g.h.kernel = g.w.kernel = SIZE, g.h.stride = g.w.stride = STRIDE, g.h.dilation = g.w.dilation = 1;
    return g;
}

// The places of a thread in one channel's planes of D x H x W, from place q on, counted over all images. H counts
// strips.
struct Walk {
    int D, H, W, image;
    Place at;
    int images_more;  // for THREADS places more
    Place more;

    __device__ Walk(int D, int H, int W, long long q) : D(D), H(H), W(W) {
        unsigned flat = q % (D * H * W);
        image = q / (D * H * W);
        at = {int(flat / W / H), int(flat / W % H), int(flat % W)};
        images_more = THREADS / W / H / D;
        more = {THREADS / W / H % D, THREADS / W % H, THREADS % W};
    }
    __device__ void next() {
        image += images_more, at.d += more.d, at.h += more.h, at.w += more.w;
        if (at.w >= W) at.w -= W, ++at.h;
        if (at.h >= H) at.h -= H, ++at.d;
        if (at.d >= D) at.d -= D, ++image;
    }
    __device__ Place first() const { return {at.d, at.h * STRIP, at.w}; }
};

__device__ int strips(int H) { return (H + STRIP - 1) / STRIP; }

// The pixels that output o reads from tap k on in a row: where the first is, in its plane and on its axis.
struct Row {
    int at, w;
    bool inside;  // on the other axes

    __device__ bool reads(int more, Axis a) const { return inside && unsigned(w + more * a.dilation) < a.size; }
};
__device__ Row row_at(Window g, Place o, Place k) {
    int d = position(g.d, o.d, k.d), h = position(g.h, o.h, k.h), w = position(g.w, o.w, k.w);
    return {(d * g.h.size + h) * g.w.size + w, w, unsigned(d) < g.d.size && unsigned(h) < g.h.size};
}

// y[n, co, o] = sum over k of x[n, co / times, pixel(o, k)] w[co, k]. Blocks: shares, channels. Padding takes part in
// the sum, for 0 * inf is NaN; but not with `back`, which turns the window around: then y is the gradient of the input
// of windows of stride 1, x that of their outputs.
extern "C" __global__ void __launch_bounds__(THREADS, 8) conv(
    const REAL* __restrict__ x, const REAL* __restrict__ w, REAL* __restrict__ y, int N, int C, int times, int shares,
    long long share, int back, Window window) {
    Window g = known(window);
    int co = blockIdx.x / shares, channel = co / times, K = taps(g), H = strips(g.h.output);
    const REAL* filter = w + (long long)co * K + (back ? K - 1 : 0);
    int next = back ? -1 : 1;
    REAL weights[TAPS];  // of 3 x 3 windows: in registers
#pragma unroll
    for (int t = 0; t < TAPS; ++t) weights[t] = filter[t * next];
    long long begin = blockIdx.x % shares * share;
    long long q = begin + threadIdx.x, end = min(begin + share, (long long)N * g.d.output * H * g.w.output);
    for (Walk o(g.d.output, H, g.w.output, q); q < end; q += THREADS, o.next()) {
        const REAL* image = x + ((long long)o.image * C + channel) * pixels(g);
        Place first = o.first();
        REAL acc[STRIP] = {};
        for (int kd = 0; kd < g.d.kernel; ++kd)
#pragma unroll (STRIP - 1) * STRIDE + UNROLL
            for (int r = 0; r < (STRIP - 1) * STRIDE + g.h.kernel; ++r) {
                Row row = row_at(g, first, {kd, r, 0});
#pragma unroll UNROLL
                for (int kw = 0; kw < g.w.kernel; ++kw) {
                    bool reads = row.reads(kw, g.w);
                    REAL pixel = reads ? (image + row.at)[kw * g.w.dilation] : REAL(0);
#pragma unroll
                    for (int s = 0; s < STRIP; ++s) {
                        int kh = r - s * STRIDE;
                        if (kh < 0 || kh >= g.h.kernel) continue;
                        int tap = (kd * g.h.kernel + kh) * g.w.kernel + kw;
                        if (reads || !back) acc[s] += pixel * (SIZE ? weights[tap] : filter[tap * next]);
                    }
                }
            }
        REAL* result = y + (((long long)o.image * C * times + co) * g.d.output + first.d) * g.h.output * g.w.output;
#pragma unroll
        for (int s = 0; s < STRIP; ++s)
            if (first.h + s < g.h.output) result[(first.h + s) * g.w.output + first.w] = acc[s];
    }
}

// The gradient of the input of 3 x 3 windows with stride 2. A thread makes the four pixels i = 2 m + e - padding: with
// e = 0 they are read by tap 0 of output m and tap 2 of output m - 1, with e = 1 by tap 1 of output m.
__device__ void conv_input_by_twos(const REAL* gy, const REAL* w, REAL* gx, int N, int C, int times, int c,
                                   long long begin, long long share, Window g) {
    int H = (g.h.size - 1 + g.h.padding) / 2 + 1, W = (g.w.size - 1 + g.w.padding) / 2 + 1;
    long long q = begin + threadIdx.x, end = min(begin + share, (long long)N * H * W);
    for (Walk m(1, H, W, q); q < end; q += THREADS, m.next()) {
        REAL acc[2][2] = {};
        for (int j = 0; j < times; ++j) {
            const REAL* given = gy + (((long long)m.image * C + c) * times + j) * outputs(g);
            const REAL* weights = w + (c * times + j) * 9LL;
#pragma unroll
            for (int k = 0; k < 4; ++k) {
                int a = k / 2, b = k % 2, h = m.at.h - a, o = m.at.w - b;
                if (unsigned(h) >= g.h.output || unsigned(o) >= g.w.output) continue;
                REAL value = given[h * g.w.output + o];
                acc[0][0] += value * weights[6 * a + 2 * b];
                if (!b) acc[0][1] += value * weights[6 * a + 1];
                if (!a) acc[1][0] += value * weights[3 + 2 * b];
                if (!a && !b) acc[1][1] += value * weights[4];
            }
        }
        REAL* made = gx + ((long long)m.image * C + c) * pixels(g);
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            int h = 2 * m.at.h + k / 2 - g.h.padding, i = 2 * m.at.w + k % 2 - g.w.padding;
            if (unsigned(h) < g.h.size && unsigned(i) < g.w.size) made[h * g.w.size + i] = acc[k / 2][k % 2];
        }
    }
}

// gx[n, c, i] = sum over j, k and the o whose tap k reads i of gy[n, c * times + j, o] w[c * times + j, k].
extern "C" __global__ void __launch_bounds__(THREADS, 8) conv_input(const REAL* __restrict__ gy,
                                                                const REAL* __restrict__ w, REAL* __restrict__ gx,
                                                                int N, int C, int times, int shares, long long share,
                                                                Window window) {
    Window g = known(window);
    int c = blockIdx.x / shares;
    long long begin = blockIdx.x % shares * share, end = min(begin + share, N * pixels(g));
    if (STRIDE == 2) {
        conv_input_by_twos(gy, w, gx, N, C, times, c, begin, share, g);
        return;
    }
    Reader tap_d = a_tap(g.d), tap_h = a_tap(g.h), tap_w = a_tap(g.w);
    long long q = begin + threadIdx.x;
    for (Walk i(g.d.size, g.h.size, g.w.size, q); q < end; q += THREADS, i.next()) {
        Reader front = first_reader(g.d, i.at.d), top = first_reader(g.h, i.at.h), left = first_reader(g.w, i.at.w);
        REAL acc = 0;  // stays 0 for a pixel that no window reads
        for (int j = 0; j < times; ++j) {
            const REAL* given = gy + (((long long)i.image * C + c) * times + j) * outputs(g);
            const REAL* filter = w + ((long long)c * times + j) * taps(g);
            Reader d = front;
            for (int kd = 0; kd < g.d.kernel; ++kd, d = next_reader(d, tap_d, g.d)) {
                Reader h = top;
#pragma unroll UNROLL
                for (int kh = 0; kh < g.h.kernel; ++kh, h = next_reader(h, tap_h, g.h)) {
                    if (!reads(d, g.d) || !reads(h, g.h)) continue;  // for most threads of a warp at once
                    const REAL* weights = filter + (kd * g.h.kernel + kh) * g.w.kernel;
                    int row = (d.output * g.h.output + h.output) * g.w.output;
                    Reader o = left;
#pragma unroll UNROLL
                    for (int kw = 0; kw < g.w.kernel; ++kw, o = next_reader(o, tap_w, g.w))
                        if (reads(o, g.w)) acc += given[row + o.output] * weights[kw];
                }
            }
        }
        gx[((long long)i.image * C + c) * pixels(g) + (i.at.d * g.h.size + i.at.h) * g.w.size + i.at.w] = acc;
    }
}

// A share of the weight gradient: parts[s, co, k] = sum over (n, o) of x[n, co / times, pixel(o, k)] gy[n, co, o], of
// the outputs that share s has. Each thread sums up its own; then half of the threads add the sums of the other half,
// and so on: the order is always the same. Blocks: shares, taps where not all are taken at once, channels.
extern "C" __global__ void __launch_bounds__(THREADS, 8) weight_parts(const REAL* __restrict__ x,
                                                                  const REAL* __restrict__ gy,
                                                                  REAL* __restrict__ parts, int N, int C, int times,
                                                                  int shares, long long share, Window window) {
    __shared__ REAL sums[TAPS][THREADS];
    Window g = known(window);
    int K = taps(g), tap = blockIdx.x / shares % (K / TAPS), co = blockIdx.x / shares / (K / TAPS);
    int channel = co / times;
    Place tap_read = tap_at(g, tap * TAPS);
    REAL acc[TAPS] = {};
    int H = strips(g.h.output);
    long long begin = blockIdx.x % shares * share;
    long long q = begin + threadIdx.x, end = min(begin + share, (long long)N * g.d.output * H * g.w.output);
    for (Walk o(g.d.output, H, g.w.output, q); q < end; q += THREADS, o.next()) {
        const REAL* image = x + ((long long)o.image * C + channel) * pixels(g);
        Place first = o.first();
        long long plane = ((long long)o.image * C * times + co) * g.d.output + first.d;
        const REAL* gradient = gy + plane * g.h.output * g.w.output + first.h * g.w.output + first.w;
        REAL given[STRIP];
#pragma unroll
        for (int s = 0; s < STRIP; ++s) given[s] = first.h + s < g.h.output ? gradient[s * g.w.output] : REAL(0);
#pragma unroll
        for (int r = 0; r < (STRIP - 1) * STRIDE + UNROLL; ++r) {
            Row row = row_at(g, first, {tap_read.d, tap_read.h + r, tap_read.w});
#pragma unroll
            for (int kw = 0; kw < UNROLL; ++kw) {
                REAL pixel = row.reads(kw, g.w) ? (image + row.at)[kw * g.w.dilation] : REAL(0);
#pragma unroll
                for (int s = 0; s < STRIP; ++s) {
                    int kh = r - s * STRIDE;
                    if (0 <= kh && kh < UNROLL && first.h + s < g.h.output) acc[kh * UNROLL + kw] += pixel * given[s];
                }
            }
        }
    }
#pragma unroll
    for (int t = 0; t < TAPS; ++t) sums[t][threadIdx.x] = acc[t];
    for (int half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half)
            for (int t = 0; t < TAPS; ++t) sums[t][threadIdx.x] += sums[t][threadIdx.x + half];
    }
    __syncthreads();
    REAL* part = parts + ((long long)(blockIdx.x % shares) * C * times + co) * K + tap * TAPS;
    if (threadIdx.x < TAPS) part[threadIdx.x] = sums[threadIdx.x][0];
}
