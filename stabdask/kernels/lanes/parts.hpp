// Strongly connected parts of the pattern of a matrix, found by a team: all paths by Warshall's algorithm on rows of
// bits ("A theorem on Boolean matrices", 1962), n steps whose work is shared out row by row. (One CPU thread does
// less work with components.hpp.)
#pragma once

#include "matrix.hpp"

namespace LANES_NAMESPACE {

// Lists of n integers each, and n rows of bits.
struct Parts {
    int* order;      // row i of the reordered matrix is row order[i] of the caller's
    int* part;       // the first row of the part that each of the caller's rows belongs to
    int* reach;      // how many rows there is a path to
    unsigned* bits;  // (n, words): there is a path from i to j
    static constexpr int kBits = 32;
    static LANES_FN int words(int n) { return (n + kBits - 1) / kBits; }
    LANES_FN unsigned* row(int i, int n) const { return bits + (long long)i * words(n); }
    LANES_FN bool path(int i, int j, int n) const { return row(i, n)[j / kBits] >> (j % kBits) & 1u; }
};

LANES_FN int count_bits(unsigned x) {
#if defined(LANES_CUDA)
    return __popc(x);
#else
    return __builtin_popcount(x);
#endif
}

// The matrix as one part, in the order it has.
template <class Team>
LANES_FN void one_part(int n, Parts parts, Team team) {
    LANES_FEW for (int i = team.rank(); i < n; i += team.size()) {
        parts.order[i] = i;
        parts.part[i] = 0;
    }
    team.sync();
}

// Find the parts of the pattern `edge(i, j)` and an order in which the matrix is block upper triangular, the rows of
// a part side by side in the order they have.
template <class Edge, class Team>
LANES_PHASE void find_parts(Edge edge, int n, Parts parts, Team team) {
    const int words = Parts::words(n);
    for (int at = team.rank(); at < n * words; at += team.size()) {
        const int i = at / words, first = at % words * Parts::kBits;
        const int end = first + Parts::kBits < n ? first + Parts::kBits : n;
        unsigned word = 0;
        for (int j = first; j < end; ++j) word |= (unsigned)(i == j || edge(i, j)) << (j - first);
        parts.bits[at] = word;
    }
    team.sync();
    // Paths by way of rows up to m. Row m itself has nothing to gain in step m, so nobody writes to it.
    for (int m = 0; m < n; ++m) {
        const unsigned* through = parts.row(m, n);
        LANES_FEW for (int i = team.rank(); i < n; i += team.size()) {
            if (i == m || !parts.path(i, m, n)) continue;
            unsigned* own = parts.row(i, n);
            for (int w = 0; w < words; ++w) own[w] |= through[w];
        }
        team.sync();
    }
    LANES_FEW for (int i = team.rank(); i < n; i += team.size()) {
        int first = i, count = 0;
        for (int j = 0; j < i && first == i; ++j) {
            if (parts.path(i, j, n) && parts.path(j, i, n)) first = j;
        }
        for (int w = 0; w < words; ++w) count += count_bits(parts.row(i, n)[w]);
        parts.part[i] = first;
        parts.reach[i] = count;
    }
    team.sync();
    // Whoever has a path to another part reaches more than that part does.
    LANES_FEW for (int i = team.rank(); i < n; i += team.size()) {
        const int reach = parts.reach[i], part = parts.part[i];
        int place = 0;
        for (int j = 0; j < n; ++j) {
            const int other = parts.reach[j], its_part = parts.part[j];
            place += other > reach || (other == reach && (its_part < part || (its_part == part && j < i)));
        }
        parts.order[place] = i;
    }
    team.sync();
}

}  // namespace LANES_NAMESPACE
