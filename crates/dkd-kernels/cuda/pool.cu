// Maximum and mean over windows, mean over the whole image, and their gradients.

struct PoolParameters {
    const void* from;
    void* to;
    // For each output its maximum's position in the window, row * kernel columns + column.
    u8* positions;
    // For a maximum, unless it is null: what is added to every input of a channel.
    const float* bias;
    u32 images;
    u32 height;
    u32 width;
    u32 channels;
    u32 out_height;
    u32 out_width;
    u32 kernel_rows;
    u32 kernel_columns;
    u32 stride_rows;
    u32 stride_columns;
    u32 padding_rows;
    u32 padding_columns;
    u32 count_padding;
    u32 accumulate;
};

__device__ __forceinline__ Span pool_rows(const PoolParameters& p, int o) {
    return window_inputs(o, p.kernel_rows, p.stride_rows, p.padding_rows, p.height);
}
__device__ __forceinline__ Span pool_columns(const PoolParameters& p, int o) {
    return window_inputs(o, p.kernel_columns, p.stride_columns, p.padding_columns, p.width);
}
__device__ __forceinline__ Span pool_over_row(const PoolParameters& p, int i) {
    return windows_over(i, p.kernel_rows, p.stride_rows, p.padding_rows, p.out_height);
}
__device__ __forceinline__ Span pool_over_column(const PoolParameters& p, int i) {
    return windows_over(i, p.kernel_columns, p.stride_columns, p.padding_columns, p.out_width);
}

// The pack of an input, or an output, with the image and the channels of a place.
__device__ __forceinline__ u64 pool_input(const PoolParameters& p, const Place& at, int row, int column, u32 packs) {
    return (((u64)at.image * p.height + row) * p.width + column) * packs + at.pack;
}
__device__ __forceinline__ u64 pool_output(const PoolParameters& p, const Place& at, int row, int column, u32 packs) {
    return (((u64)at.image * p.out_height + row) * p.out_width + column) * packs + at.pack;
}

