// Convolutions with one channel per group.

// Neighbours in a row that one thread computes, so that it reads its weights once.
enum { STRIP = 4 };

template <typename T, int N>
__device__ void depthwise(const GroupedParameters& p) {
    Place at;
    u32 packs = p.channels / N, strips = (p.out_width + STRIP - 1) / STRIP, area = p.kernel_rows * p.kernel_columns;
    if (!find_place(thread_index(), p.images, p.out_height, strips, packs, at)) return;
    const T* weights = (const T*)p.w + (u64)at.pack * N * area;
    u32 end = min((at.column + 1) * STRIP, p.out_width);
#pragma unroll 1
    for (u32 o = at.column * STRIP; o < end; o++) {
        float sum[N] = {};
        for (u32 k = 0; k < p.kernel_rows; k++) {
            u32 row, column;
            if (!reads(at.row, k, p.stride_rows, p.padding_rows, p.height, row)) continue;
            for (u32 l = 0; l < p.kernel_columns; l++) {
                if (!reads(o, l, p.stride_columns, p.padding_columns, p.width, column)) continue;
                float v[N];
                u64 pixel = ((u64)at.image * p.height + row) * p.width + column;
                load<N>((const T*)p.x, pixel * packs + at.pack, v);
                const T* w = weights + k * p.kernel_columns + l;
#pragma unroll
                for (int n = 0; n < N; n++) sum[n] = fmaf(v[n], to_float(w[n * area]), sum[n]);
            }
        }
        u64 pixel = ((u64)at.image * p.out_height + at.row) * p.out_width + o;
        put<N>((T*)p.y, pixel * packs + at.pack, sum, p.accumulate);
    }
}

template <typename T, int N>
__device__ void depthwise_input_gradient(const GroupedParameters& p) {
    Place at;
    u32 packs = p.channels / N, strips = (p.width + STRIP - 1) / STRIP, area = p.kernel_rows * p.kernel_columns;
    if (!find_place(thread_index(), p.images, p.height, strips, packs, at)) return;
    const T* weights = (const T*)p.w + (u64)at.pack * N * area;
    u32 end = min((at.column + 1) * STRIP, p.width);
#pragma unroll 1
    for (u32 i = at.column * STRIP; i < end; i++) {
        float sum[N] = {};
        for (u32 k = 0; k < p.kernel_rows; k++) {
            u32 row, column;
            if (!read_by(at.row, k, p.stride_rows, p.padding_rows, p.out_height, row)) continue;
            for (u32 l = 0; l < p.kernel_columns; l++) {
                if (!read_by(i, l, p.stride_columns, p.padding_columns, p.out_width, column)) continue;
                float v[N];
                u64 pixel = ((u64)at.image * p.out_height + row) * p.out_width + column;
                load<N>((const T*)p.y, pixel * packs + at.pack, v);
                const T* w = weights + k * p.kernel_columns + l;
#pragma unroll
                for (int n = 0; n < N; n++) sum[n] = fmaf(v[n], to_float(w[n * area]), sum[n]);
            }
        }
        u64 pixel = ((u64)at.image * p.height + at.row) * p.width + i;
        put<N>((T*)p.x, pixel * packs + at.pack, sum, p.accumulate);
    }
}

enum { DEPTHWISE_THREADS = 256 };

// Writes a chunk's sums for COUNT kernel positions from `position` on: each row of threads has a part of them.
template <int N, int COUNT>
__device__ __forceinline__ void put_partial(const GroupedParameters& p, u32 chunk, u32 pack, u32 position, const float (&sum)[COUNT][N]) {
    // More would take up what other blocks need.
    enum { AT_ONCE = COUNT < 3 ? COUNT : 3 };
    __shared__ float sums[AT_ONCE][N][DEPTHWISE_THREADS];
    u32 thread = threadIdx.y * blockDim.x + threadIdx.x, area = p.kernel_rows * p.kernel_columns;
#pragma unroll
    for (int first = 0; first < COUNT; first += AT_ONCE) {
        __syncthreads();
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++) {
#pragma unroll
            for (int n = 0; n < N; n++) sums[k][n][thread] = sum[first + k][n];
        }
        __syncthreads();
        for (u32 n = threadIdx.y; n < N && pack * N < p.channels; n += blockDim.y) {
            float total[AT_ONCE] = {};
            for (u32 part = 0; part < blockDim.y; part++) {
#pragma unroll
                for (int k = 0; k < AT_ONCE; k++) total[k] += sums[k][n][part * blockDim.x + threadIdx.x];
            }
            float* to = p.partial + ((u64)chunk * p.channels + pack * N + n) * area + position + first;
#pragma unroll
            for (int k = 0; k < AT_ONCE; k++) to[k] = total[k];
        }
    }
}

