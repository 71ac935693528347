// The index arithmetic of every window, put in front of each kernel's source: see tinyconv/geometry.py.

// One axis: numbers of pixels, of taps, of outputs; and how they lie.
struct Axis { int size, kernel, output, stride, dilation, padding; };

// Depth, height and width; signals and images have axes of one pixel in front.
struct Window { Axis d, h, w; };

// A pixel, a tap or an output, by its index on each axis.
struct Place { int d, h, w; };

__device__ long long pixels(Window g) { return (long long)g.d.size * g.h.size * g.w.size; }
__device__ long long outputs(Window g) { return (long long)g.d.output * g.h.output * g.w.output; }
__device__ int taps(Window g) { return g.d.kernel * g.h.kernel * g.w.kernel; }

// The place of a flat index; what is above the three axes (image, channel) is left out.
__device__ Place place(long long flat, int D, int H, int W) {
    return {int(flat / W / H % D), int(flat / W % H), int(flat % W)};
}
__device__ Place pixel_at(Window g, long long flat) { return place(flat, g.d.size, g.h.size, g.w.size); }
__device__ Place output_at(Window g, long long flat) { return place(flat, g.d.output, g.h.output, g.w.output); }
__device__ Place tap_at(Window g, int flat) { return place(flat, g.d.kernel, g.h.kernel, g.w.kernel); }

// Where tap k of output o reads on an axis; outside of [0, size) that is padding.
__device__ int position(Axis a, int o, int k) { return o * a.stride + k * a.dilation - a.padding; }

// Which pixel that is; -1 for padding.
__device__ int pixel(Axis a, int o, int k) {
    int i = position(a, o, k);
    return 0 <= i && i < a.size ? i : -1;
}

// The output whose tap k reads pixel i on an axis; -1 where there is none.
__device__ int reader(Axis a, int i, int k) {
    int o = i + a.padding - k * a.dilation;
    return o >= 0 && o % a.stride == 0 && o / a.stride < a.output ? o / a.stride : -1;
}

// The same, followed from tap to tap without divisions: output * stride + rest is i + padding - k * dilation, and the
// tap reads the pixel where nothing rests. Below zero, where no output is, it only falls.
struct Reader { int output, rest; };

__device__ Reader first_reader(Axis a, int i) { return {(i + a.padding) / a.stride, (i + a.padding) % a.stride}; }
__device__ Reader a_tap(Axis a) { return {a.dilation / a.stride, a.dilation % a.stride}; }  // how far each one goes
__device__ Reader next_reader(Reader r, Reader tap, Axis a) {
    int rest = r.rest - tap.rest;
    return {r.output - tap.output - (rest < 0), rest < 0 ? rest + a.stride : rest};
}
__device__ bool reads(Reader r, Axis a) { return r.rest == 0 && (unsigned)r.output < (unsigned)a.output; }

// The same on all axes, as flat indices.
__device__ long long pixel(Window g, Place o, Place k) {
    int d = pixel(g.d, o.d, k.d), h = pixel(g.h, o.h, k.h), w = pixel(g.w, o.w, k.w);
    return d < 0 || h < 0 || w < 0 ? -1 : ((long long)d * g.h.size + h) * g.w.size + w;
}
__device__ long long reader(Window g, Place i, Place k) {
    int d = reader(g.d, i.d, k.d), h = reader(g.h, i.h, k.h), w = reader(g.w, i.w, k.w);
    return d < 0 || h < 0 || w < 0 ? -1 : ((long long)d * g.h.output + h) * g.w.output + w;
}
