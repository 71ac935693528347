// Hopper's matrix product: a warpgroup, four warps, multiplies what lies in shared memory, and may do else meanwhile.
// The functions stand for one instruction of PTX each, of sm_90a. The emulator has them in tinyconv/cuda_on_cpu.
//
// Both factors lie in tiles of lines of 128 bytes, 64 numbers of bf16, as 8 chunks of 16 bytes. Chunk j of line r is
// stored in the place of chunk j ^ (r % 8) ("128-byte swizzle"): so eight lines hold the same chunk in different banks.
// Tiles begin at multiples of 1024 bytes. A line is a row of a, or a column of b, and runs along k; an instruction
// takes 16 numbers along k, so that its descriptor moves on by 32 bytes. Or, TURNED, a line is one k of 64 rows or
// columns, and it moves on by 16 lines.
//
// The sums (64 x 128) lie in registers: warp i of the four has rows 16 i to 16 i + 15, of which, with g = lane / 4 and
// t = lane % 4, a lane holds (PTX ISA, "Register Fragments for wgmma.mma_async.m64n128k16"):
//
//     c[4 j] (g, 8j + 2t)   c[4 j + 1] (g, 8j + 2t + 1)   c[4 j + 2] (g + 8, 8j + 2t)   c[4 j + 3] (g + 8, 8j + 2t + 1)
#ifndef WARPGROUP_H
#define WARPGROUP_H

// Where a tile lies and how, in units of 16 bytes: its address; how far the `next` 64 columns lie, if TURNED; 1024 from
// eight lines to the next eight; the swizzle.
__device__ unsigned long long descriptor(const void* tile, unsigned next = 16) {
    unsigned long long address = __cvta_generic_to_shared(tile);
    return (address & 0x3ffff) >> 4 | (unsigned long long)next >> 4 << 16 | (1024ull >> 4) << 32 | 1ull << 62;
}

// What this thread wrote to shared memory is seen by the matrix products behind the next barrier.
__device__ void publish() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Before the first product, and whenever the thread itself has written to registers of c.
__device__ void products_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

// After the last product.
__device__ void products_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// c and both tiles belong to the products until this returns.
__device__ void products_wait() { asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory"); }

#define FOUR(i) "+f"(c[i]), "+f"(c[i + 1]), "+f"(c[i + 2]), "+f"(c[i + 3])
#define SIXTEEN(i) FOUR(i), FOUR(i + 4), FOUR(i + 8), FOUR(i + 12)

// c += a b of a warpgroup, begun: a is 64 rows, b 128 columns, of 16 numbers of bf16.
template <bool TURNED = false>
__device__ void begin_product(float (&c)[64], unsigned long long a, unsigned long long b) {
    asm volatile(
        "{ .reg .pred add;\n setp.eq.u32 add, 0, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
        "%64, %65, add, 1, 1, %66, %66; }"
        : SIXTEEN(0), SIXTEEN(16), SIXTEEN(32), SIXTEEN(48)
        : "l"(a), "l"(b), "n"((int)TURNED)
        : "memory");
}

#endif
