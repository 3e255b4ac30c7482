// The losses of a batch of logits and the gradient of their weighted sum, by row, in f64 as on the CPU; then
// their sums. For the reference's DKD see reference.cuh.

struct LossWeights {
    float ce;
    float kd;
    float alpha;
    float beta;
    float kd_temperature;
    float dkd_temperature;
};

struct LossParameters {
    const float* student;
    const float* teacher;
    const u32* labels;
    const LossWeights* weights;
    float* gradient;
    // [n, LOSS_COLUMNS]
    float* rows;
    u32 n;
    u32 classes;
    u32 kd;
    // DKD_NONE or one of the others.
    u32 dkd;
    u32 standardize;
    u32 unused;
};

enum { DKD_NONE, DKD_STABLE, DKD_REFERENCE };
enum { LOSS_CE, LOSS_KD, LOSS_TCKD, LOSS_NCKD, LOSS_CORRECT, LOSS_BAD, LOSS_COLUMNS };

// A network's logits of a row, as the distillation sees them: themselves, or standardised.
struct LossSide {
    const float* row;
    double mean;
    double deviation;
    // 1 / (deviation + a little): a division takes as long as many products.
    double factor;
    // The largest and the log-sum-exp below it, of all over KD's T, and of all but the label over DKD's.
    double max;
    double log_sum;
    double max_other;
    double log_sum_other;
    // DKD's log of the label's probability, and of all others together.
    double log_target;
    double log_other;

    // With the inverse of the temperature.
    __device__ __forceinline__ double z(u32 j) const { return ((double)row[j] - mean) * factor; }
    __device__ __forceinline__ double scaled(u32 j, double t) const { return (z(j) - max) * t; }
    __device__ __forceinline__ double scaled_other(u32 j, double t) const { return (z(j) - max_other) * t; }

    // From the two numbers of the binary softmax; no probability is ever subtracted from 1.
    __device__ __forceinline__ void split(u32 label, double t) {
        double target = scaled_other(label, t), top = fmax(target, log_sum_other);
        double sum = log(exp(target - top) + exp(log_sum_other - top));
        log_target = target - top - sum;
        log_other = log_sum_other - top - sum;
    }
};

struct LossRow {
    LossSide s;
    LossSide t;
    u32 label;
    // Inverses of the temperatures, and the factors of the gradients of KD, TCKD and NCKD.
    double kd_inverse;
    double dkd_inverse;
    double kd;
    double target;
    double others;
    Reference reference;
};

// Of the weighted KD and DKD, with respect to the student's z_j.
__device__ __forceinline__ double loss_gradient(const LossParameters& p, const LossRow& r, u32 j) {
    double g = 0.0;
    if (p.kd) {
        double q = exp(r.s.scaled(j, r.kd_inverse) - r.s.log_sum), t = exp(r.t.scaled(j, r.kd_inverse) - r.t.log_sum);
        g += r.kd * (q - t);
    }
    if (p.dkd == DKD_REFERENCE) g += r.reference.gradient(j);
    if (p.dkd == DKD_STABLE && j == r.label) g += r.target;
    if (p.dkd == DKD_STABLE && j != r.label) {
        double q = exp(r.s.scaled_other(j, r.dkd_inverse) - r.s.log_sum_other);
        double t = exp(r.t.scaled_other(j, r.dkd_inverse) - r.t.log_sum_other);
        g += r.others * (q - t) - r.target * q;
    }
    return g;
}

// Mean and deviation of both networks' rows; the unbiased one, and never quite 0, as on the CPU.
__device__ __forceinline__ void loss_standardize(const LossParameters& p, LossRow& r) {
    double mean[2] = {}, square[2] = {};
    for (u32 j = threadIdx.x; j < p.classes; j += blockDim.x) {
        mean[0] += r.s.row[j];
        mean[1] += r.t.row[j];
    }
    row_all<RowSum>(mean);
    r.s.mean = mean[0] / p.classes;
    r.t.mean = mean[1] / p.classes;
    for (u32 j = threadIdx.x; j < p.classes; j += blockDim.x) {
        double s = r.s.row[j] - r.s.mean, t = r.t.row[j] - r.t.mean;
        square[0] += s * s;
        square[1] += t * t;
    }
    row_all<RowSum>(square);
    double freedom = p.classes > 1 ? p.classes - 1 : 1;
    r.s.deviation = sqrt(square[0] / freedom + 1e-300);
    r.t.deviation = sqrt(square[1] / freedom + 1e-300);
    r.s.factor = 1.0 / (r.s.deviation + 1e-7);
    r.t.factor = 1.0 / (r.t.deviation + 1e-7);
}

