// The driver: one device whose memory is the computer's. Work in a stream is done as late as is allowed, so that whoever does not
// wait for it sees the old numbers; new memory is full of NaN; a graph runs in an order that its edges allow and nobody expects.
#include "shared.h"

#include <dlfcn.h>

#include <algorithm>
#include <thread>

using namespace stand_in;

namespace stand_in {

std::recursive_mutex lock;

static std::map<uint64_t, size_t> device_memory, pinned_memory;
static std::set<Stream*> streams;
static size_t used, most;
static const size_t TOTAL = (size_t)8 << 30;
// The graph that this thread records, unless its mode lets everything pass.
static thread_local Graph* recorded;
static thread_local int mode = 1;
static const int RELAXED = 2;

int fail(int code, const char* what) {
    fprintf(stderr, "stand-in for CUDA: %s (%d)\n", what, code);
    return code;
}

static bool covers(const std::map<uint64_t, size_t>& all, uint64_t address, size_t bytes) {
    auto next = all.upper_bound(address);
    if (next == all.begin()) return false;
    auto block = std::prev(next);
    return address + bytes <= block->first + block->second;
}

bool inside(uint64_t address, size_t bytes) { return bytes == 0 || covers(device_memory, address, bytes); }

bool Graph::follows(int late, int early) const {
    std::vector<int> open = {late};
    std::set<int> seen;
    while (!open.empty()) {
        int node = open.back();
        open.pop_back();
        if (node == early) return true;
        if (node < early || !seen.insert(node).second) continue;
        for (int before : nodes[node].after) open.push_back(before);
    }
    return false;
}

void Stream::run_until(uint64_t count) {
    while (done < count && !waiting.empty()) {
        Work work = std::move(waiting.front());
        waiting.pop_front();
        done++;
        work();
    }
}

int add(Stream* stream, Work work, Kind kind, uint64_t scratch) {
    if (!streams.count(stream)) return fail(INVALID_VALUE, "a stream that does not exist");
    if (!stream->graph) {
        stream->waiting.push_back(std::move(work));
        stream->pushed++;
        return SUCCESS;
    }
    Graph* graph = stream->graph;
    stream->kind = kind;
    graph->nodes.push_back({std::move(work), stream->last, scratch, kind});
    stream->last = {(int)graph->nodes.size() - 1};
    return SUCCESS;
}

// Calls that a recording thread must not make: they make the recording void.
static int forbidden(const char* call) {
    if (!recorded || mode == RELAXED) return SUCCESS;
    recorded->broken = true;
    return fail(CAPTURE_UNSUPPORTED, call);
}

static void run_all() {
    for (Stream* stream : streams) stream->run_until(UINT64_MAX);
}

static int allocate(uint64_t* address, size_t bytes) {
    if (bytes == 0) return fail(INVALID_VALUE, "memory of no bytes");
    if (used + bytes > TOTAL) return OUT_OF_MEMORY;
    void* memory = aligned_alloc(256, (bytes + 255) / 256 * 256);
    if (!memory) return OUT_OF_MEMORY;
    // Not a number, in every type.
    memset(memory, 0xff, bytes);
    used += bytes;
    most = std::max(most, used);
    *address = (uint64_t)memory;
    device_memory[*address] = bytes;
    return SUCCESS;
}

// Memory is counted until it is given back, and there for as long as it is used.
static void returned(uint64_t address) {
    auto block = device_memory.find(address);
    if (block != device_memory.end()) used -= block->second;
}

static int release(uint64_t address) {
    auto block = device_memory.find(address);
    if (block == device_memory.end()) return fail(INVALID_VALUE, "memory is freed that is not there");
    memset((void*)address, 0xff, block->second);
    device_memory.erase(block);
    free((void*)address);
    return SUCCESS;
}

}  // namespace stand_in

#define LOCKED std::lock_guard<std::recursive_mutex> locked(lock)
#define ALLOWED(call)                      \
    LOCKED;                                \
    if (int code = forbidden(call)) return code

