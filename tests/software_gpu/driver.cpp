// A CUDA driver in software: enough of libcuda.so.1 to run pycuda, cuda-bindings and the kit's kernels on a CPU.
#include "core.h"

// The devices that CUDA_VISIBLE_DEVICES leaves of SOFTGPU_DEVICES.
static std::vector<int> visible_devices()
{
    int number = setting("SOFTGPU_DEVICES", 1);
    const char* visible = getenv("CUDA_VISIBLE_DEVICES");
    std::vector<int> devices;
    if (!visible)
        for (int device = 0; device < number; ++device) devices.push_back(device);
    std::stringstream list(visible ? visible : "");
    for (std::string device; std::getline(list, device, ',') && atoi(device.c_str()) < number;)
        devices.push_back(atoi(device.c_str()));
    return devices;
}

extern "C" {

CUresult cuInit(unsigned)
{
    if (int error = setting("SOFTGPU_FAIL_INIT", 0)) return (CUresult)error;
    std::lock_guard<std::recursive_mutex> lock(driver_mutex);
    if (!initialized) {
        make_stream();  // the null stream
        struct sigaction action = {};
        action.sa_sigaction = segv;
        action.sa_flags = SA_SIGINFO | SA_NODEFER;
        sigaction(SIGSEGV, &action, &old_action);
    }
    initialized = true;
    return CUDA_SUCCESS;
}
CUresult cuGetExportTable(const void** table, const CUuuid*)  // NVRTC asks for its cache
{
    *table = nullptr;
    return CUDA_ERROR_NOT_FOUND;
}
CUresult cuDriverGetVersion(int* version)
{
    *version = setting("SOFTGPU_CUDA_VERSION", 13000);
    return CUDA_SUCCESS;
}
CUresult cuGetErrorString(CUresult error, const char** text)
{
    static char buffer[64];
    snprintf(buffer, sizeof buffer, "CUDA error %d", error);
    *text = buffer;
    return CUDA_SUCCESS;
}
CUresult cuGetErrorName(CUresult error, const char** text) { return cuGetErrorString(error, text); }
CUresult cuDeviceGet(CUdevice* device, int ordinal)
{
    if (!initialized) return CUDA_ERROR_NOT_INITIALIZED;
    if (ordinal < 0 || ordinal >= (int)visible_devices().size()) return CUDA_ERROR_INVALID_DEVICE;
    *device = visible_devices()[ordinal];
    return CUDA_SUCCESS;
}
CUresult cuDeviceGetCount(int* count) { *count = (int)visible_devices().size(); return CUDA_SUCCESS; }
CUresult cuDeviceGetName(char* name, int length, CUdevice device)
{
    snprintf(name, length, device ? "Software GPU %d" : "Software GPU", device);
    return CUDA_SUCCESS;
}
CUresult cuDeviceComputeCapability(int* major, int* minor, CUdevice)
{
    int capability = setting("SOFTGPU_COMPUTE_CAPABILITY", 90);
    *major = capability / 10, *minor = capability % 10;
    return CUDA_SUCCESS;
}
CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice device)
{
    int major, minor;
    cuDeviceComputeCapability(&major, &minor, device);
    *value = attribute == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR ? major
             : attribute == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR ? minor
             : attribute == CU_DEVICE_ATTRIBUTE_CLOCK_RATE ? 1980000 : 0;
    return CUDA_SUCCESS;
}
// CUDA counts the fastest device first, NVML in the order of buses: here the two are opposite.
CUresult cuDeviceGetPCIBusId(char* id, int length, CUdevice device)
{
    snprintf(id, length, "0000:%02x:00.0", setting("SOFTGPU_DEVICES", 1) - device);
    return CUDA_SUCCESS;
}
CUresult cuDeviceTotalMem(size_t* bytes, CUdevice) { *bytes = 80UL << 30; return CUDA_SUCCESS; }

