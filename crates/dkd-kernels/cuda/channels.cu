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
        u32 source = entry >> 24, channel = entry & 0xffffffu;
        load<N>((const T*)p.sources[source].x, ((u64)at.column * p.sources[source].channels + channel) / N, v);
        if (p.sources[source].scale) {
            // As norm_apply has it, to the last bit.
            float scale[N], shift[N];
            load<N>(p.sources[source].scale, channel / N, scale);
            load<N>(p.sources[source].shift, channel / N, shift);
            bool relu = p.sources[source].relu;
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
