// CUDA C for a C++ compiler: put in front of a kernel's source. What is missing here is a compile error.
#pragma once
#define CUDA_ON_CPU 1
#include <algorithm>
#include <cmath>
#include <cstring>

#include "shared_with_kernels.h"

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
// Blocks run one after the other, so one copy serves them all; a section of its own says where it is.
#define __shared__ static __attribute__((used, section("cuda_shared")))
#define printf cuda_on_cpu_printf

const int warpSize = 32;

// Barriers. The default argument is the line of the call.

inline void __syncthreads(int line = __builtin_LINE()) { cuda_on_cpu_barrier(line); }
inline void __syncwarp(unsigned mask = 0xffffffff, int line = __builtin_LINE()) {
    cuda_on_cpu_exchange(mask, 0, -1, "__syncwarp()", line);
}

// Vectors, aligned as on the GPU

#define VECTOR(type, name)                                                                                        \
    struct alignas(2 * sizeof(type)) name##2 { type x, y; };                                                     \
    struct name##3 { type x, y, z; };                                                                            \
    struct alignas(4 * sizeof(type)) name##4 { type x, y, z, w; };                                               \
    inline name##2 make_##name##2(type x, type y) { return {x, y}; }                                             \
    inline name##3 make_##name##3(type x, type y, type z) { return {x, y, z}; }                                  \
    inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }
VECTOR(float, float)
VECTOR(int, int)
struct alignas(16) uint4 { unsigned x, y, z, w; };
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

// Arithmetic

using std::max;
using std::min;
// In CUDA these take the type of their argument; C's take double.
using std::exp;
using std::log;
using std::sqrt;
using std::tanh;
using std::fabs;
using std::erf;
using std::expm1;
using std::log1p;
using std::floor;
using std::rint;
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdividef(float a, float b) { return a / b; }
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float rsqrt(float x) { return rsqrtf(x); }
inline double rsqrt(double x) { return 1.0 / std::sqrt(x); }
template <class T> inline T __ldg(const T* p) { return *p; }

template <class To, class From> inline To cuda_on_cpu_bits(From value) {
    static_assert(sizeof(To) == sizeof(From), "as many bits");
    To result;
    std::memcpy(&result, &value, sizeof result);
    return result;
}
inline int __float_as_int(float x) { return cuda_on_cpu_bits<int>(x); }
inline unsigned __float_as_uint(float x) { return cuda_on_cpu_bits<unsigned>(x); }
inline float __int_as_float(int x) { return cuda_on_cpu_bits<float>(x); }
inline float __uint_as_float(unsigned x) { return cuda_on_cpu_bits<float>(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }

// Between the lanes of a warp

template <class T>
inline T cuda_on_cpu_shuffle(unsigned mask, T value, int from, int width, const char* what, int line) {
    unsigned long long bits = 0;
    static_assert(sizeof(T) <= 8, "4 or 8 bytes");
    std::memcpy(&bits, &value, sizeof value);
    int first = cuda_on_cpu_lane() / width * width;  // lanes outside of the own group of `width` are out of reach
    bits = cuda_on_cpu_exchange(mask, bits, from >= first && from < first + width ? from : -1, what, line);
    std::memcpy(&value, &bits, sizeof value);
    return value;
}
#define SHUFFLE(name, kind, from)                                                                                 \
    template <class T>                                                                                            \
    inline T name(unsigned mask, T value, kind lane, int width = 32, int line = __builtin_LINE()) {               \
        return cuda_on_cpu_shuffle(mask, value, from, width, #name "()", line);                                  \
    }
SHUFFLE(__shfl_sync, int, cuda_on_cpu_lane() / width * width + lane % width)
SHUFFLE(__shfl_up_sync, unsigned, cuda_on_cpu_lane() - int(lane))
SHUFFLE(__shfl_down_sync, unsigned, cuda_on_cpu_lane() + int(lane))
SHUFFLE(__shfl_xor_sync, int, cuda_on_cpu_lane() ^ lane)

inline unsigned __ballot_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
    unsigned result = 0;
    for (int lane = 0; lane < 32; ++lane)
        if (mask >> lane & 1)
            result |= unsigned(cuda_on_cpu_exchange(mask, predicate != 0, lane, "a vote of the warp", line)) << lane;
    return result;
}
inline int __any_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
    return __ballot_sync(mask, predicate, line) != 0;
}
inline int __all_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
    return __ballot_sync(mask, predicate, line) == mask;
}

// Atomic: fibres are not interrupted

#define ATOMIC(name, expression)                                                                                  \
    template <class T, class U> __attribute__((no_sanitize("thread"))) inline T name(T* at, U value) {   \
        cuda_on_cpu_atomic(at, sizeof(T));                                                                        \
        T old = *at;                                                                                              \
        *at = expression;                                                                                         \
        return old;                                                                                               \
    }
ATOMIC(atomicAdd, old + T(value))
ATOMIC(atomicSub, old - T(value))
ATOMIC(atomicMax, std::max(old, T(value)))
ATOMIC(atomicMin, std::min(old, T(value)))
ATOMIC(atomicExch, T(value))
ATOMIC(atomicOr, old | T(value))
template <class T> __attribute__((no_sanitize("thread"))) inline T atomicCAS(T* at, T expected, T value) {
    cuda_on_cpu_atomic(at, sizeof(T));
    T old = *at;
    if (old == expected) *at = value;
    return old;
}

#include "tensor_core.h"
