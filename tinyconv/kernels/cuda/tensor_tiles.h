// Convolution on tensor cores: a matrix product whose columns are never written down, for tf32.cu and bf16.cu.
//
// y is a matrix of C_out rows and N * O columns (outputs o of images n): the weights (C_out, C * K) times the columns
// (C * K, N * O) of im2col. A block of four warps makes a tile of 128 columns and 64 or 128 rows. The sum runs over
// slices of 16 channels at one tap. While the tensor cores multiply one slice, the next one is copied into the other
// half of shared memory, so that a block meets at one barrier a slice.
//
// Images stay as they are, channels first: a slice is 16 rows of neighbouring pixels, which neighbouring threads read.
// Copying them to channels last, as the tensor cores' own tables suggest, would read and write each once more: at the
// 4 TB/s of an H200 a quarter of the time of a whole 3x3 layer of 64 channels.
//
// Before this: WORD, how many channels a word of a fragment holds; word(), which rounds them; multiply(), the product
// of a warp; PITCH and SUM_PITCH, the lengths of rows in shared memory. They are chosen so that the 32 lanes of a warp,
// which read 8 places on one axis and 4 on the other, find them in 32 different banks.

const int SLICE = 16, WORDS = SLICE / WORD;  // channels, and their words
const int COLUMNS = 128;                     // of a tile
const int THREADS = 128;

// A slice being multiplied and one being copied. Weights are rounded already, pixels are rounded when they are read.
__shared__ __align__(16) unsigned weights[2][WORDS][128 + 8];
__shared__ __align__(16) float image_tile[2][SLICE][PITCH];
__shared__ bool was_read[COLUMNS];

// Which tap and channels come next. The same in all threads of a block.
struct Slice {
    int channel;
    Place tap;
};
__device__ bool advance(Slice& s, Window g, int channels) {  // true: at another tap
    s.channel += SLICE;
    if (s.channel < channels) return false;
    s.channel = 0;
    if (++s.tap.w == g.w.kernel) {
        s.tap.w = 0;
        if (++s.tap.h == g.h.kernel) s.tap.h = 0, ++s.tap.d;
    }
    return true;
}

// The product of a tile. A warp makes 64 rows and 32 DOWN columns of it, as 4 x 4 DOWN products of 16 x 8.
template <int DOWN> struct Tile {
    float c[4][4 * DOWN][4] = {};
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int row = warp % DOWN * 64 + lane / 4, column = warp / DOWN * 32 * DOWN;

    // `a` and `b` bring the words of a row and of a column: a(row, word of the slice).
    template <class A, class B> __device__ void add(A a, B b) {
#pragma unroll
        for (int first = 0; first < WORDS; first += 8) {
            int k = first + lane % 4;
            unsigned left[4][4];
#pragma unroll
            for (int i = 0; i < 4; ++i)
#pragma unroll
                for (int part = 0; part < 4; ++part) left[i][part] = a(row + 16 * i + part % 2 * 8, k + part / 2 * 4);
#pragma unroll
            for (int j = 0; j < 4 * DOWN; ++j) {
                int at = column + 8 * j + lane / 4;
                unsigned right[2] = {b(at, k), b(at, k + 4)};
#pragma unroll
                for (int i = 0; i < 4; ++i) multiply(c[i][j], left[i], right);
            }
        }
    }
};

// Weights as the tiles want them: packed[group, k, word of channels, row], rounded, zeros where channels or rows end.
// `turned`: for the input gradient, whose rows are input channels and whose sum runs over output channels.
// Grid: 64 rows, words, groups.
extern "C" __global__ void pack(const float* w, unsigned* packed, int rows, int channels, int K, bool turned) {
    int row = blockIdx.x * 64 + threadIdx.x, first = blockIdx.y * WORD;
    for (int k = 0; k < K; ++k) {
        float v[WORD];
        for (int i = 0; i < WORD; ++i) {
            long long r = blockIdx.z * rows + row, c = first + i, group_channel = blockIdx.z * channels + c;
            bool inside = row < rows && c < channels;
            v[i] = inside ? w[(turned ? group_channel * rows + row : r * channels + c) * K + k] : 0.0f;
        }
        packed[(((long long)blockIdx.z * K + k) * gridDim.y + blockIdx.y) * gridDim.x * 64 + row] = word(v, 1);
    }
}

