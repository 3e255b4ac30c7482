// NVRTC: the text is compiled by the computer's C++ compiler after what lets it take the kernels, and the image is the path of that
// library. `STAND_IN_EMULATION` names the file that comes first, `STAND_IN_FOLDER` where libraries go.
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
    const char *emulation = getenv("STAND_IN_EMULATION"), *folder = getenv("STAND_IN_FOLDER");
    if (!emulation || !folder) return fail(1, "STAND_IN_EMULATION and STAND_IN_FOLDER are not set");
    std::string source = std::string(folder) + "/kernels.cpp";
    program->image = std::string(folder) + "/kernels.so";
    FILE* file = fopen(source.c_str(), "w");
    if (!file) return fail(1, source.c_str());
    fprintf(file, "#include \"%s\"\n%s", emulation, program->text.c_str());
    fclose(file);
    const char* compiler = getenv("CXX");
    std::string command = std::string(compiler ? compiler : "c++") +
                          " -std=c++17 -O1 -fPIC -shared -ffp-contract=off -fno-strict-aliasing -w '" + source +
                          "' -o '" + program->image + "' 2>&1";
    FILE* pipe = popen(command.c_str(), "r");
    if (!pipe) return fail(1, "popen");
    char line[1024];
    while (fgets(line, sizeof(line), pipe)) program->log += line;
    return pclose(pipe) == 0 ? 0 : 6;
}
API int nvrtcGetProgramLogSize(Program* program, size_t* size) { return *size = program->log.size() + 1, 0; }
API int nvrtcGetProgramLog(Program* program, char* log) {
    return memcpy(log, program->log.c_str(), program->log.size() + 1), 0;
}
API int nvrtcGetCUBINSize(Program* program, size_t* size) { return *size = program->image.size() + 1, 0; }
API int nvrtcGetCUBIN(Program* program, char* image) {
    return memcpy(image, program->image.c_str(), program->image.size() + 1), 0;
}
