// A view of one matrix (of one per lane), and the team of threads that works on it.
#pragma once

#include "pack.hpp"

namespace LANES_NAMESPACE {

// Row-major, leading dimension `ld`. On the CPU `ld` is odd, so that columns of packs of one cache line each use
// every set of the cache.
template <class V>
struct Matrix {
    V* data;
    int ld;
    LANES_FN V& operator()(int i, int j) const { return data[(long long)i * ld + j]; }
    LANES_FN V* row(int i) const { return data + (long long)i * ld; }
};

// One thread. A CUDA warp or block (see device.cuh) and a set of CPU threads (in the tests) have the same members.
// All threads of a team go the same way, with the same numbers in what they have of their own; `sum` and `maximum` (of
// numbers that are not negative) give all of them the same bits, and no thread returns from one before all have come. Code that asks for `parallel`
// may choose another order of its loops.
struct Serial {
    static constexpr bool parallel = false;
    LANES_FN int rank() const { return 0; }
    LANES_FN int size() const { return 1; }
    LANES_FN void sync() const {}
    // Whether a thread is one of the few that do together what is too little for all, and their team.
    LANES_FN bool leads() const { return true; }
    LANES_FN Serial leaders() const { return {}; }
    // Memory that all share for a few numbers, in place of what each has of its `own`.
    template <class V>
    LANES_FN V* board(V* own) const {
        return own;
    }
    template <class V>
    LANES_FN V sum(V x) const {
        return x;
    }
    template <class V>
    LANES_FN V maximum(V x) const {
        return x;
    }
};

}  // namespace LANES_NAMESPACE
