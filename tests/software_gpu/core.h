// Core of the software CUDA driver: memory, streams as worker threads, and the check that accesses are ordered.
#pragma once

#include <cuda.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

typedef std::vector<unsigned long> Clock;
static const unsigned long OFFSET = 1UL << 46;  // added to device addresses, so that the host can't use them

// Static objects are never destroyed: worker threads use them up to the end of the process.
static std::recursive_mutex& driver_mutex = *new std::recursive_mutex;  // guards all but a running operation's work
static std::condition_variable_any& changed = *new std::condition_variable_any;

static int setting(const char* name, int otherwise)
{
    const char* text = getenv(name);
    return text ? atoi(text) : otherwise;
}

// Prints a finding; a line that begins with "note:" is none.
static void report(const char* format, ...)
{
    char line[1024];
    va_list arguments;
    va_start(arguments, format);
    int n = snprintf(line, sizeof line, "SOFTGPU %d: ", (int)getpid());
    n += vsnprintf(line + n, sizeof line - n - 2, format, arguments);
    va_end(arguments);
    line[n++] = '\n';
    const char* path = getenv("SOFTGPU_LOG");
    int file = path ? open(path, O_WRONLY | O_CREAT | O_APPEND, 0644) : 2;
    if (write(file, line, n) < 0) {}
    if (path) close(file);
}

// SOFTGPU_COMPUTE=0, to time the host alone: work ends as it is enqueued and does nothing, nothing is checked.
static bool computing() { static bool on = setting("SOFTGPU_COMPUTE", 1); return on; }

static void merge(Clock& into, const Clock& from)
{
    if (into.size() < from.size()) into.resize(from.size());
    for (size_t i = 0; i < from.size(); ++i)
        if (into[i] < from[i]) into[i] = from[i];
}

// Vector clocks: entry 0 counts the host's waits, entry n the operations of stream n. An access happened before a point
// in time whose clock has reached the access's number.
struct Access {
    int agent = -1;
    unsigned long time = 0;
    std::string what;
};
static bool before(const Access& one, const Clock& now)
{
    return one.agent < 0 || ((size_t)one.agent < now.size() && now[one.agent] >= one.time);
}

struct Memory {
    char* map;        // start of the mapping
    char* data;       // where the program's bytes are, as streams see them
    char* host;       // pinned: where the host sees them
    size_t size, mapped;
    bool device, alive = true;
    int number;
    Access written;
    std::vector<Access> reads;
};
static std::map<unsigned long, Memory*>& memories = *new std::map<unsigned long, Memory*>;  // by the address that the program has
static std::set<Memory*>& busy_pinned = *new std::set<Memory*>;

static Memory* find(unsigned long address)
{
    auto at = memories.upper_bound(address);
    if (at == memories.begin()) return nullptr;
    Memory* memory = (--at)->second;
    return address < at->first + std::max<size_t>(memory->size, 1) ? memory : nullptr;
}

struct Operation {
    std::string name;
    std::function<void()> work;
    std::vector<Memory*> reads, writes;
};

struct Event {
    Clock clock;
    unsigned long recorded = 0, finished = 0;
    double at = 0;
};

struct CUgraph_st {
    std::vector<Operation> operations;
};
struct CUgraphExec_st {
    std::vector<Operation> operations;
    bool alive = true;
};

struct CUstream_st {
    int agent;
    Clock clock;
    std::deque<std::function<void()>> queue;
    bool running = false, alive = true, capturing = false, invalid = false;
    std::thread::id capturer;
    CUgraph_st* graph = nullptr;
};

static Clock& host_clock = *new Clock;
static std::vector<CUstream>& streams = *new std::vector<CUstream>;
static bool initialized;
static int retained;
static char primary;
static thread_local std::vector<CUcontext> stack;
static CUresult sticky = CUDA_SUCCESS;

