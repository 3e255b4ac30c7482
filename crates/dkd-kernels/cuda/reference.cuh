// One row of DKD as the public reference computes it, in f32 and with its defects: the probabilities of the label and
// of the rest are summed and then taken the logarithm of, and the label is pushed out of the other softmax by 1000.
// Products with 0 and divisions by 0 are where automatic differentiation has them, so that NaN comes out where it does.

#define REFERENCE_MASK 1000.0f
// Below it a probability of the teacher counts as this: p log p is then 0 at 0.
#define REFERENCE_TINY 1e-45f

struct ReferenceSide {
    const float* row;
    double mean;
    double factor;
    float max;
    // Over the exponentials of all, and the probabilities of the label and of all others together.
    float sum;
    float target;
    float rest;
    // Of the softmax from which the label is pushed out.
    float masked_max;
    float masked_sum;

    __device__ __forceinline__ float z(u32 j) const { return (float)(((double)row[j] - mean) * factor); }
    __device__ __forceinline__ float exponential(u32 j, float inverse_t) const {
        return expf((z(j) - max) * inverse_t);
    }
    __device__ __forceinline__ float masked(u32 j, u32 label, float inverse_t) const {
        return z(j) * inverse_t - (j == label ? REFERENCE_MASK : 0.0f) - masked_max;
    }

    __device__ __forceinline__ void set_sums(double others, double masked, u32 label, float inverse_t) {
        float own = exponential(label, inverse_t);
        sum = (float)(own + others);
        target = own / sum;
        rest = (float)(others / sum);
        masked_sum = (float)masked;
    }
};

struct Reference {
    ReferenceSide s;
    ReferenceSide t;
    u32 label;
    float inverse_t;
    // Weights of the two terms, with T^2.
    float alpha;
    float beta;
    // What the two softmaxes' gradients take out.
    float along;
    float masked_along;

    // With respect to the student's probability of class j.
    __device__ __forceinline__ float of_probability(u32 j) const {
        float own = j == label ? 1.0f : 0.0f, other = 1.0f - own;
        return own * (-(alpha * t.target) / s.target) + other * (-(alpha * t.rest) / s.rest);
    }

    // Of the teacher, without the label.
    __device__ __forceinline__ float masked_probability(u32 j) const {
        return expf(t.masked(j, label, inverse_t)) / t.masked_sum;
    }

    // Of both weighted terms, with respect to the student's z_j.
    __device__ __forceinline__ float gradient(u32 j) const {
        float of_exponential = of_probability(j) / s.sum - along;
        float of_scaled = of_exponential * s.exponential(j, inverse_t);
        float masked = expf(s.masked(j, label, inverse_t));
        float of_masked = -(beta * masked_probability(j)) - masked_along / s.masked_sum * masked;
        return (of_scaled + of_masked) * inverse_t;
    }
};

// p (log p - log q), the first product 0 where p is 0, the second not.
__device__ __forceinline__ float reference_cross(float p, float log_q) {
    return p * logf(fmaxf(p, REFERENCE_TINY)) - p * log_q;
}

// The largest number of the softmax from which the label is pushed out.
__device__ __forceinline__ float reference_masked_max(const ReferenceSide& side, double max_other, const Reference& r) {
    return fmaxf((float)max_other * r.inverse_t, side.z(r.label) * r.inverse_t - REFERENCE_MASK);
}

// TCKD and NCKD without T^2, and what the gradient needs. All threads of the block call it; `row`, `mean`, `factor`,
// `max`, `masked_max`, the label, T and the weights are there already.
__device__ __forceinline__ void reference_terms(Reference& r, u32 classes, double& tckd, double& nckd) {
    double sum[4] = {};
    for (u32 j = threadIdx.x; j < classes; j += blockDim.x) {
        sum[2] += expf(r.s.masked(j, r.label, r.inverse_t));
        sum[3] += expf(r.t.masked(j, r.label, r.inverse_t));
        if (j == r.label) continue;
        sum[0] += r.s.exponential(j, r.inverse_t);
        sum[1] += r.t.exponential(j, r.inverse_t);
    }
    row_all<RowSum>(sum);
    r.s.set_sums(sum[0], sum[2], r.label, r.inverse_t);
    r.t.set_sums(sum[1], sum[3], r.label, r.inverse_t);
    tckd = reference_cross(r.t.target, logf(r.s.target)) + reference_cross(r.t.rest, logf(r.s.rest));

    double part[3] = {};
    for (u32 j = threadIdx.x; j < classes; j += blockDim.x) {
        float p = r.masked_probability(j);
        part[0] += reference_cross(p, r.s.masked(j, r.label, r.inverse_t) - logf(r.s.masked_sum));
        part[1] += r.of_probability(j) * r.s.exponential(j, r.inverse_t) / (r.s.sum * r.s.sum);
        part[2] -= r.beta * p;
    }
    row_all<RowSum>(part);
    nckd = part[0];
    r.along = (float)part[1];
    r.masked_along = (float)part[2];
}
