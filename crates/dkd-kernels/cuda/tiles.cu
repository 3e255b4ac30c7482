// Convolutions in groups of many channels, as tiles of matrix products in shared memory.

// A block has 16 x 8 threads; of results [pixels, channels of a group] each has 4 x 4, of weight gradients
// [outputs, inputs] 2 x 4.
enum { TILE_THREADS = 128, TILE_PIXELS = 64, TILE_CHANNELS = 32, TILE_DEPTH = 16 };

// Adds the products of a slice of TILE_DEPTH inputs to a thread's 4 x 4 results.
__device__ __forceinline__ void add_tile(const float (&values)[TILE_DEPTH][TILE_PIXELS + 1],
                                         const float (&weights)[TILE_DEPTH][TILE_CHANNELS + 1], u32 my_pixel,
                                         u32 my_result, float (&sums)[4][4]) {
#pragma unroll
    for (int d = 0; d < TILE_DEPTH; d++) {
        float a[4], b[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            a[i] = values[d][my_pixel + 16 * i];
            b[i] = weights[d][my_result + 8 * i];
        }
#pragma unroll
        for (int i = 0; i < 4; i++) {
#pragma unroll
            for (int j = 0; j < 4; j++) sums[i][j] = fmaf(a[i], b[j], sums[i][j]);
        }
    }
}

// The output from the input, or with GRADIENT the input's gradient from the output's.
template <typename T, bool GRADIENT>
__device__ __forceinline__ void grouped_product(const GroupedParameters& p) {
    __shared__ float values[TILE_DEPTH][TILE_PIXELS + 1];
    __shared__ float weights[TILE_DEPTH][TILE_CHANNELS + 1];
    __shared__ u32 images[TILE_PIXELS], rows[TILE_PIXELS], columns[TILE_PIXELS];
    const u32 inputs = p.channels / p.groups, outputs = p.outputs / p.groups;
    // Results of a group, and what they are sums over.
    const u32 results = GRADIENT ? inputs : outputs, depth = GRADIENT ? outputs : inputs;
    const u32 height = GRADIENT ? p.height : p.out_height, width = GRADIENT ? p.width : p.out_width;
    const u32 from_height = GRADIENT ? p.out_height : p.height, from_width = GRADIENT ? p.out_width : p.width;
    const T* from = (const T*)(GRADIENT ? p.y : p.x);
    T* to = (T*)(GRADIENT ? p.x : p.y);
    const u32 area = p.kernel_rows * p.kernel_columns;
    u32 tiles = (results + TILE_CHANNELS - 1) / TILE_CHANNELS;
    u32 first = blockIdx.x % tiles * TILE_CHANNELS, left = blockIdx.x / tiles;
    u32 group = left % p.groups, first_pixel = left / p.groups * TILE_PIXELS;
    u32 pixels = p.images * height * width, thread = threadIdx.x;
    if (thread < TILE_PIXELS) {
        u32 pixel = first_pixel + thread;
        // Pixels past the end have no images, and read nothing.
        images[thread] = pixel < pixels ? pixel / width / height : p.images;
        rows[thread] = pixel / width % height;
        columns[thread] = pixel % width;
    }
    u32 my_pixel = thread / 8, my_result = thread % 8;
    float sums[4][4] = {};
    for (u32 k = 0; k < area; k++) {
        for (u32 start = 0; start < depth; start += TILE_DEPTH) {
            __syncthreads();
            for (u32 i = thread; i < TILE_DEPTH * TILE_PIXELS; i += TILE_THREADS) {
                u32 d = start + i % TILE_DEPTH, pixel = i / TILE_DEPTH, row, column;
                bool there = d < depth && images[pixel] < p.images;
                if (GRADIENT) {
                    there = there && read_by(rows[pixel], k / p.kernel_columns, p.stride_rows,
                                             p.padding_rows, p.out_height, row);
                    there = there && read_by(columns[pixel], k % p.kernel_columns, p.stride_columns,
                                             p.padding_columns, p.out_width, column);
                } else {
                    there = there && reads(rows[pixel], k / p.kernel_columns, p.stride_rows, p.padding_rows,
                                           p.height, row);
                    there = there && reads(columns[pixel], k % p.kernel_columns, p.stride_columns,
                                           p.padding_columns, p.width, column);
                }
                float value = 0.0f;
                if (there) {
                    u64 place = ((u64)images[pixel] * from_height + row) * from_width + column;
                    value = to_float(from[(place * p.groups + group) * depth + d]);
                }
                values[i % TILE_DEPTH][pixel] = value;
            }
            for (u32 i = thread; i < TILE_DEPTH * TILE_CHANNELS; i += TILE_THREADS) {
                // Neighbouring threads read neighbouring weights.
                u32 d = GRADIENT ? i / TILE_CHANNELS : i % TILE_DEPTH;
                u32 r = GRADIENT ? i % TILE_CHANNELS : i / TILE_DEPTH;
                float weight = 0.0f;
                if (start + d < depth && first + r < results) {
                    u32 output = GRADIENT ? start + d : first + r, input = GRADIENT ? first + r : start + d;
                    u64 place = ((u64)(group * outputs + output) * area + k) * inputs + input;
                    weight = to_float(((const T*)p.w)[place]);
                }
                weights[d][r] = weight;
            }
            __syncthreads();
            add_tile(values, weights, my_pixel, my_result, sums);
        }
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        u32 pixel = first_pixel + my_pixel + 16 * i;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            u32 r = first + my_result + 8 * j;
            if (pixel >= pixels || r >= results) continue;
            float value[1] = {sums[i][j]};
            put<1>(to, ((u64)pixel * p.groups + group) * results + r, value, p.accumulate);
        }
    }
}

