// Batch normalisation of a matrix [rows, channels], with what is fused into it: a sum, a rectifier, and the gradients of both.

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
    u32 channels;
    u32 chunk_rows;
    float eps;
    float momentum;
};

__device__ __forceinline__ void write_affine(const MomentParameters& p, u32 c, double mean, double var) {
    double inverse = 1.0 / sqrt(var + (double)p.eps);
    float scale = (float)((double)p.gamma[c] * inverse);
    p.mean[c] = (float)mean;
    p.inverse[c] = (float)inverse;
    p.scale[c] = scale;
    // Of the factor as it is rounded: else its error would grow with the mean.
    p.shift[c] = (float)((double)p.beta[c] - mean * (double)scale);
}

__device__ __forceinline__ double lacking(const MomentParameters& p, u32 c) { return p.bias ? (double)p.bias[c] : 0.0; }

// From all chunks: differences from the first one's value, as that is near the others.
__device__ __forceinline__ void finish_moments(const MomentParameters& p, const Share& s) {
    // Of the differences, and of their squares.
    double all[2] = {};
    double origin = s.active ? p.partial[s.channel] : 0.0f;
#pragma unroll 8
    for (u32 k = s.part; s.active && k < gridDim.y; k += s.parts) {
        u64 first = (u64)k * p.chunk_rows;
        double n = (double)(first + p.chunk_rows < p.rows ? p.chunk_rows : p.rows - first);
        const float* row = p.partial + (u64)k * 3 * p.channels + s.channel;
        double d = (double)row[0] - origin, sum = row[p.channels], square = row[2 * (u64)p.channels];
        all[0] += sum + n * d;
        all[1] += square + d * (2.0 * sum + n * d);
    }
    sum_parts<2>(all, s);
    if (s.part != 0 || !s.active) return;
    double n = (double)p.rows, m2 = all[1] - all[0] * (all[0] / n), mean = origin + all[0] / n;
    if (m2 < 0.0) m2 = 0.0;
    if (p.running_mean) {
        double m = (double)p.momentum, unbiased = m2 / (n > 1.0 ? n - 1.0 : 1.0);
        u32 c = s.channel;
        p.running_mean[c] = (float)((1.0 - m) * (double)p.running_mean[c] + m * (mean + lacking(p, c)));
        p.running_var[c] = (float)((1.0 - m) * (double)p.running_var[c] + m * unbiased);
    }
    write_affine(p, s.channel, mean, m2 / n);
}

template <typename T, int N>
__device__ void moments(const MomentParameters& p) {
    u32 packs = p.channels / N;
    Chunk c = find_chunk(p.rows, p.chunk_rows, packs);
    // Differences from a value of the chunk: squares of the values themselves would drown a small variance in a large mean.
    float near[N] = {}, sum[N] = {}, square[N] = {};
    u64 first = (u64)blockIdx.y * p.chunk_rows;
    if (c.active) load<N>((const T*)p.z, first * packs + c.pack, near);
#pragma unroll 4
    for (u64 row = c.row; c.active && row < c.end; row += c.step) {
        float z[N];
        load<N>((const T*)p.z, row * packs + c.pack, z);
#pragma unroll
        for (int i = 0; i < N; i++) {
            float d = z[i] - near[i];
            sum[i] += d;
            square[i] = fmaf(d, d, square[i]);
        }
    }
    // Three rows of partial sums for each chunk: the value, the sum, the squares.
    write_partial<N>(sum, c, p.partial, blockIdx.y * 3 + 1, p.channels);
    write_partial<N>(square, c, p.partial, blockIdx.y * 3 + 2, p.channels);
    if (threadIdx.y == 0 && c.active) {
#pragma unroll
        for (int i = 0; i < N; i++) p.partial[(u64)blockIdx.y * 3 * p.channels + (u64)c.pack * N + i] = near[i];
    }
    if (is_last_block(&p.tickets[blockIdx.x], gridDim.y)) finish_moments(p, find_share<N>(p.channels));
}
PACK_KERNEL(moments, MomentParameters)

// From running statistics.
__device__ void norm_running_body(const MomentParameters& p) {
    u64 i = thread_index();
    if (i >= p.channels) return;
    u32 c = (u32)i;
    write_affine(p, c, (double)p.running_mean[c] - lacking(p, c), (double)p.running_var[c]);
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
    u64 packs;
    u32 channels;
    u32 addend;
    u32 relu;
    u32 unused;
};

