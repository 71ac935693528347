// Windows given as lists: resampling, adaptive max pooling, and the gradient of max pooling as a gather. On each axis
// output o reads the pixels table[inputs + t] with weights[inputs + t], t from table[ends + o] up to the next one's:
// see tinyconv/kernels/axismap.py. REAL is float or double.

// One axis: numbers of pixels and outputs; where its lists begin in the table.
struct Map { int size, output, ends, inputs; };
struct Maps { Map d, h, w; };

// The triples of an output, from first up to last.
struct Run { int first, last; };

__device__ Run run(const int* table, Map m, int o) {
    return {table[m.ends + o] + m.inputs, table[m.ends + o + 1] + m.inputs};
}
__device__ INDEX pixels(Maps m) { return (INDEX)m.d.size * m.h.size * m.w.size; }
__device__ INDEX outputs(Maps m) { return (INDEX)m.d.output * m.h.output * m.w.output; }

// y[c, o] = sum of weight x[c, i] over the triples of o.
extern "C" __global__ void resample(const REAL* x, const int* table, const REAL* weights, REAL* y, INDEX planes,
                                    INDEX tasks, Maps m) {
    INDEX thread = thread_number();
    if (thread >= tasks) return;
    Task t = task(thread, m.d.output, m.h.output, m.w.output);
    int here = count(t, planes);
    INDEX image = pixels(m), result = outputs(m);
    Run d = run(table, m.d, t.at.d), h = run(table, m.h, t.at.h), w = run(table, m.w, t.at.w);
    REAL acc[PLANES] = {};
    for (int td = d.first; td < d.last; ++td)
        for (int th = h.first; th < h.last; ++th) {
            REAL outer = weights[td] * weights[th];
            const REAL* row = x + t.plane * image + ((INDEX)table[td] * m.h.size + table[th]) * m.w.size;
            for (int tw = w.first; tw < w.last; ++tw) {
                REAL weight = outer * weights[tw];
                const REAL* pixel = row + table[tw];
                for (int p = 0; p < PLANES; ++p)
                    if (p < here) acc[p] += weight * pixel[p * image];
            }
        }
    INDEX o = ((INDEX)t.at.d * m.h.output + t.at.h) * m.w.output + t.at.w;
    for (int p = 0; p < PLANES; ++p)
        if (p < here) y[(t.plane + p) * result + o] = acc[p];
}

// The same for wide windows: `lanes` neighbouring threads, 32 at most, make one output and read its pixels together.
extern "C" __global__ void resample_wide(const REAL* x, const int* table, const REAL* weights, REAL* y, INDEX elements,
                                         int lanes, Maps m) {
    INDEX at = team_number(lanes);
    bool real = at < elements;  // the others only take part in the exchange
    INDEX o = real ? at : 0;
    int lane = threadIdx.x % lanes, ow = o % m.w.output, oh = o / m.w.output % m.h.output;
    int od = o / m.w.output / m.h.output % m.d.output;
    const REAL* image = x + o / outputs(m) * pixels(m);
    Run d = run(table, m.d, od), h = run(table, m.h, oh), w = run(table, m.w, ow);
    REAL acc = 0;
    for (int td = d.first; td < d.last; ++td)
        for (int th = h.first; th < h.last; ++th) {
            REAL outer = weights[td] * weights[th];
            const REAL* row = image + ((INDEX)table[td] * m.h.size + table[th]) * m.w.size;
            for (int tw = w.first + lane; tw < w.last; tw += lanes) acc += outer * weights[tw] * row[table[tw]];
        }
    acc = team_sum(acc, lanes);
    if (real && lane == 0) y[at] = acc;
}

