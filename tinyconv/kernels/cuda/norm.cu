// Normalisation: y = w (x - mean) / sqrt(var + eps) + b. x is seen as (A, C, L), and the statistics of each c are taken
// over all a and l: for batch norm C are the channels, for instance, group and layer norm A is 1 and C counts the groups
// of numbers that are normalised together. The weight of element i is w[i / inner % count]. REAL is float or double.

const int THREADS = 256;

// Mean and variance of each c: one block each. A thread goes over every 256th number with Welford's update, which never
// subtracts two large sums; then half of the threads take over the results of the other half (Chan, Golub and LeVeque,
// 1979), and so on, always in the same order.
extern "C" __global__ void statistics(const REAL* x, double* mean, double* var, long long A, long long C, long long L) {
    __shared__ double numbers[THREADS], means[THREADS], squares[THREADS];
    double n = 0, m = 0, s = 0;
    for (long long j = threadIdx.x; j < A * L; j += THREADS) {
        double value = x[(j / L * C + blockIdx.x) * L + j % L], before = value - m;
        n += 1;
        m += before / n;
        s += before * (value - m);
    }
    int t = threadIdx.x;
    numbers[t] = n, means[t] = m, squares[t] = s;
    for (int half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (t < half && numbers[t + half] > 0) {
            double both = numbers[t] + numbers[t + half], apart = means[t + half] - means[t];
            squares[t] += squares[t + half] + apart * apart * numbers[t] * numbers[t + half] / both;
            means[t] += apart * numbers[t + half] / both;
            numbers[t] = both;
        }
    }
    if (t == 0) mean[blockIdx.x] = means[0], var[blockIdx.x] = squares[0] / numbers[0];
}

// (x - mean) / sqrt(var + eps), without losing what the mean loses when it is rounded to REAL.
__device__ REAL normalised(REAL x, double mean, double var, double eps) {
    REAL centre = REAL(mean);
    return (x - centre - REAL(mean - centre)) * REAL(1 / sqrt(var + eps));
}

// y, a thread an element.
extern "C" __global__ void scale_shift(const REAL* x, const double* mean, const double* var, const REAL* w,
                                       const REAL* b, REAL* y, long long elements, long long C, long long L,
                                       long long inner, long long count, double eps) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= elements) return;
    long long c = i / L % C, k = i / inner % count;
    y[i] = normalised(x[i], mean[c], var[c], eps) * w[k] + b[k];
}

// Half of the threads add the sums of the other half, and so on; the total is in sums[0].
__device__ void add_up(double* sums) {
    for (int half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
    }
    __syncthreads();
}

// sums[c] = (sum of g w, sum of g w n) with n the normalised x: a block each.
extern "C" __global__ void gradient_sums(const REAL* g, const REAL* x, const double* mean, const double* var,
                                         const REAL* w, double* sums, long long A, long long C, long long L,
                                         long long inner, long long count, double eps) {
    __shared__ double plain[THREADS], product[THREADS];
    int c = blockIdx.x, t = threadIdx.x;
    double first = 0, second = 0;
    for (long long j = t; j < A * L; j += THREADS) {
        long long i = (j / L * C + c) * L + j % L;
        double gw = double(g[i]) * w[i / inner % count];
        first += gw;
        second += gw * normalised(x[i], mean[c], var[c], eps);
    }
    plain[t] = first, product[t] = second;
    add_up(plain);
    add_up(product);
    if (t == 0) sums[2 * c] = plain[0], sums[2 * c + 1] = product[0];
}

// dx = (g w - mean(g w) - n mean(g w n)) / sqrt(var + eps), a thread an element; each mean is over `number` elements.
extern "C" __global__ void gradient_input(const REAL* g, const REAL* x, const double* mean, const double* var,
                                          const REAL* w, const double* sums, REAL* dx, long long elements, long long C,
                                          long long L, long long inner, long long count, double number, double eps) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= elements) return;
    long long c = i / L % C;
    REAL n = normalised(x[i], mean[c], var[c], eps);
    REAL inside = g[i] * w[i / inner % count] - REAL(sums[2 * c] / number) - n * REAL(sums[2 * c + 1] / number);
    dx[i] = inside * REAL(1 / sqrt(var[c] + eps));
}

// dw[k] = sum of g n, db[k] = sum of g over the elements that weight k scales: a block each.
extern "C" __global__ void gradient_weight(const REAL* g, const REAL* x, const double* mean, const double* var,
                                           REAL* dw, REAL* db, long long elements, long long C, long long L,
                                           long long inner, long long count, double eps) {
    __shared__ double plain[THREADS], product[THREADS];
    int t = threadIdx.x;
    double first = 0, second = 0;
    for (long long j = t; j < elements / count; j += THREADS) {
        long long i = (j / inner * count + blockIdx.x) * inner + j % inner, c = i / L % C;
        first += g[i];
        second += double(g[i]) * normalised(x[i], mean[c], var[c], eps);
    }
    plain[t] = first, product[t] = second;
    add_up(plain);
    add_up(product);
    if (t == 0) db[blockIdx.x] = plain[0], dw[blockIdx.x] = product[0];
}
