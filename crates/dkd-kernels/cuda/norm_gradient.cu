// Gradients of a batch normalisation, and of the sum and the rectifier that are fused into it.

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

// What is known of a channel before its gradients' sums are.
struct ChannelFactors {
    float gamma, mean, inverse;
};

__device__ __forceinline__ ChannelFactors read_factors(const Coefficients& p, u32 c) { return {p.gamma[c], p.mean[c], p.inverse[c]}; }

// From the sums of g, and of g times what z is above the mean.
__device__ __forceinline__ void write_coefficients(
    const Coefficients& p, const ChannelFactors& f, u32 c, double inverse_rows, double sum, double above
) {
    double inverse = f.inverse, product = above * inverse, c1 = (double)f.gamma * inverse;
    float c2 = (float)(-c1 * inverse * (product * inverse_rows));
    p.gamma_gradient[c] = (float)product;
    p.beta_gradient[c] = (float)sum;
    p.c1[c] = (float)c1;
    p.c2[c] = c2;
    // As for the shift.
    p.c3[c] = (float)(-c1 * (sum * inverse_rows) - (double)c2 * (double)f.mean);
}

// g = (g + residual) where y is positive, and per channel the sums of g, of g times what z is above its mean, and of g times what the addend is
// above its own, and what follows from them for the normalisation and the addend's.
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
    double inverse_rows;
    u32 channels;
    u32 chunk_rows;
    u32 relu;
    u32 sums;
};

__device__ __forceinline__ void finish_complete(const CompleteParameters& p, const Share& s) {
    double all[3] = {};
    add_chunks<3>(s, p.partial, p.sums, p.channels, all, [&](u32, const float (&x)[3], float (&to)[3]) {
#pragma unroll
        for (int i = 0; i < 3; i++) to[i] = x[i];
    });
    // On its way while parts are added up.
    ChannelFactors own = {}, addend = {};
    if (s.active) own = read_factors(p.own, s.channel);
    if (s.active && p.sums == 3) addend = read_factors(p.addend, s.channel);
    sum_parts(all, s);
    float* numbers[] = {&own.gamma, &own.mean, &own.inverse, &addend.gamma, &addend.mean, &addend.inverse};
#pragma unroll
    for (int i = 0; i < 6; i++) not_before(*numbers[i]);
    if (s.part != 0 || !s.active) return;
    write_coefficients(p.own, own, s.channel, p.inverse_rows, all[0], all[1]);
    if (p.sums == 3) write_coefficients(p.addend, addend, s.channel, p.inverse_rows, all[0], all[2]);
}

// The gradient where it is completed.
template <typename T, int N>
struct OwnGradient {
    enum { ELSEWHERE = 0 };
    const T* g;
    u32 packs, pack;

    __device__ __forceinline__ Pack<T, N> read(u32 row) const { return ((const Pack<T, N>*)g)[row * packs + pack]; }
};

// Each channel of it in that of some other map, or nowhere, and then 0.
template <typename T, int N>
struct GatheredGradient {
    enum { ELSEWHERE = 1 };
    const T* from[N];
    u32 channels[N];

    __device__ __forceinline__ Pack<T, N> read(u32 row) const {
        Pack<T, N> pack = {};
#pragma unroll
        for (int k = 0; k < N; k++) {
            if (from[k]) pack.v[k] = from[k][(u64)row * channels[k]];
        }
        return pack;
    }
};

