// Convolution in bf16 by Hopper's matrix products (sm_90a): as in tensor_tiles.h, but a warpgroup multiplies tiles
// straight out of shared memory. For that both factors are copied first: the images with channels last and rounded, so
// that the channels of a pixel are neighbours; the weights in the order of the tiles.
//
// A block of two warpgroups makes 128 rows and 128 columns of y, or 64 rows and 256 columns. The sum runs over slices
// of 64 channels at one tap.
#include "tensor_core.h"
#include "warpgroup.h"
#include "slices.h"

const int SLICE = 64;             // channels: a row of a tile is 128 bytes
const int CHUNK = 8, CHUNKS = 8;  // channels in 16 bytes, and how many of these a row has

// copy[image, pixel, chunk] = x[image, channels of the chunk, pixel] as bf16, zeros where the channels end. `chunks` is
// their number. A block copies 32 pixels of 64 channels: reads neighbouring pixels, writes neighbouring channels.
// Grid: images times tiles of pixels, tiles of channels.
extern "C" __global__ void channels_last(const float* x, unsigned* copy, int channels, int chunks, long long size) {
    __shared__ unsigned tile[SLICE / 2][33];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, tiles = (size + 31) / 32;
    long long image = blockIdx.x / tiles, first = (blockIdx.x % tiles) * 32LL;
    for (int w = warp; w < SLICE / 2; w += 8) {
        int c = blockIdx.y * SLICE + 2 * w;
        const float* from = x + (image * channels + c) * size + first + lane;
        int there = first + lane < size ? channels - c : 0;
        tile[w][lane] = to_bf16(there > 0 ? from[0] : 0.0f, there > 1 ? from[size] : 0.0f);
    }
    __syncthreads();
    int word = blockIdx.y * SLICE / 2 + lane;
    for (int p = warp; p < 32; p += 8)
        if (first + p < size && word < chunks * 4) copy[(image * size + first + p) * chunks * 4 + word] = tile[lane][p];
}

// Weights in the order of the tiles: packed[group, slice, k, row, swizzled word], as in tensor_tiles.h.
// Grid: 8 rows, slices, groups.
extern "C" __global__ void pack(const float* w, unsigned* packed, int rows, int channels, int K, int gradient) {
    int word = threadIdx.x % 32, row = blockIdx.x * 8 + threadIdx.x / 32, c = blockIdx.y * SLICE + 2 * word;
    for (int k = 0; k < K; ++k) {
        float v[2];
        for (int i = 0; i < 2; ++i) {
            long long r = blockIdx.z * rows + row, all = blockIdx.z * channels + c + i;
            long long filter = gradient ? all * rows + row : r * channels + c + i;
            v[i] = row < rows && c + i < channels ? w[filter * K + (gradient ? K - 1 - k : k)] : 0.0f;
        }
        long long at = (((long long)blockIdx.z * gridDim.y + blockIdx.y) * K + k) * gridDim.x * 8 + row;
        packed[at * 32 + (word / 4 ^ row % 8) * 4 + word % 4] = to_bf16(v[0], v[1]);
    }
}

__shared__ long long source[2][256];  // the pixel, of all images, that each row of the tile holds; -1 for padding
__shared__ bool was_read[256];

// Where a pixel lies in the tile: so that a thread's sums are of eight neighbours, see the end of product().
__device__ int row_of_pixel(int p) { return p / 32 * 32 + p % 8 / 2 * 8 + p % 32 / 8 * 2 + p % 2; }

// Columns 8j + 2t and 8j + 2t + 1 of 32, which a thread has, are pixels 8t + 2j and 8t + 2j + 1.
__device__ void write_columns(const float (&c)[64], float* y, int row, long long first, int column, int N, int rows,
                              int groups, int gradient, long long made) {
    column += threadIdx.x % 4 * 8;
    Column at = {(first + column) / made, (first + column) % made};
#pragma unroll
    for (int fours = 0; fours < 8; ++fours) {
        FourColumns to = four_columns(at, groups * rows, N, made);
#pragma unroll
        for (int down = 0; down < 2; ++down) {
            float v[4];
#pragma unroll
            for (int j = 0; j < 4; ++j) v[j] = c[fours / 2 * 16 + (fours % 2 * 2 + j / 2) * 4 + down * 2 + j % 2];
            if (gradient)
                for (int j = 0; j < 4; ++j) v[j] = was_read[column + j] ? v[j] : 0.0f;
            int r = row + 8 * down;
            if (r < rows) write4(y, v, to, blockIdx.z * rows + r, made);
        }
        int ahead = fours % 2 ? 28 : 4;
        column += ahead;
        go_on(at, ahead, made);
    }
}

