// Convolution, and the gradient of its input, as matrix products that never write their columns down: implicit im2col,
// with the tiles of tile.h. FEW is one more constant that the launcher puts in front, see `Problem`.
#include "tile.h"

// How results read their source on one axis: place u, of `made`, reads place u * step + first + t * move with its t-th
// tap, of `taps`, where 0 <= that < size. This is tap `tap` + t * every of the weights. The result stands at
// start + u * spread, of `all`.
struct Reach { int made, size, step, first, move, taps, tap, every, start, spread, all; };
struct Reading { Reach d, h, w; };

// Outputs read pixels.
__device__ Reach forward(Axis a) {
    return {a.output, a.size, a.stride, -a.padding, a.dilation, a.kernel, 0, 1, 0, 1, a.output};
}

// Pixels read outputs. Those taps k read pixel i for which i + padding - k * dilation is a multiple of the stride: the
// same for pixel `start` and every stride-th from there, which together are read like a convolution of stride 1.
__device__ Reach backward(Axis a, int start) {
    int step = a.dilation % a.stride, every = 0, rest = 0, k = 0;
    do ++every, rest += rest < a.stride - step ? step : step - a.stride;  // one tap in `every` reads
    while (rest);
    rest = ((start + a.padding) % a.stride + a.stride) % a.stride;
    for (; k < every && rest; ++k) rest += rest < step ? a.stride - step : -step;
    int taps = k < every && k < a.kernel ? (a.kernel - 1 - k) / every + 1 : 0;
    return {(a.size - start + a.stride - 1) / a.stride, a.output, 1, (start + a.padding - k * a.dilation) / a.stride,
            -every * a.dilation / a.stride, taps, k, every, start, a.stride, a.size};
}

__device__ int source(const Reach& r, int u, int t) {
    int at = u * r.step + r.first + t * r.move;
    return 0 <= at && at < r.size ? at : -1;
}
__device__ long long source(const Reading& r, Place u, Place t) {
    int d = source(r.d, u.d, t.d), h = source(r.h, u.h, t.h), w = source(r.w, u.w, t.w);
    return d < 0 || h < 0 || w < 0 ? -1 : ((long long)d * r.h.size + h) * r.w.size + w;
}
__device__ long long target(const Reading& r, Place u) {
    int d = r.d.start + u.d * r.d.spread, h = r.h.start + u.h * r.h.spread, w = r.w.start + u.w * r.w.spread;
    return ((long long)d * r.h.all + h) * r.w.all + w;
}
__device__ int tap_of(const Reading& r, Window g, Place t) {
    int d = r.d.tap + t.d * r.d.every, h = r.h.tap + t.h * r.h.every, w = r.w.tap + t.w * r.w.every;
    return (d * g.h.kernel + h) * g.w.kernel + w;
}
__device__ Place nth_tap(const Reading& r, int t) {
    return {t / r.w.taps / r.h.taps, t / r.w.taps % r.h.taps, t % r.w.taps};
}

// Where the sum is: at slices of a tap, from a channel on; and how many slices are left at further taps.
struct Walk { Place tap; int channel, slices, left; };

__device__ void next_tap(Walk& walk, const Reading& r, int slices_a_tap) {
    if (++walk.tap.w == r.w.taps) {
        walk.tap.w = 0;
        if (++walk.tap.h == r.h.taps) walk.tap.h = 0, ++walk.tap.d;
    }
    walk.channel = 0, walk.slices = min(walk.left, slices_a_tap), walk.left -= walk.slices;
}

// What `gather` below is given. `depth`: how many channels a tap sums over. With FEW, for outputs of few channels that
// would leave a slice half empty, all taps of all channels take the place of one tap's channels.
struct Problem { const REAL *x, *packed; int N, C, rows, groups, depth; Window g; };

// What a depth of FEW adds to the place of an output; its channel.
struct Shift { int d, h, w, channel; };
const int MOST_FEW = FEW ? 512 : 1, NOWHERE = -(1 << 29);  // outside, whatever is added

// What the threads of a block share. In shared memory also what is rarely needed: registers are for results.
struct Shared {
    Place places[COLUMNS];
    int images[COLUMNS];  // -1 behind the last column
    Reading r;
    Part part;
    Walk walk;
    Shift shifts[MOST_FEW];
    int plane, slice_of_weights;  // elements from one channel to the next; from one slice to the next
};

__device__ int slices_a_tap(int depth) { return (depth + DEPTH - 1) / DEPTH; }
__device__ int padded(int rows) { return (rows + ROWS - 1) / ROWS * ROWS; }

// packed[group, tap, channel, part.row + row]
__device__ const REAL* weights_at(const Problem& p, const Shared& s, Place t, int channel, int row) {
    long long tap = FEW ? s.part.group : (long long)s.part.group * taps(p.g) + tap_of(s.r, p.g, t);
    long long line = tap * slices_a_tap(p.depth) * DEPTH + channel;
    return p.packed + line * padded(p.rows) + s.part.row + row;
}

