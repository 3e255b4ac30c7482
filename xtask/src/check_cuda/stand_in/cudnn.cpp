// cuDNN's graphs of operations, each one convolution of maps with channels innermost, in f32 or bf16, by plain loops; a forward pass may be
// followed by a factor and a summand for each channel, a map that is added, and a rectifier. Of the engines that it proposes for one alone the
// first has no fixed order, the second wants to rearrange its operands, the third refuses to be made ready, the fourth to be run, though it
// does not say so before, the fifth works.
#include "shared.h"

#include <memory>

using namespace stand_in;

enum { FLOAT = 0, BFLOAT16 = 9, NOT_SUPPORTED = 3000, NOT_SUPPORTED_SHAPE = 3002, BAD_PARAM = 2000, NOT_FINALIZED = 2004 };

struct Handle {
    Stream* stream = nullptr;
    // Plans that it has run.
    std::set<const void*> warm;
};
struct Sizes {
    int type = -1, n = 0, c = 0, h = 0, w = 0;
    size_t bytes() const { return (size_t)n * c * h * w * (type == FLOAT ? 4 : 2); }
};
struct Way {
    int pad_h = 0, pad_w = 0, stride_h = 0, stride_w = 0, groups = 1;
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

// What follows a forward pass.
struct After {
    bool fused = false, addend = false, relu = false;
};

// w is [outputs, rows, columns, inputs of a group]: n, h, w, c of its sizes. Operands are x, w, y, and what follows reads.
static void convolve(Pass pass, Sizes x, Sizes w, Sizes y, Way how, const std::vector<void*>& operands, float before, After after) {
    void *px = operands[0], *pw = operands[1], *py = operands[2];
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
        float value = before == 0.0f ? sum[i] : sum[i] + before * get(to, result.type, i);
        if (after.fused) value = value * ((float*)operands[3])[i % y.c] + ((float*)operands[4])[i % y.c];
        if (after.addend) value += get(operands[5], y.type, i);
        if (after.relu && value < 0.0f) value = 0.0f;
        put(to, result.type, i, value);
    }
}

// A descriptor is its attributes; those that are other descriptors share them.
struct Object {
    int kind;
    bool finished = false;
    std::map<int, std::vector<char>> values;
    std::map<int, int> types;
    std::map<int, std::vector<std::shared_ptr<Object>>> others;
    // Of an engine.
    int engine = -1;
    std::vector<int> notes;

    // One value, or the first of some.
    template <typename T>
    T value(int name, size_t at = 0) const {
        T v{};
        auto found = values.find(name);
        if (found != values.end() && found->second.size() >= (at + 1) * sizeof(T)) memcpy(&v, &found->second[at * sizeof(T)], sizeof(T));
        return v;
    }
    std::shared_ptr<Object> other(int name, size_t at = 0) const {
        auto found = others.find(name);
        return found != others.end() && found->second.size() > at ? found->second[at] : nullptr;
    }
};
typedef std::shared_ptr<Object> Descriptor;

// Numbers of cuDNN's header.
enum Kind {
    POINTWISE = 0, CONVOLUTION, ENGINE, CONFIG, HEURISTICS, PLAN,
    OPERATION_FORWARD = 10, OPERATION_FILTER, OPERATION_DATA, OPERATION_POINTWISE, GRAPH = 15, PACK, TENSOR
};
enum Type {
    T_HANDLE = 0, T_DATA, T_BOOLEAN, T_INT64, T_FLOAT, T_POINTER = 6, T_CONV_MODE, T_HEUR_MODE,
    T_NAN = 10, T_NOTE, T_POINTWISE_MODE = 14, T_DESCRIPTOR, T_BEHAVIOR = 19
};
enum Attribute {
    POINTWISE_MODE = 0, POINTWISE_PRECISION, POINTWISE_NAN,
    COMP_TYPE = 100, CONV_MODE, DILATIONS, STRIDES, POST_PADDINGS, PRE_PADDINGS, SPATIAL_DIMS,
    HEUR_MODE = 200, HEUR_GRAPH, HEUR_RESULTS,
    CONFIG_ENGINE = 300,
    PLAN_HANDLE = 400, PLAN_CONFIG, PLAN_WORKSPACE,
    FORWARD_ALPHA = 700, FORWARD_BETA, FORWARD_CONV, FORWARD_W, FORWARD_X, FORWARD_Y,
    DATA_ALPHA, DATA_BETA, DATA_CONV, DATA_W, DATA_DX, DATA_DY,
    FILTER_ALPHA, FILTER_BETA, FILTER_CONV, FILTER_DW, FILTER_X, FILTER_DY,
    POINTWISE_HOW = 750, POINTWISE_X, POINTWISE_B, POINTWISE_Y,
    GRAPH_HANDLE = 800, GRAPH_OPS,
    ALIGNMENT = 900, DATA_TYPE, DIMENSIONS, TENSOR_STRIDES, UNIQUE_ID = 906, IS_VIRTUAL,
    PACK_IDS = 1000, PACK_POINTERS, PACK_WORKSPACE = 1003,
    ENGINE_INDEX = 1301, ENGINE_NOTES = 1303, ENGINE_BEHAVIOR = 1305,
};
enum { TENSOR_CORE = 0, NONDETERMINISTIC = 4 };
enum { ADD = 0, MUL = 1, RELU = 100 };