// A block takes some packs of channels and, of one chunk's lines (rows of outputs of all images), a part for
// each of its rows of threads. A thread keeps the sums of one kernel position, its block's.
template <typename T, int N>
__device__ void depthwise_weight_gradient(const GroupedParameters& p) {
    const u32 area = p.kernel_rows * p.kernel_columns;
    u32 packs = p.channels / N, blocks = (packs + blockDim.x - 1) / blockDim.x;
    u32 pack = blockIdx.x % blocks * blockDim.x + threadIdx.x, left = blockIdx.x / blocks;
    u32 position = left % area, chunk = left / area;
    u32 k = position / p.kernel_columns, l = position % p.kernel_columns;
    float sum[1][N] = {};
    u32 lines = pack < packs ? p.images * p.out_height : 0;
    for (u32 line = chunk * blockDim.y + threadIdx.y; line < lines; line += p.chunks * blockDim.y) {
        u32 image = line / p.out_height, row, column;
        if (!reads(line % p.out_height, k, p.stride_rows, p.padding_rows, p.height, row)) continue;
        for (u32 q = 0; q < p.out_width; q++) {
            if (!reads(q, l, p.stride_columns, p.padding_columns, p.width, column)) continue;
            float g[N], v[N];
            load<N>((const T*)p.y, ((u64)line * p.out_width + q) * packs + pack, g);
            load<N>((const T*)p.x, (((u64)image * p.height + row) * p.width + column) * packs + pack, v);
#pragma unroll
            for (int n = 0; n < N; n++) sum[0][n] = fmaf(g[n], v[n], sum[0][n]);
        }
    }
    put_partial(p, chunk, pack, position, sum);
}

// Kernels of three rows and columns. What lies in the padding is read from the nearest position there is, and left out when it is added up: if
// loads had conditions, a thread would wait for one after the other.
__device__ __forceinline__ u32 nearest(int i, u32 n) { return (u32)min(max(i, 0), (int)n - 1); }

// sum += a * b, if it is there; without a branch.
__device__ __forceinline__ void add_if(bool there, float a, float b, float& sum) {
#ifdef __CUDA_ARCH__
    asm("{ .reg .pred p; setp.ne.u32 p, %3, 0; @p fma.rn.f32 %0, %1, %2, %0; }" : "+f"(sum) : "f"(a), "f"(b), "r"((u32)there));
#else
    if (there) sum = fmaf(a, b, sum);
#endif
}

// The weights of N channels, as they lie in memory.
template <typename T, int N>
struct NineWeights {
    Pack<T, N> packs[9];

    __device__ __forceinline__ NineWeights(const void* w, u32 pack) {
#pragma unroll
        for (int i = 0; i < 9; i++) packs[i] = ((const Pack<T, N>*)w)[pack * 9 + i];
    }

    // Of channel n, at kernel position k.
    __device__ __forceinline__ float of(int n, int k) const { return number(packs[(n * 9 + k) / N], (n * 9 + k) % N); }
};

// What COUNT outputs in a row read: number j with kernel column l the column(j, l)-th of so many. If they are several, the stride is 1.
template <int COUNT>
struct OutputStrip {
    enum { STRIDE = 1, LENGTH = COUNT, ROWS = 3, COLUMNS = COUNT + 2 };
    static __device__ __forceinline__ int column(int j, int l) { return j + l; }
};

