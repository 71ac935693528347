// Convolution in TF32: operands rounded to 10 bits of mantissa, products and sums in float. sm_80 and later.
#include "tensor_core.h"

const int WORD = 1, PITCH = 136, SUM_PITCH = 20;

__device__ unsigned word(const float* v, int) { return to_tf32(*v); }
__device__ void multiply(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) { mma_tf32(c, a, b); }

#include "tensor_tiles.h"