// The operations of a graph.
struct Task {
    Pass pass;
    Sizes x, w, y;
    Way how;
    float before = 0.0f;
    After after;
    // Numbers of the operands: x, w, y, scale, shift, addend.
    std::vector<int64_t> ids;
    // Bytes of one of them.
    size_t bytes(size_t i) const { return i == 0 ? x.bytes() : i == 1 ? w.bytes() : i == 3 || i == 4 ? (size_t)y.c * 4 : y.bytes(); }
    size_t largest() const { return std::max(std::max(x.bytes(), w.bytes()), y.bytes()); }
};

static bool sizes_of(const Descriptor& d, Sizes& to, int64_t& id) {
    if (!d || d->kind != TENSOR || !d->finished) return false;
    int64_t size[4], stride[4];
    for (int i = 0; i < 4; i++) size[i] = d->value<int64_t>(DIMENSIONS, i), stride[i] = d->value<int64_t>(TENSOR_STRIDES, i);
    int type = d->value<int>(DATA_TYPE);
    bool innermost = stride[1] == 1 && stride[3] == size[1] && stride[2] == size[3] * size[1] && stride[0] == size[2] * stride[2];
    if (!innermost || d->value<int64_t>(ALIGNMENT) != 16 || (type != FLOAT && type != BFLOAT16)) return false;
    to = {type, (int)size[0], (int)size[1], (int)size[2], (int)size[3]};
    id = d->value<int64_t>(UNIQUE_ID);
    return to.n > 0 && to.c > 0 && to.h > 0 && to.w > 0;
}

static bool is_virtual(const Descriptor& d) { return d && d->value<char>(IS_VIRTUAL); }

// What follows a forward pass whose sums are `t.y`: each step reads what the one before has made.
static bool steps_of(const Descriptor& graph, Task& t) {
    Descriptor made = graph->other(GRAPH_OPS)->other(FORWARD_Y);
    size_t count = graph->others.at(GRAPH_OPS).size();
    t.after.fused = count > 1;
    if (!t.after.fused) return !is_virtual(made);
    Sizes sums = t.y;
    if (t.pass != FORWARD || count < 3 || sums.type != FLOAT) return false;
    for (size_t i = 1; i < count; i++) {
        Descriptor op = graph->other(GRAPH_OPS, i), how = op->other(POINTWISE_HOW), read = op->other(POINTWISE_B), y = op->other(POINTWISE_Y);
        bool there = op->kind == OPERATION_POINTWISE && how && how->kind == POINTWISE && op->other(POINTWISE_X) == made && is_virtual(made);
        if (!there || how->value<int>(POINTWISE_PRECISION) != FLOAT || !how->values.count(POINTWISE_PRECISION)) return false;
        int mode = how->value<int>(POINTWISE_MODE);
        Sizes given, result;
        int64_t number, id;
        if (mode == RELU ? read != nullptr || how->value<int>(POINTWISE_NAN) != 1 : !sizes_of(read, given, number)) return false;
        bool of_channels = given.type == FLOAT && given.n == 1 && given.c == sums.c && given.h == 1 && given.w == 1;
        bool like_sums = given.n == sums.n && given.c == sums.c && given.h == sums.h && given.w == sums.w;
        if (i == 1 || i == 2) {
            if (mode != (i == 1 ? MUL : ADD) || !of_channels) return false;
        } else if (mode == ADD) {
            if (t.after.addend || t.after.relu || !like_sums) return false;
            t.after.addend = true;
        } else if (mode != RELU || t.after.relu) {
            return false;
        } else {
            t.after.relu = true;
        }
        if (mode != RELU) t.ids.push_back(number);
        if (!sizes_of(y, result, id) || result.n != sums.n || result.c != sums.c || result.h != sums.h || result.w != sums.w) return false;
        bool last = i + 1 == count;
        if (is_virtual(y) == last || (!last && result.type != FLOAT)) return false;
        if (last) t.y = result, t.ids[2] = id;
        if (last && t.after.addend && mode == ADD && given.type != result.type) return false;
        made = y;
    }
    return true;
}