// The outputs by which inputs in a row are read, with a stride of S; -1 is none. The first input and the padding are E more than a multiple of S.
template <int S, int E>
struct InputStrip {
    // Columns before the last one that reads the first input.
    enum { STRIDE = S, LENGTH = STRIP, ROWS = 2 / S + 1, EARLIER = (2 - E) / S, COLUMNS = EARLIER + (E + STRIP - 1) / S + 1 };
    static __device__ __forceinline__ int column(int j, int l) { return (E + j - l) % S ? -1 : EARLIER + (E + j - l) / S; }
};

// Adds up what a strip reads in an image that begins with pack `first`. Kernel row k reads the row[k / S], if phase + k is a multiple of S.
template <typename Strip, typename T, int N>
__device__ __forceinline__ void add_strip(const void* map, u32 first, u32 height, u32 width, u32 packs, const int (&row)[Strip::ROWS],
                                          const int (&column)[Strip::COLUMNS], u32 phase, const NineWeights<T, N>& weights,
                                          float (&sum)[Strip::LENGTH][N]) {
    enum { S = Strip::STRIDE };
    Pack<T, N> v[Strip::ROWS][Strip::COLUMNS];
#pragma unroll
    for (int k = 0; k < Strip::ROWS; k++) {
        u32 line = first + nearest(row[k], height) * width * packs;
#pragma unroll
        for (int c = 0; c < Strip::COLUMNS; c++) v[k][c] = ((const Pack<T, N>*)map)[line + nearest(column[c], width) * packs];
    }
#pragma unroll
    for (int k = 0; k < 3; k++) {
        u32 inside = (phase + k) % S == 0 && (u32)row[k / S] < height ? width : 0;
        if (S > 1 && inside == 0) continue;
#pragma unroll
        for (int n = 0; n < N; n++) {
#pragma unroll
            for (int j = 0; j < Strip::LENGTH; j++) {
#pragma unroll
                for (int l = 0; l < 3; l++) {
                    const int c = Strip::column(j, l);
                    if (c < 0) continue;
                    add_if((u32)column[c] < inside, number(v[k / S][c], n), weights.of(n, k * 3 + l), sum[j][n]);
                }
            }
        }
    }
}

// As `put`, for the first `count` packs of a strip: all are read before one is written.
template <int N, int LENGTH, typename T>
__device__ __forceinline__ void put_strip(T* to, u32 pack, u32 step, u32 count, float (&sum)[LENGTH][N], u32 accumulate) {
    if (accumulate) {
        float old[LENGTH][N];
#pragma unroll
        for (u32 j = 0; j < LENGTH; j++) load<N>((const T*)to, pack + min(j, count - 1) * step, old[j]);
#pragma unroll
        for (int j = 0; j < LENGTH; j++) {
#pragma unroll
            for (int n = 0; n < N; n++) sum[j][n] += old[j][n];
        }
    }
#pragma unroll
    for (u32 j = 0; j < LENGTH; j++) {
        if (j < count) store<N>(to, pack + j * step, sum[j]);
    }
}

template <int COUNT, typename T, int N>
__device__ __forceinline__ void put_outputs(const GroupedParameters& p, const Place& at, u32 o, u32 count, const NineWeights<T, N>& weights) {
    typedef OutputStrip<COUNT> Strip;
    u32 packs = p.channels / N;
    int row[3], column[Strip::COLUMNS];
#pragma unroll
    for (int k = 0; k < 3; k++) row[k] = at.row * p.stride_rows + k - p.padding_rows;
#pragma unroll
    for (int c = 0; c < Strip::COLUMNS; c++) column[c] = o * p.stride_columns + c - p.padding_columns;
    float sum[COUNT][N] = {};
    add_strip<Strip>(p.x, at.image * p.height * p.width * packs + at.pack, p.height, p.width, packs, row, column, 0, weights, sum);
    u32 pixel = (at.image * p.out_height + at.row) * p.out_width + o;
    put_strip((T*)p.y, pixel * packs + at.pack, packs, count, sum, p.accumulate);
}

