// What comes before and after tiles: weights in the order in which tiles read them, and sums of parts.

// packed[g, k, c, row] of the weights w (C_out, C_in/groups, *K), by groups: w[g, row, c, k] for outputs, and for the
// gradient of the input, whose rows are the input's channels, w[g, c, row, k]. Channels and rows are padded with zeros
// to C_padded and R_padded. A thread takes the K taps of one channel and one row, which are neighbours in w.
extern "C" __global__ void pack_weights(const REAL* w, REAL* packed, long long elements, int K, int C, int C_padded,
                                        int R, int R_padded, int back) {
    long long at = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= elements) return;
    int row = at % R_padded, c = at / R_padded % C_padded;
    long long group = at / R_padded / C_padded;
    bool there = row < R && c < C;
    const REAL* filter = w + (back ? (group * C + c) * R + row : (group * R + row) * C + c) * K;
    REAL* column = packed + (group * K * C_padded + c) * R_padded + row;
    for (int k = 0; k < K; ++k) column[(long long)k * C_padded * R_padded] = there ? filter[k] : REAL(0);
}

// sum[i] = parts[0, i] + parts[1, i] + ..., in this order: the same bits at every call.
extern "C" __global__ void add_parts(const REAL* parts, REAL* sum, long long elements, int splits) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= elements) return;
    REAL acc = 0;
    for (int s = 0; s < splits; ++s) acc += parts[s * elements + i];
    sum[i] = acc;
}

// The same for the weight gradient, whose parts (splits, C_out, K, C_padded) become gw (C_out, C, K).
extern "C" __global__ void add_weight_parts(const REAL* parts, REAL* gw, long long elements, int splits, int C,
                                            int C_padded, int K) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    int c = i % C_padded, k = i / C_padded % K;
    if (i >= elements || c >= C) return;
    REAL acc = 0;
    for (int s = 0; s < splits; ++s) acc += parts[s * elements + i];
    gw[(i / C_padded / K * C + c) * K + k] = acc;
}
