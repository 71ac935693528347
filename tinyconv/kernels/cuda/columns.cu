// The columns of im2col written down, and added back: what turns a convolution into a matrix product.
//
// Threads of a warp stand side by side on the last two axes, so that they read and write neighbours. The block's row on
// the grid's y and z is an image, a channel and a place on the axis of depth. Each thread walks over the taps by
// additions: integer divisions, of 20 instructions each, are made once. REAL is float or double.

// The block's row: y and z together, for neither may be above 65,535.
__device__ int grid_row() { return blockIdx.z * gridDim.y + blockIdx.y; }

// cols[n, (c, k), o] = x[n, c, pixel(o, k)], 0 for padding. In cols images lie per_image elements apart, rows per_row.
// A thread an output (oh, ow); rows (n, c, od).
extern "C" __global__ void unfold(const REAL* __restrict__ x, REAL* __restrict__ cols, int lanes, int rows,
                                  int channels, long long per_image, long long per_row, Window g) {
    int at = blockIdx.x * blockDim.x + threadIdx.x, row = grid_row();
    if (at >= lanes || row >= rows) return;
    int oh = at / g.w.output, ow = at % g.w.output;
    int od = row % g.d.output, image = row / g.d.output, c = image % channels, n = image / channels;
    const REAL* from = x + image * pixels(g);
    REAL* to = cols + n * per_image + (long long)c * taps(g) * per_row + (long long)od * lanes + at;
    int first = position(g.w, ow, 0);  // of the first tap; the next is `dilation` further on
    for (int kd = 0; kd < g.d.kernel; ++kd) {
        int id = pixel(g.d, od, kd);
        for (int kh = 0; kh < g.h.kernel; ++kh) {
            int ih = pixel(g.h, oh, kh), iw = first;
            bool on_line = id >= 0 && ih >= 0;
            const REAL* line = from + ((long long)id * g.h.size + ih) * g.w.size;
            for (int kw = 0; kw < g.w.kernel; ++kw, iw += g.w.dilation, to += per_row)
                *to = on_line && (unsigned)iw < (unsigned)g.w.size ? line[iw] : REAL(0);
        }
    }
}

// x[n, c, i] = sum over the (o, k) that read i of cols[n, (c, k), o], tap after tap; added to what is there where
// `more`. A thread a pixel (ih, iw); rows (n, c, id).
extern "C" __global__ void fold(const REAL* cols, REAL* x, int lanes, int rows, int more, Window g) {
    int at = blockIdx.x * blockDim.x + threadIdx.x, row = grid_row();
    if (at >= lanes || row >= rows) return;
    int id = row % g.d.size, image = row / g.d.size;
    Reader d = first_reader(g.d, id), top = first_reader(g.h, at / g.w.size), left = first_reader(g.w, at % g.w.size);
    Reader tap_d = a_tap(g.d), tap_h = a_tap(g.h), tap_w = a_tap(g.w);
    const REAL* from = cols + (long long)image * taps(g) * outputs(g);
    REAL acc = 0;  // stays 0 for a pixel that no window reads
    for (int kd = 0; kd < g.d.kernel; ++kd, d = next_reader(d, tap_d, g.d)) {
        Reader h = top;
        for (int kh = 0; kh < g.h.kernel; ++kh, h = next_reader(h, tap_h, g.h), from += g.w.kernel * outputs(g)) {
            Reader w = left;
            bool on_line = reads(d, g.d) && reads(h, g.h);
            const REAL* line = from + ((long long)d.output * g.h.output + h.output) * g.w.output;
            for (int kw = 0; kw < g.w.kernel; ++kw, w = next_reader(w, tap_w, g.w), line += outputs(g))
                if (on_line && reads(w, g.w)) acc += line[w.output];
        }
    }
    REAL* to = x + (long long)row * lanes + at;
    *to = more ? *to + acc : acc;
}