// y[n, r, o] = sum over c, k of x[n, c, pixel(o, k)] w[group, k, c, r], of the copies of x and w. `gradient`: as in
// tensor_tiles.h. Grid: tiles of columns, tiles of rows, groups. Shared memory: two tiles of each.
template <int DOWN>
__device__ void product(const unsigned* x, const unsigned* w, float* y, int N, int channels, int rows, int groups,
                        int gradient, Window g) {
    extern __shared__ __align__(1024) uint4 memory[];  // two times: chunks of weights, chunks of pixels
    const int ROWS = 64 * DOWN, COLUMNS = 256 / DOWN, STAGE = (ROWS + COLUMNS) * CHUNKS;
    long long made = outputs(g), first = (long long)blockIdx.x * COLUMNS, mine = first + threadIdx.x;
    bool exists = threadIdx.x < COLUMNS && mine < N * made;
    Place place = output_at(g, mine);
    long long image = (mine / made * groups + blockIdx.z) * pixels(g);

    int chunks = (channels + CHUNK - 1) / CHUNK, slices = (channels + SLICE - 1) / SLICE, end = slices * taps(g);
    long long chunks_of_slice = gridDim.y * ROWS * CHUNKS;
    const uint4* tile_of_w = (const uint4*)w + blockIdx.z * end * chunks_of_slice + blockIdx.y * ROWS * CHUNKS;
    int chunk = threadIdx.x % CHUNKS, line = threadIdx.x / CHUNKS;  // this thread copies one chunk of every 32nd row

    Slice next = {0, {0, 0, 0}};
    bool read = false;
    auto find = [&](int half) {
        long long i = exists ? pixel(g, place, next.tap) : -1;
        if (threadIdx.x < COLUMNS) source[half][row_of_pixel(threadIdx.x)] = i < 0 ? -1 : image + i;
        read = read || i >= 0;
    };
    auto fetch = [&](int half) {
        uint4* tile = memory + half * STAGE;
#pragma unroll
        for (int i = 0; i < ROWS * CHUNKS; i += 256)
            copy_async<16>(tile + i + threadIdx.x, tile_of_w + i + threadIdx.x);
        tile_of_w += chunks_of_slice;
        tile += ROWS * CHUNKS;
#pragma unroll
        for (int i = 0; i < COLUMNS / 32; ++i) {
            int row = line + 32 * i, c = next.channel / CHUNK + chunk;
            long long from = source[half][row];
            copy_async<16>(tile + row * CHUNKS + (chunk ^ row % 8), (const uint4*)x + from * chunks + c,
                           from >= 0 && c < chunks);
        }
        advance(next, SLICE, g);
    };

    float c[64] = {};
    int group = threadIdx.x / 128, half_row = DOWN == 2 ? group * 64 : 0, half_column = DOWN == 2 ? 0 : group * 128;
    find(0);
    __syncthreads();
    if (end > 0) fetch(0), find(1);
    for (int slice = 0; slice < end; ++slice) {
        copy_async_wait();
        publish();
        __syncthreads();  // this slice has come, and the one before is multiplied
        const uint4* tile = memory + slice % 2 * STAGE;
        unsigned long long a = descriptor(tile + half_row * CHUNKS);
        unsigned long long b = descriptor(tile + (ROWS + half_column) * CHUNKS);
        products_begin();
#pragma unroll
        for (int k = 0; k < SLICE / 16; ++k) begin_product(c, a + 2 * k, b + 2 * k);  // 32 bytes, in units of 16
        products_commit();
        if (slice + 1 < end) fetch((slice + 1) % 2), find(slice % 2);  // meanwhile
        products_wait();
    }
    if (threadIdx.x < COLUMNS) was_read[threadIdx.x] = read;
    __syncthreads();
    int row = blockIdx.y * ROWS + half_row + threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
    write_columns(c, y, row, first, half_column, N, rows, groups, gradient, made);
}

// To part[co, ci, k] of a group: two runs of 64 input channels at one tap.
__device__ void write_part(const float (&c)[64], float* part, int row, int first_run, int channels, int rows, int K) {
#pragma unroll
    for (int run = 0; run < 2; ++run) {
        int number = first_run + run, first = number / K * 64 + threadIdx.x % 4 * 2;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            int r = row + 8 * i;
            if (r >= rows) continue;
            float* result = part + (long long)r * channels * K + number % K;
#pragma unroll
            for (int j = 0; j < 16; ++j) {
                int ci = first + j / 2 * 8 + j % 2;
                if (ci < channels) result[ci * K] = c[run * 32 + j / 2 * 4 + 2 * i + j % 2];
            }
        }
    }
}

// A part of the weight gradient, of the copies of x and gy, as in tensor_tiles.h: parts[s, co, ci, k]. Rows are output
// channels; columns are taken in runs of 64 input channels at one tap. The sum runs over slices of 64 outputs, `share`
// of them a part. A line of a tile is an output and has 64 channels: tiles lie turned.
// Grid: tiles of columns, tiles of rows, groups * parts. Shared memory: two tiles of each.

__shared__ long long given[2][SLICE];  // the output, of all images, of each line of the tiles of gy; -1 for none

