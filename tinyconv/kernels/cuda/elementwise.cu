// Activations and their gradients, element by element: each array goes through memory once. exp, erf and the like are
// CUDA's own, exact to two units in the last place. REAL is float or double.

#include "threads.h"
#include "four.h"

extern "C" __global__ void relu(const REAL* x, REAL* y, INDEX n) {
    each(n, [](REAL x) { return x <= 0 ? REAL(0) : x; }, y, x);  // NaN stays
}
extern "C" __global__ void relu_grad(const REAL* g, const REAL* y, REAL* gx, INDEX n) {
    each(n, [](REAL g, REAL y) { return y <= 0 ? REAL(0) : g; }, gx, g, y);
}
extern "C" __global__ void slopes(const REAL* x, const bool* positive, REAL* y, INDEX n, REAL slope) {
    each(n, [=](REAL x, bool positive) { return positive ? x : slope * x; }, y, x, positive);
}
__device__ REAL logistic(REAL x) { return 1 / (1 + exp(-x)); }
extern "C" __global__ void sigmoid(const REAL* x, REAL* y, INDEX n) {
    each(n, [](REAL x) { return logistic(x); }, y, x);
}
extern "C" __global__ void error_function(const REAL* x, REAL* y, INDEX n) {
    each(n, [](REAL x) { return erf(x); }, y, x);
}

// The activations of one formula, by their place among the names in activation.py; parameters that one lacks are 0.

__device__ REAL clipped(REAL x, REAL low, REAL high) {
    REAL y = x < low ? low : x;  // NaN stays
    return y > high ? high : y;
}

const REAL ROOT_HALF = 0.70710678118654752440, DENSITY = 0.39894228040143267794;  // sqrt(1 / 2), 1 / sqrt(2 pi)
const REAL STEEP = 1.5957691216057307117, BEND = 0.07135481627260025;  // sqrt(8 / pi), 0.044715 times that

extern "C" __global__ void activation(const REAL* x, REAL* y, INDEX n, int kind, REAL a, REAL b, REAL c) {
    switch (kind) {
        case 0: return each(n, [=](REAL x) { return x > 0 ? a * x : b * expm1(c * x); }, y, x);  // elu
        case 1: return each(n, [](REAL x) { return clipped(x + 3, 0, 6) / 6; }, y, x);           // hardsigmoid
        case 2: return each(n, [](REAL x) { return x * clipped(x + 3, 0, 6) / 6; }, y, x);       // hardswish
        case 3: return each(n, [=](REAL x) { return clipped(x, a, b); }, y, x);                  // hardtanh
        case 4:                                                                                  // logsigmoid
            return each(n, [](REAL x) { return (x > 0 ? REAL(0) : x) - log1p(exp(-fabs(x))); }, y, x);
        case 5: return each(n, [](REAL x) { return x * logistic(x); }, y, x);                    // silu
        case 6:                                                                                  // softplus
            return each(n, [=](REAL x) {
                REAL z = a * x, positive = z > 0 ? z : REAL(0);  // log(1 + e^z) = max(z, 0) + log(1 + e^-|z|)
                return z > b ? x : (positive + log1p(exp(-fabs(z)))) / a;
            }, y, x);
        case 7: return each(n, [](REAL x) { return x * (1 + erf(x * ROOT_HALF)) / 2; }, y, x);   // gelu
        case 8:  // gelu-tanh: (1 + tanh(u)) / 2 is the logistic function of 2u
            return each(n, [](REAL x) { return x * logistic(x * (STEEP + BEND * x * x)); }, y, x);
    }
}

// gx = g f'(x), at a kink as in torch.
extern "C" __global__ void activation_grad(const REAL* g, const REAL* x, REAL* gx, INDEX n, int kind, REAL a, REAL b,
                                           REAL c) {
    switch (kind) {
        case 0: return each(n, [=](REAL g, REAL x) { return g * (x > 0 ? a : b * c * exp(c * x)); }, gx, g, x);
        case 1: return each(n, [](REAL g, REAL x) { return x > -3 && x < 3 ? g / 6 : REAL(0); }, gx, g, x);
        case 2:
            return each(n, [](REAL g, REAL x) {
                return x <= -3 ? REAL(0) : x >= 3 ? g : g * (x / 3 + REAL(0.5));
            }, gx, g, x);
        case 3: return each(n, [=](REAL g, REAL x) { return x <= a || x >= b ? REAL(0) : g; }, gx, g, x);
        case 4: return each(n, [](REAL g, REAL x) { return g * logistic(-x); }, gx, g, x);
        case 5:
            return each(n, [](REAL g, REAL x) {
                REAL s = logistic(x);
                return g * s * (1 + x * (1 - s));
            }, gx, g, x);
        case 6: return each(n, [=](REAL g, REAL x) { return a * x > b ? g : g * logistic(a * x); }, gx, g, x);
        case 7:
            return each(n, [](REAL g, REAL x) {
                return g * ((1 + erf(x * ROOT_HALF)) / 2 + x * DENSITY * exp(-x * x / 2));
            }, gx, g, x);
        case 8:
            return each(n, [](REAL g, REAL x) {
                REAL s = logistic(x * (STEEP + BEND * x * x));
                return g * s * (1 + x * (1 - s) * (STEEP + 3 * BEND * x * x));
            }, gx, g, x);
    }
}
