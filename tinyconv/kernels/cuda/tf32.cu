// Convolution in TF32: operands rounded to 10 bits of mantissa, products and sums in float. sm_80 and later.
#include "tensor_core.h"

// Channels a word; the lengths of rows in shared memory.
const int WORD = 1, PITCH = 129, SUM_PITCH = 20;

__device__ unsigned word_of_weights(const float* channels) { return to_tf32(*channels); }

// The words k of four neighbouring columns. Lanes read columns 4g of rows t: banks 4g + t, all of them different.
__device__ void words_of_columns(unsigned (&to)[4], const float (*tile)[PITCH], int k, int column) {
    for (int j = 0; j < 4; ++j) to[j] = to_tf32(tile[k][column + j]);
}

// The word u of lane t, of a line of 16 outputs. Lanes read lines g: banks 20g + t, all of them different.
__device__ unsigned word_of_line(const float* line, int t, int u) { return to_tf32(line[t + 4 * u]); }

__device__ void multiply(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) { mma_tf32(c, a, b); }

#include "tensor_tiles.h"
