// Winograd's minimal filtering, F(m x m, 3 x 3) for m = 2 and 4: the transforms on both sides of the matrix products.
//
//     Y = A^t [ (G g G^t) * (B^t d B) ] A          d pixels, g weights, * element by element
//
// A tile is m x m outputs and the m + 2 x m + 2 pixels that they need; on the way it has E = (m + 2)^2 elements, each
// of which is a matrix product of its own over the channels. Such a product has rows (output channels), terms (the taps
// kd on the axis of depth and the input channels, kd first) and tiles, all of them numbered over images, depths, rows
// and columns. A thread transforms one tile of one channel in registers. Windows have stride 1, no dilation but in
// depth. The matrices A, B, G are those of Lavin and Gray, "Fast algorithms for convolutional neural networks", CVPR
// 2016: of polynomials interpolated at 0, 1, -1, infinity (m = 2) and at 0, 1, -1, 2, -2, infinity (m = 4).
//
// A NaN or an infinity would spread over its tile, and numbers near the largest could overflow: where a result is not
// finite, the thread sums it up again by the definition. REAL is float or double.

// ---- The matrices: each struct multiplies a vector by one of them --------------------------------------------------

template <int M> struct Pixels;      // B^t
template <int M> struct Weights;     // G
template <int M> struct Outputs;     // A^t
template <int M> struct Cotangents;  // A
template <int M> struct Gradients;   // G^t

template <> struct Pixels<2> {
    static const int IN = 4, OUT = 4;
    static __device__ void map(const REAL* d, REAL* v) {
        v[0] = d[0] - d[2], v[1] = d[1] + d[2], v[2] = d[2] - d[1], v[3] = d[1] - d[3];
    }
};
template <> struct Weights<2> {
    static const int IN = 3, OUT = 4;
    static __device__ void map(const REAL* w, REAL* u) {
        REAL even = (w[0] + w[2]) / 2, odd = w[1] / 2;
        u[0] = w[0], u[1] = even + odd, u[2] = even - odd, u[3] = w[2];
    }
};
template <> struct Outputs<2> {
    static const int IN = 4, OUT = 2;
    static __device__ void map(const REAL* p, REAL* y) { y[0] = p[0] + p[1] + p[2], y[1] = p[1] - p[2] - p[3]; }
};
template <> struct Cotangents<2> {
    static const int IN = 2, OUT = 4;
    static __device__ void map(const REAL* y, REAL* c) {
        c[0] = y[0], c[1] = y[0] + y[1], c[2] = y[0] - y[1], c[3] = -y[1];
    }
};
template <> struct Gradients<2> {
    static const int IN = 4, OUT = 3;
    static __device__ void map(const REAL* s, REAL* w) {
        REAL even = (s[1] + s[2]) / 2;
        w[0] = s[0] + even, w[1] = (s[1] - s[2]) / 2, w[2] = even + s[3];
    }
};
template <> struct Pixels<4> {
    static const int IN = 6, OUT = 6;
    static __device__ void map(const REAL* d, REAL* v) {
        REAL even1 = d[4] - 4 * d[2], odd1 = d[3] - 4 * d[1], even2 = d[4] - d[2], odd2 = 2 * (d[3] - d[1]);
        v[0] = 4 * d[0] - 5 * d[2] + d[4], v[5] = 4 * d[1] - 5 * d[3] + d[5];
        v[1] = even1 + odd1, v[2] = even1 - odd1, v[3] = even2 + odd2, v[4] = even2 - odd2;
    }
};
template <> struct Weights<4> {
    static const int IN = 3, OUT = 6;
    static __device__ void map(const REAL* w, REAL* u) {
        const REAL SIXTH = REAL(1) / 6, TWELFTH = REAL(1) / 12, TWENTY_FOURTH = REAL(1) / 24;
        REAL even1 = -SIXTH * (w[0] + w[2]), odd1 = -SIXTH * w[1];
        REAL even2 = TWENTY_FOURTH * w[0] + SIXTH * w[2], odd2 = TWELFTH * w[1];
        u[0] = w[0] / 4, u[5] = w[2];
        u[1] = even1 + odd1, u[2] = even1 - odd1, u[3] = even2 + odd2, u[4] = even2 - odd2;
    }
};
template <> struct Outputs<4> {
    static const int IN = 6, OUT = 4;
    static __device__ void map(const REAL* p, REAL* y) {
        REAL even1 = p[1] + p[2], odd1 = p[1] - p[2], even2 = p[3] + p[4], odd2 = p[3] - p[4];
        y[0] = p[0] + even1 + even2, y[1] = odd1 + 2 * odd2, y[2] = even1 + 4 * even2, y[3] = odd1 + 8 * odd2 + p[5];
    }
};
template <> struct Cotangents<4> {
    static const int IN = 4, OUT = 6;
    static __device__ void map(const REAL* y, REAL* c) {
        REAL even1 = y[0] + y[2], odd1 = y[1] + y[3], even2 = y[0] + 4 * y[2], odd2 = 2 * y[1] + 8 * y[3];
        c[0] = y[0], c[5] = y[3];
        c[1] = even1 + odd1, c[2] = even1 - odd1, c[3] = even2 + odd2, c[4] = even2 - odd2;
    }
};
template <> struct Gradients<4> {
    static const int IN = 6, OUT = 3;
    static __device__ void map(const REAL* s, REAL* w) {
        const REAL SIXTH = REAL(1) / 6, TWELFTH = REAL(1) / 12, TWENTY_FOURTH = REAL(1) / 24;
        REAL even1 = SIXTH * (s[1] + s[2]), even2 = s[3] + s[4];
        w[0] = s[0] / 4 - even1 + TWENTY_FOURTH * even2;
        w[1] = SIXTH * (s[2] - s[1]) + TWELFTH * (s[3] - s[4]);
        w[2] = SIXTH * even2 - even1 + s[5];
    }
};

