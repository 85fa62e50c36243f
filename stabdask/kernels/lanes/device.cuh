// The solver on a GPU: warps and blocks as teams, and the kernel that hands matrices out to them.
//
// Compiled once for each number type, task, team and place in memory: LANES_NUMBER, LANES_TASK, LANES_TEAM and
// LANES_IN_SHARED say which.
#pragma once

#include "team_solver.hpp"

namespace LANES_NAMESPACE {

constexpr unsigned kFullWarp = 0xffffffffu;

// Over `lanes` neighbors, a power of two; both in the order of a tree, so that all of them get the same bits.
template <int lanes, class V>
LANES_FN V sum_of_lanes(V x) {
    LANES_UNROLL for (int step = lanes / 2; step; step /= 2) x = x + __shfl_xor_sync(kFullWarp, x, step);
    return x;
}
template <int lanes, class V>
LANES_FN V maximum_of_lanes(V x) {
    LANES_UNROLL for (int step = lanes / 2; step; step /= 2) x = larger(x, __shfl_xor_sync(kFullWarp, x, step));
    // Of a NaN and a number either may count as the larger one; all have to hold the same.
    return __shfl_sync(kFullWarp, x, 0);
}

// Scratch memory of a team: its board, then a number for each warp, then a place in the queue.
constexpr int kBoardBytes = kPanel * (int)sizeof(Reflection<double>);
constexpr int kWarps = 8;  // of a block, at most
constexpr int kQueueAt = kBoardBytes + kWarps * 8;
constexpr int kScratchBytes = (kQueueAt + 8 + 15) / 16 * 16;

// The 32 threads of a warp. Warps of a block know nothing of each other.
struct WarpTeam {
    static constexpr bool parallel = true;
    static constexpr int threads = 128;  // of a block, at most
    template <class T>
    static constexpr int blocks = sizeof(T) == 4 ? 5 : 4;
    unsigned char* scratch;
    static LANES_FN int in_block() { return threadIdx.x / 32; }
    static LANES_FN int per_block() { return blockDim.x / 32; }
    LANES_FN bool leads() const { return true; }
    LANES_FN WarpTeam leaders() const { return *this; }
    template <class V>
    LANES_FN V* board(V*) const {
        return reinterpret_cast<V*>(scratch);
    }
    LANES_FN int rank() const { return threadIdx.x % 32; }
    LANES_FN int size() const { return 32; }
    LANES_FN void sync() const { __syncwarp(); }
    template <class V>
    LANES_FN V sum(V x) const {
        __syncwarp();
        return sum_of_lanes<32>(x);
    }
    template <class V>
    LANES_FN V maximum(V x) const {
        __syncwarp();
        return maximum_of_lanes<32>(x);
    }
    LANES_FN long long take(unsigned long long* next) const {
        unsigned long long item = 0;
        if (rank() == 0) item = atomicAdd(next, 1ull);
        return (long long)__shfl_sync(kFullWarp, item, 0);
    }
};

// All threads of a block, whole warps of them.
struct BlockTeam {
    static constexpr bool parallel = true;
    static constexpr int threads = 32 * kWarps;  // at most
    template <class T>
    static constexpr int blocks = sizeof(T) == 4 ? 3 : 2;
    unsigned char* scratch;
    static LANES_FN int in_block() { return 0; }
    static LANES_FN int per_block() { return 1; }
    LANES_FN bool leads() const { return threadIdx.x < 32; }
    LANES_FN WarpTeam leaders() const { return {scratch}; }
    template <class V>
    LANES_FN V* board(V*) const {
        return reinterpret_cast<V*>(scratch);
    }
    LANES_FN int rank() const { return threadIdx.x; }
    LANES_FN int size() const { return blockDim.x; }
    LANES_FN void sync() const { __syncthreads(); }
    template <class V>
    LANES_FN V sum(V x) const {
        const V own = gather(sum_of_lanes<32>(x));
        return sum_of_lanes<kWarps>(own);
    }
    template <class V>
    LANES_FN V maximum(V x) const {
        const V own = gather(maximum_of_lanes<32>(x));
        return maximum_of_lanes<kWarps>(own);
    }
    LANES_FN long long take(unsigned long long* next) const {
        unsigned long long* const item = reinterpret_cast<unsigned long long*>(scratch + kQueueAt);
        if (rank() == 0) *item = atomicAdd(next, 1ull);
        __syncthreads();
        const unsigned long long taken = *item;
        __syncthreads();
        return (long long)taken;
    }

private:
    // A number of each warp, to as many lanes of every warp; zero to the others.
    template <class V>
    LANES_FN V gather(V x) const {
        V* const partial = reinterpret_cast<V*>(scratch + kBoardBytes);
        if (rank() % 32 == 0) partial[rank() / 32] = x;
        __syncthreads();
        const int lane = rank() % kWarps;
        const V own = lane < size() / 32 ? partial[lane] : V(0);
        __syncthreads();
        return own;
    }
};

// What the kernel is told, by value: eight bytes each, in the order of `ARGUMENTS` in kernels/cuda_engine.py.
template <class T>
struct Arguments {
    Source source;
    TeamResults<T> out;
    unsigned char* again;
    const long long* list;     // of the matrices to solve
    long long count;           // how many
    unsigned long long* next;  // the place of the next one, zero at first
    long long largest;         // order among them
    long long shared_bytes;    // of one team
    unsigned char* workspace;
    long long workspace_bytes;  // of one team
};

// What one thread does: teams take matrices until there are none left.
template <class T, Task task, class Team, bool InShared>
LANES_FN void work(const Arguments<T>& a, unsigned char* shared) {
    unsigned char* const own = shared + Team::in_block() * a.shared_bytes;
    const Team team{own};
    const Needs needs{(int)a.largest, task};
    const long long number = (long long)blockIdx.x * Team::per_block() + Team::in_block();
    T* const others = reinterpret_cast<T*>(a.workspace + number * a.workspace_bytes);
    T* const numbers = InShared ? reinterpret_cast<T*>(own + kScratchBytes) : others + needs.other_numbers();
    const Storage<T> storage{numbers, others, reinterpret_cast<int*>(numbers + needs.numbers())};
    solve_list<task>(TeamSolver<T, Team>(a.source, a.out, a.again, storage, team), a.list, a.count, a.next, team);
}

}  // namespace LANES_NAMESPACE

#if defined(LANES_NUMBER)
// Every matrix waits for itself most of the time, so as many should be at work as their memory allows: `blocks` is how
// many of a multiprocessor's the registers have to be enough for, the most for which next to none are spilled.
extern "C" __global__ void
__launch_bounds__(LANES_NAMESPACE::LANES_TEAM::threads, LANES_NAMESPACE::LANES_TEAM::blocks<LANES_NUMBER>)
    lanes_solve(const LANES_NAMESPACE::Arguments<LANES_NUMBER> arguments) {
    using namespace LANES_NAMESPACE;
    extern __shared__ __align__(16) unsigned char shared[];
    work<LANES_NUMBER, (Task)LANES_TASK, LANES_TEAM, LANES_IN_SHARED>(arguments, shared);
}
#endif
