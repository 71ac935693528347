// Tensor cores for the CPU: the functions that tinyconv/kernels/cuda/tensor_core.h has for a GPU, by the same names.
//
// The layout of the fragments is that of the tables in NVIDIA's PTX ISA, "Matrix multiply-accumulate using mma". A
// kernel that is right here agrees with those tables; whether the chip does, only the chip can show. Products and sums
// are taken in double and rounded once; a tensor core sums in an order and with a rounding that are not published.
#pragma once
#define TENSOR_CORE_H  // so that the header of that name, for a GPU, leaves out its own

#define CUDA_ON_CPU_UNWATCHED __attribute__((no_sanitize("thread")))

// cvt.rna.tf32.f32: to 10 bits of mantissa, the nearest, ties away from zero.
inline unsigned to_tf32(float x) {
    unsigned bits = __float_as_uint(x);
    return x != x ? 0x7fffffff : (bits + 0x1000) & ~0x1fffu;
}

// cvt.rn.bf16x2.f32: to 7 bits of mantissa, the nearest, ties to even; `low` goes into the lower half.
inline unsigned cuda_on_cpu_bf16(float x) {
    unsigned bits = __float_as_uint(x);
    return x != x ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
inline unsigned to_bf16(float low, float high) { return cuda_on_cpu_bf16(high) << 16 | cuda_on_cpu_bf16(low); }

// The two numbers of a word of bf16.
inline CUDA_ON_CPU_UNWATCHED float cuda_on_cpu_half(unsigned word, int i) {
    return __uint_as_float(i % 2 ? word & 0xffff0000 : word << 16);
}

// What one lane brings to a product of its warp.
struct CudaOnCpuFragments {
    float* c;
    const unsigned *a, *b;
};

// c += a b of one warp: a is 16 rows of 8 words, b 8 words of 8 columns, a word one number of TF32 or two of bf16.
template <bool BF16> inline CUDA_ON_CPU_UNWATCHED void cuda_on_cpu_product(void** lanes) {
    for (int row = 0; row < 16; ++row)
        for (int column = 0; column < 8; ++column) {
            CudaOnCpuFragments& mine = *(CudaOnCpuFragments*)lanes[row % 8 * 4 + column / 2];
            float& c = mine.c[row / 8 * 2 + column % 2];
            double sum = c;
            for (int k = 0; k < 8; ++k) {
                unsigned a = ((CudaOnCpuFragments*)lanes[row % 8 * 4 + k % 4])->a[row / 8 + k / 4 * 2];
                unsigned b = ((CudaOnCpuFragments*)lanes[column * 4 + k % 4])->b[k / 4];
                if (BF16)
                    for (int i = 0; i < 2; ++i) sum += (double)cuda_on_cpu_half(a, i) * cuda_on_cpu_half(b, i);
                else  // a tensor core does not look at the lower 13 bits
                    sum += (double)__uint_as_float(a & ~0x1fffu) * __uint_as_float(b & ~0x1fffu);
            }
            c = sum;
        }
}
#define PRODUCT(name, bf16)                                                                                       \
    inline void name(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2], int line = __builtin_LINE()) { \
        CudaOnCpuFragments mine = {c, a, b};                                                                      \
        cuda_on_cpu_together(32, cuda_on_cpu_product<bf16>, &mine, #name "()", line);                             \
    }
PRODUCT(mma_tf32, false)
PRODUCT(mma_bf16, true)

// A copy to shared memory is made as late as it may be: when its thread waits for it.
template <int BYTES> inline void copy_async(void* shared, const void* global, bool inside = true) {
    static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16, "4, 8 or 16 bytes");
    cuda_on_cpu_copy_async(shared, inside ? global : nullptr, BYTES);
}
inline void copy_async_wait() { cuda_on_cpu_copy_async_wait(); }