static double now()
{
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

static void delay()
{
    static int most = setting("SOFTGPU_DELAY_US", 300);
    static thread_local unsigned seed = (unsigned)time(nullptr) ^ (unsigned)(unsigned long)&seed;
    if (most > 0) usleep(rand_r(&seed) % (most + 1));
}

static void work_off(CUstream stream)
{
    while (true) {
        std::function<void()> work;
        {
            std::unique_lock<std::recursive_mutex> lock(driver_mutex);
            changed.wait(lock, [&] { return !stream->queue.empty(); });
            work = std::move(stream->queue.front());
            stream->queue.pop_front();
            stream->running = true;
        }
        work();
        std::lock_guard<std::recursive_mutex> lock(driver_mutex);
        stream->running = false;
        changed.notify_all();
    }
}

static CUstream make_stream()
{
    CUstream stream = new CUstream_st;
    stream->agent = (int)streams.size() + 1;  // 0 is the host
    streams.push_back(stream);
    std::thread(work_off, stream).detach();
    return stream;
}

static CUstream stream_of(CUstream given) { return given && given != CU_STREAM_LEGACY ? given : streams[0]; }

static bool lacks_context() { return stack.empty() || retained == 0; }
#define NEEDS_CONTEXT(name)                                                              \
    std::lock_guard<std::recursive_mutex> lock(driver_mutex);                                     \
    if (lacks_context()) { report("%s without a current context", name); return CUDA_ERROR_INVALID_CONTEXT; } \
    if (sticky != CUDA_SUCCESS) return sticky

// Whether a call that waits or allocates is forbidden because this thread captures.
static bool forbidden(const char* name)
{
    for (CUstream stream : streams)
        if (stream->capturing && stream->capturer == std::this_thread::get_id()) {
            report("note: %s while this thread captures: the capture is lost", name);
            stream->invalid = true;
            return true;
        }
    return false;
}

#define NEEDS_CONTEXT_AND_NO_CAPTURE(name) \
    NEEDS_CONTEXT(name);                   \
    if (forbidden(name)) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED

// ---- pinned memory: the host's view is protected while a stream may use it --------------------------------------

static void protect(Memory* memory)
{
    bool reading = false, writing = !before(memory->written, host_clock);
    for (auto& access : memory->reads) reading |= !before(access, host_clock);
    mprotect(memory->map, memory->mapped, writing ? PROT_NONE : reading ? PROT_READ : PROT_READ | PROT_WRITE);
    if (writing || reading) busy_pinned.insert(memory); else busy_pinned.erase(memory);
}

static void host_waited(const Clock& clock)
{
    merge(host_clock, clock);
    for (Memory* memory : std::set<Memory*>(busy_pinned)) protect(memory);
}

static struct sigaction old_action;
static void segv(int number, siginfo_t* info, void* context)
{
    for (Memory* memory : busy_pinned)
        if (info->si_addr >= memory->map && info->si_addr < memory->map + memory->mapped) {
            bool writing = !before(memory->written, host_clock);
            report("RACE: the host touches pinned memory #%d of %zu bytes while \"%s\" may still %s it", memory->number,
                   memory->size, writing ? memory->written.what.c_str() : memory->reads.back().what.c_str(),
                   writing ? "write" : "read");
            mprotect(memory->map, memory->mapped, PROT_READ | PROT_WRITE);
            return;
        }
    for (auto& entry : memories)
        if (info->si_addr >= entry.second->map && info->si_addr < entry.second->map + entry.second->mapped + 4096)
            report("OUT OF BOUNDS beside memory #%d of %zu bytes, at %+ld", entry.second->number, entry.second->size,
                   (long)((char*)info->si_addr - entry.second->data));
    report("segmentation fault at %p", info->si_addr);
    sigaction(SIGSEGV, &old_action, nullptr);
}

// ---- operations ------------------------------------------------------------------------------------------------

static void check(CUstream stream, const Operation& operation)
{
    stream->clock.resize(std::max<size_t>(stream->clock.size(), stream->agent + 1));
    Access access{stream->agent, ++stream->clock[stream->agent], operation.name};
    auto complain = [&](Memory* memory, const Access& other, const char* how) {
        report("RACE: \"%s\" on stream %d %s memory #%d (%s, %zu bytes), not ordered after \"%s\" on stream %d",
               operation.name.c_str(), stream->agent, how, memory->number, memory->device ? "GPU" : "pinned",
               memory->size, other.what.c_str(), other.agent);
    };
    for (Memory* memory : operation.reads) {
        if (!before(memory->written, stream->clock)) complain(memory, memory->written, "reads");
        memory->reads.push_back(access);
    }
    for (Memory* memory : operation.writes) {
        if (!before(memory->written, stream->clock)) complain(memory, memory->written, "writes");
        for (auto& other : memory->reads)
            if (!before(other, stream->clock)) { complain(memory, other, "writes"); break; }
        memory->written = access;
        memory->reads.clear();
    }
    for (auto* list : {&operation.reads, &operation.writes})
        for (Memory* memory : *list)
            if (!memory->device) protect(memory);
}

static void run(const Operation& operation)
{
    delay();
    for (auto* list : {&operation.reads, &operation.writes})
        for (Memory* memory : *list)
            if (!memory->alive)
                report("USE AFTER FREE: \"%s\" uses memory #%d, which was freed", operation.name.c_str(), memory->number);
    operation.work();
}

static CUresult enqueue(CUstream given, Operation operation)
{
    CUstream stream = stream_of(given);
    if (!stream->alive) { report("%s on a destroyed stream", operation.name.c_str()); return CUDA_ERROR_INVALID_HANDLE; }
    if (stream->capturing) {
        if (stream->invalid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
        stream->graph->operations.push_back(std::move(operation));
        return CUDA_SUCCESS;
    }
    if (!computing()) return CUDA_SUCCESS;
    merge(stream->clock, host_clock);
    check(stream, operation);
    stream->queue.push_back([operation] { run(operation); });
    changed.notify_all();
    return CUDA_SUCCESS;
}

static void drain(CUstream stream)
{
    std::unique_lock<std::recursive_mutex> lock(driver_mutex);
    changed.wait(lock, [&] { return stream->queue.empty() && !stream->running; });
    host_waited(stream->clock);
}