// What this block makes; false if nothing, for phases have different numbers of pixels.
__device__ bool set_up(const Problem& p, Shared& s, int column_tiles, int splits, bool back) {
    if (threadIdx.x == 0) {
        Axis D = p.g.d, H = p.g.h, W = p.g.w;
        Part part = part_of(p.rows, column_tiles, splits);
        s.r = {forward(D), forward(H), forward(W)};
        if (back) {
            int d = min(D.stride, D.size), h = min(H.stride, H.size), w = min(W.stride, W.size), phase = part.group;
            s.r = {backward(D, phase / w / h % d), backward(H, phase / w % h), backward(W, phase % w)};
            part.group /= d * h * w;
        }
        if (FEW) s.r.d.taps = s.r.h.taps = s.r.w.taps = 1;
        int each = slices_a_tap(p.depth);
        long long slices = (long long)s.r.d.taps * s.r.h.taps * s.r.w.taps * each;
        part.begin = slices * part.split / splits, part.end = slices * (part.split + 1) / splits;
        s.part = part, s.slice_of_weights = DEPTH * padded(p.rows);
        s.plane = s.r.d.size * s.r.h.size * s.r.w.size;
        int all = part.end - part.begin, skip = part.begin % each, first = min(all, each - skip);
        s.walk = {all ? nth_tap(s.r, part.begin / each) : Place{}, skip * DEPTH, first, all - first};
    }
#pragma unroll
    for (int j = 0; j < MOST_FEW / THREADS; ++j) {
        int i = j * THREADS + threadIdx.x;
        if (i >= slices_a_tap(p.depth) * DEPTH) continue;
        Place t = tap_at(p.g, i % taps(p.g));
        s.shifts[i] = {t.d * p.g.d.dilation, t.h * p.g.h.dilation, t.w * p.g.w.dilation, i / taps(p.g)};
        if (i >= p.depth) s.shifts[i] = {NOWHERE, 0, 0, 0};
    }
    __syncthreads();
    int made = s.r.d.made * s.r.h.made * s.r.w.made;
    if (s.part.column >= (long long)p.N * made) return false;
    if (threadIdx.x < COLUMNS) {
        long long column = s.part.column + threadIdx.x, image = column / made;
        Place u = place(column % made, s.r.d.made, s.r.h.made, s.r.w.made);
        s.places[threadIdx.x] = {u.d, u.h, u.w};
        s.images[threadIdx.x] = image < p.N ? image : -1;
    }
    __syncthreads();
    return true;
}

// The sum over the slices of this part. The tap is the outer loop: which pixel it reads is worked out once for all
// channels, and then the address only moves on.
__device__ __forceinline__ void sum_up(const Problem& p, Shared& s, Slice* slices, Four (*acc)[ACROSS]) {
    // This thread brings EACH channels of one column, and four rows of one channel of the weights.
    const int EACH = COLUMNS * DEPTH / THREADS;
    int column = threadIdx.x % COLUMNS, channel = threadIdx.x / COLUMNS * EACH;
    int filter_channel = threadIdx.x / (ROWS / 4), filter_row = threadIdx.x % (ROWS / 4) * 4;
    const int plane = s.plane, slice_of_weights = s.slice_of_weights;
    int channels, now = 0;
    const REAL *pixel, *filter;
    Four a;
    REAL b[EACH];
    int at = 0;  // with FEW: the depth of the next slice
    Place from;
    auto aim = [&]() {  // at the slices of a tap
        long long i = s.images[column] < 0 ? -1 : source(s.r, s.places[column], s.walk.tap);
        int c = s.walk.channel + channel;
        if (FEW) {
            const Place& u = s.places[column];
            from = {u.d * s.r.d.step + s.r.d.first, u.h * s.r.h.step + s.r.h.first, u.w * s.r.w.step + s.r.w.first};
            if (s.images[column] < 0) from.d = NOWHERE;
            at = c, c = 0, i = 0;
        }
        channels = i < 0 ? 0 : p.depth - c;
        pixel = p.x + (((long long)s.images[column] * p.groups + s.part.group) * p.C + c) * plane + i;
        filter = weights_at(p, s, s.walk.tap, s.walk.channel + filter_channel, filter_row);
    };
    auto load = [&]() {
        if (filter_channel < DEPTH) a = *(const Four*)filter;
#pragma unroll
        for (int e = 0; e < EACH && !FEW; ++e) b[e] = e < channels ? pixel[(long long)e * plane] : REAL(0);
#pragma unroll
        for (int e = 0; e < EACH && FEW; ++e) {
            Shift more = s.shifts[at + e];
            int d = from.d + more.d, h = from.h + more.h, w = from.w + more.w;
            bool inside = unsigned(d) < p.g.d.size && unsigned(h) < p.g.h.size && unsigned(w) < p.g.w.size;
            const REAL* there = pixel + (long long)more.channel * plane + (d * p.g.h.size + h) * p.g.w.size + w;
            b[e] = inside ? *there : REAL(0);
        }
        filter += slice_of_weights, channels -= DEPTH;
        if (FEW) at += DEPTH;
        else pixel += (long long)DEPTH * plane;
    };
    auto store = [&](Slice& slice) {
        if (filter_channel < DEPTH) *(Four*)&slice.a[filter_channel][filter_row] = a;
#pragma unroll
        for (int e = 0; e < EACH; ++e) slice.b[channel + e][column] = b[e];
    };
    aim();
    load();
    store(slices[0]);
    int more = s.walk.slices - 1;
    __syncthreads();
    do {
#pragma unroll 1
        for (; more; --more) {
            load();
            multiply(slices[now], corner(), acc);
            now ^= 1;
            store(slices[now]);
            __syncthreads();
        }
        if (threadIdx.x == 0) next_tap(s.walk, s.r, slices_a_tap(p.depth));
        __syncthreads();
        aim();
        more = s.walk.slices;
    } while (more);
    multiply(slices[now], corner(), acc);
}

