// The GPU's kernels as C++ on the CPU. The threads of a block run one after the other; where they exchange values they
// are fibres that take turns at every shuffle.

#include <ucontext.h>

#include <cmath>
#include <functional>
#include <memory>
#include <vector>

struct dim3 {
    unsigned x, y, z;
};

static dim3 gridDim, blockDim, blockIdx, threadIdx;

struct Fibre {
    ucontext_t context;
    std::unique_ptr<char[]> stack{new char[65536]};
    dim3 index;
    bool done;
};

static ucontext_t scheduler;
static std::vector<Fibre> fibres;
static size_t running;
static std::vector<double> exchange;
static const std::function<void()>* body;

static void work()
{
    (*body)();
    fibres[running].done = true;
    swapcontext(&fibres[running].context, &scheduler);
}

static void wait_for_the_others() { swapcontext(&fibres[running].context, &scheduler); }

static dim3 thread(size_t i)
{
    return {unsigned(i % blockDim.x), unsigned(i / blockDim.x % blockDim.y), unsigned(i / blockDim.x / blockDim.y)};
}

static void run_fibres()
{
    for (size_t i = 0; i < fibres.size(); ++i) {
        Fibre& fibre = fibres[i];
        fibre.index = thread(i);
        fibre.done = false;
        getcontext(&fibre.context);
        fibre.context.uc_stack.ss_sp = fibre.stack.get();
        fibre.context.uc_stack.ss_size = 65536;
        makecontext(&fibre.context, work, 0);
    }
    for (bool left = true; left;) {
        left = false;
        for (running = 0; running < fibres.size(); ++running) {
            if (fibres[running].done) continue;
            threadIdx = fibres[running].index;
            swapcontext(&scheduler, &fibres[running].context);
            left |= !fibres[running].done;
        }
    }
}

static void launch(const unsigned* grid, const unsigned* block, bool exchanging, const std::function<void()>& kernel)
{
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block[0], block[1], block[2]};
    size_t threads = size_t(block[0]) * block[1] * block[2];
    fibres = std::vector<Fibre>(exchanging ? threads : 0);
    exchange.resize(threads);
    body = &kernel;
    for (blockIdx.z = 0; blockIdx.z < grid[2]; ++blockIdx.z)
        for (blockIdx.y = 0; blockIdx.y < grid[1]; ++blockIdx.y)
            for (blockIdx.x = 0; blockIdx.x < grid[0]; ++blockIdx.x) {
                run_fibres();
                for (size_t i = 0; i < (exchanging ? 0 : threads); ++i) {
                    threadIdx = thread(i);
                    kernel();
                }
            }
}

template <typename Number>
static Number __shfl_xor_sync(unsigned, Number value, int distance)
{
    exchange[running] = value;
    wait_for_the_others();
    Number other = Number(exchange[running ^ distance]);
    wait_for_the_others();
    return other;
}

#define __global__
#define __device__
#include "kernels.cu"

extern "C" void run_crop(const unsigned* grid, const unsigned* block, const unsigned char* images,
                         const Region* regions, const float* table, int width, int height, int mirrored, float* crops)
{
    launch(grid, block, false, [=] { crop(images, regions, table, width, height, mirrored, crops); });
}

extern "C" void run_decode(const unsigned* grid, const unsigned* block, const float* simcc_x, const float* simcc_y,
                           const float* flipped_x, const float* flipped_y, const int* flip_indices, int rows,
                           int keypoints, int bins_x, int bins_y, float split_ratio, float* decoded)
{
    launch(grid, block, true, [=] {
        decode(simcc_x, simcc_y, flipped_x, flipped_y, flip_indices, rows, keypoints, bins_x, bins_y, split_ratio,
               decoded);
    });
}
