// Convolution as a matrix product that never writes its columns down: implicit im2col with tiles in shared memory.
//
// y is a matrix of C_out rows and N * O columns (outputs o of images n); it is the weights (C_out, C * K) times the
// columns (C * K, N * O) of im2col. A block of 256 threads makes a tile of 64 x 64 of it, each thread 4 x 4. The sum
// runs over slices of 16 channels at one tap: both factors of a slice are brought into shared memory, where each value
// is then used 64 times. The tap is the outer loop, so that which pixel it reads is worked out once for all channels.
// REAL is float or double.

const int TILE = 64, DEPTH = 16;

// acc[i][j] += sum over d of a[d][row of i] b[d][column of j]. A warp reads 2 rows and 16 columns of the slice at once:
// neighbouring threads read neighbouring columns, which lie in different banks.
__device__ void multiply(const REAL (*a)[TILE], const REAL (*b)[TILE], REAL (*acc)[4]) {
    int row = threadIdx.x / 16 * 4, column = threadIdx.x % 16;
    for (int d = 0; d < DEPTH; ++d)
        for (int i = 0; i < 4; ++i)
            for (int j = 0; j < 4; ++j) acc[i][j] += a[d][row + i] * b[d][column + 16 * j];
}

// y[n, co, o] = sum over ci, k of x[n, ci, pixel(o, k)] w[co, ci, k]. Grid: tiles of columns, tiles of rows, groups.
extern "C" __global__ void __launch_bounds__(256, 2) conv_tiled(const REAL* x, const REAL* w, REAL* y, int N, int C_in,
                                                             int C_out, int groups, Window g) {
    __shared__ REAL a[DEPTH][TILE], b[DEPTH][TILE];
    REAL acc[4][4] = {};
    int C_group = C_in / groups, rows = C_out / groups, K = taps(g);
    long long columns = N * outputs(g);
    int mine = threadIdx.x % TILE, depth = threadIdx.x / TILE;  // what this thread brings: every fourth channel from depth

    long long column = (long long)blockIdx.x * TILE + mine;  // of its column of b
    int n = column / outputs(g);
    Place o = output_at(g, column);
    const REAL* image = x + ((long long)n * C_in + blockIdx.z * C_group) * pixels(g);
    int row = blockIdx.y * TILE + mine;  // of its row of a
    const REAL* filter = w + ((long long)blockIdx.z * rows + row) * C_group * K;

    for (int k = 0; k < K; ++k) {
        long long i = column < columns ? pixel(g, o, tap_at(g, k)) : -1;
        for (int first = 0; first < C_group; first += DEPTH) {
            for (int d = depth; d < DEPTH; d += 4) {
                int ci = first + d;
                b[d][mine] = i >= 0 && ci < C_group ? image[ci * pixels(g) + i] : REAL(0);
                a[d][mine] = row < rows && ci < C_group ? filter[(long long)ci * K + k] : REAL(0);
            }
            __syncthreads();
            multiply(a, b, acc);
            __syncthreads();
        }
    }
    for (int j = 0; j < 4; ++j) {
        long long made = (long long)blockIdx.x * TILE + threadIdx.x % 16 + 16 * j;
        for (int i = 0; i < 4; ++i) {
            int co = blockIdx.y * TILE + threadIdx.x / 16 * 4 + i;
            if (made < columns && co < rows)
                y[(made / outputs(g) * C_out + blockIdx.z * rows + co) * outputs(g) + made % outputs(g)] = acc[i][j];
        }
    }
}

// A part of the weight gradient: parts[s, co, ci, k] = sum over the outputs q = (n, o) of part s of x[n, ci, pixel(o, k)]
// gy[n, co, o]. Rows are output channels, columns the (ci, k) of a group. There are few of either and many outputs to
// sum over: so `splits` blocks share the sum ("split-K"). Grid: tiles of columns, tiles of rows, groups * splits.
extern "C" __global__ void __launch_bounds__(256, 2) conv_weight_parts(const REAL* x, const REAL* gy,
                                                                    REAL* parts, int N, int C_in, int C_out,
                                                                    int groups, int splits, Window g) {
    __shared__ REAL a[DEPTH][TILE], b[DEPTH][TILE];
    REAL acc[4][4] = {};
    int C_group = C_in / groups, rows = C_out / groups, K = taps(g), columns = C_group * K;
    long long all = N * outputs(g);
    int group = blockIdx.z / splits, split = blockIdx.z % splits;
    long long share = (all + splits - 1) / splits, begin = split * share, end = begin + share < all ? begin + share : all;
    int mine = threadIdx.x % TILE, depth = threadIdx.x / TILE;

    int column = blockIdx.x * TILE + mine, ci = column / K;
    Place k = tap_at(g, column % K);
    int row = blockIdx.y * TILE + mine;

    for (long long first = begin; first < end; first += DEPTH) {
        for (int d = depth; d < DEPTH; d += 4) {
            long long q = first + d, n = q / outputs(g), o = q % outputs(g);
            long long i = q < end && column < columns ? pixel(g, output_at(g, o), k) : -1;
            b[d][mine] = i >= 0 ? x[(n * C_in + group * C_group + ci) * pixels(g) + i] : REAL(0);
            a[d][mine] = q < end && row < rows ? gy[(n * C_out + group * rows + row) * outputs(g) + o] : REAL(0);
        }
        __syncthreads();
        multiply(a, b, acc);
        __syncthreads();
    }
    for (int i = 0; i < 4; ++i)
        for (int j = 0; j < 4; ++j) {
            int co = blockIdx.y * TILE + threadIdx.x / 16 * 4 + i, made = blockIdx.x * TILE + threadIdx.x % 16 + 16 * j;
            if (co < rows && made < columns)
                parts[((long long)split * C_out + group * rows + co) * columns + made] = acc[i][j];
        }
}

// sum[i] = parts[0, i] + parts[1, i] + ..., in this order: the same bits at every call.
extern "C" __global__ void add_parts(const REAL* parts, REAL* sum, long long elements, int splits) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= elements) return;
    REAL acc = 0;
    for (int s = 0; s < splits; ++s) acc += parts[s * elements + i];
    sum[i] = acc;
}
