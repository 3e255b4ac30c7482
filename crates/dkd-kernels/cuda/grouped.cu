// Convolutions in groups: weights are [outputs, kernel rows, kernel columns, inputs of a group].
//
// Three ways: one channel per group (depthwise), tiles of a matrix product for groups of many channels
// (tiles.cu), and a thread per number for the rest.

struct GroupedParameters {
    void* x;
    void* w;
    void* y;
    // Sums over a part of all lines, [chunks, weights].
    float* partial;
    u32 images;
    u32 height;
    u32 width;
    u32 channels;
    u32 out_height;
    u32 out_width;
    u32 outputs;
    u32 kernel_rows;
    u32 kernel_columns;
    u32 stride_rows;
    u32 stride_columns;
    u32 padding_rows;
    u32 padding_columns;
    u32 groups;
    u32 chunks;
    u32 accumulate;
};

// The input position that output `o` reads with kernel position `k`; false in the padding. Negative ones wrap
// to large ones.
__device__ __forceinline__ bool reads(u32 o, u32 k, u32 stride, u32 padding, u32 inputs, u32& i) {
    i = o * stride + k - padding;
    return i < inputs;
}

// The output position that reads input `i` with kernel position `k`; false if there is none.
__device__ __forceinline__ bool read_by(u32 i, u32 k, u32 stride, u32 padding, u32 outputs, u32& o) {
    if (i + padding < k) return false;
    u32 start = i + padding - k;
    o = start / stride;
    return o * stride == start && o < outputs;
}

// Neighbours in a row that one thread computes, so that it reads its weights once.
enum { STRIP = 4 };

// The weights of N channels; with a kernel of unknown size they are read where they are used.
template <typename T, int N, int K>
struct DepthwiseWeights {
    const T* from;
    u32 area;
    float kept[K ? K * K : 1][N];

    __device__ __forceinline__ DepthwiseWeights(const GroupedParameters& p, u32 pack) {
        area = K ? K * K : p.kernel_rows * p.kernel_columns;
        from = (const T*)p.w + (u64)pack * N * area;
#pragma unroll
        for (int k = 0; k < K * K; k++) {
#pragma unroll
            for (int n = 0; n < N; n++) kept[k][n] = to_float(from[n * area + k]);
        }
    }

    // sum += weight of kernel position k * v
    __device__ __forceinline__ void add(u32 k, const float (&v)[N], float (&sum)[N]) const {
#pragma unroll
        for (int n = 0; n < N; n++) {
            float weight = K ? kept[k][n] : to_float(from[n * area + k]);
            sum[n] = fmaf(v[n], weight, sum[n]);
        }
    }
};

template <typename T, int N, int K>
__device__ void depthwise(const GroupedParameters& p) {
    Place at;
    u32 packs = p.channels / N, strips = (p.out_width + STRIP - 1) / STRIP;
    if (!find_place(thread_index(), p.images, p.out_height, strips, packs, at)) return;
    DepthwiseWeights<T, N, K> weights(p, at.pack);
    const u32 rows = K ? K : p.kernel_rows, columns = K ? K : p.kernel_columns;
    u32 end = min((at.column + 1) * STRIP, p.out_width);
#pragma unroll 1
    for (u32 o = at.column * STRIP; o < end; o++) {
        float sum[N] = {};
#pragma unroll
        for (u32 k = 0; k < rows; k++) {
            u32 row, column;
            if (!reads(at.row, k, p.stride_rows, p.padding_rows, p.height, row)) continue;
#pragma unroll
            for (u32 l = 0; l < columns; l++) {
                if (!reads(o, l, p.stride_columns, p.padding_columns, p.width, column)) continue;
                float v[N];
                u64 pixel = ((u64)at.image * p.height + row) * p.width + column;
                load<N>((const T*)p.x, pixel * packs + at.pack, v);
                weights.add(k * columns + l, v, sum);
            }
        }
        u64 pixel = ((u64)at.image * p.out_height + at.row) * p.out_width + o;
        put<N>((T*)p.y, pixel * packs + at.pack, sum, p.accumulate);
    }
}

// With the stride S, or any if that is 0.
template <typename T, int N, int K, int S>
__device__ void depthwise_input_gradient(const GroupedParameters& p) {
    Place at;
    u32 packs = p.channels / N, strips = (p.width + STRIP - 1) / STRIP;
    if (!find_place(thread_index(), p.images, p.height, strips, packs, at)) return;
    DepthwiseWeights<T, N, K> weights(p, at.pack);
    const u32 rows = K ? K : p.kernel_rows, columns = K ? K : p.kernel_columns;
    const u32 stride_rows = S ? S : p.stride_rows, stride_columns = S ? S : p.stride_columns;
    u32 end = min((at.column + 1) * STRIP, p.width);
#pragma unroll 1
    for (u32 i = at.column * STRIP; i < end; i++) {
        float sum[N] = {};
#pragma unroll
        for (u32 k = 0; k < rows; k++) {
            u32 row, column;
            if (!read_by(at.row, k, stride_rows, p.padding_rows, p.out_height, row)) continue;
#pragma unroll
            for (u32 l = 0; l < columns; l++) {
                if (!read_by(i, l, stride_columns, p.padding_columns, p.out_width, column)) continue;
                float v[N];
                u64 pixel = ((u64)at.image * p.out_height + row) * p.out_width + column;
                load<N>((const T*)p.y, pixel * packs + at.pack, v);
                weights.add(k * columns + l, v, sum);
            }
        }
        u64 pixel = ((u64)at.image * p.height + at.row) * p.width + i;
        put<N>((T*)p.x, pixel * packs + at.pack, sum, p.accumulate);
    }
}