static bool task_of(const Descriptor& graph, Task& t) {
    Descriptor op = graph && graph->kind == GRAPH && graph->finished ? graph->other(GRAPH_OPS) : nullptr;
    if (!op || !op->finished) return false;
    int at = op->kind == OPERATION_FORWARD ? FORWARD_ALPHA : op->kind == OPERATION_DATA ? DATA_ALPHA : FILTER_ALPHA;
    t.pass = op->kind == OPERATION_FORWARD ? FORWARD : op->kind == OPERATION_DATA ? INPUT : WEIGHTS;
    // The header has them in other orders: alpha, beta, convolution, then w x y or w dx dy or dw x dy.
    Descriptor how = op->other(at + 2);
    t.ids.resize(3);
    bool there = sizes_of(op->other(at + 4), t.x, t.ids[0]) && sizes_of(op->other(at + 3), t.w, t.ids[1]) &&
                 sizes_of(op->other(at + 5), t.y, t.ids[2]);
    if (!there || !how || how->kind != CONVOLUTION || !how->finished || t.x.c % t.w.c) return false;
    auto two = [&](int name, int i) { return (int)how->value<int64_t>(name, i); };
    bool same = two(PRE_PADDINGS, 0) == two(POST_PADDINGS, 0) && two(PRE_PADDINGS, 1) == two(POST_PADDINGS, 1);
    // A cross-correlation, with sums in f32.
    bool known = two(SPATIAL_DIMS, 0) == 2 && two(DILATIONS, 0) == 1 && two(DILATIONS, 1) == 1 && how->value<int>(CONV_MODE) == 1 &&
                 how->value<int>(COMP_TYPE) == FLOAT && how->values.count(COMP_TYPE);
    t.how = {two(PRE_PADDINGS, 0), two(PRE_PADDINGS, 1), two(STRIDES, 0), two(STRIDES, 1), t.x.c / t.w.c};
    t.before = op->value<float>(at + 1);
    bool factors = op->value<float>(at) == 1.0f && (t.before == 0.0f || t.before == 1.0f);
    if (!same || !known || !factors || t.how.stride_h < 1 || t.how.stride_w < 1) return false;
    if (!steps_of(graph, t)) return false;
    return t.x.type == t.w.type && t.w.type == t.y.type && t.x.n == t.y.n && t.w.n == t.y.c &&
           (t.x.h + 2 * t.how.pad_h - t.w.h) / t.how.stride_h + 1 == t.y.h &&
           (t.x.w + 2 * t.how.pad_w - t.w.w) / t.how.stride_w + 1 == t.y.w;
}

static thread_local std::string said;
static int refuse(int code, const char* what) { return said = what, code; }

API size_t cudnnGetVersion() { return 91900; }
API const char* cudnnGetErrorString(int) { return "stand-in for cuDNN"; }
API void cudnnGetLastErrorString(char* to, size_t most) { snprintf(to, most, "%s", said.c_str()); }
API int cudnnCreate(Handle** made) { return *made = new Handle, 0; }
API int cudnnDestroy(Handle* handle) { return delete handle, 0; }
API int cudnnSetStream(Handle* handle, Stream* stream) { return handle->stream = stream, 0; }

API int cudnnBackendCreateDescriptor(int kind, Descriptor** made) {
    *made = new Descriptor(new Object);
    (**made)->kind = kind;
    return 0;
}
API int cudnnBackendDestroyDescriptor(Descriptor* d) { return delete d, 0; }

static size_t size_of(int type) {
    switch (type) {
    case T_BOOLEAN: return 1;
    case T_HANDLE:
    case T_INT64:
    case T_POINTER: return 8;
    case T_DATA:
    case T_FLOAT:
    case T_CONV_MODE:
    case T_HEUR_MODE:
    case T_NAN:
    case T_POINTWISE_MODE:
    case T_NOTE: return 4;
    }
    return 0;
}