// out = X in X^t for the matrix X of a map.
template <class Map> __device__ void sandwich(const REAL (*in)[Map::IN], REAL (*out)[Map::OUT]) {
    REAL half[Map::IN][Map::OUT], column[Map::IN], made[Map::OUT];
    for (int i = 0; i < Map::IN; ++i) Map::map(in[i], half[i]);
    for (int j = 0; j < Map::OUT; ++j) {
        for (int i = 0; i < Map::IN; ++i) column[i] = half[i][j];
        Map::map(column, made);
        for (int i = 0; i < Map::OUT; ++i) out[i][j] = made[i];
    }
}

// ---- Where things are ----------------------------------------------------------------------------------------------

// The image of a tile, and its first output.
struct Tile { int n; Place o; };

__device__ Tile tile_at(Window g, int m, int t) {
    int across = (g.w.output + m - 1) / m, down = (g.h.output + m - 1) / m;
    int row = t / across, plane = row / down;
    return {plane / g.d.output, {plane % g.d.output, row % down * m, t % across * m}};
}

// The weights of a convolution, w[row, channel, kd, kh, kw], or of its input gradient, where the channels change places
// and the taps are rotated.
struct Filters { long long along_rows, along_channels; int channels, rotated; };

__device__ int tap(Filters f, int k, int taps) { return f.rotated ? taps - 1 - k : k; }

// The block's row: y and z together, for neither may be above 65,535.
__device__ int grid_row() { return blockIdx.z * gridDim.y + blockIdx.y; }

// The elements of a tile, which lie far apart: those of one element of all tiles lie together.
template <int N> __device__ void store(const REAL (*tile)[N], REAL* to, long long apart) {
    for (int i = 0; i < N; ++i)
        for (int j = 0; j < N; ++j, to += apart) *to = tile[i][j];
}

// N neighbours in a row of an image, for one access to memory: where the array and its rows begin at a multiple of it.
template <int N> struct alignas(N * sizeof(REAL) < 16 ? N * sizeof(REAL) : 16) Vector { REAL v[N]; };

template <int N> __device__ bool in_vectors(const REAL* array, int row) {
    return row % N == 0 && (unsigned long long)array % alignof(Vector<N>) == 0;
}

// ---- The convolution -----------------------------------------------------------------------------------------------

template <int M> __device__ void weights(const REAL* nine, int rotated, REAL* to, long long apart) {
    REAL in[3][3], out[M + 2][M + 2];
    for (int k = 0; k < 9; ++k) in[k / 3][k % 3] = nine[rotated ? 8 - k : k];
    sandwich<Weights<M>>(in, out);
    store<M + 2>(out, to, apart);
}

// u[e, row, (kd, c)] = element e of G g G^t. A thread a channel; rows (row, kd).
extern "C" __global__ void transform_weights(const REAL* w, REAL* u, int rows, int m, Filters f, Window g) {
    int c = blockIdx.x * blockDim.x + threadIdx.x, row = grid_row();
    if (c >= f.channels || row >= rows) return;
    int kd = row % g.d.kernel;
    const REAL* nine = w + row / g.d.kernel * f.along_rows + c * f.along_channels + 9 * tap(f, kd, g.d.kernel);
    REAL* to = u + (long long)row * f.channels + c;
    long long apart = (long long)rows * f.channels;
    if (m == 4) weights<4>(nine, f.rotated, to, apart);
    else weights<2>(nine, f.rotated, to, apart);
}