// Writes a thread's results; true if one of them is NaN. Where four neighbouring columns are four neighbours in one
// plane, they are written at once.
__device__ __forceinline__ bool write(const Problem& p, const Shared& s, const Four (*acc)[ACROSS], REAL* results) {
    const Reading& r = s.r;
    Corner my = corner();
    long long plane = (long long)r.d.all * r.h.all * r.w.all;
    bool fours = r.w.spread * r.h.spread * r.d.spread == 1 && plane % 4 == 0, nan = false;
#pragma unroll
    for (int q = 0; q < ACROSS; ++q)
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            int column = my.column + 32 * q + j;
#pragma unroll
            for (int i = 0; i < 8; ++i) nan = nan || acc[i][q].at[j] != acc[i][q].at[j];
            if (s.images[column] < 0 || (fours && j)) continue;
            long long first = ((long long)s.images[column] * p.groups + s.part.group) * p.rows + s.part.row + my.row;
            REAL* result = results + first * plane + target(r, s.places[column]);
#pragma unroll
            for (int i = 0; i < 8; ++i) {
                int row = i / 4 * 16 + i % 4;
                if (s.part.row + my.row + row >= p.rows) continue;
                if (fours) *(Four*)(result + row * plane) = acc[i][q];
                else result[row * plane] = acc[i][q].at[j];
            }
        }
    return nan;
}

// A gradient sums over those taps that read a pixel. Where another pixel of the tile is read by one more, a weight was
// multiplied by 0: that changes nothing, but where the weight is infinite or NaN. So what may be NaN is summed up
// again.
__device__ void write_again(const Problem& p, const Shared& s, REAL* results) {
    Corner my = corner();
    int each = slices_a_tap(p.depth);
#pragma unroll 1
    for (int k = 0; k < 32 * ACROSS; ++k) {
        int row = row_of(my, k % 8), column = my.column + k / 32 * 32 + k / 8 % 4, image = s.images[column];
        if (s.part.row + row >= p.rows || image < 0) continue;
        const REAL* given = p.x + ((long long)image * p.groups + s.part.group) * p.C * s.plane;
        REAL sum = 0;
        for (int slice = s.part.begin; slice < s.part.end; ++slice) {
            Place t = nth_tap(s.r, slice / each);
            long long i = source(s.r, s.places[column], t);
            int c = slice % each * DEPTH, end = i < 0 ? c : min(p.C, c + DEPTH);
            for (; c < end; ++c) sum += given[(long long)c * s.plane + i] * *weights_at(p, s, t, c, row);
        }
        long long first = ((long long)image * p.groups + s.part.group) * p.rows + s.part.row + row;
        results[first * s.r.d.all * s.r.h.all * s.r.w.all + target(s.r, s.places[column])] = sum;
    }
}

// Outputs (forward) or pixels (backward) as sums over taps and channels:
//
//     y[s, n, row, target(u)] = sum over t, c of x[n, c, source(u, t)] packed[tap, c, row],
//
// of the slices that part s of `splits` has. Rows are channels, columns the places u of all images. Backward, groups
// have phases, one a remainder of the pixels modulo the stride. x (N, groups, C, *source), packed (groups, K, C padded
// to 8, rows padded to ROWS), y (splits, N, groups, rows, *all).
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) gather(
    const REAL* x, const REAL* packed, REAL* y, int N, int C, int rows, int groups, int column_tiles, int splits,
    int back, Window g) {
    __shared__ Slice slices[2];
    __shared__ Shared s;
    Problem p = {x, packed, N, C, rows, groups, FEW ? C * taps(g) : C, g};
    if (!set_up(p, s, column_tiles, splits, back)) return;
    Four acc[8][ACROSS] = {};
    if (s.walk.slices) sum_up(p, s, slices, acc);
    REAL* results = y + (long long)s.part.split * N * groups * rows * s.r.d.all * s.r.h.all * s.r.w.all;
    if (write(p, s, acc, results) && back) write_again(p, s, results);
}
