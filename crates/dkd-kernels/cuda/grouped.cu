// Convolutions in groups: weights are [outputs, kernel rows, kernel columns, inputs of a group].
//
// Three ways: one channel per group (depthwise.cu), tiles of a matrix product for groups of many channels (tiles.cu), and a thread per number
// for the rest.

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

// The sum of all chunks for each weight.
__device__ void grouped_finish_body(const GroupedParameters& p) {
    const u32 weights = p.outputs * p.kernel_rows * p.kernel_columns * (p.channels / p.groups), i = (u32)thread_index();
    if (i >= weights) return;
    float* to = (float*)p.w + i;
    *to = (float)sum_chunks(p.partial, weights, i, p.chunks, p.accumulate ? (double)*to : 0.0);
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