enum { DEPTHWISE_THREADS = 256 };

// A block takes some packs of channels and, of one chunk's lines (rows of outputs of all images), a part for
// each of its rows of threads. A thread keeps the sums of all kernel positions, or of its block's if the
// kernel's size is not K.
template <typename T, int N, int K>
__device__ void depthwise_weight_gradient(const GroupedParameters& p) {
    __shared__ float sums[DEPTHWISE_THREADS][N];
    const u32 area = p.kernel_rows * p.kernel_columns;
    u32 packs = p.channels / N, blocks = (packs + blockDim.x - 1) / blockDim.x;
    u32 pack = blockIdx.x % blocks * blockDim.x + threadIdx.x, left = blockIdx.x / blocks;
    u32 position = K ? 0 : left % area, chunk = K ? left : left / area;
    u32 top = position / p.kernel_columns, start = position % p.kernel_columns;
    float sum[K ? K * K : 1][N] = {};
    u32 lines = pack < packs ? p.images * p.out_height : 0;
    for (u32 line = chunk * blockDim.y + threadIdx.y; line < lines; line += p.chunks * blockDim.y) {
        u32 image = line / p.out_height, o = line % p.out_height;
        for (u32 q = 0; q < p.out_width; q++) {
            float g[N];
            load<N>((const T*)p.y, ((u64)line * p.out_width + q) * packs + pack, g);
#pragma unroll
            for (u32 k = 0; k < (K ? K : 1); k++) {
                u32 row, column;
                if (!reads(o, top + k, p.stride_rows, p.padding_rows, p.height, row)) continue;
#pragma unroll
                for (u32 l = 0; l < (K ? K : 1); l++) {
                    if (!reads(q, start + l, p.stride_columns, p.padding_columns, p.width, column)) continue;
                    float v[N];
                    u64 pixel = ((u64)image * p.height + row) * p.width + column;
                    load<N>((const T*)p.x, pixel * packs + pack, v);
#pragma unroll
                    for (int n = 0; n < N; n++) sum[k * K + l][n] = fmaf(g[n], v[n], sum[k * K + l][n]);
                }
            }
        }
    }
    u32 thread = threadIdx.y * blockDim.x + threadIdx.x;
#pragma unroll
    for (u32 k = 0; k < (K ? K * K : 1); k++) {
        __syncthreads();
#pragma unroll
        for (int n = 0; n < N; n++) sums[thread][n] = sum[k][n];
        __syncthreads();
        if (threadIdx.y > 0 || pack >= packs) continue;
#pragma unroll
        for (int n = 0; n < N; n++) {
            float total = 0.0f;
            for (u32 part = 0; part < blockDim.y; part++) total += sums[part * blockDim.x + threadIdx.x][n];
            p.partial[((u64)chunk * p.channels + pack * N + n) * area + position + k] = total;
        }
    }
}