API int cudnnBackendSetAttribute(Descriptor* d, int name, int type, int64_t count, const void* values) {
    Object& o = **d;
    if (o.finished || count < 1) return fail(BAD_PARAM, "an attribute of what is finished");
    if (type == T_DESCRIPTOR) {
        for (int64_t i = 0; i < count; i++) {
            Descriptor* other = ((Descriptor* const*)values)[i];
            if (!(*other)->finished) return fail(NOT_FINALIZED, "an attribute that is not finished");
            o.others[name].push_back(*other);
        }
        return 0;
    }
    size_t size = size_of(type);
    if (!size) return fail(BAD_PARAM, "an attribute of another type");
    o.values[name].assign((const char*)values, (const char*)values + count * size);
    o.types[name] = type;
    return 0;
}

// What it proposes: engines and what it notes of them.
static std::vector<std::pair<int, std::vector<int>>> proposals(const Task& t, int mode) {
    // Nothing with a fixed order for 1x1 convolutions with strides: they are left to whoever asks.
    bool none = t.w.h == 1 && t.w.w == 1 && t.how.stride_h > 1 && t.x.h > 1;
    if (t.after.fused && !none) {
        if (mode == 3) return {{5, {TENSOR_CORE}}, {4, {TENSOR_CORE}}, {7, {TENSOR_CORE}}};
        // Slower than apart.
        return {{1, {}}};
    }
    if (mode == 3) {
        if (none) return {{0, {NONDETERMINISTIC}}};
        return {{0, {NONDETERMINISTIC}}, {9, {}}, {5, {}}, {4, {}}, {1, {}}};
    }
    if (mode == 2) return none ? std::vector<std::pair<int, std::vector<int>>>{} : std::vector<std::pair<int, std::vector<int>>>{{1, {}}};
    return {};
}

static size_t workspace(int engine, const Task& t) { return engine == 1 ? 4096 : engine == 9 ? t.largest() + 16 : 0; }

API int cudnnBackendFinalize(Descriptor* d) {
    Object& o = **d;
    if (o.finished) return fail(BAD_PARAM, "what is finished already");
    auto typed = [&](int name, int type) { return o.types.count(name) && o.types[name] == type; };
    Task t;
    switch (o.kind) {
    case TENSOR: {
        Sizes sizes;
        int64_t id;
        o.finished = true;
        bool good = typed(DATA_TYPE, T_DATA) && typed(DIMENSIONS, T_INT64) && typed(TENSOR_STRIDES, T_INT64) && typed(UNIQUE_ID, T_INT64) &&
                    typed(ALIGNMENT, T_INT64) && sizes_of(*d, sizes, id);
        if (!good) return o.finished = false, fail(BAD_PARAM, "sizes of a tensor");
        return 0;
    }
    case GRAPH:
        o.finished = true;
        if (!o.value<Handle*>(GRAPH_HANDLE) || !task_of(*d, t)) return o.finished = false, fail(BAD_PARAM, "a graph");
        return 0;
    case HEURISTICS:
        if (!task_of(o.other(HEUR_GRAPH), t) || !typed(HEUR_MODE, T_HEUR_MODE)) return fail(BAD_PARAM, "heuristics");
        break;
    case PLAN: {
        Descriptor config = o.other(PLAN_CONFIG), graph = config ? config->other(GRAPH_OPS) : nullptr;
        if (!o.value<Handle*>(PLAN_HANDLE) || !task_of(graph, t)) return fail(BAD_PARAM, "a plan");
        if (config->engine == 5) return refuse(NOT_SUPPORTED, "this engine never works");
        break;
    }
    case POINTWISE:
        if (!typed(POINTWISE_MODE, T_POINTWISE_MODE) || !typed(POINTWISE_PRECISION, T_DATA)) return fail(BAD_PARAM, "a manner");
        break;
    case PACK:
        if (!typed(PACK_IDS, T_INT64) || !typed(PACK_POINTERS, T_POINTER) || !typed(PACK_WORKSPACE, T_POINTER)) return fail(BAD_PARAM, "a pack");
        break;
    }
    o.finished = true;
    return 0;
}

