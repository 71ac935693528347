// What the emulator and the kernels both know.
#pragma once
#include <cstddef>

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

extern "C" {
extern char* cuda_on_cpu_dynamic_shared;
void cuda_on_cpu_barrier(int line);
unsigned long long cuda_on_cpu_exchange(unsigned mask, unsigned long long value, int from, const char* what, int line);
int cuda_on_cpu_lane();
void cuda_on_cpu_together(int threads, void (*operation)(void**), void* mine, const char* what, int line);
void cuda_on_cpu_copy_async(void* shared, const void* from, int size);
void cuda_on_cpu_copy_async_wait();
void cuda_on_cpu_atomic(void* address, size_t size);
int cuda_on_cpu_printf(const char* format, ...);
}
