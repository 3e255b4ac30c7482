// Of cuBLAS and cuRAND as much as candle asks for when it makes a device, and products of matrices.
#include "shared.h"

using namespace stand_in;

struct Blas {
    Stream* stream;
};

API int cublasCreate_v2(Blas** made) { return *made = new Blas{nullptr}, 0; }
API int cublasDestroy_v2(Blas* handle) { return delete handle, 0; }
API int cublasSetStream_v2(Blas* handle, Stream* stream) { return handle->stream = stream, 0; }
enum { FAILED = 7 };

// Matrices in columns, `batch` of them with so many elements from one to the next.
template <typename T>
struct Matrices {
    T* first;
    bool transposed;
    int ld;
    long long stride;

    T& at(int z, int row, int column) const {
        return first[z * stride + (transposed ? (long long)row * ld + column : (long long)column * ld + row)];
    }
    // Whether all of them are memory that is there.
    bool are_inside(int batch, int rows, int columns) const {
        return inside((uint64_t)first, (char*)(&at(batch - 1, rows - 1, columns - 1) + 1) - (char*)first);
    }
};

template <typename T>
static int product(Blas* handle, int m, int n, int k, T x, Matrices<const T> a, Matrices<const T> b, T y, Matrices<T> c, int batch) {
    std::lock_guard<std::recursive_mutex> locked(lock);
    if (!a.are_inside(batch, m, k) || !b.are_inside(batch, k, n) || !c.are_inside(batch, m, n)) {
        return fail(FAILED, "matrices that are not there");
    }
    return add(handle->stream, [=] {
        for (int z = 0; z < batch; z++) {
            for (int j = 0; j < n; j++) {
                for (int i = 0; i < m; i++) {
                    double sum = 0;
                    for (int l = 0; l < k; l++) sum += (double)a.at(z, i, l) * b.at(z, l, j);
                    T& value = c.at(z, i, j);
                    // What is there may be no number.
                    value = x * (T)sum + (y == 0 ? 0 : y * value);
                }
            }
        }
    }, LIBRARYS_KERNEL);
}

API int cublasDgemmStridedBatched(
    Blas* handle, int transposed_a, int transposed_b, int m, int n, int k, const double* x, const double* a, int lda, long long stride_a,
    const double* b, int ldb, long long stride_b, const double* y, double* c, int ldc, long long stride_c, int batch
) {
    return product<double>(
        handle, m, n, k, *x, {a, transposed_a != 0, lda, stride_a}, {b, transposed_b != 0, ldb, stride_b}, *y, {c, false, ldc, stride_c}, batch
    );
}
API int cublasGemmStridedBatchedEx(
    Blas* handle, int transposed_a, int transposed_b, int m, int n, int k, const float* x, const float* a, int type_a, int lda,
    long long stride_a, const float* b, int type_b, int ldb, long long stride_b, const float* y, float* c, int type_c, int ldc,
    long long stride_c, int batch, int, int
) {
    enum { F32 = 0 };
    if (type_a != F32 || type_b != F32 || type_c != F32) return fail(FAILED, "products that are not f32");
    return product<float>(
        handle, m, n, k, *x, {a, transposed_a != 0, lda, stride_a}, {b, transposed_b != 0, ldb, stride_b}, *y, {c, false, ldc, stride_c}, batch
    );
}
API int curandCreateGenerator(void** made, int) { return *made = malloc(1), 0; }
API int curandDestroyGenerator(void* generator) { return free(generator), 0; }
API int curandSetStream(void*, void*) { return 0; }
API int curandSetPseudoRandomGeneratorSeed(void*, unsigned long long) { return 0; }