template <typename T, int N>
__device__ void depthwise_three(const GroupedParameters& p) {
    Place at;
    u32 packs = p.channels / N, strips = (p.out_width + STRIP - 1) / STRIP;
    if (!find_place(thread_index(), p.images, p.out_height, strips, packs, at)) return;
    NineWeights<T, N> weights(p.w, at.pack);
    u32 start = at.column * STRIP, end = min(start + STRIP, p.out_width);
    if (p.stride_columns == 1) {
        put_outputs<STRIP>(p, at, start, end - start, weights);
    } else {
#pragma unroll 1
        for (u32 o = start; o < end; o++) put_outputs<1>(p, at, o, 1, weights);
    }
}

template <typename Strip, typename T, int N>
__device__ __forceinline__ void put_inputs(const GroupedParameters& p, const Place& at) {
    enum { S = Strip::STRIDE };
    NineWeights<T, N> weights(p.w, at.pack);
    u32 packs = p.channels / N, start = at.column * STRIP, phase = at.row + p.padding_rows;
    int row[Strip::ROWS], column[Strip::COLUMNS];
#pragma unroll
    for (int k = 0; k < Strip::ROWS; k++) row[k] = phase / S - k;
#pragma unroll
    for (int c = 0; c < Strip::COLUMNS; c++) column[c] = (start + p.padding_columns) / S - Strip::EARLIER + c;
    float sum[STRIP][N] = {};
    u32 first = at.image * p.out_height * p.out_width * packs + at.pack;
    add_strip<Strip>(p.y, first, p.out_height, p.out_width, packs, row, column, phase, weights, sum);
    u32 pixel = (at.image * p.height + at.row) * p.width + start;
    put_strip((T*)p.x, pixel * packs + at.pack, packs, p.width - start, sum, p.accumulate);
}

// With the stride S, 1 or 2.
template <typename T, int N, int S>
__device__ void depthwise_input_gradient_three(const GroupedParameters& p) {
    Place at;
    u32 packs = p.channels / N, strips = (p.width + STRIP - 1) / STRIP;
    if (!find_place(thread_index(), p.images, p.height, strips, packs, at)) return;
    if (p.padding_columns % S == 0) {
        put_inputs<InputStrip<S, 0>, T, N>(p, at);
    } else {
        put_inputs<InputStrip<S, S - 1>, T, N>(p, at);
    }
}

// Adds lines to the sums of all kernel positions, with a stride of S from column to column, or any if that is 3. It goes along the inputs and
// keeps the EARLIER outputs that read the same ones, so that it loads each once.
template <int S, typename T, int N>
__device__ __forceinline__ void add_lines(const GroupedParameters& p, u32 pack, u32 line, u32 step, float (&sum)[9][N]) {
    // Of small packs, all that four outputs read is loaded at once. Of large ones there are registers for one column: the next of each row is
    // loaded while other rows are added up.
    enum { LARGE = sizeof(T) * N == 16, OUTPUTS = LARGE ? 1 : 4, COLUMNS = OUTPUTS * S, AT_ONCE = LARGE ? 1 : COLUMNS, EARLIER = 2 / S };
    u32 packs = p.channels / N, lines = p.images * p.out_height, stride = S < 3 ? S : p.stride_columns;
    // An output comes with the first S columns that it reads. They may lie beyond the outputs, but not in the padding.
    u32 first = S < 3 ? p.padding_columns / S : 0, end = S < 3 ? (p.width - 1 + p.padding_columns) / S + 1 : p.out_width;
    for (; line < lines; line += step) {
        u32 from[3], outputs = line * p.out_width * packs + pack;
        int top = line % p.out_height * p.stride_rows - p.padding_rows, left = first * stride - p.padding_columns;
        // Outputs from the last to the first.
        Pack<T, N> v[3][AT_ONCE], g[OUTPUTS + EARLIER];
        auto column = [&](int c) { return (int)(left + c / S * stride + c % S); };
        auto load_columns = [&](int k, int start) {
#pragma unroll
            for (int c = 0; c < AT_ONCE; c++) {
                v[k][c] = ((const Pack<T, N>*)p.x)[from[k] + nearest(column(start + c), p.width) * packs];
            }
        };
        auto load_outputs = [&](u32 last, int count) {
#pragma unroll
            for (int o = 0; o < count; o++) g[o] = ((const Pack<T, N>*)p.y)[outputs + nearest(last - o, p.out_width) * packs];
        };
        auto add_columns = [&](int k, int start, u32 q) {
#pragma unroll
            for (int n = 0; n < N; n++) {
#pragma unroll
                for (int c = start; c < start + AT_ONCE; c++) {
#pragma unroll
                    for (int l = c % S; l < 3; l += S) {
                        int o = c / S - l / S;
                        bool there = (u32)column(c) < p.width && q + o < p.out_width;
                        add_if(there, number(g[OUTPUTS - 1 - o], n), number(v[k][c - start], n), sum[k * 3 + l][n]);
                    }
                }
            }
        };
#pragma unroll
        for (int k = 0; k < 3; k++) {
            from[k] = (line / p.out_height * p.height + nearest(top + k, p.height)) * p.width * packs + pack;
            load_columns(k, 0);
        }
        load_outputs(first + OUTPUTS - 1, OUTPUTS + EARLIER);
#pragma unroll 1
        for (u32 q = first; q < end; q += OUTPUTS) {
#pragma unroll
            for (int start = 0; start < COLUMNS; start += AT_ONCE) {
#pragma unroll
                for (int k = 0; k < 3; k++) {
                    if ((u32)(top + k) < p.height) add_columns(k, start, q);
                    if (LARGE) load_columns(k, start + AT_ONCE);
                }
            }
#pragma unroll
            for (int k = 0; k < 3; k++) {
                if (!LARGE) load_columns(k, COLUMNS);
            }
            left += OUTPUTS * stride;
#pragma unroll
            for (int o = OUTPUTS + EARLIER - 1; o >= OUTPUTS; o--) g[o] = g[o - OUTPUTS];
            load_outputs(q + 2 * OUTPUTS - 1, OUTPUTS);
        }
    }
}

