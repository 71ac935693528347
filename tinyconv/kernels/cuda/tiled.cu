// Convolution and both of its gradients as matrix products that never write their columns down: implicit im2col with
// tiles in shared memory.
//
// A block makes a tile of ROWS x COLUMNS results, each thread 8 x (4 * ACROSS) of them in registers. The sum runs over
// slices of 8: both factors of a slice are brought into shared memory, where each number is then used by a whole row or
// column of threads. There are two slices: while one is multiplied, the next is on its way from memory into registers,
// and is then written into the other. So a slice needs one barrier, and nobody waits for memory.
//
// ROWS, COLUMNS and ACROSS are constants that the launcher puts in front (tiled.py says which); REAL is float or double.

const int THREADS = ROWS * COLUMNS / (32 * ACROSS), DEPTH = 8;
const int BLOCKS = (sizeof(REAL) == 8 || ROWS < COLUMNS ? 384 : 512) / THREADS;  // on a multiprocessor, where registers allow it

// Four neighbours, read and written at once.
struct __align__(16) Four { REAL at[4]; };

// A slice of both factors. With four columns more than a tile has, eight threads that write the same column of eight
// depths reach different banks.
struct __align__(16) Slice { REAL a[DEPTH][ROWS + 4], b[DEPTH][COLUMNS + 4]; };

// The first of a thread's results in the tile: it makes rows row .. row + 3 and row + 16 .. row + 19, and of columns
// column .. column + 3 and the same 32 further. So a warp makes 32 rows, reads 4 * 16 bytes of a and 8 * 16 of b at once,
// which are neighbours, and no two banks collide.
struct Corner { int row, column; };

__device__ Corner corner() {
    const int across = COLUMNS / (32 * ACROSS);  // warps side by side
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    return {warp / across * 32 + lane / 8 * 4, warp % across * 32 * ACROSS + lane % 8 * 4};
}

// acc[i][p].at[j] += sum over d of a[d][row of i] b[d][column of p and j].
__device__ __forceinline__ void multiply(const Slice& s, Corner my, Four (*acc)[ACROSS]) {
#pragma unroll
    for (int d = 0; d < DEPTH; ++d) {
        Four a[2], b[ACROSS];
#pragma unroll
        for (int p = 0; p < 2; ++p) a[p] = *(const Four*)&s.a[d][my.row + 16 * p];
#pragma unroll
        for (int p = 0; p < ACROSS; ++p) b[p] = *(const Four*)&s.b[d][my.column + 32 * p];
#pragma unroll
        for (int i = 0; i < 8; ++i)
#pragma unroll
            for (int j = 0; j < 4 * ACROSS; ++j) acc[i][j / 4].at[j % 4] += a[i / 4].at[i % 4] * b[j / 4].at[j % 4];
    }
}

__device__ int row_of(Corner my, int i) { return my.row + i / 4 * 16 + i % 4; }

// How results read their source on one axis: place u, of `made`, reads place u * step + first + t * move with its t-th
// tap, of `taps`, where 0 <= that < size. This is tap `tap` + t * every of the weights. The result stands at
// start + u * spread, of `all`.
struct Reach { int made, size, step, first, move, taps, tap, every, start, spread, all; };
struct Reading { Reach d, h, w; };

// What a block makes: the first row and column of its tile, of which group; and the slices that it sums over, where
// several share the sum. In shared memory, like the reading: what a thread needs rarely is not to cost it registers.
struct Part { long long column; int row, group, split, begin, end; };

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

