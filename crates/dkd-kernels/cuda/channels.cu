// Output channels, each taken from some channel of some source, normalised on the way if it has a scale.

struct ChannelsSource {
    const void* x;
    const float* scale;
    const float* shift;
    u32 channels;
    u32 relu;
};

struct ChannelsParameters {
    ChannelsSource sources[16];
    // For each output channel source << 24 | channel, or all bits for zeros.
    const u32* table;
    void* y;
    u32 pixels;
    u32 channels;
    u32 relu;
    u32 accumulate;
};

template <typename T, int N>
__device__ void channels(const ChannelsParameters& p) {
    Place at;
    if (!find_place(thread_index(), 1, 1, p.pixels, p.channels / N, at)) return;
    // The launch sees to it that the channels of a pack are neighbours in their source as well.
    u32 entry = p.table[at.pack * N];
    float v[N] = {};
    if (entry != 0xffffffffu) {
        u32 channel = entry & 0xffffffu;
        const ChannelsSource& source = p.sources[entry >> 24];
        Pack<T, N> read = ((const Pack<T, N>*)source.x)[((u64)at.column * source.channels + channel) / N];
        float scale[N], shift[N];
        bool normalised = source.scale;
        if (normalised) {
            load<N>(source.scale, channel / N, scale);
            load<N>(source.shift, channel / N, shift);
        }
        unpack<N>(read, v);
        if (normalised) {
            // As norm_apply has it, to the last bit.
            bool relu = source.relu;
#pragma unroll
            for (int n = 0; n < N; n++) {
                v[n] = fmaf(scale[n], v[n], shift[n]);
                v[n] = relu && v[n] < 0.0f ? 0.0f : v[n];
            }
        }
    }
    if (p.relu) {
        // As PyTorch's: NaN stays NaN.
#pragma unroll
        for (int n = 0; n < N; n++) v[n] = v[n] < 0.0f ? 0.0f : v[n];
    }
    put<N>((T*)p.y, (u64)at.column * (p.channels / N) + at.pack, v, p.accumulate);
}
KERNEL(channels, ChannelsParameters, f32, float, 1)
KERNEL(channels, ChannelsParameters, bf16, bf16, 1)
KERNEL(channels, ChannelsParameters, fours_f32, float, 4)
KERNEL(channels, ChannelsParameters, fours_bf16, bf16, 4)
KERNEL(channels, ChannelsParameters, eights_bf16, bf16, 8)