// As depthwise_weight_gradient, but a thread keeps the sums of all kernel positions.
template <typename T, int N>
__device__ void depthwise_weight_gradient_three(const GroupedParameters& p) {
    u32 packs = p.channels / N, blocks = (packs + blockDim.x - 1) / blockDim.x;
    u32 pack = blockIdx.x % blocks * blockDim.x + threadIdx.x, chunk = blockIdx.x / blocks;
    u32 line = chunk * blockDim.y + threadIdx.y, step = p.chunks * blockDim.y;
    float sum[9][N] = {};
    if (pack >= packs) {
        // Nothing: it only waits for the others.
    } else if (p.stride_columns == 1) {
        add_lines<1, T>(p, pack, line, step, sum);
    } else if (p.stride_columns == 2) {
        add_lines<2, T>(p, pack, line, step, sum);
    } else {
        add_lines<3, T>(p, pack, line, step, sum);
    }
    put_partial(p, chunk, pack, 0, sum);
}

// Packs as PACK_KERNEL has them.
#define DEPTHWISE_KERNELS(suffix, ...)                                                         \
    KERNEL(depthwise, GroupedParameters, suffix, __VA_ARGS__)                                  \
    KERNEL(depthwise_three, GroupedParameters, suffix, __VA_ARGS__)                            \
    KERNEL(depthwise_input_gradient, GroupedParameters, suffix, __VA_ARGS__)                   \
    KERNEL(depthwise_input_gradient_three, GroupedParameters, suffix, __VA_ARGS__, 1)          \
    KERNEL(depthwise_input_gradient_three, GroupedParameters, by_two_##suffix, __VA_ARGS__, 2) \
    KERNEL(depthwise_weight_gradient, GroupedParameters, suffix, __VA_ARGS__)                  \
    KERNEL(depthwise_weight_gradient_three, GroupedParameters, suffix, __VA_ARGS__)
DEPTHWISE_KERNELS(f32, float, 1)
DEPTHWISE_KERNELS(bf16, bf16, 1)
DEPTHWISE_KERNELS(pairs_bf16, bf16, 2)
DEPTHWISE_KERNELS(packed_f32, float, 4)
DEPTHWISE_KERNELS(packed_bf16, bf16, 8)
