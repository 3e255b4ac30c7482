// Sums over the rows of a matrix [rows, channels], one for each channel: in chunks of rows first, then over the chunks in f64. The second
// is done by whichever block of the same channels is the last, as a launch of its own would take longer: the order in which it adds up does
// not depend on which that is.

// A block takes up to 32 channels and one chunk of rows. Its threads lie as [rows, packs]: a warp reads neighbours.
enum { COLUMN_THREADS = 256, COLUMN_WARPS = COLUMN_THREADS / 32, COLUMN_CHANNELS = 32 };

struct Chunk {
    // Of this thread: its pack of channels, and the first row. Launches see to it that there are fewer than 2^31 packs.
    u32 pack, row;
    // Between its rows, and where the chunk ends: for a thread without a pack before the first.
    u32 step, end;
    bool active;
};

__device__ __forceinline__ Chunk find_chunk(u64 rows, u32 chunk_rows, u32 packs) {
    Chunk c;
    c.pack = blockIdx.x * blockDim.x + threadIdx.x;
    c.active = c.pack < packs;
    u32 first = blockIdx.y * chunk_rows;
    c.end = c.active ? min(first + chunk_rows, (u32)rows) : 0;
    c.row = first + threadIdx.y;
    c.step = blockDim.y;
    return c;
}

// Some packs that a thread reads at once: it waits for all of them together. In the place of a row that is not there it reads the first again,
// as it would wait for each load that has a condition.
template <typename T, int N, int AT_ONCE>
struct Rows {
    Pack<T, N> v[AT_ONCE];

    __device__ __forceinline__ void read(const void* from, const Chunk& c, u32 row, u32 packs) {
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++) {
            u32 at = row + k * c.step;
            v[k] = ((const Pack<T, N>*)from)[(at < c.end ? at : row) * packs + c.pack];
        }
    }
};

// Adds up what the lanes of a warp have for the same channels; they lie as [rows, packs], and a pack's N channels end in lanes that differ by
// 32 / N, as each step hands over half of them.
template <int N>
__device__ __forceinline__ float sum_lanes(const float (&x)[N], u32 lane, u32 lanes) {
    if constexpr (N > 1) {
        bool upper = lane & lanes;
        float kept[N / 2], given[N / 2], got[N / 2];
#pragma unroll
        for (int i = 0; i < N / 2; i++) {
            kept[i] = upper ? x[i + N / 2] : x[i];
            given[i] = upper ? x[i] : x[i + N / 2];
        }
        from_lane<N / 2>(given, got, lanes);
#pragma unroll
        for (int i = 0; i < N / 2; i++) kept[i] += got[i];
        return sum_lanes<N / 2>(kept, lane, lanes / 2);
    } else {
        float sum[1] = {x[0]};
        for (; lanes >= blockDim.x; lanes >>= 1) {
            float got[1];
            from_lane<1>(sum, got, lanes);
            sum[0] += got[0];
        }
        return sum[0];
    }
}

// Which of its N channels a lane has then.
template <int N>
__device__ __forceinline__ u32 lane_channel(u32 lane) {
    u32 channel = 0;
#pragma unroll
    for (u32 half = N / 2, lanes = 16; half > 0; half /= 2, lanes /= 2) channel += lane & lanes ? half : 0;
    return channel;
}