// to[n, r, j] = sum over c, k of from[n, c, place read by tap k of j] packed[group, k, c, r]: outputs read pixels, or,
// TURNED, pixels read outputs. `channels` and `rows` are those of a group.
// Grid: tiles of columns, tiles of rows, groups.
template <int DOWN, bool TURNED>
__device__ void product(const float* from, const unsigned* packed, float* to, int N, int channels, int rows, int groups,
                        Window g) {
    long long readable = TURNED ? outputs(g) : pixels(g), made = TURNED ? pixels(g) : outputs(g);
    long long first = (long long)blockIdx.x * COLUMNS, mine = first + threadIdx.x;  // this thread copies one column
    bool exists = mine < N * made;
    Place place = TURNED ? pixel_at(g, mine) : output_at(g, mine);
    const float* image = from + (exists ? mine / made * groups + blockIdx.z : 0) * channels * readable;

    int words = (channels + SLICE - 1) / SLICE * WORDS, padded_rows = gridDim.y * 64 * DOWN;
    const unsigned* slice_of_weights =
        packed + (long long)blockIdx.z * taps(g) * words * padded_rows + blockIdx.y * 64 * DOWN;

    Slice next = {0, {0, 0, 0}};
    long long source = -1;
    bool read = false, new_tap = true;
    auto fetch = [&](int half) {
        if (new_tap && exists) source = TURNED ? reader(g, place, next.tap) : pixel(g, place, next.tap);
        read = read || source >= 0;
        const float* pixel_of_channel = image + next.channel * readable + (source >= 0 ? source : 0);
#pragma unroll
        for (int c = 0; c < SLICE; ++c) {
            bool inside = source >= 0 && next.channel + c < channels;
            copy_async<4>(&image_tile[half][c][threadIdx.x], inside ? pixel_of_channel : from, inside);
            pixel_of_channel += readable;
        }
#pragma unroll
        for (int i = threadIdx.x; i < WORDS * 16 * DOWN; i += THREADS) {
            int w = i / (16 * DOWN), row = i % (16 * DOWN) * 4;
            copy_async<16>(&weights[half][w][row], slice_of_weights + (long long)w * padded_rows + row);
        }
        slice_of_weights += (long long)WORDS * padded_rows;
        new_tap = advance(next, g, channels);
    };

    Tile<DOWN> tile;
    int slices = words / WORDS * taps(g);
    fetch(0);
    for (int s = 0; s < slices; ++s) {
        copy_async_wait();
        __syncthreads();  // slice s has come, and all have multiplied the one before
        if (s + 1 < slices) fetch((s + 1) % 2);
        tile.add([&](int row, int k) { return weights[s % 2][k][row]; },
                 [&](int column, int k) { return word(&image_tile[s % 2][k * WORD][column], PITCH); });
    }
    was_read[threadIdx.x] = read;
    __syncthreads();

    int column = tile.column + tile.lane % 4 * 2;
    long long n = (first + column) / made, j = (first + column) % made;
#pragma unroll
    for (int step = 0; step < 8 * DOWN; ++step) {  // two neighbouring columns of every eight
        float* result = to + (n * groups + blockIdx.z) * rows * made + j;
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            int row = blockIdx.y * 64 * DOWN + tile.row + 8 * i;
            if (n < N && row < rows)
                result[row * made] = was_read[column] ? tile.c[i / 2][step / 2][i % 2 * 2 + step % 2] : 0.0f;
        }
        int ahead = step % 2 ? 7 : 1;
        column += ahead, j += ahead;
        while (j >= made) j -= made, ++n;
    }
}

// A part of the weight gradient: parts[s, co, ci, k] = sum over the outputs q = (n, o) of part s of gy[n, co, o]
// x[n, ci, pixel(o, k)]. Rows are output channels; columns are taken in runs of 32 input channels at one tap, four of
// them a tile, and the sum runs over slices of 16 outputs, `share` of them a part.
// Grid: tiles of columns, tiles of rows, groups * parts.

__shared__ float given[2][128][SUM_PITCH], seen[2][COLUMNS][SUM_PITCH];  // of gy and of x