template <int DOWN>
__device__ void sum_of_products(const unsigned* x, const unsigned* gy, float* parts, int N, int channels, int rows,
                                int groups, int share, Window g) {
    extern __shared__ __align__(1024) uint4 memory[];
    const int RUNS = 4 / DOWN, TILE = SLICE * CHUNKS, STAGE = (DOWN + RUNS) * TILE;
    int group = blockIdx.z % groups, part = blockIdx.z / groups, K = taps(g);
    int x_chunks = (channels + CHUNK - 1) / CHUNK, gy_chunks = (rows + CHUNK - 1) / CHUNK;

    // This thread finds the pixels of one line of one run.
    int line = threadIdx.x % SLICE, run = threadIdx.x / SLICE;
    Place tap = tap_at(g, blockIdx.x * RUNS + run);
    Share sum = share_of(part, share, SLICE, N * outputs(g));
    Walk o = walk_from(sum.begin + line, SLICE, g);
    auto find = [&](int half) {
        bool inside = o.q < sum.end;
        long long i = inside ? pixel(g, o.at, tap) : -1, image = o.n * groups + group;
        if (run < RUNS) source[half][threadIdx.x] = i < 0 ? -1 : image * pixels(g) + i;
        if (run == 0) given[half][line] = inside ? image * outputs(g) + o.o : -1;
        step(o, SLICE, g);
    };

    // It copies one chunk of every 32nd line.
    int chunk = threadIdx.x % CHUNKS, first_line = threadIdx.x / CHUNKS, chunk_of_x[RUNS];
    for (int r = 0; r < RUNS; ++r) chunk_of_x[r] = (blockIdx.x * RUNS + r) / K * CHUNKS + chunk;
    auto fetch = [&](int half) {
        uint4* tile = memory + half * STAGE;
#pragma unroll
        for (int i = 0; i < 2 * (DOWN + RUNS); ++i) {
            int at = first_line + i % 2 * 32, tile_of_gy = i / 2, run_of_x = i / 2 - DOWN;
            bool of_x = run_of_x >= 0;
            long long from = of_x ? source[half][run_of_x * SLICE + at] : given[half][at];
            int c = of_x ? chunk_of_x[of_x ? run_of_x : 0] : (blockIdx.y * DOWN + tile_of_gy) * CHUNKS + chunk;
            int chunks = of_x ? x_chunks : gy_chunks;
            copy_async<16>(tile + i / 2 * TILE + at * CHUNKS + (chunk ^ at % 8),
                           (const uint4*)(of_x ? x : gy) + from * chunks + c, from >= 0 && c < chunks);
        }
    };

    float c[64] = {};
    int warpgroup = threadIdx.x / 128, down = DOWN == 2 ? warpgroup : 0, first_run = DOWN == 2 ? 0 : warpgroup * 2;
    find(0);
    __syncthreads();
    if (sum.slices > 0) fetch(0), find(1);
    for (int slice = 0; slice < sum.slices; ++slice) {
        copy_async_wait();
        publish();
        __syncthreads();
        const uint4* tile = memory + slice % 2 * STAGE;
        unsigned long long a = descriptor(tile + down * TILE);
        unsigned long long b = descriptor(tile + (DOWN + first_run) * TILE, TILE * 16);
        products_begin();
#pragma unroll
        for (int k = 0; k < SLICE / 16; ++k) begin_product<true>(c, a + 128 * k, b + 128 * k);  // 16 lines
        products_commit();
        if (slice + 1 < sum.slices) fetch((slice + 1) % 2), find(slice % 2);
        products_wait();
    }

    int row = (blockIdx.y * DOWN + down) * 64 + threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
    float* of_part = parts + ((long long)part * groups + group) * rows * channels * K;
    write_part(c, of_part, row, blockIdx.x * RUNS + first_run, channels, rows, K);
}

extern "C" __global__ void __launch_bounds__(256, 2) conv_128(
    const unsigned* x, const unsigned* w, float* y, int N, int channels, int rows, int groups, int gradient,
    Window g) {
    product<2>(x, w, y, N, channels, rows, groups, gradient, g);
}
extern "C" __global__ void __launch_bounds__(256, 2) conv_64(
    const unsigned* x, const unsigned* w, float* y, int N, int channels, int rows, int groups, int gradient,
    Window g) {
    product<1>(x, w, y, N, channels, rows, groups, gradient, g);
}
extern "C" __global__ void __launch_bounds__(256, 2) conv_weight_128(
    const unsigned* x, const unsigned* gy, float* parts, int N, int channels, int rows, int groups, int share,
    Window g) {
    sum_of_products<2>(x, gy, parts, N, channels, rows, groups, share, g);
}
extern "C" __global__ void __launch_bounds__(256, 2) conv_weight_64(
    const unsigned* x, const unsigned* gy, float* parts, int N, int channels, int rows, int groups, int share,
    Window g) {
    sum_of_products<1>(x, gy, parts, N, channels, rows, groups, share, g);
}
