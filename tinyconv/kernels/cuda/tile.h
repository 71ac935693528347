// Matrix products by tiles in shared memory: what tiled.cu and tiled_weight.cu have in common.
//
// A block makes a tile of ROWS x COLUMNS results, each thread 8 x (4 * ACROSS) of them in registers. The sum runs over
// slices of 8: both factors of a slice are brought into shared memory, where each number is then used by a whole row or
// column of threads. There are two slices: while one is multiplied, the next is on its way from memory into registers,
// and is then written into the other. So a slice needs one barrier, and nobody waits for memory.
//
// ROWS, COLUMNS and ACROSS are constants that the launcher puts in front, see tiled.py; REAL is float or double.

const int THREADS = ROWS * COLUMNS / (32 * ACROSS), DEPTH = 8;

// Blocks that a multiprocessor is to hold: so each thread has 168 registers, or 128.
const int BLOCKS = (sizeof(REAL) == 8 || ROWS < COLUMNS ? 384 : 512) / THREADS;

// Four neighbours, read and written at once.
struct __align__(16) Four { REAL at[4]; };

// A slice of both factors. With four columns more than a tile has, eight threads that write the same column of eight
// depths reach different banks.
struct __align__(16) Slice { REAL a[DEPTH][ROWS + 4], b[DEPTH][COLUMNS + 4]; };

// The first of a thread's results in the tile: it makes rows row .. row + 3 and row + 16 .. row + 19, and of columns
// column .. column + 3 and the same 32 further. So a warp makes 32 rows, and reads 4 * 16 bytes of a and 8 * 16 of b at
// once, which are neighbours: no two banks collide.
struct Corner { int row, column; };

__device__ Corner corner() {
    const int across = COLUMNS / (32 * ACROSS);  // warps side by side
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    return {warp / across * 32 + lane / 8 * 4, warp % across * 32 * ACROSS + lane % 8 * 4};
}

// acc[i][p].at[j] += sum over d of a[d][row of i] b[d][column of p and j].
__device__ __forceinline__ void multiply(const Slice& s, Corner my, Four (*acc)[ACROSS]) {
#pragma unroll
    for (int d = 0; d < DEPTH; ++d) {
        Four a[2], b[ACROSS];
#pragma unroll
        for (int p = 0; p < 2; ++p) a[p] = *(const Four*)&s.a[d][my.row + 16 * p];
#pragma unroll
        for (int p = 0; p < ACROSS; ++p) b[p] = *(const Four*)&s.b[d][my.column + 32 * p];
#pragma unroll
        for (int i = 0; i < 8; ++i)
#pragma unroll
            for (int j = 0; j < 4 * ACROSS; ++j) acc[i][j / 4].at[j % 4] += a[i / 4].at[i % 4] * b[j / 4].at[j % 4];
    }
}

__device__ int row_of(Corner my, int i) { return my.row + i / 4 * 16 + i % 4; }

// What a block makes: the first row and column of its tile, of which group; and which slices it sums over.
struct Part { long long column; int row, group, split, begin, end; };

// The block's number as a part; what is left of the number is the group, with its phases. Rows of tiles move fastest,
// so that blocks which read the same pixels run at the same time.
__device__ Part part_of(int rows, int column_tiles, int splits) {
    int row_tiles = (rows + ROWS - 1) / ROWS, block = blockIdx.x;
    Part part;
    part.row = block % row_tiles * ROWS, block /= row_tiles;
    part.column = block % column_tiles * (long long)COLUMNS, block /= column_tiles;
    part.split = block % splits, part.group = block / splits;
    return part;
}
