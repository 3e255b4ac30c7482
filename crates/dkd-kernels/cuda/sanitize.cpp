// Looks at every access that the kernels make while they are emulated, as compute-sanitizer's memcheck and racecheck do on a GPU.
//
// A file of its own beside emulate.h and the kernels' text, which is compiled so that it calls what is below: `__tsan_*` before each access
// (-fsanitize=thread, without the library that goes with it), `__ubsan_*` where an index, an address or a number is wrong.
//
// Two threads that use the same byte, one of them to write, must be ordered: by a barrier if they are of one block; if they are not, by a number
// that the first one's block has incremented with atomicInc after a barrier, and the second one's before a barrier. Shuffles order nothing.
// So the result does not depend on the order in which threads are emulated.

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <algorithm>
#include <string>
#include <unordered_map>
#include <vector>

struct dim3 {
    unsigned x, y, z;
};
// emulate.h's.
extern dim3 blockIdx, threadIdx, blockDim, gridDim;
namespace emulation {
extern unsigned generation;
}  // namespace emulation
extern "C" int emulate(void (*kernel)(const void*), const void* parameters, const unsigned* grid, const unsigned* block,
                       int barriers, int backwards);

#define HIDDEN __attribute__((visibility("hidden")))
// The linker's: the whole library, what it keeps for emulate.h, and what begins as zeros, which is the kernels' shared memory.
extern "C" {
extern char __ehdr_start[] HIDDEN, __start_emulation[] HIDDEN, __stop_emulation[] HIDDEN, __bss_start[] HIDDEN, _end[] HIDDEN;
}

namespace {

struct Range {
    uint64_t start, bytes;
};

struct Place {
    uint32_t launch, block, generation, thread;
    // Of the instruction, from the beginning of the library.
    uint32_t at;
};

// Of one word, or of one byte. Two readers are enough: whoever writes is not both.
struct Cell {
    Place writer, readers[2];
};

enum { PAGE = 4096, WORD = 4, MAX_PAGES = 4096, MAX_TOLD = 5 };
// A thread's variables are as near to whoever asks.
const uint64_t NEAR = 64 * 1024;

struct Page {
    uint64_t number;
    // The last launch that came here.
    uint32_t launch;
    Cell words[PAGE / WORD];
    // Instead of the words, from the first access to a part of one on, until the launch ends.
    Cell* bytes;
    uint32_t bytes_launch;
    ~Page() { delete[] bytes; }
};

// The last launch; what is of another is forgotten.
uint32_t launch;
std::unordered_map<uint64_t, Page*> pages;
Page* last_page;
// Of this launch.
std::vector<Page*> touched_pages;

// What a launch has used, for whoever asks.
struct Touched {
    uint64_t start, end, written;
};
std::vector<Touched> touched;

const Range* ranges;
size_t range_count, last_range;
Range parameter_range;

std::string told;
unsigned told_count;
std::unordered_map<uint64_t, bool> known;

uint64_t address_of(const char* symbol) { return (uint64_t)symbol; }

bool inside(const Range& range, uint64_t address, uint64_t bytes) {
    return address >= range.start && address - range.start + bytes <= range.bytes;
}

// Each thing once, and no more than a few.
__attribute__((format(printf, 2, 3))) void tell(uint64_t key, const char* format, ...) {
    if (!known.emplace(key, true).second || ++told_count > MAX_TOLD) return;
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    if (!told.empty()) told += "; ";
    told += text;
}

uint32_t thread() { return threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z); }
uint32_t block() { return blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z); }

enum Memory { PRIVATE, SHARED, GLOBAL, NOWHERE };

Memory memory_of(uint64_t address, uint64_t bytes, bool write) {
    if (last_range < range_count && inside(ranges[last_range], address, bytes)) return GLOBAL;
    size_t low = 0, high = range_count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (ranges[middle].start <= address) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    if (low > 0 && inside(ranges[low - 1], address, bytes)) {
        last_range = low - 1;
        return GLOBAL;
    }
    uint64_t stack = (uint64_t)__builtin_frame_address(0);
    if (inside({stack - NEAR, 2 * NEAR}, address, bytes)) return PRIVATE;
    if (address >= address_of(__start_emulation) && address < address_of(__stop_emulation)) return PRIVATE;
    if (address >= address_of(__bss_start) && address < address_of(_end)) return SHARED;
    bool constant = inside(parameter_range, address, bytes) ||
                    (address >= address_of(__ehdr_start) && address < address_of(__bss_start));
    return constant && !write ? PRIVATE : NOWHERE;
}