// B^t d B of tile t, which is zero from `tiles` on.
template <int M>
__device__ void pixels(const REAL* x, int channels, int c, int kd, int t, int tiles, Window g, REAL* to,
                       long long apart) {
    REAL in[M + 2][M + 2], out[M + 2][M + 2];
    Tile tile = tile_at(g, M, t);
    int id = t < tiles ? pixel(g.d, tile.o.d, kd) : -1;
    const REAL* image = x + ((long long)tile.n * channels + c) * pixels(g);
    for (int i = 0; i < M + 2; ++i) {
        int ih = pixel(g.h, tile.o.h + i, 0);
        const REAL* line = image + ((long long)id * g.h.size + ih) * g.w.size;
        for (int j = 0; j < M + 2; ++j) {
            int iw = pixel(g.w, tile.o.w + j, 0);
            in[i][j] = id < 0 || ih < 0 || iw < 0 ? REAL(0) : line[iw];
        }
    }
    sandwich<Pixels<M>>(in, out);
    store<M + 2>(out, to, apart);
}

// v[part, e, (kd, c), t] = element e of B^t d B, for the tiles from `first` on, `per` in a part. A thread a tile; rows
// (kd, c).
extern "C" __global__ void transform_pixels(const REAL* x, REAL* v, int lanes, int rows, int channels, int first,
                                            int tiles, int per, int m, Window g) {
    int lane = blockIdx.x * blockDim.x + threadIdx.x, row = grid_row();
    if (lane >= lanes || row >= rows) return;
    int c = row % channels, kd = row / channels, E = (m + 2) * (m + 2);
    REAL* to = v + ((long long)(lane / per) * E * rows + row) * per + lane % per;
    long long apart = (long long)rows * per;
    if (m == 4) pixels<4>(x, channels, c, kd, first + lane, tiles, g, to, apart);
    else pixels<2>(x, channels, c, kd, first + lane, tiles, g, to, apart);
}

// One output by the definition. Padding takes part in a convolution; an input gradient has no products there.
__device__ REAL summed_up(const REAL* x, const REAL* w, Filters f, int n, Place o, Window g) {
    REAL acc = 0;
    for (int c = 0; c < f.channels; ++c, w += f.along_channels) {
        const REAL* image = x + ((long long)n * f.channels + c) * pixels(g);
        int k = 0;
        for (int kd = 0; kd < g.d.kernel; ++kd)
            for (int kh = 0; kh < 3; ++kh)
                for (int kw = 0; kw < 3; ++kw) {
                    long long i = pixel(g, o, {kd, kh, kw});
                    REAL weight = w[tap(f, k++, taps(g))];
                    if (i >= 0) acc += image[i] * weight;
                    else if (!f.rotated) acc += 0 * weight;
                }
    }
    return acc;
}

// A^t P A, to rows of `pitch` outputs of which `high` and `wide` are there. Whether all of it is finite.
template <int M>
__device__ bool outputs(const REAL* p, long long apart, bool vectors, REAL* y, int pitch, int high, int wide) {
    REAL in[M + 2][M + 2], out[M][M], zero = 0;
    for (int e = 0; e < (M + 2) * (M + 2); ++e, p += apart) in[e / (M + 2)][e % (M + 2)] = *p;
    sandwich<Outputs<M>>(in, out);
    for (int i = 0; i < M; ++i, y += pitch) {
        Vector<M> row;
        for (int j = 0; j < M; ++j) {
            row.v[j] = out[i][j];
            zero += out[i][j] * 0;
            if (!vectors && i < high && j < wide) y[j] = out[i][j];
        }
        if (vectors && i < high) *(Vector<M>*)y = row;
    }
    return zero == 0;
}

// y[n, row, o] from the products p[e, row, t] of the tiles from `first` on, `per` in a row. A thread a tile; rows are
// channels of y. x and w are what the products were made of.
extern "C" __global__ void make_outputs(const REAL* p, REAL* y, const REAL* x, const REAL* w, int lanes, int rows,
                                        int first, int per, int m, Filters f, Window g) {
    int lane = blockIdx.x * blockDim.x + threadIdx.x, row = grid_row();
    if (lane >= lanes || row >= rows) return;
    const REAL* from = p + (long long)row * per + lane;
    long long apart = (long long)rows * per;
    Tile tile = tile_at(g, m, first + lane);
    Place o = tile.o;
    REAL* to = y + ((((long long)tile.n * rows + row) * g.d.output + o.d) * g.h.output + o.h) * g.w.output + o.w;
    int high = min(m, g.h.output - o.h), wide = min(m, g.w.output - o.w);
    int pitch = g.w.output;
    bool finite = m == 4 ? outputs<4>(from, apart, in_vectors<4>(y, pitch), to, pitch, high, wide)
                         : outputs<2>(from, apart, in_vectors<2>(y, pitch), to, pitch, high, wide);
    if (finite) return;
    for (int i = 0; i < high; ++i)
        for (int j = 0; j < wide; ++j)
            to[(long long)i * pitch + j] = summed_up(x, w + row * f.along_rows, f, tile.n, {o.d, o.h + i, o.w + j}, g);
}

