// The index arithmetic of every window, put in front of each kernel's source: see tinyconv/geometry.py.

// Which pixel tap k of output o reads; outside of [0, size) it is padding.
__device__ int pixel(int o, int k, int stride, int dilation, int padding) { return o * stride + k * dilation - padding; }

// The output whose tap k reads pixel i: -1 where there is none.
__device__ int reader(int i, int k, int stride, int dilation, int padding, int outputs) {
    int o = i + padding - k * dilation;
    return o >= 0 && o % stride == 0 && o / stride < outputs ? o / stride : -1;
}
