// What the kernels on tensor cores share: the way along the sum of a convolution, and how its columns are written.

// Which tap and channels come next. The same in all threads of a block.
struct Slice {
    int channel;
    Place tap;
};

// To the next `depth` channels, of `channels`; true at another tap.
__device__ bool advance(Slice& s, int depth, int channels, Window g) {
    s.channel += depth;
    if (s.channel < channels) return false;
    s.channel = 0;
    if (++s.tap.w == g.w.kernel) {
        s.tap.w = 0;
        if (++s.tap.h == g.h.kernel) s.tap.h = 0, ++s.tap.d;
    }
    return true;
}

// An output of an image.
struct Column {
    long long image, output;
};
__device__ void go_on(Column& c, int columns, long long outputs) {
    c.output += columns;
    while (c.output >= outputs) c.output -= outputs, ++c.image;
}

// y[image, row, output] of four neighbouring columns, of N images and so many rows. At once where they lie aligned.
__device__ void write4(float* y, const float (&v)[4], Column c, int row, int rows, int N, long long outputs) {
    if (outputs % 4 == 0) {
        if (c.image < N) *(float4*)(y + (c.image * rows + row) * outputs + c.output) = *(const float4*)v;
        return;
    }
    for (int j = 0; j < 4; ++j) {
        if (c.image < N) y[(c.image * rows + row) * outputs + c.output] = v[j];
        go_on(c, 1, outputs);
    }
}