API int cuInit(unsigned) { return SUCCESS; }
API int cuDriverGetVersion(int* version) { return *version = 13000, SUCCESS; }
API int cuDeviceGetCount(int* count) { return *count = 1, SUCCESS; }
API int cuDeviceGet(int* device, int ordinal) {
    return ordinal == 0 ? (*device = 0, SUCCESS) : INVALID_DEVICE;
}
API int cuDeviceGetName(char* name, int size, int) { return snprintf(name, size, "stand-in"), SUCCESS; }
API int cuDeviceTotalMem_v2(size_t* bytes, int) { return *bytes = TOTAL, SUCCESS; }
API int cuDeviceGetAttribute(int* value, int attribute, int) {
    // Compute capability 9.0; whatever else is asked for is there.
    *value = attribute == 75 ? 9 : attribute == 76 ? 0 : 1;
    return SUCCESS;
}
static int context;
static thread_local void* current;
API int cuDevicePrimaryCtxRetain(void** made, int) { return *made = &context, SUCCESS; }
API int cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
API int cuCtxSetCurrent(void* made) { return current = made, SUCCESS; }
API int cuCtxGetCurrent(void** made) { return *made = current, SUCCESS; }
API int cuCtxSynchronize() {
    ALLOWED("cuCtxSynchronize");
    return run_all(), SUCCESS;
}
API int cuGetErrorName(int code, const char** name) {
    static thread_local char text[32];
    snprintf(text, sizeof(text), "error %d", code);
    return *name = text, SUCCESS;
}
API int cuGetErrorString(int code, const char** text) { return cuGetErrorName(code, text); }

API int cuMemAlloc_v2(uint64_t* address, size_t bytes) {
    ALLOWED("cuMemAlloc");
    return allocate(address, bytes);
}
API int cuMemFree_v2(uint64_t address) {
    ALLOWED("cuMemFree");
    run_all();
    returned(address);
    return release(address);
}
API int cuMemAllocAsync(uint64_t* address, size_t bytes, Stream* stream) {
    LOCKED;
    if (stream->graph) return fail(CAPTURE_UNSUPPORTED, "memory is asked for in a recorded step");
    return allocate(address, bytes);
}
API int cuMemFreeAsync(uint64_t address, Stream* stream) {
    LOCKED;
    // What is asked for next in this stream may have it at once.
    returned(address);
    return add(stream, [=] { release(address); });
}
API int cuMemGetInfo_v2(size_t* left, size_t* total) { return *left = TOTAL - used, *total = TOTAL, SUCCESS; }
API int cuMemHostAlloc(void** memory, size_t bytes, unsigned) {
    ALLOWED("cuMemHostAlloc");
    *memory = malloc(bytes);
    pinned_memory[(uint64_t)*memory] = bytes;
    return SUCCESS;
}
API int cuMemFreeHost(void* memory) {
    ALLOWED("cuMemFreeHost");
    run_all();
    if (!pinned_memory.erase((uint64_t)memory)) return fail(INVALID_VALUE, "pinned memory is freed twice");
    return free(memory), SUCCESS;
}

API int cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t bytes, Stream* stream) {
    LOCKED;
    if (!inside(to, bytes)) return fail(ILLEGAL_ADDRESS, "a copy to the device");
    if (covers(pinned_memory, (uint64_t)from, bytes)) {
        return add(stream, [=] { memcpy((void*)to, from, bytes); });
    }
    if (stream->graph) return fail(CAPTURE_UNSUPPORTED, "a copy from memory that is not pinned");
    std::string taken((const char*)from, bytes);
    return add(stream, [=] { memcpy((void*)to, taken.data(), bytes); });
}
API int cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t bytes, Stream* stream) {
    LOCKED;
    if (!inside(from, bytes)) return fail(ILLEGAL_ADDRESS, "a copy from the device");
    bool pinned = covers(pinned_memory, (uint64_t)to, bytes);
    if (!pinned && stream->graph) return fail(CAPTURE_UNSUPPORTED, "a copy to memory that is not pinned");
    int code = add(stream, [=] { memcpy(to, (const void*)from, bytes); });
    // The driver promises to have copied when it returns, and cudarc counts on it.
    if (!pinned && !code) stream->run_until(UINT64_MAX);
    return code;
}
API int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, Stream* stream) {
    LOCKED;
    if (!inside(from, bytes) || !inside(to, bytes)) return fail(ILLEGAL_ADDRESS, "a copy on the device");
    return add(stream, [=] { memcpy((void*)to, (const void*)from, bytes); });
}
API int cuMemsetD8Async(uint64_t to, unsigned char value, size_t bytes, Stream* stream) {
    LOCKED;
    if (!inside(to, bytes)) return fail(ILLEGAL_ADDRESS, "memory is set");
    return add(stream, [=] { memset((void*)to, value, bytes); });
}

