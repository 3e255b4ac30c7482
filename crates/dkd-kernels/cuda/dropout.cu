// Dropout whose mask is recomputed, never stored: the twin of src/dropout.rs.

struct DropoutParameters {
    const void* x;
    void* y;
    // Seed, epoch and step, in memory, so that a recorded launch can be replayed with others.
    const u64* draw;
    u64 layer;
    u32 images;
    u32 height;
    u32 width;
    u32 channels;
    u32 threshold;
    float scale;
    u32 accumulate;
    u32 unused;
};

// Four channels of a pixel, which take the four words of one block of the row's stream.
template <typename T, int N>
__device__ void dropout(const DropoutParameters& p) {
    Place at;
    if (!find_place(thread_index(), p.images, p.height, p.width, (p.channels + 3) / 4, at)) return;
    u64 index = p.layer ^ ((p.draw[2] << 28) | ((u64)at.image << 12) | at.row);
    Stream stream = make_stream(p.draw[0], PURPOSE_DROPOUT, (u32)p.draw[1], index);
    // The words of a row are counted as on the CPU, where pixels are padded to vectors of 16.
    Words words = stream_block(stream, at.column * ((p.channels + 15) / 16 * 4) + at.pack);
    u64 pixel = ((u64)at.image * p.height + at.row) * p.width + at.column;
#pragma unroll
    for (int k = 0; k < 4; k += N) {
        u32 channel = at.pack * 4 + k;
        if (channel >= p.channels) return;
        u64 pack = (pixel * p.channels + channel) / N;
        float v[N];
        load<N>((const T*)p.x, pack, v);
#pragma unroll
        for (int n = 0; n < N; n++) v[n] *= words.v[k + n] >= p.threshold ? p.scale : 0.0f;
        put<N>((T*)p.y, pack, v, p.accumulate);
    }
}
KERNEL(dropout, DropoutParameters, f32, float, 1)
KERNEL(dropout, DropoutParameters, bf16, bf16, 1)
KERNEL(dropout, DropoutParameters, packed_f32, float, 4)
KERNEL(dropout, DropoutParameters, packed_bf16, bf16, 4)
