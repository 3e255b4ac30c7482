// Lets a C++ compiler take the kernels: blocks one after the other, the threads of a block as fibers that a barrier switches between.

#define EMULATED
#include <math.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#define __global__
#define __device__
#define __forceinline__ inline
#define __restrict__
#define __shared__ static
#define __launch_bounds__(...)
// Nothing else is: a variable within a template would be one for all libraries of a process.
#define EXPORTED extern "C" __attribute__((visibility("default")))

// What the emulation needs itself. sanitize.cpp reads it, and must tell it from the kernels' memory.
#ifdef SANITIZED
#define OWN __attribute__((section("emulation")))
#else
#define OWN static
#endif

struct dim3 {
    unsigned x, y, z;
};
OWN dim3 blockIdx, threadIdx, blockDim, gridDim;

namespace emulation {
enum { MAX_THREADS = 1024, STACK = 64 * 1024, WARP = 32, EXCHANGED = 32 };
// A fiber is made once, and from then on runs a thread of one block after another: jumps cost nothing, contexts a call to the system.
OWN ucontext_t fiber;
OWN jmp_buf scheduler, places_in[MAX_THREADS];
OWN bool made[MAX_THREADS], done[MAX_THREADS];
OWN char* stacks;
OWN dim3 places[MAX_THREADS];
OWN unsigned threads, running;
OWN bool in_fibers;
// Whatever changes here, a round of all fibers was not in vain.
OWN unsigned long long progress;
OWN unsigned arrived, generation;
OWN unsigned warp_arrived[MAX_THREADS / WARP], warp_generation[MAX_THREADS / WARP];
// In turns: what is read of one is over before it is written again.
OWN char exchanged[2][MAX_THREADS][EXCHANGED];
OWN unsigned exchanges[MAX_THREADS];
OWN void (*kernel)(const void*);
OWN const void* parameters;

static void yield() {
    if (!_setjmp(places_in[running])) _longjmp(scheduler, 1);
}

static void entry() {
    for (;;) {
        kernel(parameters);
        done[running] = true;
        progress++;
        yield();
    }
}

static void resume(unsigned i) {
    running = i;
    if (_setjmp(scheduler)) return;
    if (made[i]) _longjmp(places_in[i], 1);
    made[i] = true;
    getcontext(&fiber);
    fiber.uc_stack.ss_sp = stacks + (size_t)i * STACK;
    fiber.uc_stack.ss_size = STACK;
    fiber.uc_link = 0;
    makecontext(&fiber, entry, 0);
    setcontext(&fiber);
}

static void wait(unsigned& count, unsigned& turn, unsigned all) {
    if (!in_fibers) {
        fprintf(stderr, "a kernel waits for other threads but is not listed as one that does\n");
        abort();
    }
    unsigned mine = turn;
    count++;
    progress++;
    if (count == all) {
        count = 0;
        turn++;
        return;
    }
    while (turn == mine) yield();
}

static void warp_barrier() {
    unsigned warp = running / WARP, first = warp * WARP;
    unsigned all = threads - first < WARP ? threads - first : WARP;
    wait(warp_arrived[warp], warp_generation[warp], all);
}

template <typename T>
static T shuffle(T x, unsigned from) {
    static_assert(sizeof(T) <= EXCHANGED, "more than a thread can give");
    unsigned self = running, turn = exchanges[self]++ % 2;
    memcpy(exchanged[turn][self], &x, sizeof(T));
    warp_barrier();
    T got = x;
    if (from < threads) memcpy(&got, exchanged[turn][from], sizeof(T));
    return got;
}

static dim3 place(unsigned i, dim3 size) {
    dim3 p = {i % size.x, i / size.x % size.y, i / size.x / size.y};
    return p;
}

// 0, or 1 if the fibers of a block wait for each other for ever.
static int block_in_fibers(bool backwards) {
    in_fibers = true;
    arrived = 0;
    memset(warp_arrived, 0, sizeof(warp_arrived));
    for (unsigned i = 0; i < threads; i++) {
        done[i] = false;
        exchanges[i] = 0;
        places[i] = place(i, blockDim);
    }
    unsigned left = threads;
    while (left > 0) {
        unsigned long long before = progress;
        for (unsigned k = 0; k < threads; k++) {
            unsigned i = backwards ? threads - 1 - k : k;
            if (done[i]) continue;
            threadIdx = places[i];
            resume(i);
            if (done[i]) left--;
        }
        if (left > 0 && progress == before) {
            // They are in the middle of a kernel, and cannot be used again.
            memset(made, 0, sizeof(made));
            in_fibers = false;
            return 1;
        }
    }
    in_fibers = false;
    return 0;
}
}  // namespace emulation

static inline void __syncthreads() {
    emulation::wait(emulation::arrived, emulation::generation, emulation::threads);
}
template <typename T>
static inline T __shfl_xor_sync(unsigned, T x, int lanes) {
    return emulation::shuffle(x, emulation::running ^ (unsigned)lanes);
}
// Blocks follow each other: there is nothing to order.
#ifdef SANITIZED
extern "C" unsigned sanitized_increment(unsigned* p, unsigned most);
static inline unsigned atomicInc(unsigned* p, unsigned most) { return sanitized_increment(p, most); }
#else
static inline unsigned atomicInc(unsigned* p, unsigned most) {
    unsigned old = *p;
    *p = old >= most ? 0 : old + 1;
    return old;
}
#endif
static inline double rsqrt(double x) { return 1.0 / sqrt(x); }
static inline unsigned __umulhi(unsigned a, unsigned b) {
    return (unsigned)(((unsigned long long)a * b) >> 32);
}
static inline int min(int a, int b) { return a < b ? a : b; }
static inline int max(int a, int b) { return a > b ? a : b; }
static inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
static inline unsigned max(unsigned a, unsigned b) { return a > b ? a : b; }

// Runs a kernel: 0, or 1 if its threads wait for each other for ever.
EXPORTED int emulate(void (*kernel)(const void*), const void* parameters, const unsigned* grid,
                       const unsigned* block, int barriers, int backwards) {
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block[0], block[1], block[2]};
    emulation::threads = block[0] * block[1] * block[2];
    emulation::kernel = kernel;
    emulation::parameters = parameters;
    if (barriers && !emulation::stacks) {
        emulation::stacks = (char*)malloc((size_t)emulation::MAX_THREADS * emulation::STACK);
    }
    unsigned blocks = grid[0] * grid[1] * grid[2];
    for (unsigned b = 0; b < blocks; b++) {
        blockIdx = emulation::place(backwards ? blocks - 1 - b : b, gridDim);
        if (barriers) {
            if (emulation::block_in_fibers(backwards)) return 1;
            continue;
        }
        for (unsigned k = 0; k < emulation::threads; k++) {
            unsigned i = backwards ? emulation::threads - 1 - k : k;
            threadIdx = emulation::place(i, blockDim);
            kernel(parameters);
        }
    }
    return 0;
}
