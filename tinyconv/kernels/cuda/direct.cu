// The convolution and its two gradients as they are defined: the bottom of the ladder on a GPU, to be read first.
//
// Windows have three axes; signals and images have axes of one pixel in front. Which pixel a tap reads, and which output
// reads a pixel, stands in window.h. All three kernels gather: a thread, or a block, sums up one result, so that nothing
// is written twice and each call gives the same bits.
//
// REAL is float or double. Offsets are 64 bit: three axes soon have more than 2^31 elements.

// y[n, co, o] = sum over ci, k of x[n, ci, pixel(o, k)] w[co, ci, k]: one thread an output.
extern "C" __global__ void conv(const REAL* x, const REAL* w, REAL* y, long long outputs, int C_in, int C_out,
                                int groups, int ID, int IH, int IW, int KD, int KH, int KW, int OD, int OH, int OW,
                                int SD, int SH, int SW, int DD, int DH, int DW, int PD, int PH, int PW) {
    long long at = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= outputs) return;
    int ow = at % OW, oh = at / OW % OH, od = at / OW / OH % OD;
    long long plane = at / OW / OH / OD;
    int co = plane % C_out, n = plane / C_out;
    int C_group = C_in / groups, first = co / (C_out / groups) * C_group;  // the input channels of co's group
    REAL acc = 0;
    for (int ci = 0; ci < C_group; ++ci) {
        const REAL* image = x + ((long long)n * C_in + first + ci) * ID * IH * IW;
        const REAL* taps = w + ((long long)co * C_group + ci) * KD * KH * KW;
        for (int kd = 0; kd < KD; ++kd) {
            int id = pixel(od, kd, SD, DD, PD);
            for (int kh = 0; kh < KH; ++kh) {
                int ih = pixel(oh, kh, SH, DH, PH);
                for (int kw = 0; kw < KW; ++kw) {
                    int iw = pixel(ow, kw, SW, DW, PW);
                    bool inside = 0 <= id && id < ID && 0 <= ih && ih < IH && 0 <= iw && iw < IW;
                    REAL value = inside ? image[((long long)id * IH + ih) * IW + iw] : REAL(0);
                    acc += value * taps[(kd * KH + kh) * KW + kw];  // padding takes part: 0 * inf is NaN
                }
            }
        }
    }
    y[at] = acc;
}

// gx[n, ci, i] = sum over co and the (o, k) that read i of gy[n, co, o] w[co, ci, k]: one thread a pixel.
extern "C" __global__ void conv_input(const REAL* gy, const REAL* w, REAL* gx, long long pixels, int C_in, int C_out,
                                      int groups, int ID, int IH, int IW, int KD, int KH, int KW, int OD, int OH,
                                      int OW, int SD, int SH, int SW, int DD, int DH, int DW, int PD, int PH, int PW) {
    long long at = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= pixels) return;
    int iw = at % IW, ih = at / IW % IH, id = at / IW / IH % ID;
    long long plane = at / IW / IH / ID;
    int c = plane % C_in, n = plane / C_in;
    int C_group = C_in / groups, ci = c % C_group, outs = C_out / groups, first = c / C_group * outs;
    REAL acc = 0;  // stays 0 for a pixel that no window reads
    for (int co = first; co < first + outs; ++co) {
        const REAL* given = gy + ((long long)n * C_out + co) * OD * OH * OW;
        const REAL* taps = w + ((long long)co * C_group + ci) * KD * KH * KW;
        for (int kd = 0; kd < KD; ++kd) {
            int od = reader(id, kd, SD, DD, PD, OD);
            if (od < 0) continue;
            for (int kh = 0; kh < KH; ++kh) {
                int oh = reader(ih, kh, SH, DH, PH, OH);
                if (oh < 0) continue;
                for (int kw = 0; kw < KW; ++kw) {
                    int ow = reader(iw, kw, SW, DW, PW, OW);
                    if (ow >= 0) acc += given[((long long)od * OH + oh) * OW + ow] * taps[(kd * KH + kh) * KW + kw];
                }
            }
        }
    }
    gx[at] = acc;
}

// gw[co, ci, k] = sum over n, o of x[n, ci, pixel(o, k)] gy[n, co, o]: one block a weight. Each thread sums up every
// 128th output; then half of the threads add the sums of the other half, and so on: the order is always the same.
extern "C" __global__ void conv_weight(const REAL* x, const REAL* gy, REAL* gw, int N, int C_in, int C_out,
                                       int groups, int ID, int IH, int IW, int KD, int KH, int KW, int OD, int OH,
                                       int OW, int SD, int SH, int SW, int DD, int DH, int DW, int PD, int PH, int PW) {
    __shared__ REAL sums[128];
    int weight = blockIdx.x, kw = weight % KW, kh = weight / KW % KH, kd = weight / KW / KH % KD;
    int C_group = C_in / groups, ci = weight / KW / KH / KD % C_group, co = weight / KW / KH / KD / C_group;
    int c = co / (C_out / groups) * C_group + ci;
    REAL acc = 0;
    for (int n = 0; n < N; ++n) {
        const REAL* image = x + ((long long)n * C_in + c) * ID * IH * IW;
        const REAL* given = gy + ((long long)n * C_out + co) * OD * OH * OW;
        for (int o = threadIdx.x; o < OD * OH * OW; o += 128) {
            int id = pixel(o / OW / OH, kd, SD, DD, PD), ih = pixel(o / OW % OH, kh, SH, DH, PH);
            int iw = pixel(o % OW, kw, SW, DW, PW);
            bool inside = 0 <= id && id < ID && 0 <= ih && ih < IH && 0 <= iw && iw < IW;
            acc += (inside ? image[((long long)id * IH + ih) * IW + iw] : REAL(0)) * given[o];
        }
    }
    sums[threadIdx.x] = acc;
    for (int half = 64; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
    }
    if (threadIdx.x == 0) gw[weight] = sums[0];
}