// Outputs (forward) or pixels (backward) as sums over taps and channels:
//
//     y[s, n, row, target(u)] = sum over t, c of x[n, c, source(u, t)] packed[tap, c, row],
//
// of the slices that part s of `splits` has. Rows are channels, columns the places u of all images. The tap is the outer
// loop: which pixel it reads is worked out once for all channels, and then the address only moves on.
// x (N, groups, C, *source), packed (groups, K, C padded to 8, rows padded to ROWS), y (splits, N, groups, rows, *all).
// Blocks: rows of tiles, columns of tiles, parts, with backward phases (one a remainder of the pixels), groups; the first
// moves fastest, so that blocks which read the same pixels run at the same time.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) gather(
    const REAL* x, const REAL* packed, REAL* y, int N, int C, int rows, int groups, int column_tiles, int splits,
    int back, Window g) {
    __shared__ Slice slices[2];
    __shared__ Reading r;
    __shared__ Place places[COLUMNS];
    __shared__ int images[COLUMNS];  // -1 behind the last column
    __shared__ Part part;
    __shared__ Walk walk;
    const int slices_a_tap = (C + DEPTH - 1) / DEPTH, R = (rows + ROWS - 1) / ROWS * ROWS;
    if (threadIdx.x == 0) {
        int row_tiles = R / ROWS, block = blockIdx.x;
        part.row = block % row_tiles * ROWS, block /= row_tiles;
        part.column = block % column_tiles * (long long)COLUMNS, block /= column_tiles;
        part.split = block % splits, block /= splits;
        r = {forward(g.d), forward(g.h), forward(g.w)};
        if (back) {
            int D = min(g.d.stride, g.d.size), H = min(g.h.stride, g.h.size), W = min(g.w.stride, g.w.size);
            r = {backward(g.d, block / W / H % D), backward(g.h, block / W % H), backward(g.w, block % W)};
            block = block / W / H / D;
        }
        part.group = block;
        long long all = (long long)r.d.taps * r.h.taps * r.w.taps * slices_a_tap;
        int begin = all * part.split / splits, end = all * (part.split + 1) / splits, skip = begin % slices_a_tap;
        part.begin = begin, part.end = end;
        int slices = min(end - begin, slices_a_tap - skip);
        walk = {end > begin ? nth_tap(r, begin / slices_a_tap) : Place{}, skip * DEPTH, slices, end - begin - slices};
    }
    __syncthreads();
    int made = r.d.made * r.h.made * r.w.made, plane = r.d.size * r.h.size * r.w.size;
    if (part.column >= (long long)N * made) return;  // phases have different numbers of pixels
    if (threadIdx.x < COLUMNS) {
        long long flat = part.column + threadIdx.x, image = flat / made;
        places[threadIdx.x] = place(flat % made, r.d.made, r.h.made, r.w.made);
        images[threadIdx.x] = image < N ? image : -1;
    }
    __syncthreads();

    // What this thread brings of each slice: EACH channels of one column, and four rows of one channel of the weights.
    const int EACH = COLUMNS * DEPTH / THREADS;
    int column = threadIdx.x % COLUMNS, channel = threadIdx.x / COLUMNS * EACH;
    int filter_channel = threadIdx.x / (ROWS / 4), filter_row = threadIdx.x % (ROWS / 4) * 4;
        Four acc[8][ACROSS] = {};
    if (walk.slices) {
        Four a;
        REAL b[EACH];
        const REAL *pixel, *filter;
        int channels, now = 0;
        auto aim = [&]() {  // at the slices of a tap
            long long i = images[column] < 0 ? -1 : source(r, places[column], walk.tap);
            int c = walk.channel;
            channels = i < 0 ? 0 : C - c - channel;
            pixel = x + (((long long)images[column] * groups + part.group) * C + c + channel) * plane + i;
            long long line = ((long long)part.group * taps(g) + tap_of(r, g, walk.tap)) * slices_a_tap * DEPTH + c;
            filter = packed + (line + filter_channel) * R + part.row + filter_row;
        };
        auto load = [&]() {
            if (filter_channel < DEPTH) a = *(const Four*)filter;
#pragma unroll
            for (int e = 0; e < EACH; ++e) b[e] = e < channels ? pixel[(long long)e * plane] : REAL(0);
            filter += DEPTH * R, pixel += (long long)DEPTH * plane, channels -= DEPTH;
        };
        auto store = [&](Slice& s) {
            if (filter_channel < DEPTH) *(Four*)&s.a[filter_channel][filter_row] = a;
#pragma unroll
            for (int e = 0; e < EACH; ++e) s.b[channel + e][column] = b[e];
        };
        aim();
        load();
        store(slices[0]);
        int more = walk.slices - 1;
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
            if (threadIdx.x == 0) next_tap(walk, r, slices_a_tap);
            __syncthreads();
            aim();
            more = walk.slices;
        } while (more);
        multiply(slices[now], corner(), acc);
    }

    Corner my = corner();
    long long plane_made = (long long)r.d.all * r.h.all * r.w.all;
    // Where four neighbouring columns are four neighbours in one plane, they are written at once.
    bool fours = r.w.spread * r.h.spread * r.d.spread == 1 && made % 4 == 0, nan = false;
    REAL* results = y + (((long long)part.split * N * groups + part.group) * rows + part.row + my.row) * plane_made;
