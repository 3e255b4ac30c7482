// Batch normalisation of a matrix [rows, channels], with what is fused into it: a sum and a rectifier.

// Mean and variance of each channel, and the affine map that follows from them.
struct MomentParameters {
    const void* z;
    float* partial;
    u32* tickets;
    const float* gamma;
    const float* beta;
    // What every z lacks, or null: it moves the mean and nothing else.
    const float* bias;
    float* running_mean;
    float* running_var;
    float* mean;
    float* inverse;
    float* scale;
    float* shift;
    u64 rows;
    // 1 / rows, and what makes of a variance over all of them one over a sample: no thread divides.
    double inverse_rows;
    double unbiased;
    u32 channels;
    u32 chunk_rows;
    float eps;
    float momentum;
};

// What is known of a channel before its sums are.
struct ChannelBefore {
    float gamma, beta, bias, running_mean, running_var;
};

__device__ __forceinline__ ChannelBefore read_channel(const MomentParameters& p, u32 c) {
    bool running = p.running_mean;
    return {p.gamma[c], p.beta[c], p.bias ? p.bias[c] : 0.0f, running ? p.running_mean[c] : 0.0f, running ? p.running_var[c] : 0.0f};
}

__device__ __forceinline__ void write_affine(const MomentParameters& p, const ChannelBefore& before, u32 c, double mean, double var) {
    double inverse = rsqrt(var + (double)p.eps);
    float scale = (float)((double)before.gamma * inverse);
    p.mean[c] = (float)mean;
    p.inverse[c] = (float)inverse;
    p.scale[c] = scale;
    // Of the factor as it is rounded: else its error would grow with the mean.
    p.shift[c] = (float)((double)before.beta - mean * (double)scale);
}

// From all chunks: differences from the first one's value, as that is near the others.
__device__ __forceinline__ void finish_moments(const MomentParameters& p, const Share& s) {
    float origin = s.active ? p.partial[s.channel] : 0.0f;
    // Of the differences, and of their squares.
    double all[2] = {};
    float full = (float)p.chunk_rows, rest = (float)((u32)p.rows - (gridDim.y - 1) * p.chunk_rows);
    add_chunks<3>(s, p.partial, 3, p.channels, all, [&](u32 chunk, const float (&x)[3], float (&to)[2]) {
        float n = chunk + 1 < gridDim.y ? full : rest, d = x[0] - origin, sum = x[1];
        to[0] = fmaf(n, d, sum);
        to[1] = fmaf(d, fmaf(n, d, 2.0f * sum), x[2]);
    });
    // On its way while parts are added up.
    ChannelBefore before = {};
    if (s.active) before = read_channel(p, s.channel);
    sum_parts(all, s);
    float* numbers[] = {&before.gamma, &before.beta, &before.bias, &before.running_mean, &before.running_var};
#pragma unroll
    for (int i = 0; i < 5; i++) not_before(*numbers[i]);
    if (s.part != 0 || !s.active) return;
    double above = all[0] * p.inverse_rows, mean = (double)origin + above, var = (all[1] - all[0] * above) * p.inverse_rows;
    if (var < 0.0) var = 0.0;
    if (p.running_mean) {
        double m = (double)p.momentum;
        p.running_mean[s.channel] = (float)((1.0 - m) * (double)before.running_mean + m * (mean + (double)before.bias));
        p.running_var[s.channel] = (float)((1.0 - m) * (double)before.running_var + m * (var * p.unbiased));
    }
    write_affine(p, before, s.channel, mean, var);
}

