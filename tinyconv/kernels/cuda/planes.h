// A thread makes the same result of each of a few planes (an image's channels): what it finds out about the place of a
// window serves them all, and their loads wait for memory together. INDEX counts elements, see launcher.py.

const int PLANES = 4;

// The first of a thread's planes, and the place of its results in them.
struct Task { INDEX plane; Place at; };

__device__ INDEX thread_number() { return INDEX(blockIdx.x) * blockDim.x + threadIdx.x; }

__device__ Task task(INDEX thread, int D, int H, int W) {
    INDEX row = thread / W, slice = row / H;
    return {slice / D * PLANES, {int(slice % D), int(row % H), int(thread % W)}};
}

// How many planes it has: fewer at the end.
__device__ int count(Task t, INDEX planes) { return planes - t.plane < PLANES ? planes - t.plane : PLANES; }