Page& page_of(uint64_t address) {
    uint64_t number = address / PAGE;
    if (!last_page || number != last_page->number) {
        Page*& page = pages[number];
        if (!page) page = new Page();
        page->number = number;
        last_page = page;
    }
    if (last_page->launch != launch) {
        last_page->launch = launch;
        touched_pages.push_back(last_page);
    }
    return *last_page;
}

// By number that is incremented: blocks that have done so, and after which barrier.
struct Released {
    uint32_t block, generation;
};
std::unordered_map<uint64_t, std::vector<Released>> released;
// What the running block has found there, and after which barrier.
std::unordered_map<uint32_t, uint32_t> acquired;
uint32_t acquired_block, acquired_generation;

bool ordered(const Place& before, const Place& now) {
    if (before.launch != now.launch) return true;
    if (before.block != now.block) {
        if (acquired_block != now.block || now.generation <= acquired_generation) return false;
        auto found = acquired.find(before.block);
        return found != acquired.end() && before.generation < found->second;
    }
    return before.generation != now.generation || before.thread == now.thread;
}

void race(const char* kinds, const Place& before, const Place& now, Memory memory) {
    const char* what = memory == SHARED ? "shared memory" : "memory";
    tell((uint64_t)before.at << 32 | now.at, "race in %s: %s, thread %u of block %u at +0x%x and thread %u of block %u at +0x%x", what,
         kinds, before.thread, before.block, before.at, now.thread, now.block, now.at);
}

void look(Cell& cell, Place now, bool write, Memory memory) {
    Place& writer = cell.writer;
    if (memory == SHARED) {
        // Every block has its own.
        Place* all[] = {&writer, &cell.readers[0], &cell.readers[1]};
        for (Place* place : all) {
            if (place->block != now.block) place->launch = 0;
        }
        if (!write && writer.launch != now.launch) {
            tell((uint64_t)now.at << 32, "thread %u of block %u reads shared memory at +0x%x that nobody has written", now.thread, now.block,
                 now.at);
        }
    }
    if (!ordered(writer, now)) race(write ? "two writes" : "a write and a read", writer, now, memory);
    if (write) {
        for (Place& reader : cell.readers) {
            if (!ordered(reader, now)) race("a read and a write", reader, now, memory);
            reader.launch = 0;
        }
        writer = now;
        return;
    }
    Place &first = cell.readers[0], &second = cell.readers[1];
    bool same_block = first.block == now.block && first.launch == now.launch;
    if (ordered(first, now)) {
        first = now;
    } else if (ordered(second, now) || (!same_block && second.block == first.block)) {
        // Of another block rather than another thread of the same.
        second = now;
    }
}

void access(uint64_t address, uint64_t bytes, bool write, void* from) {
    uint32_t at = (uint32_t)((uint64_t)from - address_of(__ehdr_start));
    Memory memory = memory_of(address, bytes, write);
    if (memory == PRIVATE) return;
    Place now = {launch, block(), emulation::generation, thread(), at};
    if (memory == NOWHERE) {
        const char* kind = write ? "writes" : "reads";
        tell((uint64_t)at << 32 | 1, "thread %u of block %u %s %llu bytes at +0x%x that are in no memory", now.thread, now.block, kind,
             (unsigned long long)bytes, at);
        return;
    }
    for (uint64_t a = address; a < address + bytes;) {
        Page& page = page_of(a);
        bool whole = a % WORD == 0 && a + WORD <= address + bytes;
        if (!whole && page.bytes_launch != launch) {
            if (!page.bytes) page.bytes = new Cell[PAGE]();
            for (int i = 0; i < PAGE; i++) page.bytes[i] = page.words[i / WORD];
            page.bytes_launch = launch;
        }
        uint64_t offset = a % PAGE;
        if (page.bytes_launch == launch) {
            look(page.bytes[offset], now, write, memory);
            a++;
        } else {
            look(page.words[offset / WORD], now, write, memory);
            a += WORD;
        }
    }
}

void note(const Cell& cell, uint64_t start, uint64_t bytes) {
    bool written = cell.writer.launch == launch;
    if (!written && cell.readers[0].launch != launch && cell.readers[1].launch != launch) return;
    if (!touched.empty() && touched.back().end == start && touched.back().written == written) {
        touched.back().end += bytes;
    } else {
        touched.push_back({start, start + bytes, written});
    }
}

}  // namespace

