// NVRTC: the image is the path of a library.
#include "shared.h"

using namespace stand_in;

struct Program {
    std::string text, image, log;
};

API int nvrtcVersion(int* major, int* minor) { return *major = 13, *minor = 999, 0; }
API int nvrtcGetNumSupportedArchs(int* count) { return *count = 2, 0; }
API int nvrtcGetSupportedArchs(int* all) { return all[0] = 80, all[1] = 90, 0; }
API const char* nvrtcGetErrorString(int code) { return code == 6 ? "compilation failed" : "failed"; }
API int nvrtcCreateProgram(Program** made, const char* text, const char*, int, const char* const*, const char* const*) {
    return *made = new Program{text, "", ""}, 0;
}
API int nvrtcDestroyProgram(Program** program) { return delete *program, *program = nullptr, 0; }
API int nvrtcCompileProgram(Program* program, int, const char* const*) {
    std::lock_guard<std::recursive_mutex> locked(lock);
    return compile("kernels", program->text, program->image, program->log) ? 0 : 6;
}
API int nvrtcGetProgramLogSize(Program* program, size_t* size) { return *size = program->log.size() + 1, 0; }
API int nvrtcGetProgramLog(Program* program, char* log) {
    return memcpy(log, program->log.c_str(), program->log.size() + 1), 0;
}
API int nvrtcGetCUBINSize(Program* program, size_t* size) { return *size = program->image.size() + 1, 0; }
API int nvrtcGetCUBIN(Program* program, char* image) {
    return memcpy(image, program->image.c_str(), program->image.size() + 1), 0;
}