template <int DOWN>
__device__ void sum_of_products(const float* x, const float* gy, float* parts, int N, int channels, int rows,
                                int groups, int share, Window g) {
    int group = blockIdx.z % groups, part = blockIdx.z / groups, K = taps(g);
    int mine = threadIdx.x % SLICE, line = threadIdx.x / SLICE;  // this thread copies one output of every eighth line
    long long all = N * outputs(g), q = (long long)part * share * SLICE + mine;
    long long last = all - q + mine < (long long)share * SLICE ? all : q - mine + (long long)share * SLICE;

    // Every slice goes on by 16 outputs: those are so many rows and columns of the image, with a carry.
    long long n = q / outputs(g), o = q % outputs(g);
    Place at = output_at(g, o), ahead = output_at(g, SLICE);
    int images_ahead = SLICE / outputs(g);
    auto step = [&]() {
        q += SLICE, n += images_ahead, o += SLICE - images_ahead * outputs(g);
        if (o >= outputs(g)) o -= outputs(g), ++n;
        at.w += ahead.w, at.h += ahead.h, at.d += ahead.d;
        if (at.w >= g.w.output) at.w -= g.w.output, ++at.h;
        if (at.h >= g.h.output) at.h -= g.h.output, ++at.d;
        if (at.d >= g.d.output) at.d -= g.d.output;
    };
    Place tap[4];
    int channel[4];
    for (int run = 0; run < 4; ++run) {
        int number = blockIdx.x * 4 + run;
        tap[run] = tap_at(g, number), channel[run] = number / K * 32 + line;
    }
    auto fetch = [&](int half) {
        const float* row_of_gy =
            gy + ((n * groups + group) * rows + blockIdx.y * 64 * DOWN + line) * outputs(g) + o;
#pragma unroll
        for (int i = 0; i < 8 * DOWN; ++i) {
            bool inside = q < last && blockIdx.y * 64 * DOWN + line + 8 * i < rows;
            copy_async<4>(&given[half][line + 8 * i][mine], inside ? row_of_gy : gy, inside);
            row_of_gy += 8 * outputs(g);
        }
#pragma unroll
        for (int run = 0; run < 4; ++run) {
            long long source = q < last ? pixel(g, at, tap[run]) : -1;
            const float* channel_of_x = x + ((n * groups + group) * channels + channel[run]) * pixels(g) + source;
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                bool inside = source >= 0 && channel[run] + 8 * i < channels;
                copy_async<4>(&seen[half][32 * run + line + 8 * i][mine], inside ? channel_of_x : x, inside);
                channel_of_x += 8 * pixels(g);
            }
        }
        step();
    };

    Tile<DOWN> tile;
    int slices = (last - q + mine + SLICE - 1) / SLICE;
    if (slices > 0) fetch(0);
    for (int s = 0; s < slices; ++s) {
        copy_async_wait();
        __syncthreads();
        if (s + 1 < slices) fetch((s + 1) % 2);
        tile.add([&](int row, int k) { return word(&given[s % 2][row][k * WORD], 1); },
                 [&](int column, int k) { return word(&seen[s % 2][column][k * WORD], 1); });
    }

#pragma unroll
    for (int j = 0; j < 4 * DOWN; ++j) {
        int number = blockIdx.x * 4 + (tile.column + 8 * j) / 32;
        int c = number / K * 32 + 8 * j % 32 + tile.lane % 4 * 2;
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            int row = blockIdx.y * 64 * DOWN + tile.row + 8 * i;
            float* result = parts + ((((long long)part * groups + group) * rows + row) * channels + c) * K + number % K;
            if (row < rows && c < channels) result[0] = tile.c[i / 2][j][i % 2 * 2];
            if (row < rows && c + 1 < channels) result[K] = tile.c[i / 2][j][i % 2 * 2 + 1];
        }
    }
}

// The kernels: tiles of 128 rows, two blocks a multiprocessor, and of 64 rows, three of them.
extern "C" __global__ void __launch_bounds__(128, 2) conv_128(
    const float* x, const unsigned* packed, float* y, int N, int channels, int rows, int groups, Window g) {
    product<2, false>(x, packed, y, N, channels, rows, groups, g);
}
extern "C" __global__ void __launch_bounds__(128, 2) conv_input_128(
    const float* gy, const unsigned* packed, float* gx, int N, int channels, int rows, int groups, Window g) {
    product<2, true>(gy, packed, gx, N, channels, rows, groups, g);
}
extern "C" __global__ void __launch_bounds__(128, 2) conv_weight_128(
    const float* x, const float* gy, float* parts, int N, int channels, int rows, int groups, int share, Window g) {
    sum_of_products<2>(x, gy, parts, N, channels, rows, groups, share, g);
}
extern "C" __global__ void __launch_bounds__(128, 3) conv_64(
    const float* x, const unsigned* packed, float* y, int N, int channels, int rows, int groups, Window g) {
    product<1, false>(x, packed, y, N, channels, rows, groups, g);
}
extern "C" __global__ void __launch_bounds__(128, 3) conv_input_64(
    const float* gy, const unsigned* packed, float* gx, int N, int channels, int rows, int groups, Window g) {
    product<1, true>(gy, packed, gx, N, channels, rows, groups, g);
}
extern "C" __global__ void __launch_bounds__(128, 3) conv_weight_64(
    const float* x, const float* gy, float* parts, int N, int channels, int rows, int groups, int share, Window g) {
    sum_of_products<1>(x, gy, parts, N, channels, rows, groups, share, g);
}