API int cuStreamCreate(Stream** made, unsigned) {
    ALLOWED("cuStreamCreate");
    streams.insert(*made = new Stream);
    return SUCCESS;
}
API int cuStreamDestroy_v2(Stream* stream) {
    LOCKED;
    stream->run_until(UINT64_MAX);
    streams.erase(stream);
    return delete stream, SUCCESS;
}
API int cuStreamSynchronize(Stream* stream) {
    ALLOWED("cuStreamSynchronize");
    return stream->run_until(UINT64_MAX), SUCCESS;
}
API int cuStreamIsCapturing(Stream* stream, int* is) { return *is = stream->graph ? 1 : 0, SUCCESS; }
API int cuEventCreate(Event** made, unsigned) { return *made = new Event, SUCCESS; }
API int cuEventDestroy_v2(Event* event) { return delete event, SUCCESS; }
API int cuEventRecord(Event* event, Stream* stream) {
    LOCKED;
    if (!streams.count(stream)) return fail(INVALID_VALUE, "an event in a stream that does not exist");
    *event = {stream, stream->pushed, stream->graph, stream->last};
    return SUCCESS;
}
API int cuEventQuery(Event* event) {
    ALLOWED("cuEventQuery");
    return event->stream && event->stream->done < event->at ? 600 : SUCCESS;
}
API int cuEventSynchronize(Event* event) {
    ALLOWED("cuEventSynchronize");
    if (event->graph) return fail(CAPTURE_UNSUPPORTED, "an event of a recorded step is waited for");
    if (event->stream) event->stream->run_until(event->at);
    return SUCCESS;
}
API int cuStreamWaitEvent(Stream* stream, Event* event, unsigned) {
    LOCKED;
    if (event->graph) {
        if (stream->graph && stream->graph != event->graph) {
            return fail(CAPTURE_ISOLATION, "two recordings wait for each other");
        }
        stream->graph = event->graph;
        stream->graph->streams.insert(stream);
        stream->kind = OTHER;
        stream->last.insert(stream->last.end(), event->after.begin(), event->after.end());
        return SUCCESS;
    }
    if (stream->graph) return fail(CAPTURE_ISOLATION, "a recorded step waits for an event from before");
    Event seen = *event;
    return add(stream, [=] {
        if (seen.stream) seen.stream->run_until(seen.at);
    });
}

// What was recorded, told at the end for whoever wants to know: kernels that may begin ahead of their time, and the most streams of a step; and the
// most memory that there was.
static struct Told {
    unsigned begun_ahead = 0;
    size_t streams = 0;
    ~Told() {
        if (getenv("STAND_IN_TELLS")) printf("stand-in: [%u, %zu, %zu]\n", begun_ahead, streams, most);
    }
} told;

