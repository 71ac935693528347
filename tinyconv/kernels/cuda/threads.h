// Who computes what: an element a thread, a few planes a thread, a team of threads together. INDEX counts elements, see
// launcher.py.

__device__ INDEX thread_number() { return (INDEX)blockIdx.x * blockDim.x + threadIdx.x; }

// A thread makes the same result of each of a few planes (an image's channels): what it finds out about the place of a
// window serves them all, and their loads wait for memory together.
const int PLANES = 8;

// The first of a thread's planes, and the place of its results in them.
struct Task { INDEX plane; Place at; };

__device__ Task task(INDEX thread, int D, int H, int W) {
    INDEX row = thread / W, slice = row / H;
    return {slice / D * PLANES, {int(slice % D), int(row % H), int(thread % W)}};
}

// Where each of a thread's planes begins in an array with `size` elements a plane. A thread at the end that has fewer
// planes reads the last one again instead of asking at every load.
struct Starts { INDEX at[PLANES]; };

__device__ Starts starts(Task t, INDEX planes, INDEX size) {
    Starts s;
    for (INDEX p = 0; p < PLANES; ++p) s.at[p] = (t.plane + p < planes ? t.plane + p : planes - 1) * size;
    return s;
}

// Stores a thread's results at element i of its planes of `size` elements.
template <class T, class From>
__device__ void store(T* y, const From* results, Task t, INDEX planes, INDEX size, INDEX i) {
    for (INDEX p = 0; p < PLANES; ++p)
        if (t.plane + p < planes) y[(t.plane + p) * size + i] = results[p];
}

// Teams are `lanes` neighbouring threads, a power of two up to a warp. All threads of a warp take part in an exchange,
// those too that have nothing to do.
__device__ INDEX team_number(int lanes) { return (INDEX)blockIdx.x * (blockDim.x / lanes) + threadIdx.x / lanes; }

// The sum over a team, the same bits in each of its threads.
template <class T> __device__ T team_sum(T value, int lanes) {
    for (int step = lanes / 2; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffff, value, step);
    return value;
}