// y[c, o] = the largest pixel that o reads and its flat index. Of equal pixels the first wins; a NaN wins, and of
// several the last.
extern "C" __global__ void adaptive_max_pool(const REAL* x, const int* table, REAL* y, long long* indices,
                                             INDEX planes, INDEX tasks, Maps m) {
    INDEX thread = thread_number();
    if (thread >= tasks) return;
    Task t = task(thread, m.d.output, m.h.output, m.w.output);
    int here = count(t, planes);
    INDEX image = pixels(m), result = outputs(m);
    Run d = run(table, m.d, t.at.d), h = run(table, m.h, t.at.h), w = run(table, m.w, t.at.w);
    REAL best[PLANES];
    INDEX where[PLANES];
    bool first = true;
    for (int td = d.first; td < d.last; ++td)
        for (int th = h.first; th < h.last; ++th)
            for (int tw = w.first; tw < w.last; ++tw) {
                INDEX i = ((INDEX)table[td] * m.h.size + table[th]) * m.w.size + table[tw];
                for (int p = 0; p < PLANES; ++p) {
                    if (p >= here) continue;
                    REAL value = x[(t.plane + p) * image + i];
                    if (first || value > best[p] || value != value) best[p] = value, where[p] = i;
                }
                first = false;
            }
    INDEX o = ((INDEX)t.at.d * m.h.output + t.at.h) * m.w.output + t.at.w;
    for (int p = 0; p < PLANES; ++p)
        if (p < here) y[(t.plane + p) * result + o] = best[p], indices[(t.plane + p) * result + o] = where[p];
}

// The gradients of the poolings. The maps go from outputs to pixels here: a thread asks the outputs that read its pixel
// i, always in the same order, without atomics.

// gx[c, i] = sum of gy[c, o] over the outputs that read pixel i and have chosen it: indices[c, o] = i.
extern "C" __global__ void scatter_windows(const REAL* gy, const long long* indices, const int* table, REAL* gx,
                                           INDEX planes, INDEX tasks, Maps m) {
    INDEX thread = thread_number();
    if (thread >= tasks) return;
    Task t = task(thread, m.d.output, m.h.output, m.w.output);
    int here = count(t, planes);
    INDEX given = pixels(m), result = outputs(m);
    INDEX i = ((INDEX)t.at.d * m.h.output + t.at.h) * m.w.output + t.at.w;
    Run d = run(table, m.d, t.at.d), h = run(table, m.h, t.at.h), w = run(table, m.w, t.at.w);
    REAL acc[PLANES] = {};
    for (int td = d.first; td < d.last; ++td)
        for (int th = h.first; th < h.last; ++th)
            for (int tw = w.first; tw < w.last; ++tw) {
                INDEX o = ((INDEX)table[td] * m.h.size + table[th]) * m.w.size + table[tw];
                for (int p = 0; p < PLANES; ++p) {
                    INDEX from = (t.plane + p) * given + o;
                    if (p < here && indices[from] == i) acc[p] += gy[from];
                }
            }
    for (int p = 0; p < PLANES; ++p)
        if (p < here) gx[(t.plane + p) * result + i] = acc[p];
}

// gx[c, i] = sum of gy[c, o] / divisor[o] over the outputs that read pixel i.
extern "C" __global__ void avg_pool_input(const REAL* gy, const int* table, const REAL* divisor, REAL* gx, INDEX planes,
                                          INDEX tasks, Maps m) {
    INDEX thread = thread_number();
    if (thread >= tasks) return;
    Task t = task(thread, m.d.output, m.h.output, m.w.output);
    int here = count(t, planes);
    INDEX given = pixels(m), result = outputs(m);
    Run d = run(table, m.d, t.at.d), h = run(table, m.h, t.at.h), w = run(table, m.w, t.at.w);
    REAL acc[PLANES] = {};
    for (int td = d.first; td < d.last; ++td)
        for (int th = h.first; th < h.last; ++th)
            for (int tw = w.first; tw < w.last; ++tw) {
                INDEX o = ((INDEX)table[td] * m.h.size + table[th]) * m.w.size + table[tw];
                REAL share = 1 / divisor[o];
                for (int p = 0; p < PLANES; ++p)
                    if (p < here) acc[p] += gy[(t.plane + p) * given + o] * share;
            }
    INDEX i = ((INDEX)t.at.d * m.h.output + t.at.h) * m.w.output + t.at.w;
    for (int p = 0; p < PLANES; ++p)
        if (p < here) gx[(t.plane + p) * result + i] = acc[p];
}