static CUdevice primary_device;
CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device)
{
    std::lock_guard<std::recursive_mutex> lock(driver_mutex);
    ++retained;
    primary_device = device;
    *context = (CUcontext)&primary;
    return CUDA_SUCCESS;
}
CUresult cuCtxDetach(CUcontext)
{
    if (!stack.empty()) stack.pop_back();
    return CUDA_SUCCESS;
}
CUresult cuCtxPushCurrent(CUcontext context) { stack.push_back(context); return CUDA_SUCCESS; }
CUresult cuCtxPopCurrent(CUcontext* context)
{
    if (stack.empty()) { report("cuCtxPopCurrent of an empty stack"); return CUDA_ERROR_INVALID_CONTEXT; }
    if (context) *context = stack.back();
    stack.pop_back();
    return CUDA_SUCCESS;
}
CUresult cuCtxGetCurrent(CUcontext* context) { *context = stack.empty() ? nullptr : stack.back(); return CUDA_SUCCESS; }
CUresult cuCtxGetDevice(CUdevice* device)
{
    NEEDS_CONTEXT("cuCtxGetDevice");
    *device = primary_device;
    return CUDA_SUCCESS;
}
CUresult cuCtxSynchronize()
{
    {
        NEEDS_CONTEXT_AND_NO_CAPTURE("cuCtxSynchronize");
    }
    for (size_t i = 0; i < streams.size(); ++i) drain(streams[i]);
    return CUDA_SUCCESS;
}

