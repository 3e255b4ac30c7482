// A driver that is not there: cuDNN opens it and looks its functions up before it answers anything, also where none of them is called.
#define ABSENT(name) \
    int name(void) { return 100; }
ABSENT(cuCtxGetCurrent)
ABSENT(cuCtxGetLimit)
ABSENT(cuCtxPopCurrent)
ABSENT(cuCtxPushCurrent)
ABSENT(cuDeviceGet)
ABSENT(cuDeviceGetCount)
ABSENT(cuDriverGetVersion)
ABSENT(cuGetErrorName)
ABSENT(cuGetErrorString)
ABSENT(cuKernelGetAttribute)
ABSENT(cuLaunchCooperativeKernel)
ABSENT(cuLaunchKernel)
ABSENT(cuLaunchKernelEx)
ABSENT(cuLibraryLoadFromFile)
ABSENT(cuLinkAddData)
ABSENT(cuLinkComplete)
ABSENT(cuLinkCreate)
ABSENT(cuLinkDestroy)
ABSENT(cuModuleGetFunction)
ABSENT(cuModuleLoadData)
ABSENT(cuModuleUnload)
ABSENT(cuOccupancyMaxPotentialClusterSize)
ABSENT(cuStreamGetCtx)
ABSENT(cuTensorMapEncodeIm2col)
ABSENT(cuTensorMapEncodeTiled)

// What cuDNN compiles is taken, as nothing is run: a plan that was compiled is one.
int cuLibraryLoadData(void** library, const void* code, void* options, void* values, unsigned count, void* others, void* more, unsigned n) {
    (void)code, (void)options, (void)values, (void)count, (void)others, (void)more, (void)n;
    *library = library;
    return 0;
}
int cuLibraryUnload(void* library) { return (void)library, 0; }
int cuLibraryGetKernel(void** kernel, void* library, const char* name) {
    (void)library, (void)name;
    *kernel = kernel;
    return 0;
}
int cuKernelGetFunction(void** function, void* kernel) { return *function = kernel, 0; }
int cuKernelSetAttribute(int attribute, int value, void* kernel, int device) {
    (void)attribute, (void)value, (void)kernel, (void)device;
    return 0;
}