__device__ __forceinline__ void loss_reference(
    const LossParameters& p, const LossWeights& w, LossRow& r, double& tckd, double& nckd
) {
    Reference& reference = r.reference;
    float square = w.dkd_temperature * w.dkd_temperature;
    reference.label = r.label;
    reference.inverse_t = (float)r.dkd_inverse;
    reference.alpha = w.alpha * square;
    reference.beta = w.beta * square;
    const LossSide* sides[2] = {&r.s, &r.t};
    ReferenceSide* to[2] = {&reference.s, &reference.t};
    for (int i = 0; i < 2; i++) {
        to[i]->row = sides[i]->row;
        to[i]->mean = sides[i]->mean;
        to[i]->factor = sides[i]->factor;
        to[i]->max = (float)sides[i]->max;
        to[i]->masked_max = reference_masked_max(*to[i], sides[i]->max_other, reference);
    }
    reference_terms(reference, p.classes, tckd, nckd);
}

__device__ void losses_body(const LossParameters& p) {
    u64 start = (u64)blockIdx.x * p.classes;
    float* rows = p.rows + (u64)blockIdx.x * LOSS_COLUMNS;
    float* gradient = p.gradient + start;
    LossWeights w = *p.weights;
    bool distils = p.kd || p.dkd;
    LossRow r = {};
    r.s.row = p.student + start;
    r.t.row = distils ? p.teacher + start : r.s.row;
    r.s.factor = r.t.factor = 1.0;
    r.label = p.labels[blockIdx.x];
    r.kd_inverse = 1.0 / w.kd_temperature;
    r.dkd_inverse = 1.0 / w.dkd_temperature;
    // A label comes from memory, so no launch can check it.
    if (r.label >= p.classes) {
        for (u32 j = threadIdx.x; j < p.classes; j += blockDim.x) gradient[j] = row_nan();
        if (threadIdx.x < LOSS_COLUMNS) rows[threadIdx.x] = threadIdx.x < LOSS_CORRECT ? row_nan() : 0.0f;
        if (threadIdx.x == LOSS_BAD) rows[LOSS_BAD] = 1.0f;
        return;
    }
    if (p.standardize) loss_standardize(p, r);

    double max[5];
    for (int i = 0; i < 5; i++) max[i] = row_lowest();
    for (u32 j = threadIdx.x; j < p.classes; j += blockDim.x) {
        max[0] = fmax(max[0], (double)r.s.row[j]);
        if (!distils) continue;
        double s = r.s.z(j), t = r.t.z(j);
        max[1] = fmax(max[1], s);
        max[2] = fmax(max[2], t);
        if (j == r.label) continue;
        max[3] = fmax(max[3], s);
        max[4] = fmax(max[4], t);
    }
    row_all<RowMax>(max);
    r.s.max = max[1];
    r.t.max = max[2];
    r.s.max_other = max[3];
    r.t.max_other = max[4];

    // Five sums of exponentials, and the classes that come before the label.
    double sum[6] = {};
    float own = r.s.row[r.label];
    for (u32 j = threadIdx.x; j < p.classes; j += blockDim.x) {
        sum[0] += exp(r.s.row[j] - max[0]);
        sum[5] += row_beats(r.s.row[j], j, own, r.label);
        if (p.kd) {
            sum[1] += exp(r.s.scaled(j, r.kd_inverse));
            sum[2] += exp(r.t.scaled(j, r.kd_inverse));
        }
        if (p.dkd == DKD_STABLE && j != r.label) {
            sum[3] += exp(r.s.scaled_other(j, r.dkd_inverse));
            sum[4] += exp(r.t.scaled_other(j, r.dkd_inverse));
        }
    }
    row_all<RowSum>(sum);
    double log_sum = log(sum[0]), ce = log_sum - (own - max[0]), tckd = 0.0, nckd = 0.0;
    if (p.kd) {
        r.s.log_sum = log(sum[1]);
        r.t.log_sum = log(sum[2]);
        r.kd = (double)w.kd * w.kd_temperature;
    }
    if (p.dkd == DKD_REFERENCE) loss_reference(p, w, r, tckd, nckd);
    if (p.dkd == DKD_STABLE) {
        r.s.log_sum_other = log(sum[3]);
        r.t.log_sum_other = log(sum[4]);
        r.s.split(r.label, r.dkd_inverse);
        r.t.split(r.label, r.dkd_inverse);
        double target = exp(r.t.log_target), other = exp(r.t.log_other);
        tckd = target * (r.t.log_target - r.s.log_target) + other * (r.t.log_other - r.s.log_other);
        // The difference of the smaller two probabilities has more digits.
        double ours = exp(r.s.log_target), theirs = exp(r.s.log_other);
        r.target = (double)w.alpha * w.dkd_temperature * (target + ours > 1.0 ? other - theirs : ours - target);
        r.others = (double)w.beta * w.dkd_temperature;
    }

    // The two divergences, and for the gradient of standardisation its sum and that of its products.
    double part[4] = {};
    for (u32 j = threadIdx.x; distils && j < p.classes; j += blockDim.x) {
        if (p.kd) {
            double t = r.t.scaled(j, r.kd_inverse) - r.t.log_sum;
            part[0] += exp(t) * (t - (r.s.scaled(j, r.kd_inverse) - r.s.log_sum));
        }
        if (p.dkd == DKD_STABLE && j != r.label) {
            double t = r.t.scaled_other(j, r.dkd_inverse) - r.t.log_sum_other;
            part[1] += exp(t) * (t - (r.s.scaled_other(j, r.dkd_inverse) - r.s.log_sum_other));
        }
        if (p.standardize) {
            double g = loss_gradient(p, r, j);
            part[2] += g;
            part[3] += g * (r.s.row[j] - r.s.mean);
        }
    }
    row_all<RowSum>(part);

    double freedom = p.classes > 1 ? p.classes - 1 : 1;
    double along = p.standardize ? part[3] * r.s.factor * r.s.factor / (freedom * r.s.deviation) : 0.0;
    double bad[1] = {}, share = 1.0 / p.n;
    for (u32 j = threadIdx.x; j < p.classes; j += blockDim.x) {
        double g = distils ? loss_gradient(p, r, j) : 0.0;
        // What is along the mean and along the row itself is taken out; of a constant row nothing is along
        // it.
        if (p.standardize) g = (g - part[2] / p.classes) * r.s.factor - (r.s.row[j] - r.s.mean) * along;
        double of_ce = exp(r.s.row[j] - max[0] - log_sum) - (j == r.label ? 1.0 : 0.0);
        gradient[j] = (float)((w.ce * of_ce + g) * share);
        bad[0] += !row_finite(gradient[j]);
    }
    row_all<RowSum>(bad);
    if (threadIdx.x > 0) return;
    double dkd_square = (double)w.dkd_temperature * w.dkd_temperature, kd_square = (double)w.kd_temperature * w.kd_temperature;
    rows[LOSS_CE] = (float)ce;
    rows[LOSS_KD] = p.kd ? (float)(kd_square * part[0]) : 0.0f;
    rows[LOSS_TCKD] = p.dkd ? (float)(dkd_square * tckd) : 0.0f;
    rows[LOSS_NCKD] = p.dkd ? (float)(dkd_square * (nckd + part[1])) : 0.0f;
    for (int i = 0; i < LOSS_CORRECT; i++) bad[0] += !row_finite(rows[i]);
    rows[LOSS_CORRECT] = sum[5] == 0.0;
    rows[LOSS_BAD] = bad[0] > 0.0;
}
PLAIN_KERNEL(losses, LossParameters)

struct LossTotalsParameters {
    const float* rows;
    // Sums of the first five columns, then rows.
    double* totals;
    u32* bad;
    u32 n;
    u32 unused;
};

__device__ void loss_totals_body(const LossTotalsParameters& p) {
    double sum[LOSS_COLUMNS] = {};
    for (u32 row = threadIdx.x; row < p.n; row += blockDim.x) {
        for (int i = 0; i < LOSS_COLUMNS; i++) sum[i] += p.rows[(u64)row * LOSS_COLUMNS + i];
    }
    row_all<RowSum>(sum);
    if (threadIdx.x > 0) return;
    for (int i = 0; i < LOSS_BAD; i++) p.totals[i] += sum[i];
    p.totals[LOSS_BAD] += p.n;
    if (sum[LOSS_BAD] != 0.0) *p.bad = 1;
}
PLAIN_KERNEL(loss_totals, LossTotalsParameters)
