// Sums over the rows of a matrix [rows, channels], one for each channel: in chunks of rows first, then over the chunks in f64. The second
// is done by whichever block of the same channels is the last, as a launch of its own would take longer: the order in which it adds up does
// not depend on which that is.

// A block takes some packs of channels and one chunk of rows. Its threads lie as [rows, packs]: a warp reads neighbours.
enum { COLUMN_THREADS = 256 };

struct Chunk {
    // Of this thread: its pack of channels, and the first row.
    u32 pack;
    u64 row;
    // Between its rows, and where the chunk ends.
    u32 step;
    u64 end;
    bool active;
};

__device__ __forceinline__ Chunk find_chunk(u64 rows, u32 chunk_rows, u32 packs) {
    Chunk c;
    c.pack = blockIdx.x * blockDim.x + threadIdx.x;
    u64 first = (u64)blockIdx.y * chunk_rows;
    c.end = first + chunk_rows < rows ? first + chunk_rows : rows;
    c.row = first + threadIdx.y;
    c.step = blockDim.y;
    c.active = c.pack < packs;
    return c;
}

// Adds up a block's sums over its rows, in a fixed order, and writes them as row `part` of the partial sums: within each warp, whose lanes lie
// as [rows, packs], then over the warps.
template <int N>
__device__ __forceinline__ void write_partial(float (&sum)[N], const Chunk& c, float* partial, u32 part, u32 channels) {
    enum { WARPS = COLUMN_THREADS / 32 };
    __shared__ float shared[WARPS * 32 * N];
    for (u32 lane = 16; lane >= blockDim.x; lane >>= 1) {
        float other[N];
        from_lane<N>(sum, other, lane);
#pragma unroll
        for (int i = 0; i < N; i++) sum[i] += other[i];
    }
    u32 self = threadIdx.y * blockDim.x + threadIdx.x, warp = self / 32, lane = self % 32;
    __syncthreads();
    if (lane < blockDim.x) {
#pragma unroll
        for (int i = 0; i < N; i++) shared[(warp * 32 + lane) * N + i] = sum[i];
    }
    __syncthreads();
    if (threadIdx.y != 0 || !c.active) return;
#pragma unroll
    for (int w = 1; w < WARPS; w++) {
#pragma unroll
        for (int i = 0; i < N; i++) sum[i] += shared[(w * 32 + lane) * N + i];
    }
#pragma unroll
    for (int i = 0; i < N; i++) partial[(u64)part * channels + (u64)c.pack * N + i] = sum[i];
}

// How a block's threads share its channels when they add up the chunks: each takes one channel, and every `parts`-th chunk.
struct Share {
    u32 channel, part, parts, width;
    bool active;
};

template <int N>
__device__ __forceinline__ Share find_share(u32 channels) {
    Share s;
    u32 self = threadIdx.y * blockDim.x + threadIdx.x;
    s.width = blockDim.x * N;
    s.parts = COLUMN_THREADS / s.width;
    s.part = self / s.width;
    s.channel = blockIdx.x * s.width + self % s.width;
    s.active = s.part < s.parts && s.channel < channels;
    return s;
}

// Adds up the parts' sums, in their order, for the threads of part 0.
template <int SUMS>
__device__ __forceinline__ void sum_parts(double (&sum)[SUMS], const Share& s) {
    __shared__ double shared[SUMS * COLUMN_THREADS];
    u32 self = threadIdx.y * blockDim.x + threadIdx.x;
#pragma unroll
    for (int i = 0; i < SUMS; i++) shared[i * COLUMN_THREADS + self] = sum[i];
    __syncthreads();
    for (u32 part = 1; s.part == 0 && part < s.parts; part++) {
#pragma unroll
        for (int i = 0; i < SUMS; i++) sum[i] += shared[i * COLUMN_THREADS + part * s.width + self];
    }
}

struct ColumnParameters {
    const void* x;
    float* partial;
    u32* tickets;
    float* sums;
    u64 rows;
    u32 channels;
    u32 chunk_rows;
};

template <typename T, int N>
__device__ void column_sums(const ColumnParameters& p) {
    u32 packs = p.channels / N;
    Chunk c = find_chunk(p.rows, p.chunk_rows, packs);
    float sum[N] = {};
    for (u64 row = c.row; c.active && row < c.end; row += c.step) {
        float x[N];
        load<N>((const T*)p.x, row * packs + c.pack, x);
#pragma unroll
        for (int i = 0; i < N; i++) sum[i] += x[i];
    }
    write_partial<N>(sum, c, p.partial, blockIdx.y, p.channels);
    if (!is_last_block(&p.tickets[blockIdx.x], gridDim.y)) return;
    Share s = find_share<N>(p.channels);
    double all[1] = {};
#pragma unroll 8
    for (u32 k = s.part; s.active && k < gridDim.y; k += s.parts) {
        all[0] += (double)p.partial[(u64)k * p.channels + s.channel];
    }
    sum_parts<1>(all, s);
    if (s.part == 0 && s.active) p.sums[s.channel] = (float)all[0];
}
PACK_KERNEL(column_sums, ColumnParameters)

// Adds a value per channel.
struct BiasParameters {
    void* y;
    const float* bias;
    u64 packs;
    u32 channels;
    u32 relu;
};

template <typename T, int N>
__device__ void add_bias(const BiasParameters& p) {
    u64 i = thread_index();
    if (i >= p.packs) return;
    u32 pack = remainder(i, p.channels / N);
    float y[N];
    load<N>((const T*)p.y, i, y);
#pragma unroll
    for (int k = 0; k < N; k++) {
        y[k] += p.bias[pack * N + k];
        if (p.relu && y[k] < 0.0f) y[k] = 0.0f;
    }
    store<N>((T*)p.y, i, y);
}
PACK_KERNEL(add_bias, BiasParameters)