// ---- The weight gradient: g' = G^t [ sum over tiles of (B^t d B) * (A y' A^t) ] G ----------------------------------

// A y' A^t of tile t, which is zero from `tiles` on.
template <int M>
__device__ void cotangents(const REAL* gy, int channels, int c, int t, int tiles, Window g, REAL* to, long long apart) {
    REAL in[M][M], out[M + 2][M + 2];
    Tile tile = tile_at(g, M, t);
    const REAL* from = gy + ((((long long)tile.n * channels + c) * g.d.output + tile.o.d) * g.h.output + tile.o.h) *
                                g.w.output + tile.o.w;
    bool vectors = in_vectors<M>(gy, g.w.output);
    for (int i = 0; i < M; ++i, from += g.w.output) {
        bool there = t < tiles && tile.o.h + i < g.h.output;
        Vector<M> row = {};
        if (vectors && there) row = *(const Vector<M>*)from;
        for (int j = 0; j < M; ++j) {
            if (!vectors && there && tile.o.w + j < g.w.output) row.v[j] = from[j];
            in[i][j] = row.v[j];
        }
    }
    sandwich<Cotangents<M>>(in, out);
    store<M + 2>(out, to, apart);
}

// out[part, e, t, c] = element e of A y' A^t: channels side by side, since the product runs over the tiles. A thread a
// channel of a tile.
extern "C" __global__ void transform_cotangents(const REAL* gy, REAL* out, int lanes, int channels, int first,
                                                int tiles, int per, int m, Window g) {
    int at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= lanes) return;
    int c = at % channels, lane = at / channels, E = (m + 2) * (m + 2);
    REAL* to = out + ((long long)(lane / per) * E * per + lane % per) * channels + c;
    long long apart = (long long)per * channels;
    if (m == 4) cotangents<4>(gy, channels, c, first + lane, tiles, g, to, apart);
    else cotangents<2>(gy, channels, c, first + lane, tiles, g, to, apart);
}

// One weight's gradient by the definition: of input channel ci, output channel co.
__device__ REAL summed_up(const REAL* x, const REAL* gy, int N, int C_in, int ci, int C_out, int co, Place k,
                          Window g) {
    REAL acc = 0;
    for (int n = 0; n < N; ++n) {
        const REAL* image = x + ((long long)n * C_in + ci) * pixels(g);
        const REAL* given = gy + ((long long)n * C_out + co) * outputs(g);
        for (int od = 0; od < g.d.output; ++od)
            for (int oh = 0; oh < g.h.output; ++oh)
                for (int ow = 0; ow < g.w.output; ++ow) {
                    long long i = pixel(g, {od, oh, ow}, k);
                    acc += (i < 0 ? REAL(0) : image[i]) * *given++;
                }
    }
    return acc;
}

// Adds G^t S G to the nine weights of gw, S the sum over the parts. Whether what is there now is finite.
template <int M>
__device__ bool gradient(const REAL* s, int parts, long long apart, REAL* gw) {
    const int N = M + 2;
    REAL in[N][N] = {}, out[3][3], zero = 0;
    for (int part = 0; part < parts; ++part)
        for (int e = 0; e < N * N; ++e, s += apart) in[e / N][e % N] += *s;
    sandwich<Gradients<M>>(in, out);
    for (int k = 0; k < 9; ++k) zero += (gw[k] += out[k / 3][k % 3]) * 0;
    return zero == 0;
}

// gw[co, ci, kd, kh, kw] += what the sums s[part, e, (kd, ci), co] make of it. A thread an output channel; rows
// (kd, ci). `last`: these are the last of the sums, so what is not finite is summed up again.
extern "C" __global__ void make_gradient(const REAL* s, REAL* gw, const REAL* x, const REAL* gy, int lanes, int rows,
                                         int parts, int images, int channels, int m, int last, Window g) {
    int co = blockIdx.x * blockDim.x + threadIdx.x, row = grid_row();
    if (co >= lanes || row >= rows) return;
    int ci = row % channels, kd = row / channels;
    const REAL* from = s + (long long)row * lanes + co;
    REAL* to = gw + (((long long)co * channels + ci) * g.d.kernel + kd) * 9;
    long long apart = (long long)rows * lanes;
    bool finite = m == 4 ? gradient<4>(from, parts, apart, to) : gradient<2>(from, parts, apart, to);
    if (last && !finite)
        for (int k = 0; k < 9; ++k) to[k] = summed_up(x, gy, images, channels, ci, lanes, co, {kd, k / 3, k % 3}, g);
}
