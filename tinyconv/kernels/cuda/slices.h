// What the kernels on tensor cores share: the way along the sum of a convolution, and how its columns are written.

// Which tap and channels come next: all taps of some channels, while their pixels lie in the cache, then the next
// channels. The same in all threads of a block.
struct Slice {
    int channel;
    Place tap;
};
__device__ void advance(Slice& s, int depth, Window g) {
    if (++s.tap.w < g.w.kernel) return;
    s.tap.w = 0;
    if (++s.tap.h < g.h.kernel) return;
    s.tap.h = 0;
    if (++s.tap.d < g.d.kernel) return;
    s.tap.d = 0, s.channel += depth;
}

// An output of an image.
struct Column {
    long long image, output;
};
__device__ void go_on(Column& c, int columns, long long outputs) {
    c.output += columns;
    while (c.output >= outputs) c.output -= outputs, ++c.image;
}

// Where four neighbouring columns of y (image, row, output) are written, in row 0; -1 behind the last of N images.
struct FourColumns {
    long long at[4];
};
__device__ FourColumns four_columns(Column c, int rows, int N, long long outputs) {
    FourColumns result;
    for (int j = 0; j < 4; ++j) {
        result.at[j] = c.image < N ? c.image * rows * outputs + c.output : -1;
        go_on(c, 1, outputs);
    }
    return result;
}

// At once where they lie aligned.
__device__ void write4(float* y, const float (&v)[4], FourColumns to, int row, long long outputs) {
    y += row * outputs;
    if (outputs % 4 == 0) {
        if (to.at[0] >= 0) *(float4*)(y + to.at[0]) = *(const float4*)v;
    } else {
        for (int j = 0; j < 4; ++j)
            if (to.at[j] >= 0) y[to.at[j]] = v[j];
    }
}

// The outputs of all images, one every `depth`, for a sum over outputs: number q is output o of image n, at a place. A
// step is so many images, rows and columns, with a carry: nothing is divided on the way.
struct Walk {
    long long q, n, o;
    Place at, ahead;
    int images_ahead;
};
__device__ Walk walk_from(long long q, int depth, Window g) {
    long long n = q / outputs(g), o = q % outputs(g);
    return {q, n, o, output_at(g, o), output_at(g, depth), int(depth / outputs(g))};
}
__device__ void step(Walk& w, int depth, Window g) {
    w.q += depth, w.n += w.images_ahead, w.o += depth - w.images_ahead * outputs(g);
    if (w.o >= outputs(g)) w.o -= outputs(g), ++w.n;
    w.at.w += w.ahead.w, w.at.h += w.ahead.h, w.at.d += w.ahead.d;
    if (w.at.w >= g.w.output) w.at.w -= g.w.output, ++w.at.h;
    if (w.at.h >= g.h.output) w.at.h -= g.h.output, ++w.at.d;
    if (w.at.d >= g.d.output) w.at.d -= g.d.output;
}

// The outputs [begin, end) that part `part` sums over: `share` slices of `depth`, as far as there are.
struct Share {
    long long begin, end;
    int slices;
};
__device__ Share share_of(int part, int share, int depth, long long all) {
    long long begin = (long long)part * share * depth, end = begin + (long long)share * depth;
    if (end > all) end = all;
    return {begin, end, begin < end ? int((end - begin + depth - 1) / depth) : 0};
}