#pragma unroll
    for (int p = 0; p < ACROSS; ++p)
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            int at = my.column + 32 * p + j;
#pragma unroll
            for (int i = 0; i < 8; ++i) nan = nan || acc[i][p].at[j] != acc[i][p].at[j];
            if (images[at] < 0 || (fours && j)) continue;
            REAL* result = results + (long long)images[at] * groups * rows * plane_made + target(r, places[at]);
#pragma unroll
            for (int i = 0; i < 8; ++i) {
                int more = row_of(my, i) - my.row;
                if (part.row + my.row + more >= rows) continue;
                if (fours) *(Four*)(result + more * plane_made) = acc[i][p];
                else result[more * plane_made] = acc[i][p].at[j];
            }
        }
    if (!back || !nan) return;

    // A gradient sums over those taps that read a pixel. Where another pixel of the tile is read by one more, a weight was
    // multiplied by 0: that changes nothing, but where the weight is infinite or NaN. So what is NaN is summed up again.
#pragma unroll 1
    for (int k = 0; k < 32 * ACROSS; ++k) {
        int row = row_of(my, k % 8), at = my.column + k / 32 * 32 + k / 8 % 4;
        if (part.row + row >= rows || images[at] < 0) continue;
        const REAL* given = x + ((long long)images[at] * groups + part.group) * C * plane;
        REAL sum = 0;
        for (int s = part.begin; s < part.end; ++s) {
            Place t = nth_tap(r, s / slices_a_tap);
            long long i = source(r, places[at], t);
            int c = s % slices_a_tap * DEPTH, end = min(C, c + DEPTH);
            long long line = ((long long)part.group * taps(g) + tap_of(r, g, t)) * slices_a_tap * DEPTH;
            for (; i >= 0 && c < end; ++c)
                sum += given[(long long)c * plane + i] * packed[(line + c) * R + part.row + row];
        }
        results[(long long)images[at] * groups * rows * plane_made + (row - my.row) * plane_made + target(r, places[at])] = sum;
    }
}

// What four neighbouring columns of the weight gradient have in common: what their tap adds to the place of an output on
// each axis; and the first of their channels.
struct Columns { int d, h, w, channel; };

