// Of cuBLAS and cuRAND as much as candle asks for when it makes a device.
#include "shared.h"

API int cublasCreate_v2(void** made) { return *made = malloc(1), 0; }
API int cublasDestroy_v2(void* handle) { return free(handle), 0; }
API int cublasSetStream_v2(void*, void*) { return 0; }
API int curandCreateGenerator(void** made, int) { return *made = malloc(1), 0; }
API int curandDestroyGenerator(void* generator) { return free(generator), 0; }
API int curandSetStream(void*, void*) { return 0; }
API int curandSetPseudoRandomGeneratorSeed(void*, unsigned long long) { return 0; }