template <typename T>
__device__ void grouped_tiles(const GroupedParameters& p) {
    grouped_product<T, false>(p);
}
MAP_KERNEL(grouped_tiles, GroupedParameters)

template <typename T>
__device__ void grouped_tiles_input_gradient(const GroupedParameters& p) {
    grouped_product<T, true>(p);
}
MAP_KERNEL(grouped_tiles_input_gradient, GroupedParameters)

// Some outputs and inputs of one group at one kernel position, over the pixels of one chunk.
template <typename T>
__device__ void grouped_tiles_weight_gradient(const GroupedParameters& p) {
    __shared__ float gradients[TILE_DEPTH][TILE_CHANNELS];
    __shared__ float values[TILE_DEPTH][TILE_CHANNELS];
    const u32 inputs = p.channels / p.groups, outputs = p.outputs / p.groups;
    const u32 area = p.kernel_rows * p.kernel_columns;
    u32 tiles = (inputs + TILE_CHANNELS - 1) / TILE_CHANNELS, left = blockIdx.x;
    u32 first_input = left % tiles * TILE_CHANNELS;
    left /= tiles;
    tiles = (outputs + TILE_CHANNELS - 1) / TILE_CHANNELS;
    u32 first_output = left % tiles * TILE_CHANNELS;
    left /= tiles;
    u32 k = left % area;
    left /= area;
    u32 group = left % p.groups, chunk = left / p.groups;
    u32 pixels = p.images * p.out_height * p.out_width, thread = threadIdx.x;
    u32 my_output = thread / 8, my_input = thread % 8, mine = thread % TILE_CHANNELS;
    float sums[2][4] = {};
    for (u64 start = (u64)chunk * TILE_DEPTH; start < pixels; start += (u64)p.chunks * TILE_DEPTH) {
        __syncthreads();
        for (u32 d = thread / TILE_CHANNELS; d < TILE_DEPTH; d += TILE_THREADS / TILE_CHANNELS) {
            u32 pixel = (u32)start + d, line = pixel / p.out_width, row, column;
            bool there = start + d < pixels;
            there = there && reads(line % p.out_height, k / p.kernel_columns, p.stride_rows, p.padding_rows,
                                   p.height, row);
            there = there && reads(pixel % p.out_width, k % p.kernel_columns, p.stride_columns,
                                   p.padding_columns, p.width, column);
            float g = 0.0f, v = 0.0f;
            if (there && first_output + mine < outputs) {
                u64 place = (u64)pixel * p.outputs + group * outputs + first_output + mine;
                g = to_float(((const T*)p.y)[place]);
            }
            if (there && first_input + mine < inputs) {
                u64 place = ((u64)(line / p.out_height) * p.height + row) * p.width + column;
                v = to_float(((const T*)p.x)[place * p.channels + group * inputs + first_input + mine]);
            }
            gradients[d][mine] = g;
            values[d][mine] = v;
        }
        __syncthreads();
#pragma unroll
        for (int d = 0; d < TILE_DEPTH; d++) {
            float a[2], b[4];
#pragma unroll
            for (int i = 0; i < 2; i++) a[i] = gradients[d][my_output + 16 * i];
#pragma unroll
            for (int j = 0; j < 4; j++) b[j] = values[d][my_input + 8 * j];
#pragma unroll
            for (int i = 0; i < 2; i++) {
#pragma unroll
                for (int j = 0; j < 4; j++) sums[i][j] = fmaf(a[i], b[j], sums[i][j]);
            }
        }
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        u32 o = first_output + my_output + 16 * i;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            u32 input = first_input + my_input + 8 * j;
            if (o >= outputs || input >= inputs) continue;
            u64 output = (u64)chunk * p.outputs + group * outputs + o;
            p.partial[(output * area + k) * inputs + input] = sums[i][j];
        }
    }
}
MAP_KERNEL(grouped_tiles_weight_gradient, GroupedParameters)
