// Convolutions in groups of many channels, as tiles of matrix products in shared memory.

// A block's threads have 4 x 4 results each of [pixels, channels of a group], of weight gradients 2 x 4 of [outputs, inputs].
enum { TILE_THREADS = 128, TILE_PIXELS = 64, TILE_CHANNELS = 32, TILE_DEPTH = 16 };
// No place in memory: zero is read there.
enum : u32 { NOWHERE = ~0u };

// Short sums wait for their first slice and for their blocks' beginnings: many blocks hide that from each other.
#undef BOUNDS
#define BOUNDS TILE_THREADS, 8

// Slices of what results are sums over, for N rows or columns of a tile, of which a thread reads P at once: one slice is multiplied while the
// other is written. With four more in a line, neither those who read nor those who write wait for each other.
template <int N, int P>
struct Slices {
    Pack<float, P> at[2][TILE_DEPTH][(N + 4) / P];
};

// Writes numbers side by side.
template <typename T, int COUNT>
__device__ __forceinline__ void keep_beside(const T (&from)[COUNT], Pack<float, 4>* to) {
#pragma unroll
    for (int i = 0; i < COUNT / 4; i++) {
        Pack<float, 4> pack;
#pragma unroll
        for (int j = 0; j < 4; j++) pack.v[j] = to_float(from[4 * i + j]);
        to[i] = pack;
    }
}

// Writes numbers one below the other, as the n-th of their lines.
template <typename T, int COUNT, int P, int PACKS>
__device__ __forceinline__ void keep_below(const T (&from)[COUNT], Pack<float, P> (*to)[PACKS], u32 n) {
#pragma unroll
    for (int i = 0; i < COUNT; i++) to[i][n / P].v[n % P] = to_float(from[i]);
}

// A thread's first row and column of results, of which it has R rows. Of four neighbours two and two have the same row, and two and two the same
// column: so a warp reads 16 bytes each in two turns instead of four.
template <int R>
__device__ __forceinline__ u32 tile_row() {
    return (threadIdx.x / 16 * 2 + threadIdx.x % 2) * R;
}
__device__ __forceinline__ u32 tile_column() { return threadIdx.x / 2 % 8 * 4; }

// Adds the products of some slices to a thread's results. `load` reads its part of a slice from memory, or anything past the last, `keep` writes
// it to shared memory. The next slice is on its way while one is multiplied.
template <int R, int N, int M, typename Load, typename Keep>
__device__ __forceinline__ void add_slices(u32 slices, Load load, Keep keep, const Slices<N, R>& rows, const Slices<M, 4>& columns,
                                           float (&sums)[R][4]) {
    load(0);
#pragma unroll 1
    for (u32 slice = 0; slice < slices; slice++) {
        u32 turn = slice % 2;
        keep(turn);
        // Before the barrier: behind it, the compiler would put the loads where they are waited for.
        load(slice + 1);
        __syncthreads();
#pragma unroll
        for (int d = 0; d < TILE_DEPTH; d++) {
            Pack<float, R> a = rows.at[turn][d][tile_row<R>() / R];
            Pack<float, 4> b = columns.at[turn][d][tile_column() / 4];
#pragma unroll
            for (int i = 0; i < R; i++) {
#pragma unroll
                for (int j = 0; j < 4; j++) sums[i][j] = fmaf(a.v[i], b.v[j], sums[i][j]);
            }
        }
    }
}

// As put_tile, N neighbours at once.
template <int N, typename T, int R>
__device__ __forceinline__ void put_packs(T* to, u32 stride, u32 rows, u32 columns, float (&sums)[R][4], u32 accumulate) {
    u32 row = tile_row<R>(), column = tile_column();
    if (accumulate) {
        // All is read before any of it is used.
        Pack<T, N> old[R][4 / N] = {};
#pragma unroll
        for (int i = 0; i < R; i++) {
#pragma unroll
            for (int j = 0; j < 4 / N; j++) {
                bool there = row + i < rows && column + j * N < columns;
                if (there) old[i][j] = ((const Pack<T, N>*)(to + (row + i) * stride + column))[j];
            }
        }
#pragma unroll
        for (int i = 0; i < R; i++) {
#pragma unroll
            for (int j = 0; j < 4; j++) sums[i][j] += to_float(old[i][j / N].v[j % N]);
        }
    }
#pragma unroll
    for (int i = 0; i < R; i++) {
#pragma unroll
        for (int j = 0; j < 4 / N; j++) {
            float values[N];
#pragma unroll
            for (int n = 0; n < N; n++) values[n] = sums[i][j * N + n];
            if (row + i < rows && column + j * N < columns) store<N>(to + (row + i) * stride + column, j, values);
        }
    }
}