// Packs as PACK_KERNEL has them.
#define DEPTHWISE_KERNELS(suffix, ...)                                                            \
    KERNEL(depthwise, GroupedParameters, suffix, __VA_ARGS__, 0)                                  \
    KERNEL(depthwise, GroupedParameters, three_##suffix, __VA_ARGS__, 3)                          \
    KERNEL(depthwise_input_gradient, GroupedParameters, suffix, __VA_ARGS__, 0, 0)                \
    KERNEL(depthwise_input_gradient, GroupedParameters, three_##suffix, __VA_ARGS__, 3, 1)        \
    KERNEL(depthwise_input_gradient, GroupedParameters, three_by_two_##suffix, __VA_ARGS__, 3, 2) \
    KERNEL(depthwise_weight_gradient, GroupedParameters, suffix, __VA_ARGS__, 0)                  \
    KERNEL(depthwise_weight_gradient, GroupedParameters, three_##suffix, __VA_ARGS__, 3)
DEPTHWISE_KERNELS(f32, float, 1)
DEPTHWISE_KERNELS(bf16, bf16, 1)
DEPTHWISE_KERNELS(pairs_bf16, bf16, 2)
DEPTHWISE_KERNELS(packed_f32, float, 4)
DEPTHWISE_KERNELS(packed_bf16, bf16, 8)

// The sum of all chunks for each weight.
__device__ void grouped_finish_body(const GroupedParameters& p) {
    u64 weights = (u64)p.outputs * p.kernel_rows * p.kernel_columns * (p.channels / p.groups);
    u64 i = thread_index();
    if (i >= weights) return;
    float* to = (float*)p.w + i;
    double sum = p.accumulate ? (double)*to : 0.0;
#pragma unroll 16
    for (u32 chunk = 0; chunk < p.chunks; chunk++) sum += (double)p.partial[chunk * weights + i];
    *to = (float)sum;
}
PLAIN_KERNEL(grouped_finish, GroupedParameters)

template <typename T>
__device__ void grouped(const GroupedParameters& p) {
    Place at;
    u64 index = thread_index();
    if (!find_place(index, p.images, p.out_height, p.out_width, p.outputs, at)) return;
    u32 inputs = p.channels / p.groups, group = at.pack / (p.outputs / p.groups);
    const T* w = (const T*)p.w + (u64)at.pack * p.kernel_rows * p.kernel_columns * inputs;
    float sum[1] = {};
    for (u32 k = 0; k < p.kernel_rows; k++) {
        u32 row, column;
        if (!reads(at.row, k, p.stride_rows, p.padding_rows, p.height, row)) continue;
        for (u32 l = 0; l < p.kernel_columns; l++) {
            if (!reads(at.column, l, p.stride_columns, p.padding_columns, p.width, column)) continue;
            u64 pixel = ((u64)at.image * p.height + row) * p.width + column;
            const T* x = (const T*)p.x + pixel * p.channels + group * inputs;
            const T* weights = w + (k * p.kernel_columns + l) * inputs;
            for (u32 i = 0; i < inputs; i++) sum[0] = fmaf(to_float(x[i]), to_float(weights[i]), sum[0]);
        }
    }
    put<1>((T*)p.y, index, sum, p.accumulate);
}
MAP_KERNEL(grouped, GroupedParameters)

template <typename T>
__device__ void grouped_input_gradient(const GroupedParameters& p) {
    Place at;
    u64 index = thread_index();
    if (!find_place(index, p.images, p.height, p.width, p.channels, at)) return;
    u32 inputs = p.channels / p.groups, outputs = p.outputs / p.groups;
    u32 group = at.pack / inputs, area = p.kernel_rows * p.kernel_columns;
    // The weights of this input's first output.
    const T* w = (const T*)p.w + (u64)group * outputs * area * inputs + at.pack % inputs;
    float sum[1] = {};
    for (u32 k = 0; k < p.kernel_rows; k++) {
        u32 row, column;
        if (!read_by(at.row, k, p.stride_rows, p.padding_rows, p.out_height, row)) continue;
        for (u32 l = 0; l < p.kernel_columns; l++) {
            if (!read_by(at.column, l, p.stride_columns, p.padding_columns, p.out_width, column)) continue;
            u64 pixel = ((u64)at.image * p.out_height + row) * p.out_width + column;
            const T* y = (const T*)p.y + pixel * p.outputs + group * outputs;
            const T* weights = w + (k * p.kernel_columns + l) * inputs;
            for (u32 o = 0; o < outputs; o++) {
                sum[0] = fmaf(to_float(y[o]), to_float(weights[(u64)o * area * inputs]), sum[0]);
            }
        }
    }
    put<1>((T*)p.x, index, sum, p.accumulate);
}
MAP_KERNEL(grouped_input_gradient, GroupedParameters)

// One weight, over the lines of one chunk.
template <typename T>
__device__ void grouped_weight_gradient(const GroupedParameters& p) {
    u32 inputs = p.channels / p.groups, outputs = p.outputs / p.groups;
    Place at;
    u64 index = thread_index(), lines = (u64)p.chunks * p.outputs;
    if (!find_place(index, lines, p.kernel_rows, p.kernel_columns, inputs, at)) return;
    u32 chunk = at.image / p.outputs, o = at.image % p.outputs;
    const T* y = (const T*)p.y + o;
    const T* x = (const T*)p.x + o / outputs * inputs + at.pack;
    float sum = 0.0f;
    for (u32 line = chunk; line < p.images * p.out_height; line += p.chunks) {
        u32 image = line / p.out_height, row, column;
        if (!reads(line % p.out_height, at.row, p.stride_rows, p.padding_rows, p.height, row)) continue;
        for (u32 q = 0; q < p.out_width; q++) {
            if (!reads(q, at.column, p.stride_columns, p.padding_columns, p.width, column)) continue;
            u64 pixel = ((u64)image * p.height + row) * p.width + column;
            float g = to_float(y[((u64)line * p.out_width + q) * p.outputs]);
            sum = fmaf(g, to_float(x[pixel * p.channels]), sum);
        }
    }
    p.partial[index] = sum;
}
MAP_KERNEL(grouped_weight_gradient, GroupedParameters)
