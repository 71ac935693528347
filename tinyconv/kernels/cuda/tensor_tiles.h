// Convolution on tensor cores: a matrix product whose columns are never written down, for tf32.cu and bf16.cu.
//
// y is a matrix of C_out rows and N * O columns (outputs o of images n): the weights (C_out, C * K) times the columns
// (C * K, N * O) of im2col. A block of four warps makes a tile of 128 columns and 64 or 128 rows. The sum runs over
// slices of 16 channels at one tap. While the tensor cores multiply one slice, the next one is copied into the other
// half of shared memory, so that a block meets at one barrier a slice.
//
// Images stay as they are, channels first: a slice is 16 rows of neighbouring pixels, which neighbouring threads read.
// Copying them to channels last beforehand would read and write each of them once more.
//
// Before this: WORD, how many channels a word of a fragment holds; the functions word...(), which read and round them;
// multiply(), the product of a warp; PITCH and SUM_PITCH, the lengths of rows in shared memory, with which lanes that
// read at the same time find their words in different banks.

#include "slices.h"

const int SLICE = 16, STEPS = SLICE / 8 / WORD;  // channels; products of fragments that they take
const int COLUMNS = 128;                         // of a tile

// A slice being multiplied and one being copied. Weights are rounded already, pixels are rounded when they are read.
__shared__ __align__(16) unsigned weights[2][STEPS][8][32][4];  // 16 rows each: a lane's fragment
__shared__ __align__(16) float image_tile[2][SLICE][PITCH];
__shared__ bool was_read[COLUMNS];

// The product of a tile. A warp makes 64 rows and 32 DOWN columns of it, as 4 x 4 DOWN products of 16 x 8.
template <int DOWN> struct Tile {
    float c[4][4 * DOWN][4] = {};
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
    int row = warp % DOWN * 64, column = warp / DOWN * 32 * DOWN;  // the warp's first

    __device__ void add(int j, const unsigned (&left)[4][4], const unsigned (&right)[2]) {
#pragma unroll
        for (int i = 0; i < 4; ++i) multiply(c[i][j], left[i], right);
    }
};

// Weights in the order of fragments: packed[group, slice, k, step, 16 rows, lane, word], rounded; zeros where channels
// or rows end. `gradient`: for that of the input, whose rows are input channels, whose sum runs over output
// channels, and whose windows are turned around. Grid: 64 rows, 8 words of channels, groups.
extern "C" __global__ void pack(const float* w, unsigned* packed, int rows, int channels, int K, int gradient) {
    int lane = threadIdx.x % 32, row_tile = blockIdx.x * 4 + threadIdx.x / 32;
    for (int k = 0; k < K; ++k) {
        unsigned fragment[4];
        for (int part = 0; part < 4; ++part) {
            int row = row_tile * 16 + lane / 4 + part % 2 * 8;
            int first = (blockIdx.y * 8 + lane % 4 + part / 2 * 4) * WORD;
            float v[WORD];
            for (int i = 0; i < WORD; ++i) {
                long long r = blockIdx.z * rows + row, c = blockIdx.z * channels + first + i;
                long long filter = gradient ? c * rows + row : r * channels + first + i;
                v[i] = row < rows && first + i < channels ? w[filter * K + (gradient ? K - 1 - k : k)] : 0.0f;
            }
            fragment[part] = word_of_weights(v);
        }
        long long slice = blockIdx.z * (gridDim.y / STEPS) + blockIdx.y / STEPS;
        long long at = (slice * K + k) * STEPS + blockIdx.y % STEPS;
        *(uint4*)&packed[((at * gridDim.x * 4 + row_tile) * 32 + lane) * 4] = *(uint4*)fragment;
    }
}

// Column n of the product j of a run is its column 4n + j, so that a lane has two times four neighbours.
template <int DOWN>
__device__ void write_columns(const Tile<DOWN>& tile, float* y, long long first, int N, int rows, int groups,
                              int gradient, long long made) {
    int column = tile.column + 8 * tile.t;
    Column at = {(first + column) / made, (first + column) % made};
#pragma unroll
    for (int fours = 0; fours < 2 * DOWN; ++fours) {
        FourColumns to = four_columns(at, groups * rows, N, made);
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            float v[4];
#pragma unroll
            for (int j = 0; j < 4; ++j) v[j] = tile.c[i / 2][fours / 2 * 4 + j][i % 2 * 2 + fours % 2];
            if (gradient)
                for (int j = 0; j < 4; ++j) v[j] = was_read[column + j] ? v[j] : 0.0f;
            int row = blockIdx.y * 64 * DOWN + tile.row + tile.g + 8 * i;
            if (row < rows) write4(y, v, to, blockIdx.z * rows + row, made);
        }
        int ahead = fours % 2 ? 28 : 4;
        column += ahead;
        go_on(at, ahead, made);
    }
}

