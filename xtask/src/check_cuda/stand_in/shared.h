// What the stand-ins for NVIDIA's libraries share: memory, streams that do their work late, recorded graphs.
#pragma once
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#define API extern "C" __attribute__((visibility("default")))

namespace stand_in {

typedef std::function<void()> Work;

// The numbers are the driver's.
enum Result {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    INVALID_DEVICE = 101,
    INVALID_IMAGE = 200,
    NOT_FOUND = 500,
    ILLEGAL_ADDRESS = 700,
    CAPTURE_UNSUPPORTED = 900,
    CAPTURE_INVALIDATED = 901,
    CAPTURE_UNMATCHED = 903,
    CAPTURE_UNJOINED = 904,
    CAPTURE_ISOLATION = 905,
};

// What recorded work is: a kernel of the caller's, one of a library's, or something else.
enum Kind { OTHER, KERNEL, LIBRARYS_KERNEL };

struct Node {
    Work work;
    std::vector<int> after;
    // What it uses on its way: two nodes with the same must not run side by side.
    uint64_t scratch;
    Kind kind;
};

struct Graph {
    // Whoever has asked for one keeps its place.
    std::deque<Node> nodes;
    std::set<struct Stream*> streams;
    bool broken = false;
    // Whether it cannot be instantiated.
    bool refused = false;

    // Whether `late` runs after `early` in every order.
    bool follows(int late, int early) const;
};

struct Stream {
    std::deque<Work> waiting;
    uint64_t pushed = 0;
    uint64_t done = 0;
    // While it is recorded: the graph, and what the next node follows.
    Graph* graph = nullptr;
    std::vector<int> last;
    bool origin = false;
    // What was recorded here last, if nothing is waited for since.
    Kind kind = OTHER;

    void run_until(uint64_t count);
};

struct Event {
    Stream* stream = nullptr;
    uint64_t at = 0;
    Graph* graph = nullptr;
    std::vector<int> after;
};

// One call at a time, as the work is one process's.
extern std::recursive_mutex lock;

// Says what went wrong, for whoever looks into a failed run, and gives the code back.
int fail(int code, const char* what);

// Puts work into a stream, or into the graph that it is recorded into.
int add(Stream* stream, Work work, Kind kind = OTHER, uint64_t scratch = 0);

// Makes a library of kernels' text: its path.
bool compile(const std::string& name, const std::string& text, std::string& library, std::string& log);
// Finds the library with kernels of candle's, of which there is assembly, or makes it.
bool candles_library(const std::string& assembly, std::string& library, std::string& log);

// Whether so many bytes at an address are memory of the device that is alive.
bool inside(uint64_t address, size_t bytes);

}  // namespace stand_in