API int cudnnBackendGetAttribute(Descriptor* d, int name, int type, int64_t most, int64_t* count, void* values) {
    Object& o = **d;
    bool engine = o.kind == ENGINE && o.engine >= 0;
    if (!o.finished && !engine) return fail(NOT_FINALIZED, "an attribute of what is not finished");
    Task t;
    if (o.kind == HEURISTICS && name == HEUR_RESULTS && type == T_DESCRIPTOR) {
        Descriptor graph = o.other(HEUR_GRAPH);
        task_of(graph, t);
        auto all = proposals(t, o.value<int>(HEUR_MODE));
        *count = (int64_t)all.size();
        for (int64_t i = 0; i < most && i < *count; i++) {
            Object& config = **((Descriptor**)values)[i];
            config.engine = all[i].first, config.notes = all[i].second, config.finished = true;
            // Where a plan finds what it is for.
            config.others[GRAPH_OPS] = {graph};
        }
        return 0;
    }
    if (o.kind == CONFIG && name == CONFIG_ENGINE && type == T_DESCRIPTOR && most == 1) {
        Object& made = **((Descriptor**)values)[0];
        made.engine = o.engine, made.notes = o.notes;
        return *count = 1, 0;
    }
    if (engine && name == ENGINE_INDEX && type == T_INT64 && most == 1) return *(int64_t*)values = o.engine, *count = 1, 0;
    if (engine && name == ENGINE_BEHAVIOR && type == T_BEHAVIOR) return *count = 0, 0;
    if (engine && name == ENGINE_NOTES && type == T_NOTE) {
        *count = (int64_t)o.notes.size();
        for (int64_t i = 0; i < most && i < *count; i++) ((int*)values)[i] = o.notes[i];
        return 0;
    }
    if (o.kind == PLAN && name == PLAN_WORKSPACE && type == T_INT64 && most == 1) {
        Descriptor config = o.other(PLAN_CONFIG);
        task_of(config->other(GRAPH_OPS), t);
        return *(int64_t*)values = (int64_t)workspace(config->engine, t), *count = 1, 0;
    }
    return fail(BAD_PARAM, "an attribute that is not there");
}

API int cudnnBackendExecute(Handle* handle, Descriptor* plan, Descriptor* pack) {
    std::lock_guard<std::recursive_mutex> locked(lock);
    Object &made = **plan, &given = **pack;
    if (made.kind != PLAN || !made.finished || given.kind != PACK || !given.finished) return fail(BAD_PARAM, "a plan or a pack");
    Descriptor config = made.other(PLAN_CONFIG);
    Task t;
    task_of(config->other(GRAPH_OPS), t);
    size_t count = t.ids.size();
    std::vector<void*> operands(count);
    if (given.values.at(PACK_IDS).size() != count * 8 || given.values.at(PACK_POINTERS).size() != count * 8) {
        return fail(BAD_PARAM, "the operands of a pack");
    }
    for (size_t i = 0; i < count; i++)
        for (size_t j = 0; j < count; j++)
            if (given.value<int64_t>(PACK_IDS, j) == t.ids[i]) operands[i] = given.value<void*>(PACK_POINTERS, j);
    if (config->engine == 4) return refuse(NOT_SUPPORTED_SHAPE, "this engine works only on paper");
    // What a handle runs for the first time may load code, or take memory, for which recording is no time.
    if (handle->stream->graph && !handle->warm.count(&made)) return fail(BAD_PARAM, "a plan that was never run with this handle");
    handle->warm.insert(&made);
    // What was measured once must not be measured again.
    static Object* last = nullptr;
    static int row = 0;
    row = last == &made ? row + 1 : 1;
    last = &made;
    if (row >= 15 && getenv("STAND_IN_MEASURED")) {
        fprintf(stderr, "stand-in: a convolution is measured again\n");
        abort();
    }
    size_t needed = workspace(config->engine, t);
    void* space = given.value<void*>(PACK_WORKSPACE);
    bool there = !needed || inside((uint64_t)space, needed);
    for (size_t i = 0; i < count; i++) there = there && ((uint64_t)operands[i] & 15) == 0 && inside((uint64_t)operands[i], t.bytes(i));
    if (!there) return fail(BAD_PARAM, "memory of a convolution");
    auto work = [=] {
        // What was there is gone.
        memset(space, 0x55, needed);
        convolve(t.pass, t.x, t.w, t.y, t.how, operands, t.before, t.after);
    };
    // Some end with something else.
    return add(handle->stream, work, t.pass == WEIGHTS ? OTHER : LIBRARYS_KERNEL, needed ? (uint64_t)space : 0);
}
