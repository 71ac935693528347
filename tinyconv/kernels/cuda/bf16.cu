// Convolution in bf16: operands rounded to 7 bits of mantissa, products and sums in float. sm_80 and later.
#include "tensor_core.h"

const int WORD = 2, PITCH = 132, SUM_PITCH = 24;

__device__ unsigned word(const float* v, int next) { return to_bf16(v[0], v[next]); }
__device__ void multiply(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) { mma_bf16(c, a, b); }

#include "tensor_tiles.h"
