// Windows given as lists: resampling, adaptive max pooling, and the gradient of max pooling as a gather. On each axis
// output o reads the pixels table[inputs + t] with weights[inputs + t], t from table[ends + o] up to the next one's:
// see tinyconv/kernels/axismap.py. REAL is float or double.

#include "threads.h"

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
__device__ INDEX output_index(Maps m, Place o) { return ((INDEX)o.d * m.h.output + o.h) * m.w.output + o.w; }

// y[c, o] = sum of weight x[c, i] over the triples of o.
extern "C" __global__ void resample(const REAL* x, const int* table, const REAL* weights, REAL* y, INDEX planes,
                                    INDEX tasks, Maps m) {
    INDEX thread = thread_number();
    if (thread >= tasks) return;
    Task t = task(thread, m.d.output, m.h.output, m.w.output);
    Starts image = starts(t, planes, pixels(m));
    Run d = run(table, m.d, t.at.d), h = run(table, m.h, t.at.h), w = run(table, m.w, t.at.w);
    REAL acc[PLANES] = {};
    for (int td = d.first; td < d.last; ++td)
        for (int th = h.first; th < h.last; ++th) {
            REAL outer = weights[td] * weights[th];
            INDEX row = ((INDEX)table[td] * m.h.size + table[th]) * m.w.size;
            for (int tw = w.first; tw < w.last; ++tw) {
                REAL weight = outer * weights[tw];
                INDEX i = row + table[tw];
                for (int p = 0; p < PLANES; ++p) acc[p] += weight * x[image.at[p] + i];
            }
        }
    store(y, acc, t, planes, outputs(m), output_index(m, t.at));
}

// The same where every output reads T pixels of a row and T of a column, as in enlarging and padding: no loops, and the
// lists of a column are read once for all its rows.
template <int T>
__device__ void resample_even(const REAL* x, const int* table, const REAL* weights, REAL* y, INDEX planes, INDEX tasks,
                              Maps m) {
    INDEX thread = thread_number();
    if (thread >= tasks) return;
    Task t = task(thread, m.d.output, m.h.output, m.w.output);
    Starts image = starts(t, planes, pixels(m));
    INDEX column[T];
    REAL weight[T], acc[PLANES] = {};
    for (int e = 0; e < T; ++e) {
        int tw = m.w.inputs + t.at.w * T + e;
        column[e] = table[tw], weight[e] = weights[tw];
    }
    Run d = run(table, m.d, t.at.d);
    for (int td = d.first; td < d.last; ++td)
        for (int e = 0; e < T; ++e) {
            int th = m.h.inputs + t.at.h * T + e;
            REAL outer = weights[td] * weights[th];
            INDEX row = ((INDEX)table[td] * m.h.size + table[th]) * m.w.size;
            for (int f = 0; f < T; ++f)
                for (int p = 0; p < PLANES; ++p) acc[p] += outer * weight[f] * x[image.at[p] + row + column[f]];
        }
    store(y, acc, t, planes, outputs(m), output_index(m, t.at));
}
extern "C" __global__ void resample_1(const REAL* x, const int* table, const REAL* weights, REAL* y, INDEX planes,
                                      INDEX tasks, Maps m) {
    resample_even<1>(x, table, weights, y, planes, tasks, m);
}
extern "C" __global__ void resample_2(const REAL* x, const int* table, const REAL* weights, REAL* y, INDEX planes,
                                      INDEX tasks, Maps m) {
    resample_even<2>(x, table, weights, y, planes, tasks, m);
}
extern "C" __global__ void resample_4(const REAL* x, const int* table, const REAL* weights, REAL* y, INDEX planes,
                                      INDEX tasks, Maps m) {
    resample_even<4>(x, table, weights, y, planes, tasks, m);
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
    Starts image = starts(t, planes, pixels(m));
    Run d = run(table, m.d, t.at.d), h = run(table, m.h, t.at.h), w = run(table, m.w, t.at.w);
    REAL best[PLANES];
    INDEX where[PLANES];
    bool first = true;
    for (int td = d.first; td < d.last; ++td)
        for (int th = h.first; th < h.last; ++th)
            for (int tw = w.first; tw < w.last; ++tw) {
                INDEX i = ((INDEX)table[td] * m.h.size + table[th]) * m.w.size + table[tw];
                for (int p = 0; p < PLANES; ++p) {
                    REAL value = x[image.at[p] + i];
                    if (first || value > best[p] || value != value) best[p] = value, where[p] = i;
                }
                first = false;
            }
    INDEX o = output_index(m, t.at);
    store(y, best, t, planes, outputs(m), o);
    store(indices, where, t, planes, outputs(m), o);
}

// The gradients of the poolings. The maps go from outputs to pixels here: a thread asks the outputs that read its pixel
// i, always in the same order, without atomics.

// gx[c, i] = sum of gy[c, o] over the outputs that read pixel i and have chosen it: indices[c, o] = i.
extern "C" __global__ void scatter_windows(const REAL* gy, const long long* indices, const int* table, REAL* gx,
                                           INDEX planes, INDEX tasks, Maps m) {
    INDEX thread = thread_number();
    if (thread >= tasks) return;
    Task t = task(thread, m.d.output, m.h.output, m.w.output);
    Starts given = starts(t, planes, pixels(m));
    INDEX i = output_index(m, t.at);
    Run d = run(table, m.d, t.at.d), h = run(table, m.h, t.at.h), w = run(table, m.w, t.at.w);
    REAL acc[PLANES] = {};
    for (int td = d.first; td < d.last; ++td)
        for (int th = h.first; th < h.last; ++th)
            for (int tw = w.first; tw < w.last; ++tw) {
                INDEX o = ((INDEX)table[td] * m.h.size + table[th]) * m.w.size + table[tw];
                for (int p = 0; p < PLANES; ++p) {
                    INDEX from = given.at[p] + o;
                    if (indices[from] == i) acc[p] += gy[from];
                }
            }
    store(gx, acc, t, planes, outputs(m), i);
}

// gx[c, i] = sum of share[o] gy[c, o] over the outputs that read pixel i.
extern "C" __global__ void avg_pool_input(const REAL* gy, const int* table, const REAL* share, REAL* gx, INDEX planes,
                                          INDEX tasks, Maps m) {
    INDEX thread = thread_number();
    if (thread >= tasks) return;
    Task t = task(thread, m.d.output, m.h.output, m.w.output);
    Starts given = starts(t, planes, pixels(m));
    Run d = run(table, m.d, t.at.d), h = run(table, m.h, t.at.h), w = run(table, m.w, t.at.w);
    REAL acc[PLANES] = {};
    for (int td = d.first; td < d.last; ++td)
        for (int th = h.first; th < h.last; ++th)
            for (int tw = w.first; tw < w.last; ++tw) {
                INDEX o = ((INDEX)table[td] * m.h.size + table[th]) * m.w.size + table[tw];
                REAL part = share[o];
                for (int p = 0; p < PLANES; ++p) acc[p] += part * gy[given.at[p] + o];
            }
    store(gx, acc, t, planes, outputs(m), output_index(m, t.at));
}
