// What CUDA C has no name for: products of matrices on tensor cores, and copies to shared memory that nobody waits for.
// The functions stand for one instruction of PTX each. In the emulator tinyconv/cuda_on_cpu/tensor_core.h has them.
//
// A warp of 32 lanes multiplies a (16 x K) by b (K x 8) and adds to c (16 x 8); each lane holds a fragment of each.
// With g = lane / 4 and t = lane % 4 (PTX ISA, "Matrix Fragments for mma.m16n8k8" and "m16n8k16"):
//
//     a[0] (g, t)   a[1] (g + 8, t)   a[2] (g, t + 4)   a[3] (g + 8, t + 4)      row, word of k
//     b[0] (t, g)   b[1] (t + 4, g)                                              word of k, column
//     c[0] (g, 2t)  c[1] (g, 2t + 1)  c[2] (g + 8, 2t)  c[3] (g + 8, 2t + 1)     row, column
//
// A word is one number of TF32 (K = 8), or two neighbours on k of bf16, the first in the lower half (K = 16).
#ifndef TENSOR_CORE_H
#define TENSOR_CORE_H

// TF32: the exponent of float and 10 bits of mantissa; to the nearest, ties away from zero. A tensor core would cut the
// other 13 bits off, whose error is larger and always to one side.
__device__ unsigned to_tf32(float x) {
    unsigned rounded;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(x));
    return rounded;
}

// Two numbers of bf16, the upper half of a float: to the nearest, ties to even.
__device__ unsigned to_bf16(float low, float high) {
    unsigned pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

__device__ void mma_tf32(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ void mma_bf16(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Starts a copy of 4, 8 or 16 bytes to shared memory, past the registers; zeros where the source is not `inside`.
template <int BYTES> __device__ void copy_async(void* shared, const void* global, bool inside = true) {
    unsigned to = __cvta_generic_to_shared(shared);
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(global), "n"(BYTES),
                 "r"(inside ? BYTES : 0)
                 : "memory");
}

// Waits for the copies that this thread has started; those of other threads need a __syncthreads() after it.
__device__ void copy_async_wait() { asm volatile("cp.async.wait_all;" ::: "memory"); }

#endif