template <typename T, int N>
__device__ void norm_apply(const ApplyParameters& p) {
    u64 i = thread_index();
    if (i >= p.packs) return;
    u32 pack = remainder(i, p.channels / N);
    float y[N], a[N], b[N];
    load<N>((const T*)p.z, i, y);
    load<N>(p.scale, pack, a);
    load<N>(p.shift, pack, b);
#pragma unroll
    for (int k = 0; k < N; k++) y[k] = fmaf(a[k], y[k], b[k]);
    if (p.addend != NO_ADDEND) {
        float other[N];
        load<N>((const T*)p.other, i, other);
        if (p.addend == NORMALIZED) {
            load<N>(p.other_scale, pack, a);
            load<N>(p.other_shift, pack, b);
#pragma unroll
            for (int k = 0; k < N; k++) other[k] = fmaf(a[k], other[k], b[k]);
        }
#pragma unroll
        for (int k = 0; k < N; k++) y[k] += other[k];
    }
    if (p.relu) {
#pragma unroll
        for (int k = 0; k < N; k++) y[k] = y[k] < 0.0f ? 0.0f : y[k];
    }
    store<N>((T*)p.y, i, y);
}
PACK_KERNEL(norm_apply, ApplyParameters)

// A normalisation's parameters' gradients, and the factors of dz = c1 g + c2 z + c3.
struct Coefficients {
    const float* gamma;
    const float* mean;
    const float* inverse;
    float* gamma_gradient;
    float* beta_gradient;
    float* c1;
    float* c2;
    float* c3;
};

__device__ __forceinline__ void write_coefficients(const Coefficients& p, u32 c, double rows, double sum, double product) {
    double inverse = p.inverse[c];
    double c1 = (double)p.gamma[c] * inverse;
    float c2 = (float)(-c1 * inverse * (product / rows));
    p.gamma_gradient[c] = (float)product;
    p.beta_gradient[c] = (float)sum;
    p.c1[c] = (float)c1;
    p.c2[c] = c2;
    // As for the shift.
    p.c3[c] = (float)(-c1 * (sum / rows) - (double)c2 * (double)p.mean[c]);
}

// g = (g + residual) where y is positive, and per channel the sums of g, of g times the normalised z, and of g times the
// normalised addend, and what follows from them for the normalisation and the addend's.
struct CompleteParameters {
    void* g;
    const void* residual;
    const void* y;
    const void* z;
    const void* other;
    const float* scale;
    const float* shift;
    Coefficients own;
    Coefficients addend;
    float* partial;
    u32* tickets;
    u64 rows;
    u32 channels;
    u32 chunk_rows;
    u32 relu;
    u32 sums;
};

__device__ __forceinline__ void finish_complete(const CompleteParameters& p, const Share& s) {
    double all[3] = {};
#pragma unroll 8
    for (u32 k = s.part; s.active && k < gridDim.y; k += s.parts) {
        const float* row = p.partial + (u64)k * p.sums * p.channels + s.channel;
        all[0] += (double)row[0];
        all[1] += (double)row[p.channels];
        if (p.sums == 3) all[2] += (double)row[2 * (u64)p.channels];
    }
    sum_parts<3>(all, s);
    if (s.part != 0 || !s.active) return;
    write_coefficients(p.own, s.channel, (double)p.rows, all[0], all[1]);
    if (p.sums == 3) write_coefficients(p.addend, s.channel, (double)p.rows, all[0], all[2]);
}

// The gradient where it is completed.
template <typename T, int N>
struct OwnGradient {
    enum { ELSEWHERE = 0 };
    const T* g;
    u32 packs, pack;

    __device__ __forceinline__ void read(u64 row, float (&to)[N]) const { load<N>(g, row * packs + pack, to); }
};

// Each channel of it in that of some other map, or nowhere, and then 0.
template <typename T, int N>
struct GatheredGradient {
    enum { ELSEWHERE = 1 };
    const T* from[N];
    u32 channels[N];

    __device__ __forceinline__ void read(u64 row, float (&to)[N]) const {
#pragma unroll
        for (int k = 0; k < N; k++) to[k] = from[k] ? to_float(from[k][row * channels[k]]) : 0.0f;
    }
};