API int cuThreadExchangeStreamCaptureMode(int* exchanged) { return std::swap(mode, *exchanged), SUCCESS; }
API int cuStreamBeginCapture_v2(Stream* stream, int) {
    LOCKED;
    if (stream->graph || recorded) return fail(CAPTURE_UNMATCHED, "recording has begun already");
    recorded = stream->graph = new Graph;
    stream->graph->streams.insert(stream);
    stream->origin = true;
    stream->last.clear();
    stream->kind = OTHER;
    return SUCCESS;
}
API int cuStreamGetCaptureInfo_v3(
    Stream* stream, int* status, uint64_t* id, Graph** graph, Node* const** nodes, const void** edges, size_t* count
) {
    LOCKED;
    static std::vector<Node*> last;
    static const char kinds[64] = {};
    last.clear();
    for (int node : stream->last) last.push_back(&stream->graph->nodes[node]);
    enum { NOT_RECORDED = 0, RECORDED = 1 };
    *status = stream->graph ? RECORDED : NOT_RECORDED;
    return *id = 1, *graph = stream->graph, *nodes = last.data(), *edges = kinds, *count = last.size(), SUCCESS;
}
API int cuGraphNodeGetType(Node* node, int* type) {
    LOCKED;
    enum { KERNEL_NODE = 0, MEMSET_NODE = 2 };
    return *type = node->kind == OTHER ? MEMSET_NODE : KERNEL_NODE, SUCCESS;
}
API int cuStreamEndCapture(Stream* stream, Graph** made) {
    LOCKED;
    if (stream->graph) told.streams = std::max(told.streams, stream->graph->streams.size());
    *made = nullptr;
    Graph* graph = stream->graph;
    if (!graph || !stream->origin) return fail(CAPTURE_UNMATCHED, "recording has not begun in this stream");
    int code = graph->broken ? CAPTURE_INVALIDATED : SUCCESS;
    for (Stream* other : graph->streams) {
        for (int node : other->last) {
            bool joined = false;
            for (int last : stream->last) joined = joined || graph->follows(last, node);
            if (!joined && !code) code = fail(CAPTURE_UNJOINED, "a branch was not joined");
        }
    }
    std::map<uint64_t, int> users;
    for (int i = 0; i < (int)graph->nodes.size(); i++) {
        uint64_t scratch = graph->nodes[i].scratch;
        if (!scratch) continue;
        auto before = users.find(scratch);
        if (before != users.end() && !graph->follows(i, before->second) && !code) {
            code = fail(INVALID_VALUE, "two branches share a workspace");
        }
        users[scratch] = i;
    }
    for (Stream* other : graph->streams) {
        other->graph = nullptr;
        other->last.clear();
        other->origin = false;
    }
    recorded = nullptr;
    if (code) return delete graph, code;
    return *made = graph, SUCCESS;
}
API int cuGraphInstantiateWithFlags(Graph** made, Graph* graph, uint64_t) {
    ALLOWED("cuGraphInstantiate");
    if (graph->refused) return fail(INVALID_VALUE, "a graph with kernels that may begin ahead: refused");
    return *made = new Graph(*graph), SUCCESS;
}
API int cuGraphUpload(Graph*, Stream*) {
    ALLOWED("cuGraphUpload");
    return SUCCESS;
}
API int cuGraphLaunch(Graph* graph, Stream* stream) {
    ALLOWED("cuGraphLaunch");
    // The latest node that may run comes first.
    return add(stream, [graph] {
        size_t count = graph->nodes.size();
        std::vector<std::vector<int>> next(count);
        std::vector<int> missing(count);
        std::set<int> ready;
        for (size_t i = 0; i < count; i++) {
            missing[i] = (int)graph->nodes[i].after.size();
            for (int before : graph->nodes[i].after) next[before].push_back((int)i);
            if (!missing[i]) ready.insert((int)i);
        }
        while (!ready.empty()) {
            int node = *ready.rbegin();
            ready.erase(node);
            graph->nodes[node].work();
            for (int after : next[node]) {
                if (--missing[after] == 0) ready.insert(after);
            }
        }
    });
}
API int cuGraphExecDestroy(Graph* graph) {
    ALLOWED("cuGraphExecDestroy");
    run_all();
    return delete graph, SUCCESS;
}
API int cuGraphDestroy(Graph* graph) { return delete graph, SUCCESS; }

// Code: the image is the path of a library that nvrtc.cpp has made, or candle's assembly.
typedef int (*Emulate)(void (*)(const void*), const void*, const unsigned*, const unsigned*, int, int);
struct Function {
    void (*kernel)(const void*);
    Emulate emulate;
    // Bytes of each parameter.
    std::vector<unsigned> parameters;
    // Whether threads may wait for each other.
    int waits;
};

