// Text of kernels becomes a library, by the computer's C++ compiler, after what lets it take them. `STAND_IN_EMULATION` names that file,
// `STAND_IN_FOLDER` where libraries go, and where headers are. candle's kernels come as NVIDIA's assembly, which says no more than their
// names: their text is in the folder that `STAND_IN_CANDLE` names.
#include "shared.h"

#include <dirent.h>
#include <unistd.h>

namespace stand_in {

static std::string setting(const char* name) {
    const char* value = getenv(name);
    if (!value) fail(INVALID_VALUE, name), abort();
    return value;
}

static bool write(const std::string& path, const std::string& text) {
    FILE* file = fopen(path.c_str(), "w");
    if (!file) return false;
    bool whole = fwrite(text.data(), 1, text.size(), file) == text.size();
    return fclose(file) == 0 && whole;
}

static std::string read(const std::string& path) {
    std::string text;
    FILE* file = fopen(path.c_str(), "r");
    if (!file) return text;
    char part[4096];
    for (size_t n; (n = fread(part, 1, sizeof(part), file)) > 0;) text.append(part, n);
    return fclose(file), text;
}

bool compile(const std::string& name, const std::string& text, std::string& library, std::string& log) {
    std::string base = setting("STAND_IN_FOLDER") + "/" + name, source = base + ".cpp";
    library = base + ".so";
    if (!write(source, "#include \"" + setting("STAND_IN_EMULATION") + "\"\n" + text)) return false;
    const char* compiler = getenv("CXX");
    std::string command = std::string(compiler ? compiler : "c++") +
                          " -std=c++17 -O1 -fPIC -shared -ffp-contract=off -fno-strict-aliasing -fno-gnu-unique -w -I '" +
                          setting("STAND_IN_FOLDER") + "/headers' '" + source + "' -o '" + library + "' 2>&1";
    FILE* pipe = popen(command.c_str(), "r");
    if (!pipe) return false;
    char line[1024];
    while (fgets(line, sizeof(line), pipe)) log += line;
    return pclose(pipe) == 0;
}

// The names of all kernels, but those of half precision and less.
static std::vector<std::string> kernels(const std::string& assembly) {
    static const std::string entry = ".entry ";
    std::vector<std::string> all;
    for (size_t at = 0; (at = assembly.find(entry, at)) != std::string::npos;) {
        at += entry.size();
        std::string name = assembly.substr(at, assembly.find('(', at) - at);
        if (name.find("f16") == std::string::npos && name.find("f8") == std::string::npos) all.push_back(name);
    }
    return all;
}

// Whether a word is in a text.
static bool has(const std::string& text, const std::string& word) {
    auto is_part = [](char c) { return isalnum((unsigned char)c) || c == '_'; };
    for (size_t at = 0; (at = text.find(word, at)) != std::string::npos; at++) {
        size_t end = at + word.size();
        if ((at == 0 || !is_part(text[at - 1])) && (end == text.size() || !is_part(text[end]))) return true;
    }
    return false;
}

bool candles_library(const std::string& assembly, std::string& library, std::string& log) {
    std::vector<std::string> names = kernels(assembly);
    std::string folder = setting("STAND_IN_CANDLE"), found;
    DIR* files = opendir(folder.c_str());
    while (dirent* file = files ? readdir(files) : nullptr) {
        std::string name = file->d_name;
        bool is_source = name.size() > 3 && name.substr(name.size() - 3) == ".cu";
        if (is_source && !names.empty() && has(read(folder + "/" + name), names[0])) found = name;
    }
    if (files) closedir(files);
    if (found.empty()) return log = "there is no text of such kernels in " + folder, false;
    std::string name = "candle-" + found.substr(0, found.size() - 3);
    library = setting("STAND_IN_FOLDER") + "/" + name + ".so";
    if (access(library.c_str(), R_OK) == 0) return true;
    std::string source = read(folder + "/" + found);
    bool waits = source.find("__syncthreads") != std::string::npos || source.find("__shfl") != std::string::npos;
    std::string text = "#include \"candle.h\"\n#include \"" + folder + "/" + found + "\"\n";
    for (const std::string& kernel : names) text += "KERNEL(" + kernel + ")\n";
    // Threads that do not wait for each other are faster one after the other.
    text += std::string("EXPORTED const int waits = ") + (waits ? "1;\n" : "0;\n");
    return compile(name, text, library, log);
}

}  // namespace stand_in