template <typename T, int N, typename Gradient>
__device__ __forceinline__ void complete(const CompleteParameters& p, const Chunk& c, const Gradient& gradient) {
    u32 packs = p.channels / N;
    float scale[N] = {}, shift[N] = {}, mean[N] = {}, inverse[N] = {}, other_mean[N] = {}, other_inverse[N] = {};
    if (c.active) {
        load<N>(p.scale, c.pack, scale);
        load<N>(p.shift, c.pack, shift);
        load<N>(p.own.mean, c.pack, mean);
        load<N>(p.own.inverse, c.pack, inverse);
        if (p.sums == 3) {
            load<N>(p.addend.mean, c.pack, other_mean);
            load<N>(p.addend.inverse, c.pack, other_inverse);
        }
    }
    float sum[N] = {}, product[N] = {}, other_product[N] = {};
    for (u64 row = c.row; c.active && row < c.end; row += c.step) {
        u64 i = row * packs + c.pack;
        float g[N], z[N], value[N];
        gradient.read(row, g);
        load<N>((const T*)p.z, i, z);
        if (p.residual) {
            load<N>((const T*)p.residual, i, value);
#pragma unroll
            for (int k = 0; k < N; k++) g[k] += value[k];
        }
        if (p.relu) {
            if (p.y) {
                load<N>((const T*)p.y, i, value);
            } else {
                // As norm_apply has it, to the last bit.
#pragma unroll
                for (int k = 0; k < N; k++) value[k] = fmaf(scale[k], z[k], shift[k]);
            }
#pragma unroll
            for (int k = 0; k < N; k++) g[k] = value[k] > 0.0f ? g[k] : 0.0f;
        }
        if (Gradient::ELSEWHERE || p.residual || p.relu) {
            store<N>((T*)p.g, i, g);
            // What is summed is what was stored.
#pragma unroll
            for (int k = 0; k < N; k++) {
                T rounded;
                from_float(g[k], rounded);
                g[k] = to_float(rounded);
            }
        }
#pragma unroll
        for (int k = 0; k < N; k++) {
            sum[k] += g[k];
            product[k] = fmaf(g[k], (z[k] - mean[k]) * inverse[k], product[k]);
        }
        if (p.sums == 3) {
            load<N>((const T*)p.other, i, value);
#pragma unroll
            for (int k = 0; k < N; k++) {
                other_product[k] = fmaf(g[k], (value[k] - other_mean[k]) * other_inverse[k], other_product[k]);
            }
        }
    }
    write_partial<N>(sum, c, p.partial, blockIdx.y * p.sums, p.channels);
    write_partial<N>(product, c, p.partial, blockIdx.y * p.sums + 1, p.channels);
    if (p.sums == 3) write_partial<N>(other_product, c, p.partial, blockIdx.y * p.sums + 2, p.channels);
    if (is_last_block(&p.tickets[blockIdx.x], gridDim.y)) finish_complete(p, find_share<N>(p.channels));
}

template <typename T, int N>
__device__ void norm_complete(const CompleteParameters& p) {
    u32 packs = p.channels / N;
    Chunk c = find_chunk(p.rows, p.chunk_rows, packs);
    complete<T, N>(p, c, OwnGradient<T, N>{(const T*)p.g, packs, c.pack});
}
PACK_KERNEL(norm_complete, CompleteParameters)

struct GatheredParameters {
    CompleteParameters complete;
    const void* sources[16];
    u32 counts[16];
    // For each channel source << 24 | channel, or all bits for none.
    const u32* table;
};

template <typename T, int N>
__device__ void norm_complete_gathered(const GatheredParameters& p) {
    Chunk c = find_chunk(p.complete.rows, p.complete.chunk_rows, p.complete.channels / N);
    GatheredGradient<T, N> gradient = {};
#pragma unroll
    for (int k = 0; k < N; k++) {
        u32 entry = c.active ? p.table[c.pack * N + k] : 0xffffffffu;
        if (entry == 0xffffffffu) continue;
        gradient.from[k] = (const T*)p.sources[entry >> 24] + (entry & 0xffffffu);
        gradient.channels[k] = p.counts[entry >> 24];
    }
    complete<T, N>(p.complete, c, gradient);
}
// No larger packs: channels that are neighbours here are none there, and a warp should read what lies close together.
KERNEL(norm_complete_gathered, GatheredParameters, f32, float, 1)
KERNEL(norm_complete_gathered, GatheredParameters, bf16, bf16, 1)
KERNEL(norm_complete_gathered, GatheredParameters, pairs_bf16, bf16, 2)

struct NormInputParameters {
    const void* g;
    const void* z;
    void* dz;
    const float* c1;
    const float* c2;
    const float* c3;
    u64 packs;
    u32 channels;
    u32 accumulate;
};

template <typename T, int N>
__device__ void norm_input(const NormInputParameters& p) {
    u64 i = thread_index();
    if (i >= p.packs) return;
    u32 pack = remainder(i, p.channels / N);
    float g[N], z[N], c1[N], c2[N], c3[N];
    load<N>((const T*)p.g, i, g);
    load<N>((const T*)p.z, i, z);
    load<N>(p.c1, pack, c1);
    load<N>(p.c2, pack, c2);
    load<N>(p.c3, pack, c3);
#pragma unroll
    for (int k = 0; k < N; k++) g[k] = fmaf(c1[k], g[k], fmaf(c2[k], z[k], c3[k]));
    put<N>((T*)p.dz, i, g, p.accumulate);
}
PACK_KERNEL(norm_input, NormInputParameters)
