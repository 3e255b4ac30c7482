// cuDNN: convolutions of maps with channels innermost, in f32 or bf16, by plain loops. The first algorithm that it proposes is fast and
// has no fixed order, the second does not work, nor does the third, though it does not say so, the fourth does.
#include "shared.h"

using namespace stand_in;

enum { FLOAT = 0, BFLOAT16 = 9, NHWC = 1, NOT_SUPPORTED = 3000, NOT_SUPPORTED_SHAPE = 3002, BAD_PARAM = 2000 };

struct Handle {
    Stream* stream = nullptr;
};
struct Sizes {
    int type = -1, n = 0, c = 0, h = 0, w = 0;
    size_t bytes() const { return (size_t)n * c * h * w * (type == FLOAT ? 4 : 2); }
};
struct Way {
    int pad_h = 0, pad_w = 0, stride_h = 0, stride_w = 0, math = 0, groups = 1;
};
struct Answer {
    int algorithm, status;
    float time;
    size_t memory;
    int determinism, math, reserved[3];
};

static float get(const void* p, int type, size_t i) {
    if (type == FLOAT) return ((const float*)p)[i];
    uint32_t bits = (uint32_t)((const uint16_t*)p)[i] << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static void put(void* p, int type, size_t i, float value) {
    if (type == FLOAT) {
        ((float*)p)[i] = value;
        return;
    }
    uint32_t bits;
    memcpy(&bits, &value, 4);
    bool nan = value != value;
    ((uint16_t*)p)[i] = nan ? 0x7fff : (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static std::vector<float> widened(const void* p, const Sizes& s) {
    std::vector<float> all((size_t)s.n * s.c * s.h * s.w);
    for (size_t i = 0; i < all.size(); i++) all[i] = get(p, s.type, i);
    return all;
}

enum Pass { FORWARD, INPUT, WEIGHTS };

// w is [outputs, rows, columns, inputs of a group]: n, h, w, c of its sizes.
static void convolve(Pass pass, Sizes x, Sizes w, Sizes y, Way how, void* px, void* pw, void* py, float before) {
    Sizes result = pass == FORWARD ? y : pass == INPUT ? x : w;
    void* to = pass == FORWARD ? py : pass == INPUT ? px : pw;
    std::vector<float> vx(pass == INPUT ? 0 : (size_t)x.n * x.c * x.h * x.w), vw, vy;
    if (pass != INPUT) vx = widened(px, x);
    if (pass != WEIGHTS) vw = widened(pw, w);
    if (pass != FORWARD) vy = widened(py, y);
    std::vector<float> sum((size_t)result.n * result.c * result.h * result.w, 0.0f);
    int group_outputs = w.n / how.groups;
    for (int n = 0; n < y.n; n++)
        for (int oh = 0; oh < y.h; oh++)
            for (int ow = 0; ow < y.w; ow++)
                for (int kh = 0; kh < w.h; kh++)
                    for (int kw = 0; kw < w.w; kw++) {
                        int ih = oh * how.stride_h + kh - how.pad_h, iw = ow * how.stride_w + kw - how.pad_w;
                        if (ih < 0 || ih >= x.h || iw < 0 || iw >= x.w) continue;
                        size_t at_x = (((size_t)n * x.h + ih) * x.w + iw) * x.c;
                        size_t at_y = (((size_t)n * y.h + oh) * y.w + ow) * y.c;
                        for (int o = 0; o < w.n; o++) {
                            size_t at_w = (((size_t)o * w.h + kh) * w.w + kw) * w.c;
                            size_t in = at_x + (size_t)(o / group_outputs) * w.c;
                            if (pass == FORWARD) {
                                float s = 0.0f;
                                for (int i = 0; i < w.c; i++) s += vx[in + i] * vw[at_w + i];
                                sum[at_y + o] += s;
                            } else if (pass == INPUT) {
                                for (int i = 0; i < w.c; i++) sum[in + i] += vy[at_y + o] * vw[at_w + i];
                            } else {
                                for (int i = 0; i < w.c; i++) sum[at_w + i] += vy[at_y + o] * vx[in + i];
                            }
                        }
                    }
    for (size_t i = 0; i < sum.size(); i++) {
        put(to, result.type, i, before == 0.0f ? sum[i] : sum[i] + before * get(to, result.type, i));
    }
}

API size_t cudnnGetVersion() { return 91000; }
API const char* cudnnGetErrorString(int) { return "stand-in for cuDNN"; }
API int cudnnCreate(Handle** made) { return *made = new Handle, 0; }
API int cudnnDestroy(Handle* handle) { return delete handle, 0; }
API int cudnnSetStream(Handle* handle, Stream* stream) { return handle->stream = stream, 0; }
API int cudnnCreateTensorDescriptor(Sizes** made) { return *made = new Sizes, 0; }
API int cudnnDestroyTensorDescriptor(Sizes* sizes) { return delete sizes, 0; }
API int cudnnCreateFilterDescriptor(Sizes** made) { return *made = new Sizes, 0; }
API int cudnnDestroyFilterDescriptor(Sizes* sizes) { return delete sizes, 0; }
API int cudnnCreateConvolutionDescriptor(Way** made) { return *made = new Way, 0; }
API int cudnnDestroyConvolutionDescriptor(Way* way) { return delete way, 0; }

static int set(Sizes* sizes, int format, int type, int n, int c, int h, int w) {
    bool known = format == NHWC && (type == FLOAT || type == BFLOAT16) && n > 0 && c > 0 && h > 0 && w > 0;
    if (!known) return fail(BAD_PARAM, "sizes of a tensor");
    return *sizes = {type, n, c, h, w}, 0;
}
API int cudnnSetTensor4dDescriptor(Sizes* sizes, int format, int type, int n, int c, int h, int w) {
    return set(sizes, format, type, n, c, h, w);
}
API int cudnnSetFilter4dDescriptor(Sizes* sizes, int type, int format, int n, int c, int h, int w) {
    return set(sizes, format, type, n, c, h, w);
}
API int cudnnSetConvolution2dDescriptor(Way* way, int ph, int pw, int sh, int sw, int dh, int dw, int mode, int type) {
    // A cross-correlation, with sums in f32.
    if (dh != 1 || dw != 1 || mode != 1 || type != FLOAT) return fail(BAD_PARAM, "a convolution");
    way->pad_h = ph, way->pad_w = pw, way->stride_h = sh, way->stride_w = sw;
    return 0;
}
API int cudnnSetConvolutionMathType(Way* way, int math) { return way->math = math, 0; }
API int cudnnSetConvolutionGroupCount(Way* way, int groups) { return way->groups = groups, 0; }

static bool fit(const Sizes& x, const Sizes& w, const Sizes& y, const Way& how) {
    return x.type == w.type && w.type == y.type && x.n == y.n && w.n == y.c && w.c * how.groups == x.c &&
           (x.h + 2 * how.pad_h - w.h) / how.stride_h + 1 == y.h && (x.w + 2 * how.pad_w - w.w) / how.stride_w + 1 == y.w;
}

static int propose(const Sizes& x, const Sizes& w, const Sizes& y, const Way& how, int wanted, int* given, Answer* all) {
    if (!fit(x, w, y, how)) return fail(BAD_PARAM, "the sizes of a convolution");
    // Nothing with a fixed order for 1x1 convolutions with strides: they are left to whoever asks.
    if (w.h == 1 && w.w == 1 && how.stride_h > 1 && x.h > 1) return *given = 1, *all = {0, 0, 1.0f, 0, 0, 1, {}}, 0;
    Answer answers[4] = {{0, 0, 1.0f, 0, 0, 1, {}}, {5, NOT_SUPPORTED, -1.0f, 0, 1, 0, {}}, {4, 0, 1.0f, 0, 1, how.math, {}},
                         {1, 0, 2.0f, 4096, 1, how.math, {}}};
    *given = wanted < 4 ? wanted : 4;
    memcpy(all, answers, sizeof(Answer) * *given);
    return 0;
}
// What was measured once must not be measured again.
static int measure(const Sizes& x, const Sizes& w, const Sizes& y, const Way& how, int wanted, int* given, Answer* all) {
    if (getenv("STAND_IN_MEASURED")) {
        fprintf(stderr, "stand-in: a convolution is measured again\n");
        abort();
    }
    return propose(x, w, y, how, wanted, given, all);
}
#define PROPOSE(how_to, name, first, second, third)                                                                      \
    API int name(Handle*, Sizes* first, Sizes* second, Way* how, Sizes* third, int wanted, int* given, Answer* all) {    \
        return how_to(*x, *w, *y, *how, wanted, given, all);                                                             \
    }
PROPOSE(propose, cudnnGetConvolutionForwardAlgorithm_v7, x, w, y)
PROPOSE(measure, cudnnFindConvolutionForwardAlgorithm, x, w, y)
PROPOSE(propose, cudnnGetConvolutionBackwardDataAlgorithm_v7, w, y, x)
PROPOSE(measure, cudnnFindConvolutionBackwardDataAlgorithm, w, y, x)
PROPOSE(propose, cudnnGetConvolutionBackwardFilterAlgorithm_v7, x, y, w)
PROPOSE(measure, cudnnFindConvolutionBackwardFilterAlgorithm, x, y, w)

static int workspace(int algorithm, size_t* bytes) { return *bytes = algorithm == 1 ? 4096 : 0, 0; }
API int cudnnGetConvolutionForwardWorkspaceSize(Handle*, Sizes*, Sizes*, Way*, Sizes*, int algorithm, size_t* bytes) {
    return workspace(algorithm, bytes);
}
API int cudnnGetConvolutionBackwardDataWorkspaceSize(Handle*, Sizes*, Sizes*, Way*, Sizes*, int algorithm, size_t* bytes) {
    return workspace(algorithm, bytes);
}
API int cudnnGetConvolutionBackwardFilterWorkspaceSize(Handle*, Sizes*, Sizes*, Way*, Sizes*, int algorithm, size_t* bytes) {
    return workspace(algorithm, bytes);
}

static int run(Pass pass, Handle* handle, const void* alpha, const void* beta, Sizes x, void* px, Sizes w, void* pw, Sizes y,
               void* py, Way how, int algorithm, void* space, size_t bytes) {
    std::lock_guard<std::recursive_mutex> locked(lock);
    if (algorithm == 4) return NOT_SUPPORTED_SHAPE;
    float before = *(const float*)beta;
    if (*(const float*)alpha != 1.0f || (before != 0.0f && before != 1.0f)) return fail(BAD_PARAM, "factors");
    if (!fit(x, w, y, how) || algorithm > 1) return fail(BAD_PARAM, "a convolution that was not proposed");
    size_t needed;
    workspace(algorithm, &needed);
    bool there = inside((uint64_t)px, x.bytes()) && inside((uint64_t)pw, w.bytes()) && inside((uint64_t)py, y.bytes());
    if (!there || bytes < needed || !inside((uint64_t)space, needed)) return fail(BAD_PARAM, "memory of a convolution");
    auto work = [=] {
        // What was there is gone.
        memset(space, 0x55, needed);
        convolve(pass, x, w, y, how, px, pw, py, before);
    };
    return add(handle->stream, work, needed ? (uint64_t)space : 0);
}
API int cudnnConvolutionForward(Handle* handle, const void* alpha, Sizes* x, void* px, Sizes* w, void* pw, Way* how,
                                int algorithm, void* space, size_t bytes, const void* beta, Sizes* y, void* py) {
    return run(FORWARD, handle, alpha, beta, *x, px, *w, pw, *y, py, *how, algorithm, space, bytes);
}
API int cudnnConvolutionBackwardData(Handle* handle, const void* alpha, Sizes* w, void* pw, Sizes* y, void* py, Way* how,
                                     int algorithm, void* space, size_t bytes, const void* beta, Sizes* x, void* px) {
    return run(INPUT, handle, alpha, beta, *x, px, *w, pw, *y, py, *how, algorithm, space, bytes);
}
API int cudnnConvolutionBackwardFilter(Handle* handle, const void* alpha, Sizes* x, void* px, Sizes* y, void* py, Way* how,
                                       int algorithm, void* space, size_t bytes, const void* beta, Sizes* w, void* pw) {
    return run(WEIGHTS, handle, alpha, beta, *x, px, *w, pw, *y, py, *how, algorithm, space, bytes);
}
