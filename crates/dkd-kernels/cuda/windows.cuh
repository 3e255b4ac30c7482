// Places in maps, and windows over them.

// For both types of maps, one number at a time and 16 bytes at a time; bf16 in pairs as well, so that a warp
// reads whole lines of whatever even number of channels.
#define PACK_KERNEL(name, Parameters)              \
    KERNEL(name, Parameters, f32, float, 1)        \
    KERNEL(name, Parameters, bf16, bf16, 1)        \
    KERNEL(name, Parameters, pairs_bf16, bf16, 2)  \
    KERNEL(name, Parameters, packed_f32, float, 4) \
    KERNEL(name, Parameters, packed_bf16, bf16, 8)

// Some channels of one pixel.
struct Place {
    u32 image, row, column, pack;
};

// The i-th place of a map; false if it has fewer. Launches see to it that there are fewer than 2^31.
__device__ __forceinline__ bool find_place(u64 i, u32 images, u32 rows, u32 columns, u32 packs, Place& at) {
    if (i >= (u64)images * rows * columns * packs) return false;
    u32 left = (u32)i;
    at.pack = left % packs;
    left /= packs;
    at.column = left % columns;
    left /= columns;
    at.row = left % rows;
    at.image = left / rows;
    return true;
}

// From the first on, up to and without `end`.
struct Span {
    int first, end;
};

// Input positions of window `o`, without padding.
__device__ __forceinline__ Span window_inputs(int o, int kernel, int stride, int padding, int inputs) {
    int start = o * stride - padding;
    return {max(start, 0), min(start + kernel, inputs)};
}

// Windows that cover input position `i`.
__device__ __forceinline__ Span windows_over(int i, int kernel, int stride, int padding, int outputs) {
    int padded = i + padding;
    int first = padded < kernel ? 0 : (padded - kernel) / stride + 1;
    return {first, min(padded / stride + 1, outputs)};
}

// Calls `read` with a number and a position, row by row, for some positions at once, then `use` for each of them, and whether it is there: a
// thread waits for all of them together. In the place of one that is not there it reads from the first row.
enum { POSITIONS_AT_ONCE = 4 };

template <typename Read, typename Use>
__device__ __forceinline__ void each_position(Span rows, Span columns, Read read, Use use) {
    int row = columns.first < columns.end ? rows.first : rows.end, column = columns.first;
    while (row < rows.end) {
        int row_of[POSITIONS_AT_ONCE], column_of[POSITIONS_AT_ONCE];
        bool there[POSITIONS_AT_ONCE];
#pragma unroll
        for (int k = 0; k < POSITIONS_AT_ONCE; k++) {
            there[k] = row < rows.end;
            row_of[k] = there[k] ? row : rows.first;
            column_of[k] = column;
            read(k, row_of[k], column);
            if (++column == columns.end) {
                column = columns.first;
                row++;
            }
        }
#pragma unroll
        for (int k = 0; k < POSITIONS_AT_ONCE; k++) use(k, row_of[k], column_of[k], there[k]);
    }
}

// Writes, or adds to what is there.
template <int N, typename T>
__device__ __forceinline__ void put(T* to, u64 pack, float (&value)[N], u32 accumulate) {
    if (accumulate) {
        float old[N];
        load<N>((const T*)to, pack, old);
#pragma unroll
        for (int n = 0; n < N; n++) value[n] += old[n];
    }
    store<N>(to, pack, value);
}
