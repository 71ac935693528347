// Pooling over windows of three axes, see window.h. REAL is float or double. One thread a result; nothing is written twice.

// y[c, o] = the largest pixel of the window and its flat index in the image. Of equal pixels the first wins; a NaN
// wins, and of several the last. A window that reads no pixel is minus infinity, with the index 0.
extern "C" __global__ void max_pool(const REAL* x, REAL* y, long long* indices, long long outputs, int ID, int IH,
                                    int IW, int KD, int KH, int KW, int OD, int OH, int OW, int SD, int SH, int SW,
                                    int DD, int DH, int DW, int PD, int PH, int PW) {
    long long at = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= outputs) return;
    int ow = at % OW, oh = at / OW % OH, od = at / OW / OH % OD;
    const REAL* image = x + at / OW / OH / OD * ID * IH * IW;
    REAL best = -REAL(1e308 * 10);  // minus infinity, for which there is no name without a header
    long long where = -1;
    for (int kd = 0; kd < KD; ++kd) {
        int id = pixel(od, kd, SD, DD, PD);
        if (id < 0 || id >= ID) continue;
        for (int kh = 0; kh < KH; ++kh) {
            int ih = pixel(oh, kh, SH, DH, PH);
            if (ih < 0 || ih >= IH) continue;
            for (int kw = 0; kw < KW; ++kw) {
                int iw = pixel(ow, kw, SW, DW, PW);
                if (iw < 0 || iw >= IW) continue;
                long long i = ((long long)id * IH + ih) * IW + iw;
                if (where < 0 || image[i] > best || image[i] != image[i]) best = image[i], where = i;
            }
        }
    }
    y[at] = best;
    indices[at] = where < 0 ? 0 : where;
}

// y[c, o] = (sum of the window's pixels) / divisor[o].
extern "C" __global__ void avg_pool(const REAL* x, const REAL* divisor, REAL* y, long long outputs, int ID, int IH,
                                    int IW, int KD, int KH, int KW, int OD, int OH, int OW, int SD, int SH, int SW,
                                    int DD, int DH, int DW, int PD, int PH, int PW) {
    long long at = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= outputs) return;
    int ow = at % OW, oh = at / OW % OH, od = at / OW / OH % OD;
    const REAL* image = x + at / OW / OH / OD * ID * IH * IW;
    REAL acc = 0;
    for (int kd = 0; kd < KD; ++kd) {
        int id = pixel(od, kd, SD, DD, PD);
        if (id < 0 || id >= ID) continue;
        for (int kh = 0; kh < KH; ++kh) {
            int ih = pixel(oh, kh, SH, DH, PH);
            if (ih < 0 || ih >= IH) continue;
            for (int kw = 0; kw < KW; ++kw) {
                int iw = pixel(ow, kw, SW, DW, PW);
                if (0 <= iw && iw < IW) acc += image[((long long)id * IH + ih) * IW + iw];
            }
        }
    }
    y[at] = acc / divisor[(od * OH + oh) * OW + ow];
}

// gx[c, i] = sum over the (o, k) that read i of gy[c, o] / divisor[o].
extern "C" __global__ void avg_pool_input(const REAL* gy, const REAL* divisor, REAL* gx, long long pixels, int ID,
                                          int IH, int IW, int KD, int KH, int KW, int OD, int OH, int OW, int SD,
                                          int SH, int SW, int DD, int DH, int DW, int PD, int PH, int PW) {
    long long at = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= pixels) return;
    int iw = at % IW, ih = at / IW % IH, id = at / IW / IH % ID;
    const REAL* given = gy + at / IW / IH / ID * OD * OH * OW;
    REAL acc = 0;
    for (int kd = 0; kd < KD; ++kd) {
        int od = reader(id, kd, SD, DD, PD, OD);
        if (od < 0) continue;
        for (int kh = 0; kh < KH; ++kh) {
            int oh = reader(ih, kh, SH, DH, PH, OH);
            if (oh < 0) continue;
            for (int kw = 0; kw < KW; ++kw) {
                int ow = reader(iw, kw, SW, DW, PW, OW);
                int o = (od * OH + oh) * OW + ow;
                if (ow >= 0) acc += given[o] / divisor[o];
            }
        }
    }
    gx[at] = acc;
}