// A share of the weight gradient: parts[s, group, row, k, c] = sum over the outputs q = (n, o) of share s of
// gy[n, group, row, o] x[n, group, c, pixel(o, k)]. Rows are output channels, columns the (k, c), with the channels padded
// to a multiple of 4, so that four neighbouring columns have one tap. There are few of either and many outputs to sum
// over, so `splits` blocks share the sum ("split-K"). The blocks' order is as above.
//
// A slice is 8 outputs, which are neighbours in memory: 8 threads read them side by side, each from four rows and from
// four columns. From slice to slice the place moves on by addition.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) weight_parts(
    const REAL* x, const REAL* gy, REAL* parts, int N, int C, int rows, int groups, int column_tiles, int splits,
    Window g) {
    __shared__ Slice slices[2];
    __shared__ Part part;
    __shared__ Columns fours[COLUMNS / 4];
    const int K = taps(g), padded = (C + 3) / 4 * 4, plane = pixels(g), plane_made = outputs(g);
    if (threadIdx.x == 0) {
        int row_tiles = (rows + ROWS - 1) / ROWS, block = blockIdx.x;
        part.row = block % row_tiles * ROWS, block /= row_tiles;
        part.column = block % column_tiles * COLUMNS, block /= column_tiles;
        part.split = block % splits, part.group = block / splits;
        long long all = ((long long)N * plane_made + DEPTH - 1) / DEPTH;
        part.begin = all * part.split / splits, part.end = all * (part.split + 1) / splits;
    }
    __syncthreads();
    if (threadIdx.x < COLUMNS / 4) {
        int column = part.column + 4 * threadIdx.x;
        Place t = tap_at(g, column / padded);
        fours[threadIdx.x] = {t.d * g.d.dilation - g.d.padding, t.h * g.h.dilation - g.h.padding,
                              t.w * g.w.dilation - g.w.padding, column < K * padded ? column % padded : C};
    }
    __syncthreads();

    const int LINES = THREADS / DEPTH, EACH = COLUMNS / 4 / LINES;
    int depth = threadIdx.x % DEPTH, line = threadIdx.x / DEPTH;
    Four acc[8][ACROSS] = {};
    Four a, b[EACH];
    long long q = (long long)part.begin * DEPTH + depth, n = q / plane_made;
    Place o = output_at(g, q);
    int left = min((long long)part.end * DEPTH, (long long)N * plane_made) - q;  // outputs up to the end of the share
    int rows_here = 4 * line < ROWS ? rows - part.row - 4 * line : 0;
    const REAL* given = gy + ((n * groups + part.group) * rows + part.row + 4 * line) * plane_made + q % plane_made;
    const REAL* image = x + (n * groups + part.group) * C * plane;
    auto load = [&]() {
#pragma unroll
        for (int j = 0; j < 4; ++j) a.at[j] = j < (left > 0 ? rows_here : 0) ? given[(long long)j * plane_made] : REAL(0);
#pragma unroll
        for (int e = 0; e < EACH; ++e) {
            Columns four = fours[line + LINES * e];
            int d = o.d * g.d.stride + four.d, h = o.h * g.h.stride + four.h, w = o.w * g.w.stride + four.w;
            bool inside = unsigned(d) < g.d.size && unsigned(h) < g.h.size && unsigned(w) < g.w.size;  // and not negative
            int channels = left > 0 && inside ? C - four.channel : 0;
            const REAL* pixel = image + (long long)four.channel * plane + (d * g.h.size + h) * g.w.size + w;
#pragma unroll
            for (int j = 0; j < 4; ++j) b[e].at[j] = j < channels ? pixel[(long long)j * plane] : REAL(0);
        }
        left -= DEPTH, given += DEPTH, o.w += DEPTH;
        while (o.w >= g.w.output) {
            o.w -= g.w.output;
            if (++o.h < g.h.output) continue;
            o.h = 0;
            if (++o.d < g.d.output) continue;
            o.d = 0;  // the next image
            given += ((long long)groups * rows - 1) * plane_made, image += (long long)groups * C * plane;
        }
    };
    auto store = [&](Slice& s) {
        if (4 * line < ROWS) *(Four*)&s.a[depth][4 * line] = a;
#pragma unroll
        for (int e = 0; e < EACH; ++e) *(Four*)&s.b[depth][4 * (line + LINES * e)] = b[e];
    };
    int more = part.end - part.begin, now = 0;
    if (more) {
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

    Corner my = corner();
    long long columns = (long long)K * padded, first = ((long long)part.split * groups + part.group) * rows;
#pragma unroll
    for (int i = 0; i < 8; ++i)
#pragma unroll
        for (int p = 0; p < ACROSS; ++p) {
            int row = part.row + row_of(my, i), column = part.column + my.column + 32 * p;
            if (row < rows && column < columns) *(Four*)&parts[(first + row) * columns + column] = acc[i][p];
        }
}