template <typename T, int N>
__device__ void moments(const MomentParameters& p) {
    enum { AT_ONCE = 4 };
    u32 packs = p.channels / N;
    Chunk c = find_chunk(p.rows, p.chunk_rows, packs);
    // Differences from a value of the chunk: squares of the values themselves would drown a small variance in a large mean.
    float near[N] = {}, sums[2][N] = {};
    auto add = [&](const Rows<T, N, AT_ONCE>& rows, u32 row) {
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++) {
            bool there = row + k * c.step < c.end;
            float z[N];
            unpack<N>(rows.v[k], z);
#pragma unroll
            for (int i = 0; i < N; i++) {
                float d = there ? z[i] - near[i] : 0.0f;
                sums[0][i] += d;
                sums[1][i] = fmaf(d, d, sums[1][i]);
            }
        }
    };
    u32 row = c.row;
    if (row < c.end) {
        Pack<T, N> first = ((const Pack<T, N>*)p.z)[blockIdx.y * p.chunk_rows * packs + c.pack];
        Rows<T, N, AT_ONCE> rows;
        rows.read(p.z, c, row, packs);
        unpack<N>(first, near);
        add(rows, row);
    }
    while ((row += AT_ONCE * c.step) < c.end) {
        Rows<T, N, AT_ONCE> rows;
        rows.read(p.z, c, row, packs);
        add(rows, row);
    }
    // Three rows of partial sums for each chunk: the value, the sum, the squares.
    if (threadIdx.y == 0 && c.active) store<N>(p.partial, blockIdx.y * 3 * packs + c.pack, near);
    write_partial(sums, 2, p.partial, blockIdx.y * 3 + 1, p.channels);
    if (is_last_block(&p.tickets[blockIdx.x], gridDim.y)) finish_moments(p, find_share<N>(p.channels));
}
PACK_KERNEL(moments, MomentParameters)

// From running statistics.
__device__ void norm_running_body(const MomentParameters& p) {
    u64 i = thread_index();
    if (i >= p.channels) return;
    ChannelBefore before = read_channel(p, (u32)i);
    write_affine(p, before, (u32)i, (double)before.running_mean - (double)before.bias, (double)before.running_var);
}
PLAIN_KERNEL(norm_running, MomentParameters)

enum { NO_ADDEND = 0, VALUE = 1, NORMALIZED = 2 };

// y = scale z + shift (+ addend) (then rectified)
struct ApplyParameters {
    const void* z;
    const void* other;
    void* y;
    const float* scale;
    const float* shift;
    const float* other_scale;
    const float* other_shift;
    u32 packs;
    u32 stride;
    u32 channels;
    u32 addend;
    u32 relu;
    u32 unused;
};

// Packs of a thread, which are `stride` apart and of the same channels: so it reads what belongs to these once, and two packs at once.
enum { PACKS_AT_ONCE = 2 };

// As if each were a row.
__device__ __forceinline__ Chunk find_packs(u32 first, u32 stride, u32 packs) { return {0, first, stride, packs, true}; }

template <typename T, int N>
__device__ void norm_apply(const ApplyParameters& p) {
    u32 i = (u32)thread_index(), pack = i % (p.channels / N);
    if (i >= p.stride) return;
    // Read before anything waits.
    Chunk c = find_packs(i, p.stride, p.packs);
    Rows<T, N, PACKS_AT_ONCE> z, value;
    z.read(p.z, c, i, 1);
    float a[N], b[N], other_a[N], other_b[N];
    load<N>(p.scale, pack, a);
    load<N>(p.shift, pack, b);
    if (p.addend != NO_ADDEND) value.read(p.other, c, i, 1);
    if (p.addend == NORMALIZED) {
        load<N>(p.other_scale, pack, other_a);
        load<N>(p.other_shift, pack, other_b);
    }
#pragma unroll
    for (int k = 0; k < PACKS_AT_ONCE; k++) {
        u32 at = i + k * p.stride;
        if (at >= p.packs) break;
        float y[N];
        unpack<N>(z.v[k], y);
#pragma unroll
        for (int n = 0; n < N; n++) y[n] = fmaf(a[n], y[n], b[n]);
        if (p.addend != NO_ADDEND) {
            float other[N];
            unpack<N>(value.v[k], other);
#pragma unroll
            for (int n = 0; n < N; n++) {
                if (p.addend == NORMALIZED) other[n] = fmaf(other_a[n], other[n], other_b[n]);
                y[n] += other[n];
            }
        }
        if (p.relu) {
#pragma unroll
            for (int n = 0; n < N; n++) y[n] = y[n] < 0.0f ? 0.0f : y[n];
        }
        store<N>((T*)p.y, at, y);
    }
}
PACK_KERNEL(norm_apply, ApplyParameters)