API int cuModuleLoadData(void** module, const void* image) {
    ALLOWED("cuModuleLoadData");
    std::string library = (const char*)image, log;
    if (library.find('\n') != std::string::npos && !candles_library((const char*)image, library, log)) return fail(INVALID_IMAGE, log.c_str());
    *module = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
    return *module ? SUCCESS : fail(INVALID_IMAGE, dlerror());
}
API int cuModuleUnload(void*) { return SUCCESS; }
API int cuModuleGetFunction(Function** made, void* module, const char* name) {
    LOCKED;
    auto find = [=](const char* end) { return dlsym(module, (std::string(name) + end).c_str()); };
    void *kernel = find(""), *size = find("_size"), *emulate = dlsym(module, "emulate");
    std::vector<unsigned> parameters(1);
    if (size) {
        parameters[0] = *(const unsigned*)size;
    } else if (auto tell = (unsigned (*)(unsigned*))find("_parameters")) {
        kernel = find("_emulated");
        parameters.resize(64);
        parameters.resize(tell(parameters.data()));
    } else {
        return NOT_FOUND;
    }
    if (!kernel || !emulate) return NOT_FOUND;
    const int* waits = (const int*)dlsym(module, "waits");
    *made = new Function{(void (*)(const void*))kernel, (Emulate)emulate, parameters, waits ? *waits : 1};
    return SUCCESS;
}
API int cuFuncLoad(Function*) {
    ALLOWED("cuFuncLoad");
    return SUCCESS;
}
API int cuFuncGetParamInfo(Function* function, size_t index, size_t* offset, size_t* bytes) {
    if (index > 0) return INVALID_VALUE;
    return *offset = 0, *bytes = function->parameters[0], SUCCESS;
}
// The driver's structures, as far as they are used.
struct LaunchAttribute {
    int id;
    char pad[4];
    union {
        int allowed;
        char all[64];
    };
};
struct LaunchConfig {
    unsigned gx, gy, gz, bx, by, bz, shared;
    Stream* stream;
    LaunchAttribute* attributes;
    unsigned count;
};
enum { PROGRAMMATIC_STREAM_SERIALIZATION = 6 };

API int cuLaunchKernelEx(const LaunchConfig* config, Function* function, void** parameters, void**) {
    LOCKED;
    unsigned gx = config->gx, gy = config->gy, gz = config->gz, bx = config->bx, by = config->by, bz = config->bz;
    Stream* stream = config->stream;
    if (config->shared || config->count > 1) return fail(INVALID_VALUE, "what a launch is told");
    if (config->count == 1) {
        const LaunchAttribute& ahead = config->attributes[0];
        if (ahead.id != PROGRAMMATIC_STREAM_SERIALIZATION || ahead.allowed != 1) return fail(INVALID_VALUE, "an attribute of a launch");
        const char* refused = getenv("STAND_IN_REFUSES_AHEAD");
        bool after_library = stream->kind == LIBRARYS_KERNEL;
        if (refused && (!strcmp(refused, "of all") || (!strcmp(refused, "of convolutions") && after_library))) {
            return fail(INVALID_VALUE, "a kernel that may begin ahead: refused");
        }
        if (refused && !strcmp(refused, "of convolutions, late") && after_library) stream->graph->refused = true;
        bool follows = stream->graph && stream->kind != OTHER && stream->last.size() == 1;
        if (!follows) {
            // Not only an error: whoever gets one may try again without.
            fail(INVALID_VALUE, "a kernel that may begin ahead of something else than a kernel");
            abort();
        }
        told.begun_ahead++;
    }
    bool fits = gx && gy && gz && bx && by && bz && gx <= 0x7fffffff && gy <= 65535 && gz <= 65535 &&
                (uint64_t)bx * by * bz <= 1024 && bz <= 64;
    if (!fits) return fail(INVALID_VALUE, "sizes of a launch");
    // As many as are needed for an alignment of 8.
    std::vector<uint64_t> copy;
    for (size_t i = 0; i < function->parameters.size(); i++) {
        size_t begin = copy.size(), bytes = function->parameters[i];
        copy.resize(begin + (bytes + 7) / 8);
        memcpy(copy.data() + begin, parameters[i], bytes);
    }
    Function f = *function;
    return add(stream, [=] {
        unsigned grid[3] = {gx, gy, gz}, block[3] = {bx, by, bz};
        if (f.emulate(f.kernel, copy.data(), grid, block, f.waits, 0)) {
            fail(INVALID_VALUE, "the threads of a block wait for each other for ever");
            abort();
        }
    }, KERNEL);
}
API int cuLaunchKernel(
    Function* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, Stream* stream,
    void** parameters, void**
) {
    LaunchConfig config = {gx, gy, gz, bx, by, bz, shared, stream, nullptr, 0};
    return cuLaunchKernelEx(&config, function, parameters, nullptr);
}