extern "C" {
HIDDEN unsigned sanitized_increment(unsigned* p, unsigned most) {
    uint32_t now = block();
    if (memory_of((uint64_t)p, sizeof(*p), true) != GLOBAL) {
        tell((uint64_t)p, "thread %u of block %u increments a number that is in no memory", thread(), now);
        return 0;
    }
    auto& blocks = released[(uint64_t)p];
    if (acquired_block != now) acquired.clear();
    for (const Released& other : blocks) acquired[other.block] = other.generation;
    acquired_block = now;
    acquired_generation = emulation::generation;
    blocks.push_back({now, emulation::generation});
    unsigned old = *p;
    *p = old >= most ? 0 : old + 1;
    return old;
}

#define FROM __builtin_return_address(0)
#define ACCESS(bytes)                                                                                \
    HIDDEN void __tsan_read##bytes(void* p) { access((uint64_t)p, bytes, false, FROM); }             \
    HIDDEN void __tsan_write##bytes(void* p) { access((uint64_t)p, bytes, true, FROM); }             \
    HIDDEN void __tsan_unaligned_read##bytes(void* p) { access((uint64_t)p, bytes, false, FROM); }   \
    HIDDEN void __tsan_unaligned_write##bytes(void* p) { access((uint64_t)p, bytes, true, FROM); }
ACCESS(1)
ACCESS(2)
ACCESS(4)
ACCESS(8)
ACCESS(16)
HIDDEN void __tsan_read_range(void* p, size_t bytes) { access((uint64_t)p, bytes, false, FROM); }
HIDDEN void __tsan_write_range(void* p, size_t bytes) { access((uint64_t)p, bytes, true, FROM); }
HIDDEN void __tsan_func_entry(void*) {}
HIDDEN void __tsan_func_exit() {}
HIDDEN void __tsan_init() {}
// clang's.
HIDDEN void* __tsan_memcpy(void* to, const void* from, size_t bytes) {
    access((uint64_t)from, bytes, false, FROM);
    access((uint64_t)to, bytes, true, FROM);
    return memcpy(to, from, bytes);
}
HIDDEN void* __tsan_memset(void* to, int value, size_t bytes) {
    access((uint64_t)to, bytes, true, FROM);
    return memset(to, value, bytes);
}

struct Source {
    const char* file;
    uint32_t line, column;
};
#define WRONG(handler, what)                                                                                        \
    HIDDEN void __ubsan_handle_##handler(const Source* source, ...) {                                               \
        tell((uint64_t)source, "%s:%u: %s, thread %u of block %u", source->file, source->line, what, thread(), block()); \
    }
WRONG(out_of_bounds, "an index is outside of its array")
WRONG(type_mismatch_v1, "an address is no multiple of what is read or written there")
WRONG(shift_out_of_bounds, "a shift by as many bits as there are, or more")
WRONG(divrem_overflow, "a division by zero")
WRONG(float_cast_overflow, "a number does not fit into the integer that it becomes")
WRONG(add_overflow, "a sum of signed integers overflows")
WRONG(sub_overflow, "a difference of signed integers overflows")
WRONG(mul_overflow, "a product of signed integers overflows")
WRONG(negate_overflow, "a negated integer overflows")

// As `emulate`, with all memory there is, in its order: 2 if something was wrong, which `said` then says.
__attribute__((visibility("default"))) int emulate_sanitized(void (*kernel)(const void*), const void* parameters, size_t parameter_bytes,
                                                             const unsigned* grid, const unsigned* block, int barriers, int backwards,
                                                             const uint64_t* memory, size_t memory_count, const char** said) {
    launch++;
    touched_pages.clear();
    released.clear();
    acquired.clear();
    acquired_block = ~0u;
    if (pages.size() > MAX_PAGES) {
        for (auto& page : pages) delete page.second;
        pages.clear();
        last_page = nullptr;
    }
    ranges = (const Range*)memory;
    range_count = memory_count;
    last_range = 0;
    parameter_range = {(uint64_t)parameters, parameter_bytes};
    told.clear();
    told_count = 0;
    known.clear();
    int code = emulate(kernel, parameters, grid, block, barriers, backwards);
    *said = told.c_str();
    return code == 0 && told_count > 0 ? 2 : code;
}

// What the last launch has read, and what it has written, of the machine's memory: begin, end, and whether it was written.
__attribute__((visibility("default"))) size_t emulate_touched(const uint64_t** all) {
    touched.clear();
    auto before = [](const Page* a, const Page* b) { return a->number < b->number; };
    std::sort(touched_pages.begin(), touched_pages.end(), before);
    uint64_t library = address_of(__ehdr_start) / PAGE, library_end = address_of(_end) / PAGE;
    for (const Page* page : touched_pages) {
        if (page->number >= library && page->number <= library_end) continue;
        bool words = page->bytes_launch != launch;
        for (uint64_t i = 0; i < PAGE; i += words ? WORD : 1) {
            note(words ? page->words[i / WORD] : page->bytes[i], page->number * PAGE + i, words ? WORD : 1);
        }
    }
    *all = (const uint64_t*)touched.data();
    return touched.size();
}
}
