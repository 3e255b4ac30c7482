// What candle's kernels need of CUDA, beside what the emulation of this repository's own has: the computer's C++ compiler takes both then.
// Half precision is left out, as for devices that have none.
#include <assert.h>
#include <float.h>
#include <stdint.h>

#include <cmath>
#include <limits>
#include <utility>

#define __CUDA_ARCH__ 520
#define __CUDACC_VER_MAJOR__ 13
#define __host__
#define __align__(n) __attribute__((aligned(n)))

// Named in code that nobody calls.
struct __half {
    unsigned short bits;
};
struct __nv_fp8_e4m3 {
    unsigned char __x;
    __nv_fp8_e4m3(float);
};
enum { __NV_E4M3 };
__half __nv_cvt_fp8_to_halfraw(unsigned char, int);
float __half2float(__half);
__half __hmax_nan(__half, __half);
__half __hmin_nan(__half, __half);

struct float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
static inline float2 make_float2(float x, float y) { return {x, y}; }

template <typename To, typename From>
static inline To bits_of(From from) {
    static_assert(sizeof(To) == sizeof(From), "other bits");
    To to;
    memcpy(&to, &from, sizeof(to));
    return to;
}
static inline long long __double_as_longlong(double x) { return bits_of<long long>(x); }
static inline double __longlong_as_double(long long x) { return bits_of<double>(x); }
static inline unsigned __float_as_uint(float x) { return bits_of<unsigned>(x); }
static inline int __float_as_int(float x) { return bits_of<int>(x); }
static inline float __uint_as_float(unsigned x) { return bits_of<float>(x); }
static inline float __int_as_float(int x) { return bits_of<float>(x); }
static inline unsigned short __half_as_ushort(__half x) { return x.bits; }
static inline __half __ushort_as_half(unsigned short bits) { return {bits}; }

// One thread at a time.
template <typename T, typename U>
static inline T atomicCAS(T* p, T expected, U x) {
    T old = *p;
    if (old == expected) *p = (T)x;
    return old;
}
// Whoever adds so has other sums every time.
template <typename T, typename U>
static inline T atomicAdd(T*, U) {
    fprintf(stderr, "a kernel of candle's adds in no fixed order\n");
    abort();
}
template <typename T, typename U>
static inline T atomicMin(T* p, U x) {
    T old = *p;
    if ((T)x < old) *p = (T)x;
    return old;
}
template <typename T, typename U>
static inline T atomicMax(T* p, U x) {
    T old = *p;
    if ((T)x > old) *p = (T)x;
    return old;
}

static inline double normcdf(double x) { return 0.5 * erfc(-x * M_SQRT1_2); }
static inline float normcdff(float x) { return (float)normcdf(x); }
static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
static inline int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t max(int64_t a, int64_t b) { return a > b ? a : b; }
static inline size_t min(size_t a, size_t b) { return a < b ? a : b; }
static inline size_t max(size_t a, size_t b) { return a > b ? a : b; }
template <typename T>
static inline T __shfl_xor_sync(unsigned mask, T x, int lanes, int) {
    return __shfl_xor_sync(mask, x, lanes);
}

namespace emulation {
// Each parameter has eight bytes.
template <typename... A, size_t... I>
static void called(void (*kernel)(A...), const uint64_t* all, std::index_sequence<I...>) {
    kernel(*(const A*)(all + I)...);
}
template <typename... A>
static void called(void (*kernel)(A...), const void* all) {
    called(kernel, (const uint64_t*)all, std::index_sequence_for<A...>());
}
template <typename... A>
static unsigned parameters_of(void (*)(A...), unsigned* bytes) {
    unsigned sizes[] = {(unsigned)sizeof(A)...};
    memcpy(bytes, sizes, sizeof(sizes));
    return sizeof...(A);
}
}  // namespace emulation

// What the driver finds of a kernel.
#define KERNEL(name)                                                                         \
    EXPORTED void name##_emulated(const void* all) { emulation::called(name, all); }         \
    EXPORTED unsigned name##_parameters(unsigned* bytes) { return emulation::parameters_of(name, bytes); }