// y[n, r, o] = sum over c, k of x[n, c, pixel(o, k)] packed[group, k, c, r]; a group has `channels` and `rows`.
// An input gradient is such a sum as well: x is then gy, and y is gx. There a window that reads no pixel makes zero.
// Grid: tiles of columns, tiles of rows, groups.
template <int DOWN>
__device__ void product(const float* x, const unsigned* packed, float* y, int N, int channels, int rows, int groups,
                        int gradient, Window g) {
    long long made = outputs(g), first = (long long)blockIdx.x * COLUMNS, mine = first + threadIdx.x;
    bool exists = mine < N * made;  // the column that this thread copies
    Place place = output_at(g, mine);
    const float* image = x + (mine / made * groups + blockIdx.z) * channels * pixels(g);

    int steps = (channels + SLICE - 1) / SLICE * STEPS;
    long long words = gridDim.y * DOWN * 512;  // of all rows at one step
    const unsigned* fragments = packed + blockIdx.z * taps(g) * steps * words;
    fragments += (blockIdx.y * DOWN * 128 + threadIdx.x) * 4;

    Slice next = {0, {0, 0, 0}};
    bool read = false;
    auto fetch = [&](int half) {
        long long source = exists ? pixel(g, place, next.tap) : -1;
        read = read || source >= 0;
        int there = source >= 0 ? channels - next.channel : 0;
        const float* pixel_of_channel = image + next.channel * pixels(g) + source;
#pragma unroll
        for (int c = 0; c < SLICE; ++c) {
            copy_async<4>(&image_tile[half][c][threadIdx.x], pixel_of_channel, c < there);
            pixel_of_channel += pixels(g);
        }
#pragma unroll
        for (int step = 0; step < STEPS; ++step) {
#pragma unroll
            for (int i = 0; i < DOWN; ++i)
                copy_async<16>(weights[half][step][threadIdx.x / 32 + 4 * i][threadIdx.x % 32], fragments + i * 512);
            fragments += words;
        }
        advance(next, SLICE, g);
    };

    Tile<DOWN> tile;
    for (int slice = 0, end = steps / STEPS * taps(g); slice <= end; ++slice) {
        copy_async_wait();
        __syncthreads();  // the slice before has come, and all have multiplied the one before that
        if (slice < end) fetch(slice % 2);
        if (slice == 0) continue;
        int half = (slice + 1) % 2;
#pragma unroll
        for (int step = 0; step < STEPS; ++step) {
            unsigned left[4][4];
#pragma unroll
            for (int i = 0; i < 4; ++i)
                *(uint4*)left[i] = *(const uint4*)weights[half][step][tile.row / 16 + i][tile.lane];
#pragma unroll
            for (int run = 0; run < DOWN; ++run) {  // of 32 columns: a lane takes four neighbours, one for each product
                unsigned low[4], high[4];
                words_of_columns(low, image_tile[half], 8 * step + tile.t, tile.column + 32 * run + 4 * tile.g);
                words_of_columns(high, image_tile[half], 8 * step + tile.t + 4, tile.column + 32 * run + 4 * tile.g);
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    unsigned right[2] = {low[j], high[j]};
                    tile.add(4 * run + j, left, right);
                }
            }
        }
    }
    was_read[threadIdx.x] = read;
    __syncthreads();
    write_columns(tile, y, first, N, rows, groups, gradient, made);
}

// To part[co, ci, k]. Columns lie in runs of 32 input channels at one tap, four of them a tile.
template <int DOWN>
__device__ void write_part(const Tile<DOWN>& tile, float* part, int group, int channels, int rows, int K) {
#pragma unroll
    for (int run = 0; run < DOWN; ++run) {
        int number = blockIdx.x * 4 + tile.column / 32 + run, c = number / K * 32 + 2 * tile.t;
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            int row = blockIdx.y * 64 * DOWN + tile.row + tile.g + 8 * i;
            if (row >= rows) continue;
            float* result = part + ((long long)group * rows + row) * channels * K + number % K;
#pragma unroll
            for (int j = 0; j < 8; ++j) {
                int at = c + j / 2 * 8 + j % 2;
                if (at < channels) result[at * K] = tile.c[i / 2][4 * run + j / 2][i % 2 * 2 + j % 2];
            }
        }
    }
}

// A part of the weight gradient: parts[s, co, ci, k] = sum over the outputs q = (n, o) of part s of gy[n, co, o]
// x[n, ci, pixel(o, k)]. Rows are output channels; columns are taken in runs of 32 input channels at one tap, four of
// them a tile, and the sum runs over slices of 16 outputs, `share` of them a part.
// Grid: tiles of columns, tiles of rows, groups * parts.