// Adds up the first `count` of a block's sums over its rows, in a fixed order, and writes them as rows of the partial sums, from `row` on:
// within each warp, then over the warps.
template <int SUMS, int N>
__device__ __forceinline__ void write_partial(const float (&sums)[SUMS][N], u32 count, float* partial, u32 row, u32 channels) {
    __shared__ float shared[SUMS][COLUMN_WARPS][COLUMN_CHANNELS];
    u32 self = threadIdx.y * blockDim.x + threadIdx.x, lane = self % 32, width = blockDim.x * N;
#pragma unroll
    for (u32 s = 0; s < SUMS; s++) {
        if (s >= count) break;
        float sum = sum_lanes<N>(sums[s], lane, 16);
        u32 first = lane % (32 / N);
        if (first < blockDim.x) shared[s][self / 32][first * N + lane_channel<N>(lane)] = sum;
    }
    __syncthreads();
    u32 s = self / COLUMN_CHANNELS, at = self % COLUMN_CHANNELS, channel = blockIdx.x * width + at;
    if (s >= count || at >= width || channel >= channels) return;
    float sum = shared[s][0][at];
#pragma unroll
    for (int warp = 1; warp < COLUMN_WARPS; warp++) sum += shared[s][warp][at];
    partial[(u64)(row + s) * channels + channel] = sum;
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

// Adds up what `make` makes of each chunk of this thread's: of its number and its partial sums, of which only `count` mean something. Those of many
// chunks are read at once, in the place of one that is not there the first again. These are added up in f32, as what they are made of was, and
// their sums in f64, which many devices have few units for.
template <int SUMS, int RESULTS, typename Make>
__device__ __forceinline__ void add_chunks(
    const Share& s, const float* partial, u32 count, u32 channels, double (&all)[RESULTS], Make make
) {
    enum { AT_ONCE = 8 };
    u32 chunks = gridDim.y;
    for (u32 first = s.active ? s.part : chunks; first < chunks; first += AT_ONCE * s.parts) {
        float x[AT_ONCE][SUMS];
#pragma unroll
        for (u32 k = 0; k < AT_ONCE; k++) {
            u32 chunk = first + k * s.parts, row = (chunk < chunks ? chunk : first) * count;
#pragma unroll
            for (u32 i = 0; i < SUMS; i++) x[k][i] = partial[(row + min(i, count - 1)) * channels + s.channel];
        }
        float some[RESULTS] = {};
#pragma unroll
        for (u32 k = 0; k < AT_ONCE; k++) {
            u32 chunk = first + k * s.parts;
            float made[RESULTS];
            make(chunk, x[k], made);
#pragma unroll
            for (int i = 0; i < RESULTS; i++) some[i] += k == 0 || chunk < chunks ? made[i] : 0.0f;
        }
#pragma unroll
        for (int i = 0; i < RESULTS; i++) all[i] += (double)some[i];
    }
}

// Adds up the parts' sums, in their order, for the threads of part 0.
template <int SUMS>
__device__ __forceinline__ void sum_parts(double (&sum)[SUMS], const Share& s) {
    __shared__ double shared[SUMS][COLUMN_THREADS];
    u32 self = threadIdx.y * blockDim.x + threadIdx.x;
#pragma unroll
    for (int i = 0; i < SUMS; i++) shared[i][self] = sum[i];
    __syncthreads();
    if (s.part != 0) return;
#pragma unroll
    for (int i = 0; i < SUMS; i++) sum[i] = 0.0;
#pragma unroll 8
    for (u32 part = 0; part < s.parts; part++) {
#pragma unroll
        for (int i = 0; i < SUMS; i++) sum[i] += shared[i][part * s.width + self];
    }
}

// What chunks have for one of so many results, added to `sum` in their order. So many are on their way at once.
__device__ __forceinline__ double sum_chunks(const float* partial, u32 results, u32 result, u32 chunks, double sum) {
    enum { AT_ONCE = 32 };
    for (u32 chunk = 0; chunk < chunks; chunk += AT_ONCE) {
        float parts[AT_ONCE];
#pragma unroll
        for (u32 j = 0; j < AT_ONCE; j++) parts[j] = chunk + j < chunks ? partial[(chunk + j) * results + result] : 0.0f;
#pragma unroll
        for (u32 j = 0; j < AT_ONCE; j++) sum += (double)parts[j];
    }
    return sum;
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
    enum { AT_ONCE = 4 };
    u32 packs = p.channels / N;
    Chunk c = find_chunk(p.rows, p.chunk_rows, packs);
    float sums[1][N] = {};
    for (u32 row = c.row; row < c.end; row += AT_ONCE * c.step) {
        Rows<T, N, AT_ONCE> rows;
        rows.read(p.x, c, row, packs);
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++) {
            float x[N];
            unpack<N>(rows.v[k], x);
            bool there = row + k * c.step < c.end;
#pragma unroll
            for (int i = 0; i < N; i++) sums[0][i] += there ? x[i] : 0.0f;
        }
    }
    write_partial(sums, 1, p.partial, blockIdx.y, p.channels);
    if (!is_last_block(&p.tickets[blockIdx.x], gridDim.y)) return;
    Share s = find_share<N>(p.channels);
    double all[1] = {};
    add_chunks<1>(s, p.partial, 1, p.channels, all, [&](u32, const float (&x)[1], float (&to)[1]) { to[0] = x[0]; });
    sum_parts(all, s);
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
