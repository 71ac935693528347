// Convolution and both of its gradients as matrix products that never write their columns down: implicit im2col with
// tiles in shared memory.
//
// A block makes a tile of ROWS x COLUMNS results, each thread 8 x (4 * ACROSS) of them in registers. The sum runs over
// slices of 8: both factors of a slice are brought into shared memory, where each number is then used by a whole row or
// column of threads. There are two slices: while one is multiplied, the next is on its way from memory into registers,
// and is then written into the other. So a slice needs one barrier, and nobody waits for memory.
//
// ROWS, COLUMNS and ACROSS are constants that the launcher puts in front, see tiled.py; REAL is float or double.

const int THREADS = ROWS * COLUMNS / (32 * ACROSS), DEPTH = 8;

// Blocks that a multiprocessor is to hold: so each thread has 168 registers, or 128.
const int BLOCKS = (sizeof(REAL) == 8 || ROWS < COLUMNS ? 384 : 512) / THREADS;

// Four neighbours, read and written at once.
struct __align__(16) Four { REAL at[4]; };

// A slice of both factors. With four columns more than a tile has, eight threads that write the same column of eight
// depths reach different banks.
struct __align__(16) Slice { REAL a[DEPTH][ROWS + 4], b[DEPTH][COLUMNS + 4]; };

// The first of a thread's results in the tile: it makes rows row .. row + 3 and row + 16 .. row + 19, and of columns
// column .. column + 3 and the same 32 further. So a warp makes 32 rows, and reads 4 * 16 bytes of a and 8 * 16 of b at
// once, which are neighbours: no two banks collide.
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

// What a block makes: the first row and column of its tile, of which group; and which slices it sums over.
struct Part { long long column; int row, group, split, begin, end; };

// The block's number as a part; what is left of the number is the group, with its phases. Rows of tiles move fastest,
// so that blocks which read the same pixels run at the same time.
__device__ Part part_of(int rows, int column_tiles, int splits) {
    int row_tiles = (rows + ROWS - 1) / ROWS, block = blockIdx.x;
    Part part;
    part.row = block % row_tiles * ROWS, block /= row_tiles;
    part.column = block % column_tiles * (long long)COLUMNS, block /= column_tiles;
    part.split = block % splits, part.group = block / splits;
    return part;
}

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

// ---------------------------------------------------------------------------------------------------------------------
// Outputs and the gradient of the input

// What `gather` below is given.
struct Problem { const REAL *x, *packed; int N, C, rows, groups; Window g; };

// What the threads of a block share. In shared memory also what is rarely needed: registers are for results.
struct Shared {
    Place places[COLUMNS];
    int images[COLUMNS];  // -1 behind the last column
    Reading r;
    Part part;
    Walk walk;
    int plane, slice_of_weights;  // elements from one channel to the next; from one slice to the next
};

__device__ int slices_a_tap(int C) { return (C + DEPTH - 1) / DEPTH; }
__device__ int padded(int rows) { return (rows + ROWS - 1) / ROWS * ROWS; }

