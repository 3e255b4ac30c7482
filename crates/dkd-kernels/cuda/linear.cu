// Products of matrices with few results: y = x w (+ bias) (then ReLU), x [rows, inputs], w [outputs, inputs]. They are so few tiles that
// most of a device would have nothing to do, so the inputs are cut into chunks, each a block's.

struct LinearParameters {
    void* x;
    void* w;
    void* y;
    // Sums over a chunk, [chunks, rows, outputs].
    float* partial;
    // A value per output, or null.
    const float* bias;
    u32 rows;
    u32 inputs;
    u32 outputs;
    u32 chunks;
    // Inputs of a chunk, a multiple of TILE_DEPTH.
    u32 depth;
    u32 relu;
};

template <typename T>
__device__ void linear_partial(const LinearParameters& p) {
    __shared__ Slices<TILE_PIXELS, 4> values;
    __shared__ Slices<TILE_CHANNELS, 4> weights;
    u32 tiles = (p.outputs + TILE_CHANNELS - 1) / TILE_CHANNELS, left = blockIdx.x / tiles;
    u32 first_output = blockIdx.x % tiles * TILE_CHANNELS;
    tiles = (p.rows + TILE_PIXELS - 1) / TILE_PIXELS;
    u32 first_row = left % tiles * TILE_PIXELS, chunk = left / tiles;
    u32 start = chunk * p.depth, end = min(start + p.depth, p.inputs), slices = (end - start + TILE_DEPTH - 1) / TILE_DEPTH;
    // What a thread reads of each slice: neighbouring ones read neighbouring inputs.
    T value[8], weight[4];
    u32 my_d = threadIdx.x % TILE_DEPTH, my_row = threadIdx.x / TILE_DEPTH * 8, my_output = threadIdx.x / TILE_DEPTH * 4;
    u32 d = start + my_d;
    // Past the last row or output the last one is read again: nobody writes what becomes of it.
    u32 rows[8], outputs[4];
#pragma unroll
    for (u32 i = 0; i < 8; i++) rows[i] = min(first_row + my_row + i, p.rows - 1) * p.inputs;
#pragma unroll
    for (u32 i = 0; i < 4; i++) outputs[i] = min(first_output + my_output + i, p.outputs - 1) * p.inputs;
    const T *value_from = (const T*)p.x + d, *weight_from = (const T*)p.w + d;
    auto load = [&](u32) {
#pragma unroll
        for (int i = 0; i < 8; i++) value[i] = d < end ? value_from[rows[i]] : T{};
#pragma unroll
        for (int i = 0; i < 4; i++) weight[i] = d < end ? weight_from[outputs[i]] : T{};
        d += TILE_DEPTH;
        value_from += TILE_DEPTH;
        weight_from += TILE_DEPTH;
    };
    auto keep = [&](u32 turn) {
        keep_beside(value, values.at[turn][my_d] + my_row / 4);
        keep_beside(weight, weights.at[turn][my_d] + my_output / 4);
    };
    float sums[4][4] = {};
    add_slices(slices, load, keep, values, weights, sums);
    float* tile = p.partial + ((u64)chunk * p.rows + first_row) * p.outputs + first_output;
    put_tile(tile, p.outputs, p.rows - first_row, p.outputs - first_output, sums, false);
}
MAP_KERNEL(linear_partial, LinearParameters)

// The sum of all chunks for each result, and what is fused into the layer.
template <typename T>
__device__ void linear_finish(const LinearParameters& p) {
    const u32 results = p.rows * p.outputs, i = (u32)thread_index();
    if (i >= results) return;
    float bias = p.bias ? p.bias[i % p.outputs] : 0.0f;
    float value[1] = {(float)sum_chunks(p.partial, results, i, p.chunks, 0.0)};
    if (p.bias) value[0] += bias;
    if (p.relu && value[0] < 0.0f) value[0] = 0.0f;
    put<1>((T*)p.y, i, value, false);
}
MAP_KERNEL(linear_finish, LinearParameters)
