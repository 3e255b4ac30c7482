// Training batches from images that lie on the device: gathered, shifted, flipped and normalised.

struct AugmentParameters {
    // Bytes [samples, height, width, 3].
    const u8* images;
    const u32* labels;
    const u32* origins;
    const u32* order;
    // Seed, epoch, view, start, and how many blocks are done, which is 0 before and after.
    u64* state;
    // Normalised values by channel and byte.
    const float* table;
    void* to;
    u32* labels_to;
    u64 samples;
    u64 ordered;
    u32 n;
    u32 height;
    u32 width;
    u32 channels;
    u32 crop_flip;
    u32 unused;
};

enum { AUGMENT_PADDING = 4, AUGMENT_OFFSETS = 9 };

// What a channel of a byte becomes: its normalised value, or the byte itself.
template <typename T>
__device__ __forceinline__ void augment_value(const float* table, u32 channel, u8 byte, T& to) {
    from_float(table[channel * 256 + byte], to);
}
__device__ __forceinline__ void augment_value(const float*, u32, u8 byte, u8& to) { to = byte; }

template <typename T>
__device__ __forceinline__ void augment_zero(T& to) { from_float(0.0f, to); }
__device__ __forceinline__ void augment_zero(u8& to) { to = 0; }

template <typename T>
__device__ __forceinline__ void augment_pixel(const AugmentParameters& p, u64 start) {
    u64 i = thread_index(), pixels = (u64)p.height * p.width;
    if (i >= p.n * pixels) return;
    u32 image = (u32)(i / pixels), pixel = (u32)(i % pixels);
    u64 seed = p.state[0], view = p.state[2], position = start + image;
    u32 epoch = (u32)p.state[1];
    T* to = (T*)p.to + i * p.channels;
    // These numbers come from memory, so no launch can check them.
    u64 sample = position < p.ordered ? p.order[position] : p.samples;
    if (sample >= p.samples) {
        if (pixel == 0) p.labels_to[image] = 0xffffffffu;
        for (u32 c = 0; c < p.channels; c++) augment_zero(to[c]);
        return;
    }
    u32 label = p.labels[sample];
    u32 dy = AUGMENT_PADDING, dx = AUGMENT_PADDING, flip = 0;
    if (p.crop_flip) {
        Stream s = make_stream(seed, PURPOSE_AUGMENT, epoch, (u64)p.origins[sample] | (view << 32));
        dy = stream_below(s, 0, AUGMENT_OFFSETS);
        dx = stream_below(s, 1, AUGMENT_OFFSETS);
        flip = stream_word(s, 2) & 1u;
    }
    u32 y = pixel / p.width, x = pixel % p.width;
    if (flip) x = p.width - 1 - x;
    // Left of and above the image, differences wrap around to beyond it.
    y = y + dy - AUGMENT_PADDING;
    x = x + dx - AUGMENT_PADDING;
    bool inside = y < p.height && x < p.width;
    const u8* from = p.images + (sample * pixels + (inside ? (u64)y * p.width + x : 0)) * 3;
    // All is read before anything is written, which could lie where the next is read.
    u8 bytes[3];
    T values[3];
#pragma unroll
    for (u32 c = 0; c < 3; c++) bytes[c] = from[c];
#pragma unroll
    for (u32 c = 0; c < 3; c++) augment_value(p.table, c, inside ? bytes[c] : (u8)0, values[c]);
#pragma unroll
    for (u32 c = 0; c < 3; c++) to[c] = values[c];
    if (pixel == 0) p.labels_to[image] = label;
    for (u32 c = 3; c < p.channels; c++) augment_zero(to[c]);
}

// One thread per pixel. Whichever block is the last leaves the state as the next batch needs it: the host would take longer to say so.
template <typename T>
__device__ void augment(const AugmentParameters& p) {
    u64 start = p.state[3];
    augment_pixel<T>(p, start);
    if (is_last_block((u32*)&p.state[4], gridDim.x) && threadIdx.x == 0) p.state[3] = start + p.n;
}
MAP_KERNEL(augment, AugmentParameters)
KERNEL(augment, AugmentParameters, u8, u8)