// packed[group, tap, channel, part.row + row]
__device__ const REAL* weights_at(const Problem& p, const Shared& s, Place t, int channel, int row) {
    long long line = ((long long)s.part.group * taps(p.g) + tap_of(s.r, p.g, t)) * slices_a_tap(p.C) * DEPTH + channel;
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
        int each = slices_a_tap(p.C);
        long long slices = (long long)s.r.d.taps * s.r.h.taps * s.r.w.taps * each;
        part.begin = slices * part.split / splits, part.end = slices * (part.split + 1) / splits;
        s.part = part, s.slice_of_weights = DEPTH * padded(p.rows);
        s.plane = s.r.d.size * s.r.h.size * s.r.w.size;
        int all = part.end - part.begin, skip = part.begin % each, first = min(all, each - skip);
        s.walk = {all ? nth_tap(s.r, part.begin / each) : Place{}, skip * DEPTH, first, all - first};
    }
    __syncthreads();
    int made = s.r.d.made * s.r.h.made * s.r.w.made;
    if (s.part.column >= (long long)p.N * made) return false;
    if (threadIdx.x < COLUMNS) {
        long long column = s.part.column + threadIdx.x, image = column / made;
        s.places[threadIdx.x] = place(column % made, s.r.d.made, s.r.h.made, s.r.w.made);
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
    auto aim = [&]() {  // at the slices of a tap
        long long i = s.images[column] < 0 ? -1 : source(s.r, s.places[column], s.walk.tap);
        int c = s.walk.channel + channel;
        channels = i < 0 ? 0 : p.C - c;
        pixel = p.x + (((long long)s.images[column] * p.groups + s.part.group) * p.C + c) * plane + i;
        filter = weights_at(p, s, s.walk.tap, s.walk.channel + filter_channel, filter_row);
    };
    auto load = [&]() {
        if (filter_channel < DEPTH) a = *(const Four*)filter;
#pragma unroll
        for (int e = 0; e < EACH; ++e) b[e] = e < channels ? pixel[(long long)e * plane] : REAL(0);
        filter += slice_of_weights, pixel += (long long)DEPTH * plane, channels -= DEPTH;
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
        if (threadIdx.x == 0) next_tap(s.walk, s.r, slices_a_tap(p.C));
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
    int each = slices_a_tap(p.C);
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
    Problem p = {x, packed, N, C, rows, groups, g};
    if (!set_up(p, s, column_tiles, splits, back)) return;
    Four acc[8][ACROSS] = {};
    if (s.walk.slices) sum_up(p, s, slices, acc);
    REAL* results = y + (long long)s.part.split * N * groups * rows * s.r.d.all * s.r.h.all * s.r.w.all;
    if (write(p, s, acc, results) && back) write_again(p, s, results);
}

// ---------------------------------------------------------------------------------------------------------------------
// The gradient of the weights

// What four neighbouring columns have in common: what their tap adds to the place of an output on each axis; how many
// of the four are channels, and where the first is in an image.
struct Columns { int d, h, w, channels; long long offset; };

// A share of the weight gradient: parts[s, group, row, k, c] = sum over the outputs q = (n, o) of share s of gy[n,
// group, row, o] x[n, group, c, pixel(o, k)]. Rows are output channels, columns the (k, c), with the channels padded to
// a multiple of 4, so that four neighbouring columns have one tap. There are few of either and many outputs to sum
// over, so `splits` blocks share the sum ("split-K").
//
// A slice is 8 outputs, which are neighbours in memory: 8 threads read them side by side, each from four rows and from
// four columns. From slice to slice the place moves on by addition.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) weight_parts(
    const REAL* x, const REAL* gy, REAL* parts, int N, int C, int rows, int groups, int column_tiles, int splits,
    Window g) {
    __shared__ Slice slices[2];
    __shared__ Columns fours[COLUMNS / 4];
    __shared__ int planes[2];
    const long long all = N * outputs(g);
    const int padded_C = (C + 3) / 4 * 4, columns = taps(g) * padded_C;
    const Part part = part_of(rows, column_tiles, splits);
    if (threadIdx.x < COLUMNS / 4) {
        int column = part.column + 4 * threadIdx.x, c = column % padded_C;
        Place t = tap_at(g, column / padded_C);
        fours[threadIdx.x] = {t.d * g.d.dilation - g.d.padding, t.h * g.h.dilation - g.h.padding,
                              t.w * g.w.dilation - g.w.padding, column < columns ? C - c : 0, c * pixels(g)};
    }
    if (threadIdx.x == 0) planes[0] = pixels(g), planes[1] = outputs(g);
    __syncthreads();

    const int plane = planes[0], plane_made = planes[1];  // read from there, or they are worked out again and again
    const int LINES = THREADS / DEPTH, EACH = COLUMNS / 4 / LINES;
    int depth = threadIdx.x % DEPTH, line = threadIdx.x / DEPTH, now = 0;
    Four acc[8][ACROSS] = {}, a, b[EACH];
    long long all_slices = (all + DEPTH - 1) / DEPTH, begin = all_slices * part.split / splits;
    int more = all_slices * (part.split + 1) / splits - begin;
    long long q = begin * DEPTH + depth, n = q / plane_made;
    Place o = output_at(g, q);
    int left = (min((begin + more) * DEPTH, all) - q + DEPTH - 1) / DEPTH;  // slices that this thread has an output of
    int rows_here = 4 * line < ROWS ? rows - part.row - 4 * line : 0;
    const REAL* given = gy + ((n * groups + part.group) * rows + part.row + 4 * line) * plane_made + q % plane_made;
    const REAL* image = x + (n * groups + part.group) * C * plane;
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
            given += ((long long)groups * rows - 1) * plane_made, image += (long long)groups * C * plane;
        }
    };
    auto store = [&](Slice& slice) {
        if (4 * line < ROWS) *(Four*)&slice.a[depth][4 * line] = a;
#pragma unroll
        for (int e = 0; e < EACH; ++e) *(Four*)&slice.b[depth][4 * (line + LINES * e)] = b[e];
    };
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
    long long first = ((long long)part.split * groups + part.group) * rows;
#pragma unroll
    for (int i = 0; i < 8; ++i)
#pragma unroll
        for (int p = 0; p < ACROSS; ++p) {
            int row = part.row + row_of(my, i), column = part.column + my.column + 32 * p;
            if (row < rows && column < columns) *(Four*)&parts[(first + row) * columns + column] = acc[i][p];
        }
}
