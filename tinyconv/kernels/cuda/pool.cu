// Pooling over windows of three axes, see window.h. A thread makes one result in each of a few planes, see threads.h.
// REAL is float or double. The gradients are gathered through lists: maps.cu.

#include "threads.h"

// y[c, o] = the largest pixel of the window and its flat index in the image. Of equal pixels the first wins; a NaN
// wins, and of several the last. A window that reads no pixel is minus infinity, with the index 0.
extern "C" __global__ void max_pool(const REAL* x, REAL* y, long long* indices, INDEX planes, INDEX tasks, Window g) {
    INDEX thread = thread_number();
    if (thread >= tasks) return;
    Task t = task(thread, g.d.output, g.h.output, g.w.output);
    Starts image = starts(t, planes, pixels(g));
    REAL best[PLANES];
    INDEX where[PLANES] = {};
    for (int p = 0; p < PLANES; ++p) best[p] = -REAL(1e308 * 10);  // minus infinity: it has no name without a header
    bool first = true;
    for (int kd = 0; kd < g.d.kernel; ++kd)
        for (int kh = 0; kh < g.h.kernel; ++kh) {
            int d = pixel(g.d, t.at.d, kd), h = pixel(g.h, t.at.h, kh);
            if (d < 0 || h < 0) continue;
            INDEX row = ((INDEX)d * g.h.size + h) * g.w.size;
            for (int kw = 0; kw < g.w.kernel; ++kw) {
                int w = pixel(g.w, t.at.w, kw);
                if (w < 0) continue;
                for (int p = 0; p < PLANES; ++p) {
                    REAL value = x[image.at[p] + row + w];
                    if (first || value > best[p] || value != value) best[p] = value, where[p] = row + w;
                }
                first = false;
            }
        }
    INDEX o = ((INDEX)t.at.d * g.h.output + t.at.h) * g.w.output + t.at.w;
    store(y, best, t, planes, outputs(g), o);
    store(indices, where, t, planes, outputs(g), o);
}

// y[c, o] = (sum of the window's pixels) / divisor[o].
extern "C" __global__ void avg_pool(const REAL* x, const REAL* divisor, REAL* y, INDEX planes, INDEX tasks, Window g) {
    INDEX thread = thread_number();
    if (thread >= tasks) return;
    Task t = task(thread, g.d.output, g.h.output, g.w.output);
    Starts image = starts(t, planes, pixels(g));
    REAL acc[PLANES] = {};
    for (int kd = 0; kd < g.d.kernel; ++kd)
        for (int kh = 0; kh < g.h.kernel; ++kh) {
            int d = pixel(g.d, t.at.d, kd), h = pixel(g.h, t.at.h, kh);
            if (d < 0 || h < 0) continue;
            INDEX row = ((INDEX)d * g.h.size + h) * g.w.size;
            for (int kw = 0; kw < g.w.kernel; ++kw) {
                int w = pixel(g.w, t.at.w, kw);
                if (w < 0) continue;
                for (int p = 0; p < PLANES; ++p) acc[p] += x[image.at[p] + row + w];
            }
        }
    INDEX o = ((INDEX)t.at.d * g.h.output + t.at.h) * g.w.output + t.at.w;
    for (int p = 0; p < PLANES; ++p) acc[p] /= divisor[o];
    store(y, acc, t, planes, outputs(g), o);
}