// Writes a thread's results to a tile that begins at `to`, with so many rows and columns, and `stride` numbers from row to row; or adds them to
// what is there.
template <typename T, int R>
__device__ __forceinline__ void put_tile(T* to, u32 stride, u32 rows, u32 columns, float (&sums)[R][4], u32 accumulate) {
    if (((u64)to / sizeof(T) | stride | columns) % 4 == 0) {
        put_packs<4>(to, stride, rows, columns, sums, accumulate);
    } else {
        put_packs<1>(to, stride, rows, columns, sums, accumulate);
    }
}

// The output from the input, or with GRADIENT the input's gradient from the output's.
template <typename T, bool GRADIENT>
__device__ __forceinline__ void grouped_product(const GroupedParameters& p) {
    __shared__ Slices<TILE_PIXELS, 4> values;
    __shared__ Slices<TILE_CHANNELS, 4> weights;
    // The pixels, and where the numbers begin that a kernel position reads for them.
    __shared__ struct {
        u32 images[TILE_PIXELS], rows[TILE_PIXELS], columns[TILE_PIXELS], places[TILE_PIXELS];
    } of;
    const u32 inputs = p.channels / p.groups, outputs = p.outputs / p.groups;
    // Results of a group, and what they are sums over.
    const u32 results = GRADIENT ? inputs : outputs, depth = GRADIENT ? outputs : inputs;
    const u32 height = GRADIENT ? p.height : p.out_height, width = GRADIENT ? p.width : p.out_width;
    const u32 from_height = GRADIENT ? p.out_height : p.height, from_width = GRADIENT ? p.out_width : p.width;
    const T* from = (const T*)(GRADIENT ? p.y : p.x);
    T* to = (T*)(GRADIENT ? p.x : p.y);
    // From one output's weights to the next's.
    const u32 area = p.kernel_rows * p.kernel_columns, stride = area * inputs;
    u32 tiles = (results + TILE_CHANNELS - 1) / TILE_CHANNELS;
    u32 first = blockIdx.x % tiles * TILE_CHANNELS, left = blockIdx.x / tiles;
    u32 group = left % p.groups, first_pixel = left / p.groups * TILE_PIXELS;
    u32 pixels = p.images * height * width, thread = threadIdx.x;
    if (thread < TILE_PIXELS) {
        u32 pixel = first_pixel + thread;
        of.images[thread] = pixel / width / height;
        of.rows[thread] = pixel / width % height;
        of.columns[thread] = pixel % width;
    }
    // What a thread reads of a slice, as it is in memory: neighbouring ones read neighbouring numbers. From pointers that move on, as it takes
    // more to find each place anew.
    T value[8], weight[4];
    u32 my_d = thread % TILE_DEPTH, my_pixel = thread / TILE_DEPTH * 8;
    u32 my_output = thread / (GRADIENT ? TILE_CHANNELS : TILE_DEPTH) * 4, my_input = thread % (GRADIENT ? TILE_CHANNELS : TILE_DEPTH);
    const T* value_from = from + my_d;
    const T* weight_from = (const T*)p.w + (group * outputs + my_output + (GRADIENT ? 0 : first)) * stride + my_input + (GRADIENT ? first : 0);
    u32 top = 0, side = 0, start = 0;
    auto load = [&](u32) {
        if (top == p.kernel_rows) return;
        if (start == 0) {
            __syncthreads();
            if (thread < TILE_PIXELS) {
                u32 i, j, row = of.rows[thread], column = of.columns[thread];
                bool there = first_pixel + thread < pixels;
                if (GRADIENT) {
                    there = there && read_by(row, top, p.stride_rows, p.padding_rows, p.out_height, i);
                    there = there && read_by(column, side, p.stride_columns, p.padding_columns, p.out_width, j);
                } else {
                    there = there && reads(row, top, p.stride_rows, p.padding_rows, p.height, i);
                    there = there && reads(column, side, p.stride_columns, p.padding_columns, p.width, j);
                }
                of.places[thread] = there ? (((of.images[thread] * from_height + i) * from_width + j) * p.groups + group) * depth : NOWHERE;
            }
            __syncthreads();
        }
        bool there = start + my_d < depth;
#pragma unroll
        for (int i = 0; i < 8; i++) {
            u32 place = of.places[my_pixel + i];
            value[i] = there && place != NOWHERE ? value_from[place] : T{};
        }
        u32 output = my_output + (GRADIENT ? start : first), input = my_input + (GRADIENT ? first : start);
#pragma unroll
        for (u32 i = 0; i < 4; i++) weight[i] = output + i < outputs && input < inputs ? weight_from[i * stride] : T{};
        value_from += TILE_DEPTH;
        weight_from += TILE_DEPTH * (GRADIENT ? stride : 1);
        start += TILE_DEPTH;
        if (start < depth) return;
        // On to the next kernel position.
        value_from -= start;
        weight_from -= start * (GRADIENT ? stride : 1);
        weight_from += inputs;
        start = 0;
        if (++side < p.kernel_columns) return;
        side = 0;
        top++;
    };
    auto keep = [&](u32 turn) {
        keep_beside(value, values.at[turn][my_d] + my_pixel / 4);
        if (GRADIENT) {
            keep_below(weight, weights.at[turn] + my_output, my_input);
        } else {
            keep_beside(weight, weights.at[turn][my_d] + my_output / 4);
        }
    };
    float sums[4][4] = {};
    add_slices(area * ((depth + TILE_DEPTH - 1) / TILE_DEPTH), load, keep, values, weights, sums);
    T* tile = to + ((u64)first_pixel * p.groups + group) * results + first;
    put_tile(tile, p.groups * results, pixels - first_pixel, results - first, sums, p.accumulate);
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
    __shared__ Slices<TILE_CHANNELS, 2> gradients;
    __shared__ Slices<TILE_CHANNELS, 4> values;
    // Where the numbers begin that the pixels of some slices read: a thread finds one of them, so that only one divides for it.
    __shared__ u32 places[TILE_THREADS];
    enum { SLICES_AT_ONCE = TILE_THREADS / TILE_DEPTH };
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
    u32 top = k / p.kernel_columns, side = k % p.kernel_columns;
    // What a thread reads of a slice. Past a group's last channel that one is read again: nobody writes what becomes of it.
    T gradient[4], value[4];
    u32 my_d = thread / TILE_CHANNELS * 4, mine = thread % TILE_CHANNELS;
    u32 my_output = group * outputs + min(first_output + mine, outputs - 1), my_input = group * inputs + min(first_input + mine, inputs - 1);
    const T* gradient_from = (const T*)p.y + (chunk * TILE_DEPTH + my_d) * p.outputs + my_output;
    auto load = [&](u32 slice) {
        if (slice % SLICES_AT_ONCE == 0) {
            u32 pixel = ((slice + thread / TILE_DEPTH) * p.chunks + chunk) * TILE_DEPTH + thread % TILE_DEPTH;
            u32 line = pixel / p.out_width, row, column;
            bool there = pixel < pixels;
            there = there && reads(line % p.out_height, top, p.stride_rows, p.padding_rows, p.height, row);
            there = there && reads(pixel % p.out_width, side, p.stride_columns, p.padding_columns, p.width, column);
            __syncthreads();
            places[thread] = there ? ((line / p.out_height * p.height + row) * p.width + column) * p.channels : NOWHERE;
            __syncthreads();
        }
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            u32 place = places[slice % SLICES_AT_ONCE * TILE_DEPTH + my_d + i];
            gradient[i] = place != NOWHERE ? gradient_from[i * p.outputs] : T{};
            value[i] = place != NOWHERE ? ((const T*)p.x)[place + my_input] : T{};
        }
        gradient_from += p.chunks * TILE_DEPTH * p.outputs;
    };
    auto keep = [&](u32 turn) {
        keep_below(gradient, gradients.at[turn] + my_d, mine);
        keep_below(value, values.at[turn] + my_d, mine);
    };
    float sums[2][4] = {};
    u32 slices = (pixels + TILE_DEPTH - 1) / TILE_DEPTH;
    add_slices((slices - chunk + p.chunks - 1) / p.chunks, load, keep, gradients, values, sums);
    float* tile = p.partial + (((u64)chunk * p.outputs + group * outputs + first_output) * area + k) * inputs + first_input;
    put_tile(tile, area * inputs, outputs - first_output, inputs - first_input, sums, false);
}
MAP_KERNEL(grouped_tiles_weight_gradient, GroupedParameters)

#undef BOUNDS
#define BOUNDS 256, 2
