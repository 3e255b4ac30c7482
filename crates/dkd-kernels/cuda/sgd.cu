// The SGD update of flat buffers, with settings that are read from memory, and the norm that clipping needs.

struct SgdSettings {
    float lr;
    float momentum;
    float dampening;
    float weight_decay;
    float scale;
    u32 nesterov;
    u32 first;
    u32 unused;
    // Largest norm of the gradients; 0 or less: any.
    double limit;
};

struct SgdParameters {
    const SgdSettings* settings;
    float* weights;
    const float* gradients;
    float* momentum;
    // Of the squared norm, absent unless gradients are clipped.
    const double* squared_norm;
    // Where the new weights go as bf16, or absent.
    bf16* rounded;
    u64 packs;
};

// As PyTorch's clip_grad_norm_; a norm that is NaN leaves the gradients as they are.
__device__ __forceinline__ float sgd_scale(const SgdParameters& p, const SgdSettings& s) {
    if (!p.squared_norm || !(s.limit > 0.0)) return s.scale;
    return s.scale * (float)fmin(s.limit / (sqrt(*p.squared_norm) + 1e-6), 1.0);
}

// The fused operations are those of src/flat.rs, so the bits are, too.
template <int N>
__device__ void sgd(const SgdParameters& p) {
    u64 i = thread_index();
    if (i >= p.packs) return;
    SgdSettings s = *p.settings;
    float w[N], g[N], m[N];
    load<N>(p.weights, i, w);
    load<N>(p.gradients, i, g);
    // Without waiting for the settings, which may not need it.
    load<N>(p.momentum, i, m);
    float scale = sgd_scale(p, s), fresh = 1.0f - s.dampening;
#pragma unroll
    for (int k = 0; k < N; k++) {
        float gradient = fmaf(s.weight_decay, w[k], scale * g[k]);
        float step = gradient;
        if (s.momentum != 0.0f) {
            m[k] = s.first ? gradient : fmaf(s.momentum, m[k], fresh * gradient);
            step = s.nesterov ? fmaf(s.momentum, m[k], gradient) : m[k];
        }
        w[k] = fmaf(-s.lr, step, w[k]);
    }
    if (s.momentum != 0.0f) store<N>(p.momentum, i, m);
    store<N>(p.weights, i, w);
    if (p.rounded) store<N>(p.rounded, i, w);
}
KERNEL(sgd, SgdParameters, plain, 1)
KERNEL(sgd, SgdParameters, packed, 4)

struct SquaredNormParameters {
    const float* x;
    double* partial;
    double* result;
    u64 n;
    u32 parts;
    u32 unused;
};

enum { SQUARED_NORM_THREADS = 256 };

// Sum over a block of that many threads, in a fixed order; only thread 0 gets it.
__device__ __forceinline__ double squared_norm_sum(double sum) {
    __shared__ double sums[SQUARED_NORM_THREADS];
    sums[threadIdx.x] = sum;
    for (u32 half = SQUARED_NORM_THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
    }
    return sums[0];
}

__device__ void squared_norm_partial_body(const SquaredNormParameters& p) {
    double sum = 0.0;
    u64 stride = (u64)p.parts * SQUARED_NORM_THREADS;
    for (u64 i = thread_index(); i < p.n; i += stride) sum += (double)p.x[i] * (double)p.x[i];
    sum = squared_norm_sum(sum);
    if (threadIdx.x == 0) p.partial[blockIdx.x] = sum;
}
PLAIN_KERNEL(squared_norm_partial, SquaredNormParameters)

__device__ void squared_norm_finish_body(const SquaredNormParameters& p) {
    double sum = 0.0;
    for (u32 i = threadIdx.x; i < p.parts; i += SQUARED_NORM_THREADS) sum += p.partial[i];
    sum = squared_norm_sum(sum);
    if (threadIdx.x == 0) *p.result = sum;
}
PLAIN_KERNEL(squared_norm_finish, SquaredNormParameters)