template <typename T, int N, typename Gradient>
__device__ __forceinline__ void complete(const CompleteParameters& p, const Chunk& c, const Gradient& gradient) {
    // As many as there are registers for.
    enum { AT_ONCE = N * sizeof(T) == 16 ? 2 : 4 };
    u32 packs = p.channels / N;
    float scale[N], shift[N], mean[N], other_mean[N], sums[3][N] = {};
    Rows<T, N, AT_ONCE> g, z, residual, y, other;
    auto read = [&](u32 row) {
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++) {
            u32 at = row + k * c.step;
            g.v[k] = gradient.read(at < c.end ? at : row);
        }
        z.read(p.z, c, row, packs);
        if (p.residual) residual.read(p.residual, c, row, packs);
        if (p.y) y.read(p.y, c, row, packs);
        if (p.sums == 3) other.read(p.other, c, row, packs);
    };
    auto add = [&](u32 row) {
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++) {
            u32 at = row + k * c.step;
            // Of the first it is known: the compiler would read the others' only then.
            if (k > 0 && at >= c.end) break;
            float own[N], above[N], value[N];
            unpack<N>(g.v[k], own);
            unpack<N>(z.v[k], above);
            if (p.residual) {
                unpack<N>(residual.v[k], value);
#pragma unroll
                for (int i = 0; i < N; i++) own[i] += value[i];
            }
            if (p.relu) {
                if (p.y) {
                    unpack<N>(y.v[k], value);
                } else {
                    // As norm_apply has it, to the last bit.
#pragma unroll
                    for (int i = 0; i < N; i++) value[i] = fmaf(scale[i], above[i], shift[i]);
                }
#pragma unroll
                for (int i = 0; i < N; i++) own[i] = value[i] > 0.0f ? own[i] : 0.0f;
            }
            if (Gradient::ELSEWHERE || p.residual || p.relu) {
                Pack<T, N> stored = pack_of<T>(own);
                ((Pack<T, N>*)p.g)[at * packs + c.pack] = stored;
                // What is summed is what was stored.
                unpack<N>(stored, own);
            }
#pragma unroll
            for (int i = 0; i < N; i++) {
                sums[0][i] += own[i];
                sums[1][i] = fmaf(own[i], above[i] - mean[i], sums[1][i]);
            }
            if (p.sums == 3) {
                unpack<N>(other.v[k], value);
#pragma unroll
                for (int i = 0; i < N; i++) sums[2][i] = fmaf(own[i], value[i] - other_mean[i], sums[2][i]);
            }
        }
    };
    u32 row = c.row;
    if (row < c.end) {
        // What belongs to channels is on its way together with the first rows.
        read(row);
        load<N>(p.own.mean, c.pack, mean);
        if (p.relu && !p.y) {
            load<N>(p.scale, c.pack, scale);
            load<N>(p.shift, c.pack, shift);
        }
        if (p.sums == 3) load<N>(p.addend.mean, c.pack, other_mean);
        add(row);
    }
    while ((row += AT_ONCE * c.step) < c.end) {
        read(row);
        add(row);
    }
    write_partial(sums, p.sums, p.partial, blockIdx.y * p.sums, p.channels);
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
    u32 packs;
    u32 stride;
    u32 channels;
    u32 accumulate;
};

template <typename T, int N>
__device__ void norm_input(const NormInputParameters& p) {
    u32 i = (u32)thread_index(), pack = i % (p.channels / N);
    if (i >= p.stride) return;
    Chunk c = find_packs(i, p.stride, p.packs);
    Rows<T, N, PACKS_AT_ONCE> g, z, old;
    g.read(p.g, c, i, 1);
    z.read(p.z, c, i, 1);
    if (p.accumulate) old.read(p.dz, c, i, 1);
    float c1[N], c2[N], c3[N];
    load<N>(p.c1, pack, c1);
    load<N>(p.c2, pack, c2);
    load<N>(p.c3, pack, c3);
#pragma unroll
    for (int k = 0; k < PACKS_AT_ONCE; k++) {
        u32 at = i + k * p.stride;
        if (at >= p.packs) break;
        float dz[N], value[N];
        unpack<N>(g.v[k], dz);
        unpack<N>(z.v[k], value);
#pragma unroll
        for (int n = 0; n < N; n++) dz[n] = fmaf(c1[n], dz[n], fmaf(c2[n], value[n], c3[n]));
        if (p.accumulate) {
            unpack<N>(old.v[k], value);
#pragma unroll
            for (int n = 0; n < N; n++) dz[n] += value[n];
        }
        store<N>((T*)p.dz, at, dz);
    }
}
PACK_KERNEL(norm_input, NormInputParameters)
