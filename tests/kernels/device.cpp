// The kernel of device.cuh on a CPU that plays GPU: every thread of a block is a fiber, and barriers and shuffles let
// the others run until all have come. A barrier that some threads miss, or a thread that leaves others waiting, ends
// the program with a message. It shows that the kernel finds its memory, its arguments and its way; races it does not
// show (team.cpp does).
#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <vector>

namespace {

struct Dim {
    unsigned x = 0;
};
Dim threadIdx, blockIdx, blockDim;

[[noreturn]] void fail(const char* what) {
    std::fprintf(stderr, "%s (block %u, thread %u)\n", what, blockIdx.x, threadIdx.x);
    std::abort();
}

// The threads of one block, one after the other on one stack each.
class Block {
public:
    template <class Body>
    void run(unsigned threads, Body body) {
        body_ = [](void* context) { (*static_cast<Body*>(context))(); };
        context_ = &body;
        fibers_.resize(threads);
        block_meets_ = 0;
        warp_meets_.assign((threads + 31) / 32, 0);
        words_.assign(threads, 0);
        left_ = threads;
        for (unsigned i = 0; i < threads; ++i) {
            Fiber& fiber = fibers_[i];
            // Not cleared: most of a stack is never touched.
            if (!fiber.stack) fiber.stack.reset(new char[kStackBytes]);
            fiber.waits_for = nullptr;
            fiber.ended = false;
            getcontext(&fiber.context);
            fiber.context.uc_stack.ss_sp = fiber.stack.get();
            fiber.context.uc_stack.ss_size = kStackBytes;
            fiber.context.uc_link = nullptr;
            makecontext(&fiber.context, reinterpret_cast<void (*)()>(&Block::begin), 0);
        }
        current_ = this;
        while (left_) turn();
    }

    void meet_block() { meet(block_meets_, (unsigned)fibers_.size()); }
    void meet_warp() {
        const unsigned first = threadIdx.x / 32 * 32;
        const unsigned size = (unsigned)fibers_.size() - first < 32 ? (unsigned)fibers_.size() - first : 32;
        meet(warp_meets_[threadIdx.x / 32], size);
    }
    template <class V>
    V exchange(V own, unsigned from) {
        static_assert(sizeof(V) <= 8, "a word at most");
        std::memcpy(&words_[threadIdx.x], &own, sizeof own);
        meet_warp();
        V out;
        std::memcpy(&out, &words_[threadIdx.x / 32 * 32 + from], sizeof out);
        meet_warp();
        return out;
    }

    static Block* current_;

private:
    static constexpr size_t kStackBytes = 256 * 1024;
    struct Fiber {
        ucontext_t context;
        std::unique_ptr<char[]> stack;
        unsigned long* waits_for;
        unsigned long until;
        bool ended;
    };

    static void begin() {
        current_->body_(current_->context_);
        Fiber& fiber = current_->fibers_[threadIdx.x];
        fiber.ended = true;
        --current_->left_;
        swapcontext(&fiber.context, &current_->home_);
    }

    // Let every thread that need not wait run on to its next barrier.
    void turn() {
        bool moved = false;
        for (unsigned i = 0; i < fibers_.size(); ++i) {
            Fiber& fiber = fibers_[i];
            if (fiber.ended || (fiber.waits_for && *fiber.waits_for < fiber.until)) continue;
            fiber.waits_for = nullptr;
            threadIdx.x = i;
            swapcontext(&home_, &fiber.context);
            moved = true;
        }
        if (!moved) fail("threads wait at a barrier that others never reach");
    }

    // `count` is how often a thread has come to this barrier, over all threads.
    void meet(unsigned long& count, unsigned size) {
        const unsigned long until = (count / size + 1) * size;
        ++count;
        Fiber& fiber = fibers_[threadIdx.x];
        fiber.waits_for = &count;
        fiber.until = until;
        swapcontext(&fiber.context, &home_);
    }

    void (*body_)(void*) = nullptr;
    void* context_ = nullptr;
    std::vector<Fiber> fibers_;
    std::vector<unsigned long> warp_meets_;
    std::vector<unsigned long long> words_;
    unsigned long block_meets_ = 0;
    unsigned left_ = 0;
    ucontext_t home_;
};
Block* Block::current_ = nullptr;

void __syncthreads() { Block::current_->meet_block(); }
void __syncwarp() { Block::current_->meet_warp(); }
template <class V>
V __shfl_xor_sync(unsigned, V x, int step) {
    return Block::current_->exchange(x, (threadIdx.x % 32) ^ (unsigned)step);
}
template <class V>
V __shfl_sync(unsigned, V x, int lane) {
    return Block::current_->exchange(x, (unsigned)lane);
}
unsigned long long atomicAdd(unsigned long long* at, unsigned long long x) {
    const unsigned long long old = *at;
    *at += x;
    return old;
}

}  // namespace

#include "device.cuh"

namespace {

using namespace lanes;

template <class T, Task task, class Team, bool InShared>
void launch(unsigned blocks, unsigned threads, unsigned shared_bytes, const void* argument) {
    const Arguments<T>& arguments = *static_cast<const Arguments<T>*>(argument);
    Block block;
    // Guards around the shared memory of a block, which is full of nonsense at first.
    std::vector<unsigned char> shared(shared_bytes + 64);
    blockDim.x = threads;
    for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x) {
        std::memset(shared.data(), 0xff, shared.size());
        unsigned char* const begin = shared.data() + (16 - (size_t)shared.data() % 16);
        block.run(threads, [&] { work<T, task, Team, InShared>(arguments, begin); });
        for (unsigned char* at = begin + shared_bytes; at < shared.data() + shared.size(); ++at) {
            if (*at != 0xff) fail("something was written past the shared memory");
        }
    }
}

template <class T, class Team, bool InShared>
bool launch_task(int task, unsigned blocks, unsigned threads, unsigned shared_bytes, const void* argument) {
    if (task == kValues) launch<T, kValues, Team, InShared>(blocks, threads, shared_bytes, argument);
    else if (task == kVectors) launch<T, kVectors, Team, InShared>(blocks, threads, shared_bytes, argument);
    else launch<T, kSchur, Team, InShared>(blocks, threads, shared_bytes, argument);
    return true;
}

}  // namespace

// Run one kernel; 0 if it is not among those compiled here, which are some of each kind.
extern "C" int launch_kernel(int single, int task, int warp, int in_shared, unsigned blocks, unsigned threads,
                             unsigned shared_bytes, const void* argument) {
    static std::mutex alone;
    const std::lock_guard<std::mutex> lock(alone);
    if (!single && warp) return launch_task<double, WarpTeam, true>(task, blocks, threads, shared_bytes, argument);
    if (!single && in_shared) return launch_task<double, BlockTeam, true>(task, blocks, threads, shared_bytes, argument);
    if (!single) return launch_task<double, BlockTeam, false>(task, blocks, threads, shared_bytes, argument);
    if (warp && task == kValues) launch<float, kValues, WarpTeam, true>(blocks, threads, shared_bytes, argument);
    else return 0;
    return 1;
}

extern "C" int argument_bytes() { return (int)sizeof(Arguments<double>); }
extern "C" int scratch_bytes() { return kScratchBytes; }
