// One element after another: copies, sums, rectifiers, and their gradients.

struct PointwiseParameters {
    const void* a;
    const void* b;
    void* y;
    u64 packs;
    u32 op;
    u32 accumulate;
};

enum { COPY = 0, ADD = 1, RELU = 2, RELU6 = 3, RELU_GRADIENT = 4, RELU6_GRADIENT = 5 };

__device__ __forceinline__ float pointwise_value(u32 op, float a, float b) {
    switch (op) {
        case ADD: return a + b;
        // As PyTorch's: NaN stays NaN.
        case RELU: return a < 0.0f ? 0.0f : a;
        case RELU6: return a < 0.0f ? 0.0f : (a > 6.0f ? 6.0f : a);
        // a is the gradient, b the rectified value.
        case RELU_GRADIENT: return b > 0.0f ? a : 0.0f;
        case RELU6_GRADIENT: return b > 0.0f && b < 6.0f ? a : 0.0f;
        default: return a;
    }
}

template <typename T, int N>
__device__ void pointwise(const PointwiseParameters& p) {
    u64 i = thread_index();
    if (i >= p.packs) return;
    float a[N], b[N] = {}, y[N];
    load<N>((const T*)p.a, i, a);
    if (p.b) load<N>((const T*)p.b, i, b);
#pragma unroll
    for (int k = 0; k < N; k++) y[k] = pointwise_value(p.op, a[k], b[k]);
    if (p.accumulate) {
        float old[N];
        load<N>((const T*)p.y, i, old);
#pragma unroll
        for (int k = 0; k < N; k++) y[k] += old[k];
    }
    store<N>((T*)p.y, i, y);
}
KERNEL(pointwise, PointwiseParameters, f32, float, 1)
KERNEL(pointwise, PointwiseParameters, bf16, bf16, 1)
KERNEL(pointwise, PointwiseParameters, packed_f32, float, 4)
KERNEL(pointwise, PointwiseParameters, packed_bf16, bf16, 8)

// From one type of number to another.
struct ConvertParameters {
    const void* x;
    void* y;
    u64 n;
    u32 accumulate;
    u32 unused;
};

template <typename From, typename To>
__device__ void convert(const ConvertParameters& p) {
    u64 i = thread_index();
    if (i >= p.n) return;
    float x = to_float(((const From*)p.x)[i]);
    To* y = (To*)p.y;
    if (p.accumulate) x += to_float(y[i]);
    from_float(x, y[i]);
}
KERNEL(convert, ConvertParameters, f32_to_f32, float, float)
KERNEL(convert, ConvertParameters, f32_to_bf16, float, bf16)
KERNEL(convert, ConvertParameters, bf16_to_f32, bf16, float)
KERNEL(convert, ConvertParameters, bf16_to_bf16, bf16, bf16)