static int numbers;
static CUresult allocate(unsigned long* address, size_t bytes, bool device)
{
    if (int first = setting("SOFTGPU_FAIL_ALLOCATION", 0))
        if (numbers + 1 >= first) return CUDA_ERROR_OUT_OF_MEMORY;
    Memory* memory = new Memory;
    memory->size = bytes;
    memory->device = device;
    memory->number = ++numbers;
    size_t offset = 0;
    if (device) offset = (4096 - bytes % 4096) % 4096 & ~255UL;  // the end lies at a page that can't be touched
    memory->mapped = (offset + bytes + 4095) / 4096 * 4096;
    if (device) {
        memory->map = (char*)mmap(nullptr, memory->mapped + 4096, PROT_READ | PROT_WRITE,
                                  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        mprotect(memory->map + memory->mapped, 4096, PROT_NONE);
        memory->data = memory->host = memory->map + offset;
        if (computing()) memset(memory->data, 0xff, bytes);  // NaN: what is not written must not be used
        *address = (unsigned long)memory->data + OFFSET;
    } else {
        int file = memfd_create("pinned", 0);
        if (ftruncate(file, memory->mapped)) return CUDA_ERROR_OUT_OF_MEMORY;
        memory->map = (char*)mmap(nullptr, memory->mapped, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        memory->data = (char*)mmap(nullptr, memory->mapped, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        close(file);
        if (computing()) memset(memory->data, 0xff, bytes);
        memory->host = memory->map;
        *address = (unsigned long)memory->host;
    }
    memories[*address] = memory;
    return CUDA_SUCCESS;
}
static CUresult release(unsigned long address, const char* name)
{
    Memory* memory = memories.count(address) ? memories[address] : nullptr;
    if (!memory || !memory->alive) { report("%s of no or of freed memory", name); return CUDA_ERROR_INVALID_VALUE; }
    bool used = !before(memory->written, host_clock);
    for (auto& access : memory->reads) used |= !before(access, host_clock);
    if (used)
        report("FREED IN USE: %s of #%d (%zu bytes), which \"%s\" may still use", name, memory->number, memory->size,
               memory->reads.empty() ? memory->written.what.c_str() : memory->reads.back().what.c_str());
    memory->alive = false;
    memories.erase(address);
    busy_pinned.erase(memory);
    if (!used) munmap(memory->map, memory->mapped);  // else left, so that what still runs does not crash
    return CUDA_SUCCESS;
}
CUresult cuMemAlloc(CUdeviceptr* address, size_t bytes)
{
    NEEDS_CONTEXT_AND_NO_CAPTURE("cuMemAlloc");
    if (!bytes) return CUDA_ERROR_INVALID_VALUE;
    return allocate((unsigned long*)address, bytes, true);
}
CUresult cuMemFree(CUdeviceptr address)
{
    NEEDS_CONTEXT_AND_NO_CAPTURE("cuMemFree");
    return release(address, "cuMemFree");
}
CUresult cuMemHostAlloc(void** address, size_t bytes, unsigned)
{
    NEEDS_CONTEXT("cuMemHostAlloc");
    if (!bytes) return CUDA_ERROR_INVALID_VALUE;
    return allocate((unsigned long*)address, bytes, false);
}
CUresult cuMemFreeHost(void* address) { NEEDS_CONTEXT("cuMemFreeHost"); return release((unsigned long)address, "cuMemFreeHost"); }

static Memory* device_memory(CUdeviceptr address, size_t bytes, const char* name)
{
    Memory* memory = find(address);
    if (!memory || !memory->device) { report("%s: %llx is no memory of the GPU", name, address); return nullptr; }
    if (address - OFFSET + bytes > (unsigned long)memory->data + memory->size) {
        report("%s: %zu bytes leave memory #%d of %zu", name, bytes, memory->number, memory->size);
        return nullptr;
    }
    return memory;
}
static Memory* pinned_memory(const void* address)
{
    Memory* memory = find((unsigned long)address);
    return memory && !memory->device ? memory : nullptr;
}
static CUresult copy_up(CUdeviceptr to, const void* from, size_t bytes, CUstream stream, const char* name)
{
    Memory* target = device_memory(to, bytes, name);
    if (!target) return CUDA_ERROR_INVALID_VALUE;
    Memory* source = pinned_memory(from);
    char* destination = (char*)(to - OFFSET);
    if (source) {
        const char* data = source->data + ((char*)from - source->host);
        return enqueue(stream, {name, [=] { memcpy(destination, data, bytes); }, {source}, {target}});
    }
    auto staged = std::make_shared<std::string>((const char*)from, bytes);  // pageable memory is staged at once
    return enqueue(stream, {name, [=] { memcpy(destination, staged->data(), bytes); }, {}, {target}});
}
CUresult cuMemcpyHtoD(CUdeviceptr to, const void* from, size_t bytes)
{
    NEEDS_CONTEXT_AND_NO_CAPTURE("cuMemcpyHtoD");
    return copy_up(to, from, bytes, nullptr, "cuMemcpyHtoD");  // may return before the copy is done
}
CUresult cuMemcpyHtoDAsync(CUdeviceptr to, const void* from, size_t bytes, CUstream stream)
{
    NEEDS_CONTEXT("cuMemcpyHtoDAsync");
    if (!pinned_memory(from)) report("note: cuMemcpyHtoDAsync of %zu bytes from pageable memory", bytes);
    return copy_up(to, from, bytes, stream, "cuMemcpyHtoDAsync");
}
CUresult cuMemcpyDtoHAsync(void* to, CUdeviceptr from, size_t bytes, CUstream stream)
{
    NEEDS_CONTEXT("cuMemcpyDtoHAsync");
    Memory *source = device_memory(from, bytes, "cuMemcpyDtoHAsync"), *target = pinned_memory(to);
    if (!source) return CUDA_ERROR_INVALID_VALUE;
    if (!target) { report("cuMemcpyDtoHAsync into pageable memory"); return CUDA_ERROR_INVALID_VALUE; }
    char* data = target->data + ((char*)to - target->host);
    const char* origin = (const char*)(from - OFFSET);
    return enqueue(stream, {"cuMemcpyDtoHAsync", [=] { memcpy(data, origin, bytes); }, {source}, {target}});
}
CUresult cuMemcpyDtoH(void* to, CUdeviceptr from, size_t bytes)
{
    {
        NEEDS_CONTEXT("cuMemcpyDtoH");
        Memory* source = device_memory(from, bytes, "cuMemcpyDtoH");
        if (!source) return CUDA_ERROR_INVALID_VALUE;
        CUresult status = enqueue(nullptr, {"cuMemcpyDtoH", [=] { memcpy(to, (char*)(from - OFFSET), bytes); }, {source}, {}});
        if (status) return status;
    }
    drain(streams[0]);
    return CUDA_SUCCESS;
}

CUresult cuStreamCreate(CUstream* stream, unsigned flags)
{
    NEEDS_CONTEXT("cuStreamCreate");
    if (flags != CU_STREAM_NON_BLOCKING) report("note: a stream that waits for the null stream, flags %u", flags);
    *stream = make_stream();
    return CUDA_SUCCESS;
}
CUresult cuStreamDestroy(CUstream stream) { NEEDS_CONTEXT("cuStreamDestroy"); stream->alive = false; return CUDA_SUCCESS; }
CUresult cuStreamSynchronize(CUstream given)
{
    CUstream stream;
    {
        NEEDS_CONTEXT_AND_NO_CAPTURE("cuStreamSynchronize");
        stream = stream_of(given);
    }
    drain(stream);
    return CUDA_SUCCESS;
}

CUresult cuEventCreate(CUevent* event, unsigned)
{
    NEEDS_CONTEXT("cuEventCreate");
    *event = (CUevent)new Event;
    return CUDA_SUCCESS;
}
CUresult cuEventDestroy(CUevent) { NEEDS_CONTEXT("cuEventDestroy"); return CUDA_SUCCESS; }
CUresult cuEventRecord(CUevent given, CUstream on)
{
    NEEDS_CONTEXT("cuEventRecord");
    CUstream stream = stream_of(on);
    Event* event = (Event*)given;
    if (stream->capturing) { report("note: event recorded while capturing"); return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED; }
    merge(stream->clock, host_clock);
    event->clock = stream->clock;
    unsigned long number = ++event->recorded;
    if (!computing()) {
        event->finished = number;
        event->at = now();
        return CUDA_SUCCESS;
    }
    stream->queue.push_back([=] {
        std::lock_guard<std::recursive_mutex> lock(driver_mutex);
        event->finished = std::max(event->finished, number);  // another stream may have recorded it since
        event->at = now();
        changed.notify_all();
    });
    changed.notify_all();
    return CUDA_SUCCESS;
}
CUresult cuStreamWaitEvent(CUstream on, CUevent given, unsigned)
{
    NEEDS_CONTEXT("cuStreamWaitEvent");
    CUstream stream = stream_of(on);
    Event* event = (Event*)given;
    unsigned long number = event->recorded;
    if (!computing()) return CUDA_SUCCESS;
    merge(stream->clock, event->clock);
    stream->queue.push_back([=] {
        std::unique_lock<std::recursive_mutex> lock(driver_mutex);
        changed.wait(lock, [&] { return event->finished >= number; });
    });
    changed.notify_all();
    return CUDA_SUCCESS;
}
CUresult cuEventSynchronize(CUevent given)
{
    {
        NEEDS_CONTEXT_AND_NO_CAPTURE("cuEventSynchronize");
    }
    std::unique_lock<std::recursive_mutex> lock(driver_mutex);
    Event* event = (Event*)given;
    unsigned long number = event->recorded;
    Clock clock = event->clock;
    changed.wait(lock, [&] { return event->finished >= number; });
    host_waited(clock);
    return CUDA_SUCCESS;
}
CUresult cuEventElapsedTime(float* milliseconds, CUevent from, CUevent to)
{
    NEEDS_CONTEXT("cuEventElapsedTime");
    Event *start = (Event*)from, *end = (Event*)to;
    if (!start->recorded || !end->recorded) return CUDA_ERROR_INVALID_HANDLE;
    if (start->finished < start->recorded || end->finished < end->recorded) return CUDA_ERROR_NOT_READY;
    *milliseconds = (float)((end->at - start->at) * 1e3);
    return CUDA_SUCCESS;
}

// ---- kernels: those of tests/engines/tensorrt/cuda_on_cpu.cpp, by name ----
void run_crop(const unsigned*, const unsigned*, const void*, const void*, const void*, int, int, int, void*);
void run_decode(const unsigned*, const unsigned*, const void*, const void*, const void*, const void*, const void*, int,
                int, int, int, float, void*);

CUresult cuModuleLoadDataEx(CUmodule* module, const void* image, unsigned, CUjit_option*, void**)
{
    NEEDS_CONTEXT("cuModuleLoadDataEx");
    if (memcmp(image, "\x7f" "ELF", 4)) return CUDA_ERROR_INVALID_IMAGE;
    if (setting("SOFTGPU_CUDA_VERSION", 13000) < 13000) return CUDA_ERROR_NO_BINARY_FOR_GPU;
    *module = (CUmodule)new std::string("module");
    return CUDA_SUCCESS;
}
CUresult cuModuleUnload(CUmodule) { NEEDS_CONTEXT("cuModuleUnload"); return CUDA_SUCCESS; }
CUresult cuModuleGetFunction(CUfunction* function, CUmodule, const char* name)
{
    NEEDS_CONTEXT("cuModuleGetFunction");
    for (const char* known : {"crop", "decode"})
        if (!strcmp(name, known)) { *function = (CUfunction)new std::string(name); return CUDA_SUCCESS; }
    return CUDA_ERROR_NOT_FOUND;
}
CUresult cuFuncSetBlockShape(CUfunction, int, int, int) { return CUDA_SUCCESS; }

struct CropArguments { CUdeviceptr images, regions, table; int width, height, mirrored; CUdeviceptr crops; };
struct DecodeArguments {
    CUdeviceptr x, y, flipped_x, flipped_y, flip_indices;
    int rows, keypoints, bins_x, bins_y;
    float split_ratio;
    CUdeviceptr decoded;
};
static const void* host(CUdeviceptr address) { return address ? (const void*)(address - OFFSET) : nullptr; }

CUresult cuLaunchKernel(CUfunction function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                        unsigned, CUstream stream, void** parameters, void** extra)
{
    NEEDS_CONTEXT("cuLaunchKernel");
    std::string name = *(std::string*)function;
    if (parameters || !extra || extra[0] != CU_LAUNCH_PARAM_BUFFER_POINTER || extra[2] != CU_LAUNCH_PARAM_BUFFER_SIZE)
        return CUDA_ERROR_INVALID_VALUE;
    if (!gx || !gy || !gz || gy > 65535 || gz > 65535 || bx * by * bz > 1024) return CUDA_ERROR_INVALID_VALUE;
    size_t size = *(size_t*)extra[3], expected = name == "decode" ? sizeof(DecodeArguments) : sizeof(CropArguments);
    if (size != expected) {
        report("%s: %zu bytes of arguments, expected %zu", name.c_str(), size, expected);
        return CUDA_ERROR_INVALID_VALUE;
    }
    static std::mutex& one = *new std::mutex;
    std::vector<unsigned> grid{gx, gy, gz}, block{bx, by, bz};
    Operation operation{name, {}, {}, {}};
    auto use = [&](CUdeviceptr address, std::vector<Memory*>& list, const char* which) {
        Memory* memory = device_memory(address, 1, (name + " " + which).c_str());
        if (memory) list.push_back(memory);
        return memory != nullptr;
    };
    bool fine = true;
    if (name == "decode") {
        DecodeArguments a = *(DecodeArguments*)extra[1];
        for (CUdeviceptr address : {a.x, a.y, a.flipped_x, a.flipped_y})
            if (address) fine &= use(address, operation.reads, "logits");
        fine &= use(a.flip_indices, operation.reads, "flip_indices") && use(a.decoded, operation.writes, "decoded");
        operation.work = [=] {
            std::lock_guard<std::mutex> only(one);
            run_decode(grid.data(), block.data(), host(a.x), host(a.y), host(a.flipped_x), host(a.flipped_y),
                       host(a.flip_indices), a.rows, a.keypoints, a.bins_x, a.bins_y, a.split_ratio, (void*)host(a.decoded));
        };
    } else {
        CropArguments a = *(CropArguments*)extra[1];
        fine &= use(a.images, operation.reads, "images") & use(a.regions, operation.reads, "regions")
                & use(a.table, operation.reads, "table") & use(a.crops, operation.writes, "crops");
        operation.work = [=] {
            std::lock_guard<std::mutex> only(one);
            run_crop(grid.data(), block.data(), host(a.images), host(a.regions), host(a.table), a.width, a.height,
                     a.mirrored, (void*)host(a.crops));
        };
    }
    if (!fine) { sticky = CUDA_ERROR_ILLEGAL_ADDRESS; return CUDA_SUCCESS; }  // as a GPU: later calls say so
    return enqueue(stream, operation);
}

// ---- for the stand-in of TensorRT: work between CUDA calls ----
// scratch: any pointer that stands for the memory of an execution context, which two runs must not share.
CUresult softgpuLaunchNetwork(CUstream stream, void (*function)(long), long job, CUdeviceptr scratch, const CUdeviceptr* reads,
                           const size_t* read_bytes, int n_reads, const CUdeviceptr* writes, const size_t* write_bytes,
                           int n_writes)
{
    NEEDS_CONTEXT("enqueueV3");
    Operation operation{"network", [=] { function(job); }, {}, {}};
    for (int i = 0; i < n_reads + n_writes; ++i) {
        bool reading = i < n_reads;
        CUdeviceptr address = reading ? reads[i] : writes[i - n_reads];
        Memory* memory = device_memory(address, reading ? read_bytes[i] : write_bytes[i - n_reads], "enqueueV3");
        if (!memory || address % 256) { report("enqueueV3: bad address"); return CUDA_ERROR_INVALID_VALUE; }
        (reading ? operation.reads : operation.writes).push_back(memory);
    }
    if (Memory* memory = find(scratch)) operation.writes.push_back(memory);
    return enqueue(stream, operation);
}
void* softgpuHost(CUdeviceptr address) { return (void*)host(address); }

// ---- graphs ----
CUresult cuStreamBeginCapture(CUstream stream, CUstreamCaptureMode)
{
    NEEDS_CONTEXT("cuStreamBeginCapture");
    if (!stream || stream->capturing) return CUDA_ERROR_ILLEGAL_STATE;
    stream->capturing = true;
    stream->invalid = false;
    stream->capturer = std::this_thread::get_id();
    stream->graph = new CUgraph_st;
    return CUDA_SUCCESS;
}
CUresult cuStreamEndCapture(CUstream stream, CUgraph* graph)
{
    NEEDS_CONTEXT("cuStreamEndCapture");
    *graph = nullptr;
    if (!stream->capturing) return CUDA_ERROR_ILLEGAL_STATE;
    stream->capturing = false;
    if (stream->invalid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    *graph = stream->graph;
    return CUDA_SUCCESS;
}
CUresult cuStreamIsCapturing(CUstream stream, CUstreamCaptureStatus* status)
{
    *status = stream && stream->capturing ? CU_STREAM_CAPTURE_STATUS_ACTIVE : CU_STREAM_CAPTURE_STATUS_NONE;
    return CUDA_SUCCESS;
}
CUresult cuGraphInstantiateWithFlags(CUgraphExec* executable, CUgraph graph, unsigned long long)
{
    NEEDS_CONTEXT("cuGraphInstantiate");
    *executable = new CUgraphExec_st{graph->operations};
    return CUDA_SUCCESS;
}
CUresult cuGraphDestroy(CUgraph graph) { delete graph; return CUDA_SUCCESS; }
CUresult cuGraphLaunch(CUgraphExec executable, CUstream given)
{
    NEEDS_CONTEXT("cuGraphLaunch");
    if (!executable->alive) { report("launch of a destroyed graph"); return CUDA_ERROR_INVALID_HANDLE; }
    for (auto& operation : executable->operations)
        if (CUresult status = enqueue(given, operation)) return status;
    return CUDA_SUCCESS;
}
CUresult cuGraphExecDestroy(CUgraphExec executable)
{
    NEEDS_CONTEXT("cuGraphExecDestroy");
    executable->alive = false;
    return CUDA_SUCCESS;
}

CUresult cuGetProcAddress(const char* symbol, void** function, int, cuuint64_t, CUdriverProcAddressQueryResult* status)
{
    static const std::map<std::string, void*>& known = *new std::map<std::string, void*>{
#define KNOWN(name) {#name, (void*)name}
        KNOWN(cuInit), {"cuGetErrorString", (void*)cuGetErrorString}, KNOWN(cuGetErrorName),
        {"cuStreamBeginCapture", (void*)cuStreamBeginCapture}, KNOWN(cuStreamEndCapture), KNOWN(cuStreamIsCapturing),
        {"cuGraphInstantiate", (void*)cuGraphInstantiateWithFlags}, KNOWN(cuGraphInstantiateWithFlags),
        KNOWN(cuGraphDestroy), KNOWN(cuGraphLaunch), KNOWN(cuGraphExecDestroy), KNOWN(cuDriverGetVersion),
        {"cuStreamSynchronize", (void*)cuStreamSynchronize}};
    auto found = known.find(symbol);
    *function = found == known.end() ? nullptr : found->second;
    if (status) *status = *function ? CU_GET_PROC_ADDRESS_SUCCESS : CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
    return *function ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}
}
