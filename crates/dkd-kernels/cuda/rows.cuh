// One block for each row of logits: sums and maxima that every thread gets, in a fixed order, and the rank of
// a class.

enum { ROW_WARP = 32, ROW_WARPS = 8 };

__device__ __forceinline__ double row_lowest() {
    bf16 infinite = {0xff80};
    return to_float(infinite);
}

__device__ __forceinline__ float row_nan() {
    bf16 nan = {0x7fff};
    return to_float(nan);
}

// Neither infinite nor NaN.
__device__ __forceinline__ bool row_finite(float x) { return x - x == 0.0f; }

struct RowSum {
    static __device__ __forceinline__ double of(double a, double b) { return a + b; }
};
struct RowMax {
    // NaN is passed over: it is found in what is computed with the maximum.
    static __device__ __forceinline__ double of(double a, double b) { return fmax(a, b); }
};

// All threads of the block call it: 32, or a multiple of that up to 256.
template <typename Operation, int N>
__device__ __forceinline__ void row_all(double (&x)[N]) {
    __shared__ double shared[N][ROW_WARPS];
#pragma unroll
    for (int i = 0; i < N; i++) {
#pragma unroll
        for (int lane = ROW_WARP / 2; lane > 0; lane >>= 1) {
            x[i] = Operation::of(x[i], __shfl_xor_sync(0xffffffffu, x[i], lane));
        }
    }
    if (blockDim.x == ROW_WARP) return;
    // The numbers of the call before have been read by all.
    __syncthreads();
#pragma unroll
    for (int i = 0; i < N; i++) {
        if (threadIdx.x % ROW_WARP == 0) shared[i][threadIdx.x / ROW_WARP] = x[i];
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < N; i++) {
        x[i] = shared[i][0];
        for (u32 warp = 1; warp < blockDim.x / ROW_WARP; warp++) x[i] = Operation::of(x[i], shared[i][warp]);
    }
}

// Whether class i, of value `v`, comes before the label, of value `own`. As PyTorch's argmax: the first of
// equal values; NaN counts as the largest.
__device__ __forceinline__ bool row_beats(float v, u32 i, float own, u32 label) {
    if (own != own) return v != v && i < label;
    return v != v || v > own || (v == own && i < label);
}