__device__ __forceinline__ float minus_infinity() {
    u32 bits = 0xff800000u;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

// Some channels of one output.
template <typename T, int N>
__device__ void max_pool(const PoolParameters& p) {
    Place at;
    u32 packs = p.channels / N;
    u64 i = thread_index();
    if (!find_place(i, p.images, p.out_height, p.out_width, packs, at)) return;
    Span rows = pool_rows(p, at.row), columns = pool_columns(p, at.column);
    int top = (int)(at.row * p.stride_rows) - (int)p.padding_rows;
    int left = (int)(at.column * p.stride_columns) - (int)p.padding_columns;
    float best[N], bias[N];
    int best_at[N];
#pragma unroll
    for (int n = 0; n < N; n++) {
        bias[n] = p.bias ? p.bias[at.pack * N + n] : 0.0f;
        best[n] = minus_infinity();
        // A window of nothing but that points into the image.
        best_at[n] = (rows.first - top) * (int)p.kernel_columns + columns.first - left;
    }
    Pack<T, N> read[POSITIONS_AT_ONCE];
    each_position(
        rows, columns,
        [&](int k, int row, int column) {
            read[k] = ((const Pack<T, N>*)p.from)[pool_input(p, at, row, column, packs)];
        },
        [&](int k, int row, int column, bool there) {
            float v[N];
            unpack<N>(read[k], v);
            int here = (row - top) * (int)p.kernel_columns + column - left;
#pragma unroll
            for (int n = 0; n < N; n++) {
                if (p.bias) v[n] += bias[n];
                // As PyTorch's: a NaN is larger than any number.
                bool better = v[n] > best[n] || v[n] != v[n];
                if (there && better) {
                    best[n] = v[n];
                    best_at[n] = here;
                }
            }
        }
    );
    store<N>((T*)p.to, i, best);
    Pack<u8, N> positions;
#pragma unroll
    for (int n = 0; n < N; n++) positions.v[n] = (u8)best_at[n];
    ((Pack<u8, N>*)p.positions)[i] = positions;
}
PACK_KERNEL(max_pool, PoolParameters)

// Some channels of one input: what the windows over it send, row by row.
template <typename T, int N>
__device__ void max_pool_gradient(const PoolParameters& p) {
    Place at;
    u32 packs = p.channels / N;
    u64 i = thread_index();
    if (!find_place(i, p.images, p.height, p.width, packs, at)) return;
    Span rows = pool_over_row(p, at.row), columns = pool_over_column(p, at.column);
    float sum[N] = {};
    Pack<T, N> read[POSITIONS_AT_ONCE];
    Pack<u8, N> positions[POSITIONS_AT_ONCE];
    each_position(
        rows, columns,
        [&](int k, int row, int column) {
            u64 pack = pool_output(p, at, row, column, packs);
            read[k] = ((const Pack<T, N>*)p.from)[pack];
            positions[k] = ((const Pack<u8, N>*)p.positions)[pack];
        },
        [&](int k, int row, int column, bool there) {
            int below = (int)at.row + (int)p.padding_rows - row * (int)p.stride_rows;
            int beside = (int)at.column + (int)p.padding_columns - column * (int)p.stride_columns;
            int here = there ? below * (int)p.kernel_columns + beside : -1;
            float v[N];
            unpack<N>(read[k], v);
#pragma unroll
            for (int n = 0; n < N; n++) sum[n] += positions[k].v[n] == here ? v[n] : 0.0f;
        }
    );
    put<N>((T*)p.to, i, sum, p.accumulate);
}
PACK_KERNEL(max_pool_gradient, PoolParameters)

// 1 / the number of values that a window averages.
__device__ __forceinline__ float pool_factor(const PoolParameters& p, int row, int column) {
    if (p.count_padding) return 1.0f / (float)(p.kernel_rows * p.kernel_columns);
    Span rows = pool_rows(p, row), columns = pool_columns(p, column);
    return 1.0f / (float)((rows.end - rows.first) * (columns.end - columns.first));
}

template <typename T, int N>
__device__ void avg_pool(const PoolParameters& p) {
    Place at;
    u32 packs = p.channels / N;
    u64 i = thread_index();
    if (!find_place(i, p.images, p.out_height, p.out_width, packs, at)) return;
    Span rows = pool_rows(p, at.row), columns = pool_columns(p, at.column);
    float sum[N] = {};
    Pack<T, N> read[POSITIONS_AT_ONCE];
    each_position(
        rows, columns,
        [&](int k, int row, int column) {
            read[k] = ((const Pack<T, N>*)p.from)[pool_input(p, at, row, column, packs)];
        },
        [&](int k, int, int, bool there) {
            float v[N];
            unpack<N>(read[k], v);
#pragma unroll
            for (int n = 0; n < N; n++) sum[n] += there ? v[n] : 0.0f;
        }
    );
    float factor = pool_factor(p, at.row, at.column);
#pragma unroll
    for (int n = 0; n < N; n++) sum[n] *= factor;
    store<N>((T*)p.to, i, sum);
}
PACK_KERNEL(avg_pool, PoolParameters)

template <typename T, int N>
__device__ void avg_pool_gradient(const PoolParameters& p) {
    Place at;
    u32 packs = p.channels / N;
    u64 i = thread_index();
    if (!find_place(i, p.images, p.height, p.width, packs, at)) return;
    Span rows = pool_over_row(p, at.row), columns = pool_over_column(p, at.column);
    float sum[N] = {};
    Pack<T, N> read[POSITIONS_AT_ONCE];
    each_position(
        rows, columns,
        [&](int k, int row, int column) {
            read[k] = ((const Pack<T, N>*)p.from)[pool_output(p, at, row, column, packs)];
        },
        [&](int k, int row, int column, bool there) {
            float v[N], factor = pool_factor(p, row, column);
            unpack<N>(read[k], v);
#pragma unroll
            for (int n = 0; n < N; n++) sum[n] = there ? fmaf(v[n], factor, sum[n]) : sum[n];
        }
    );
    put<N>((T*)p.to, i, sum, p.accumulate);
}
PACK_KERNEL(avg_pool_gradient, PoolParameters)

enum { GLOBAL_CHANNELS = 32, GLOBAL_PARTS = 8, GLOBAL_AT_ONCE = 8 };

// A block takes neighbouring channels of one image; each of its parts takes every eighth pixel.
template <typename T>
__device__ void global_avg(const PoolParameters& p) {
    __shared__ float sums[GLOBAL_PARTS][GLOBAL_CHANNELS];
    u32 chunks = (p.channels + GLOBAL_CHANNELS - 1) / GLOBAL_CHANNELS;
    u32 image = blockIdx.x / chunks, channel = blockIdx.x % chunks * GLOBAL_CHANNELS + threadIdx.x;
    u32 pixels = p.height * p.width;
    float sum = 0.0f;
    if (channel < p.channels) {
        const T* from = (const T*)p.from + (u64)image * pixels * p.channels + channel;
        for (u32 pixel = threadIdx.y; pixel < pixels; pixel += GLOBAL_AT_ONCE * GLOBAL_PARTS) {
            // It waits for all of them together, and reads the first again in the place of one that is not there.
            T v[GLOBAL_AT_ONCE];
#pragma unroll
            for (u32 k = 0; k < GLOBAL_AT_ONCE; k++) {
                u32 of = pixel + k * GLOBAL_PARTS;
                v[k] = from[(u64)(of < pixels ? of : pixel) * p.channels];
            }
#pragma unroll
            for (u32 k = 0; k < GLOBAL_AT_ONCE; k++) sum += pixel + k * GLOBAL_PARTS < pixels ? to_float(v[k]) : 0.0f;
        }
    }
    sums[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y > 0 || channel >= p.channels) return;
#pragma unroll
    for (int part = 1; part < GLOBAL_PARTS; part++) sum += sums[part][threadIdx.x];
    from_float(sum * (1.0f / (float)pixels), ((T*)p.to)[(u64)image * p.channels + channel]);
}
MAP_KERNEL(global_avg, PoolParameters)
