// Convolution in bf16: operands rounded to 7 bits of mantissa, products and sums in float. sm_80 and later.
#include "tensor_core.h"

// Channels a word; the lengths of rows in shared memory.
const int WORD = 2, PITCH = 132, SUM_PITCH = 24;

__device__ unsigned word_of_weights(const float* channels) { return to_bf16(channels[0], channels[1]); }

// The words k of four neighbouring columns. Eight lanes at a time read four columns 4g of rows 2t: banks 4g + 8t.
__device__ void words_of_columns(unsigned (&to)[4], const float (*tile)[PITCH], int k, int column) {
    float4 low = *(const float4*)&tile[2 * k][column], high = *(const float4*)&tile[2 * k + 1][column];
    to[0] = to_bf16(low.x, high.x), to[1] = to_bf16(low.y, high.y);
    to[2] = to_bf16(low.z, high.z), to[3] = to_bf16(low.w, high.w);
}

// The word u of lane t, of a line of 16 outputs. Sixteen lanes at a time read two of lines g: banks 24g + 2t.
__device__ unsigned word_of_line(const float* line, int t, int u) {
    float2 v = *(const float2*)&line[2 * t + 8 * u];
    return to_bf16(v.x, v.y);
}

__device__ void multiply(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) { mma_bf16(c, a, b); }

#include "tensor_tiles.h"
