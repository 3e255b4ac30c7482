// What an evaluation counts: right classes, labels among the five best, and the cross-entropy.

struct CounterParameters {
    const float* logits;
    const u32* labels;
    // [n, 2]: loss, and classes that come before the label.
    double* rows;
    u32 n;
    u32 classes;
};

__device__ void counter_rows_body(const CounterParameters& p) {
    const float* row = p.logits + (u64)blockIdx.x * p.classes;
    double* to = p.rows + (u64)blockIdx.x * 2;
    u32 label = p.labels[blockIdx.x];
    // A label comes from memory, so no launch can check it.
    if (label >= p.classes) {
        if (threadIdx.x == 0) {
            to[0] = row_nan();
            to[1] = p.classes;
        }
        return;
    }
    float own = row[label];
    double max[1] = {row_lowest()};
    for (u32 j = threadIdx.x; j < p.classes; j += blockDim.x) max[0] = fmax(max[0], (double)row[j]);
    row_all<RowMax>(max);
    // The difference is f32, as on the CPU.
    float top = (float)max[0];
    double sum[2] = {};
    for (u32 j = threadIdx.x; j < p.classes; j += blockDim.x) {
        sum[0] += exp((double)(row[j] - top));
        sum[1] += row_beats(row[j], j, own, label);
    }
    row_all<RowSum>(sum);
    if (threadIdx.x > 0) return;
    to[0] = (double)top + log(sum[0]) - (double)own;
    to[1] = sum[1];
}
PLAIN_KERNEL(counter_rows, CounterParameters)

struct Counts {
    u64 top1;
    u64 top5;
    u64 images;
    double loss;
};

struct CounterTotalsParameters {
    const double* rows;
    Counts* counts;
    u32 n;
    u32 classes;
};

__device__ void counter_totals_body(const CounterTotalsParameters& p) {
    double sum[3] = {};
    for (u32 row = threadIdx.x; row < p.n; row += blockDim.x) {
        double rank = p.rows[(u64)row * 2 + 1];
        sum[0] += p.rows[(u64)row * 2];
        sum[1] += rank == 0.0;
        // With few classes a label that is none of them would be among the five best.
        sum[2] += rank < 5.0 && rank < p.classes;
    }
    row_all<RowSum>(sum);
    if (threadIdx.x > 0) return;
    p.counts->loss += sum[0];
    p.counts->top1 += (u64)sum[1];
    p.counts->top5 += (u64)sum[2];
    p.counts->images += p.n;
}
PLAIN_KERNEL(counter_totals, CounterTotalsParameters)
