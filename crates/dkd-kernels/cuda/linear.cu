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
    __shared__ float values[TILE_DEPTH][TILE_PIXELS + 1];
    __shared__ float weights[TILE_DEPTH][TILE_CHANNELS + 1];
    u32 tiles = (p.outputs + TILE_CHANNELS - 1) / TILE_CHANNELS, left = blockIdx.x / tiles;
    u32 first_output = blockIdx.x % tiles * TILE_CHANNELS;
    tiles = (p.rows + TILE_PIXELS - 1) / TILE_PIXELS;
    u32 first_row = left % tiles * TILE_PIXELS, chunk = left / tiles, thread = threadIdx.x;
    u32 my_row = thread / 8, my_output = thread % 8;
    u32 end = min((chunk + 1) * p.depth, p.inputs);
    float sums[4][4] = {};
    for (u32 start = chunk * p.depth; start < end; start += TILE_DEPTH) {
        __syncthreads();
        // Neighbouring threads read neighbouring inputs.
        for (u32 i = thread; i < TILE_DEPTH * TILE_PIXELS; i += TILE_THREADS) {
            u32 d = start + i % TILE_DEPTH, row = first_row + i / TILE_DEPTH;
            bool there = d < end && row < p.rows;
            values[i % TILE_DEPTH][i / TILE_DEPTH] =
                there ? to_float(((const T*)p.x)[(u64)row * p.inputs + d]) : 0.0f;
        }
        for (u32 i = thread; i < TILE_DEPTH * TILE_CHANNELS; i += TILE_THREADS) {
            u32 d = start + i % TILE_DEPTH, output = first_output + i / TILE_DEPTH;
            bool there = d < end && output < p.outputs;
            weights[i % TILE_DEPTH][i / TILE_DEPTH] =
                there ? to_float(((const T*)p.w)[(u64)output * p.inputs + d]) : 0.0f;
        }
        __syncthreads();
        add_tile(values, weights, my_row, my_output, sums);
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        u32 row = first_row + my_row + 16 * i;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            u32 output = first_output + my_output + 8 * j;
            if (row >= p.rows || output >= p.outputs) continue;
            p.partial[((u64)chunk * p.rows + row) * p.outputs + output] = sums[i][j];
        }
    }
}
MAP_KERNEL(linear_partial, LinearParameters)

// The sum of all chunks for each result, and what is fused into the layer.
template <typename T>
__device__ void linear_finish(const LinearParameters& p) {
    u64 results = (u64)p.rows * p.outputs, i = thread_index();
    if (i >= results) return;
    double sum = 0.0;
#pragma unroll 16
    for (u32 chunk = 0; chunk < p.chunks; chunk++) sum += (double)p.partial[chunk * results + i];
    float value[1] = {(float)sum};
    if (p.bias) value[0] += p.bias[remainder(i, p.outputs)];
    if (p.relu && value[0] < 0.0f) value[0] = 0.0f;
    put<1>((T*)p.y, i, value, false);
}
MAP_KERNEL(linear_finish, LinearParameters)