__shared__ __align__(16) float given[2][128][SUM_PITCH], seen[2][COLUMNS][SUM_PITCH];  // of gy and of x

template <int DOWN>
__device__ void sum_of_products(const float* x, const float* gy, float* parts, int N, int channels, int rows,
                                int groups, int share, Window g) {
    int group = blockIdx.z % groups, part = blockIdx.z / groups, K = taps(g);
    int mine = threadIdx.x % SLICE, line = threadIdx.x / SLICE;  // this thread copies one output of every eighth line
    Share sum = share_of(part, share, SLICE, N * outputs(g));
    Walk o = walk_from(sum.begin + mine, SLICE, g);
    Place tap[4];
    int channel[4];
    const float* channels_of_x[4];
    long long image_of_x = groups * channels * pixels(g);
    for (int run = 0; run < 4; ++run) {
        int number = blockIdx.x * 4 + run;
        tap[run] = tap_at(g, number), channel[run] = number / K * 32 + line;
        channels_of_x[run] = x + (group * channels + channel[run]) * pixels(g);
    }
    int first_row = blockIdx.y * 64 * DOWN + line;
    const float* first_row_of_gy = gy + (group * rows + first_row) * outputs(g);
    auto fetch = [&](int half) {
        const float* row_of_gy = first_row_of_gy + o.n * groups * rows * outputs(g) + o.o;
        int there = o.q < sum.end ? rows - first_row : 0;
#pragma unroll
        for (int i = 0; i < 8 * DOWN; ++i) {
            copy_async<4>(&given[half][line + 8 * i][mine], row_of_gy, 8 * i < there);
            row_of_gy += 8 * outputs(g);
        }
#pragma unroll
        for (int run = 0; run < 4; ++run) {
            long long source = o.q < sum.end ? pixel(g, o.at, tap[run]) : -1;
            const float* channel_of_x = channels_of_x[run] + o.n * image_of_x + source;
            there = source >= 0 ? channels - channel[run] : 0;
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                copy_async<4>(&seen[half][32 * run + line + 8 * i][mine], channel_of_x, 8 * i < there);
                channel_of_x += 8 * pixels(g);
            }
        }
        step(o, SLICE, g);
    };

    Tile<DOWN> tile;
    for (int slice = 0; slice <= sum.slices; ++slice) {
        copy_async_wait();
        __syncthreads();
        if (slice < sum.slices) fetch(slice % 2);
        if (slice == 0) continue;
        int half = (slice + 1) % 2;
#pragma unroll
        for (int step = 0; step < STEPS; ++step) {
            unsigned left[4][4];
#pragma unroll
            for (int i = 0; i < 16; ++i)
                left[i / 4][i % 4] = word_of_line(given[half][tile.row + i / 4 * 16 + tile.g + i % 2 * 8], tile.t,
                                                  2 * step + i % 4 / 2);
#pragma unroll
            for (int j = 0; j < 4 * DOWN; ++j) {
                const float* line = seen[half][tile.column + 8 * j + tile.g];
                unsigned right[2] = {word_of_line(line, tile.t, 2 * step), word_of_line(line, tile.t, 2 * step + 1)};
                tile.add(j, left, right);
            }
        }
    }
    write_part(tile, parts + (long long)part * groups * rows * channels * K, group, channels, rows, K);
}

// The kernels: tiles of 128 rows, two blocks a multiprocessor, and of 64 rows, three of them.
extern "C" __global__ void __launch_bounds__(128, 2) conv_128(
    const float* x, const unsigned* packed, float* y, int N, int channels, int rows, int groups, int gradient,
    Window g) {
    product<2>(x, packed, y, N, channels, rows, groups, gradient, g);
}
extern "C" __global__ void __launch_bounds__(128, 2) conv_weight_128(
    const float* x, const float* gy, float* parts, int N, int channels, int rows, int groups, int share, Window g) {
    sum_of_products<2>(x, gy, parts, N, channels, rows, groups, share, g);
}
extern "C" __global__ void __launch_bounds__(128, 3) conv_64(
    const float* x, const unsigned* packed, float* y, int N, int channels, int rows, int groups, int gradient,
    Window g) {
    product<1>(x, packed, y, N, channels, rows, groups, gradient, g);
}
extern "C" __global__ void __launch_bounds__(128, 3) conv_weight_64(
    const float* x, const float* gy, float* parts, int N, int channels, int rows, int groups, int share, Window g) {
    sum_of_products<1>(x, gy, parts, N, channels, rows, groups, share, g);
}
