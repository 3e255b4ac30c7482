// Counter-based random numbers: the twin of src/rng.rs, word for word.

struct Words {
    u32 v[4];
};

// One block of Philox4x32-10.
__device__ __forceinline__ Words philox(u32 c0, u32 c1, u32 c2, u32 c3, u32 k0, u32 k1) {
#pragma unroll
    for (int round = 0; round < 10; round++) {
        u32 high0 = __umulhi(0xD2511F53u, c0), low0 = 0xD2511F53u * c0;
        u32 high1 = __umulhi(0xCD9E8D57u, c2), low1 = 0xCD9E8D57u * c2;
        c0 = high1 ^ c1 ^ k0;
        c1 = low1;
        c2 = high0 ^ c3 ^ k1;
        c3 = low0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return {{c0, c1, c2, c3}};
}

// A stream of random words, addressed by offset.
struct Stream {
    u32 key[2];
    u32 high[3];
};

// `purpose` is a number of `Purpose`.
enum { PURPOSE_AUGMENT = 3, PURPOSE_DROPOUT = 4 };

__device__ __forceinline__ Stream make_stream(u64 seed, u32 purpose, u32 epoch, u64 index) {
    u32 key0 = (u32)seed, key1 = (u32)(seed >> 32);
    Words mixed = philox((u32)index, (u32)(index >> 32), epoch, purpose, key0, key1);
    return {{key0 ^ mixed.v[3], key1}, {mixed.v[0], mixed.v[1], mixed.v[2]}};
}

// Words 4 * block to 4 * block + 3.
__device__ __forceinline__ Words stream_block(const Stream& s, u32 block) {
    return philox(block, s.high[0], s.high[1], s.high[2], s.key[0], s.key[1]);
}

__device__ __forceinline__ u32 stream_word(const Stream& s, u64 offset) {
    Words words = stream_block(s, (u32)(offset / 4));
    return words.v[offset % 4];
}

// An integer below `bound`.
__device__ __forceinline__ u32 stream_below(const Stream& s, u64 offset, u32 bound) {
    return __umulhi(stream_word(s, offset), bound);
}

// A test's aid: the first words of a stream, or integers below `bound` if that is not 0.
struct RandomWordsParameters {
    u64 seed;
    u64 index;
    u32* y;
    u32 n;
    u32 purpose;
    u32 epoch;
    u32 bound;
};

__device__ void random_words_body(const RandomWordsParameters& p) {
    u64 i = thread_index();
    if (i >= p.n) return;
    Stream stream = make_stream(p.seed, p.purpose, p.epoch, p.index);
    p.y[i] = p.bound ? stream_below(stream, i, p.bound) : stream_word(stream, i);
}
PLAIN_KERNEL(random_words, RandomWordsParameters)
