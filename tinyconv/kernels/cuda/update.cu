// One step of an optimiser, in place: every array is read once, and written once where it changes. Four elements a
// thread. REAL is float or double.

#include "threads.h"
#include "four.h"

// x and v <- the step of torch's SGD; without `moving`, v is any array. rest = 1 - dampening.
extern "C" __global__ void sgd_step(REAL* x, const REAL* g, REAL* v, INDEX n, REAL lr, REAL momentum, REAL rest,
                                    REAL decay, REAL sign, bool moving, bool nesterov) {
    INDEX i = 4 * thread_number();
    if (i >= n) return;
    Four<REAL> value = load(x, i, n), slope = load(g, i, n), velocity = moving ? load(v, i, n) : Four<REAL>();
    for (int j = 0; j < 4; ++j) {
        REAL step = slope.at[j] * sign;
        if (decay != 0) step += value.at[j] * decay;  // not 0 times an infinity
        if (moving) {
            velocity.at[j] = velocity.at[j] * momentum + step * rest;
            step = nesterov ? step + velocity.at[j] * momentum : velocity.at[j];
        }
        value.at[j] -= step * lr;
    }
    store(x, i, n, value);
    if (moving) store(v, i, n, velocity);
}

// x, m, v and, with `amsgrad`, largest. rate = lr / (1 - beta1^count), root = sqrt(1 - beta2^count), rest = 1 - beta,
// shrink = 1 - lr decay where that is decoupled.
extern "C" __global__ void adam_step(REAL* x, const REAL* g, REAL* m, REAL* v, REAL* largest, INDEX n, REAL rate,
                                     REAL rest1, REAL beta2, REAL rest2, REAL root, REAL eps, REAL shrink, REAL decay,
                                     REAL sign, bool amsgrad) {
    INDEX i = 4 * thread_number();
    if (i >= n) return;
    Four<REAL> value = load(x, i, n), slope = load(g, i, n), mean = load(m, i, n), square = load(v, i, n);
    Four<REAL> top = amsgrad ? load(largest, i, n) : Four<REAL>();
    for (int j = 0; j < 4; ++j) {
        REAL start = value.at[j] * shrink, step = slope.at[j] * sign;
        if (decay != 0) step += start * decay;
        mean.at[j] += (step - mean.at[j]) * rest1;
        square.at[j] = square.at[j] * beta2 + step * step * rest2;
        REAL used = square.at[j];
        if (amsgrad) used = top.at[j] = used > top.at[j] || used != used ? used : top.at[j];
        value.at[j] = start - mean.at[j] / (sqrt(used) / root + eps) * rate;
    }
    store(x, i, n, value);
    store(m, i, n, mean);
    store(v, i, n, square);
    if (amsgrad) store(largest, i, n, top);
}

// x, v, with `centered` mean, and with `moving` b. rest = 1 - alpha.
extern "C" __global__ void rmsprop_step(REAL* x, const REAL* g, REAL* v, REAL* mean, REAL* b, INDEX n, REAL lr,
                                        REAL alpha, REAL rest, REAL eps, REAL decay, REAL momentum, REAL sign,
                                        bool centered, bool moving) {
    INDEX i = 4 * thread_number();
    if (i >= n) return;
    Four<REAL> value = load(x, i, n), slope = load(g, i, n), square = load(v, i, n);
    Four<REAL> average = centered ? load(mean, i, n) : Four<REAL>(), change = moving ? load(b, i, n) : Four<REAL>();
    for (int j = 0; j < 4; ++j) {
        REAL step = slope.at[j] * sign;
        if (decay != 0) step += value.at[j] * decay;
        square.at[j] = square.at[j] * alpha + step * step * rest;
        REAL used = square.at[j];
        if (centered) {
            average.at[j] += (step - average.at[j]) * rest;
            used -= average.at[j] * average.at[j];
        }
        change.at[j] = step / (sqrt(used) + eps) + (moving ? change.at[j] * momentum : REAL(0));
        value.at[j] -= change.at[j] * lr;
    }
    store(x, i, n, value);
    store(v, i, n, square);
    if (centered) store(mean, i, n, average);
    if (moving) store(b, i, n, change);
}
