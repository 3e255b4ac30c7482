// What every kernel uses: number types, packed loads and stores, sums over a block, and the macro that names a kernel.
//
// The text is compiled three ways: by NVRTC for a GPU, by nvcc, and by a C++ compiler behind emulate.h. So it includes nothing and
// uses no library.
//
// A kernel is a function of one structure of parameters; its twin in Rust has the same fields in the same order.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

// The upper half of a float.
struct bf16 {
    u16 bits;
};

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) {
    u32 bits = (u32)x.bits << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

__device__ __forceinline__ void from_float(float x, float& to) { to = x; }
// To the nearest, ties to even; NaN stays NaN.
__device__ __forceinline__ void from_float(float x, bf16& to) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(to.bits) : "f"(x));
#else
    u32 bits;
    memcpy(&bits, &x, 4);
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        to.bits = 0x7fff;
    } else {
        to.bits = (u16)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
    }
#endif
}

// N neighbours that are read and written at once.
template <typename T, int N>
struct alignas(sizeof(T) * N) Pack {
    T v[N];
};

// A number of a pack. Two of bf16 are taken as the 32 bits that they are: to get at one of 16 first would take an instruction more.
template <int N>
__device__ __forceinline__ float number(const Pack<float, N>& pack, int n) {
    return pack.v[n];
}
template <int N>
__device__ __forceinline__ float number(const Pack<bf16, N>& pack, int n) {
    if constexpr (N == 1) {
        return to_float(pack.v[n]);
    } else {
        u32 bits;
        memcpy(&bits, &pack.v[n & ~1], 4);
        bits = n & 1 ? bits & 0xffff0000u : bits << 16;
        float value;
        memcpy(&value, &bits, 4);
        return value;
    }
}

template <int N, typename T>
__device__ __forceinline__ void unpack(const Pack<T, N>& from, float (&to)[N]) {
#pragma unroll
    for (int i = 0; i < N; i++) to[i] = number(from, i);
}

template <int N, typename T>
__device__ __forceinline__ void load(const T* from, u64 pack, float (&to)[N]) {
    // A copy: else it would read number by number.
    Pack<T, N> p = ((const Pack<T, N>*)from)[pack];
    unpack<N>(p, to);
}

template <typename T, int N>
__device__ __forceinline__ Pack<T, N> pack_of(const float (&from)[N]) {
    Pack<T, N> p;
#pragma unroll
    for (int i = 0; i < N; i++) from_float(from[i], p.v[i]);
    return p;
}

template <int N, typename T>
__device__ __forceinline__ void store(T* to, u64 pack, const float (&from)[N]) {
    ((Pack<T, N>*)to)[pack] = pack_of<T>(from);
}

// Keeps what is made of a number from being made before this: the compiler would wait for the number there.
__device__ __forceinline__ void not_before(float& x) {
#ifndef EMULATED
    asm volatile("" : "+f"(x));
#endif
}

// Position of this thread among all of a one-dimensional grid.
__device__ __forceinline__ u64 thread_index() { return (u64)blockIdx.x * blockDim.x + threadIdx.x; }

// i % n, without a division of 64 bits where 32 do.
__device__ __forceinline__ u32 remainder(u64 i, u32 n) { return i >> 32 ? (u32)(i % n) : (u32)i % n; }

// Whether this block is the last of so many that count themselves there. It can read what they have written then, and write what they have read.
// The number is 0 again afterwards.
__device__ __forceinline__ bool is_last_block(u32* ticket, u32 blocks) {
    __shared__ u32 last;
    __syncthreads();
    if (threadIdx.x == 0 && threadIdx.y == 0) {
        u32 before;
#ifdef EMULATED
        before = atomicInc(ticket, blocks - 1);
#else
        // One thread releases what all of its block have written, and acquires for all: the barriers are before and behind it.
        asm volatile("atom.acq_rel.gpu.inc.u32 %0, [%1], %2;" : "=r"(before) : "l"(ticket), "r"(blocks - 1) : "memory");
#endif
        last = before == blocks - 1;
    }
    __syncthreads();
    return last;
}

// What another thread of the warp has in the place of these numbers.
template <int N>
__device__ __forceinline__ void from_lane(const float (&x)[N], float (&to)[N], u32 lanes) {
#ifdef EMULATED
    // All at once: there it takes long until all threads have come so far.
    Pack<float, N> pack;
    memcpy(pack.v, x, sizeof(x));
    pack = __shfl_xor_sync(0xffffffffu, pack, (int)lanes);
    memcpy(to, pack.v, sizeof(x));
#else
#pragma unroll
    for (int i = 0; i < N; i++) to[i] = __shfl_xor_sync(0xffffffffu, x[i], (int)lanes);
#endif
}

// Sum over the 32 threads of a warp, in a fixed order; every thread gets it.
__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int lane = 16; lane > 0; lane >>= 1) x += __shfl_xor_sync(0xffffffffu, x, lane);
    return x;
}

__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int lane = 16; lane > 0; lane >>= 1) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, lane));
    return x;
}

// Every kernel begins with this. A device may begin it ahead of its time, when the one before it has not ended: here it waits for that, and for all
// that has been written. From then on the next one may begin, once no block of this one waits for a place.
__device__ __forceinline__ void in_turn() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// `KERNEL(name, Parameters, suffix, Type)` makes the kernel `name_suffix` of the template `name<Type>`;
// `PLAIN_KERNEL(name, Parameters)` makes the kernel `name` of the function `name_body`.
#ifdef EMULATED
#define KERNEL(name, Parameters, suffix, ...)                                                  \
    EXPORTED void name##_##suffix(const void* p) { name<__VA_ARGS__>(*(const Parameters*)p); } \
    EXPORTED const u32 name##_##suffix##_size = sizeof(Parameters);
#define PLAIN_KERNEL(name, Parameters)                                         \
    EXPORTED void name(const void* p) { name##_body(*(const Parameters*)p); }  \
    EXPORTED const u32 name##_size = sizeof(Parameters);
#else
// Threads of a block, and how many blocks are to share a multiprocessor's registers.
#define BOUNDS 256, 2
#define KERNEL(name, Parameters, suffix, ...) \
    extern "C" __global__ void __launch_bounds__(BOUNDS) name##_##suffix(const Parameters p) { \
        in_turn();                                                  \
        name<__VA_ARGS__>(p);                                       \
    }
#define PLAIN_KERNEL(name, Parameters) \
    extern "C" __global__ void __launch_bounds__(256, 1) name(const Parameters p) { \
        in_turn();                                       \
        name##_body(p);                                  \
    }
#endif
// For both types of maps.
#define MAP_KERNEL(name, Parameters)       \
    KERNEL(name, Parameters, f32, float)   \
    KERNEL(name, Parameters, bf16, bf16)
