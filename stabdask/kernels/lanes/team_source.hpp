// Where the matrices that a team solves come from, and a first look at each.
#pragma once

#include "matrix.hpp"

namespace LANES_NAMESPACE {

// To double and back. CuPy compiles with -ftz=true, and numbers that the caller gives or gets may be subnormal.
LANES_FN double widen(double x) { return x; }
LANES_FN double widen(float x) {
#if defined(LANES_CUDA)
    double out;
    asm("cvt.f64.f32 %0, %1;" : "=d"(out) : "f"(x));
    return out;
#else
    return x;
#endif
}
template <class T>
LANES_FN T narrow(double x);
template <>
LANES_FN double narrow<double>(double x) {
    return x;
}
template <>
LANES_FN float narrow<float>(double x) {
#if defined(LANES_CUDA)
    float out;
    asm("cvt.rn.f32.f64 %0, %1;" : "=f"(out) : "d"(x));
    return out;
#else
    return (float)x;
#endif
}

// Matrices of orders `sizes` (batch,). Dense ones: `entries` (batch, k, k) of double or, not `wide`, of float. With
// `scales`: W[R, R] diag(s_R) - diag(g_R) made of `entries` W (k, k), `shifts` g (k,) and `scales` s (batch, k), all
// double, R where s is not zero.
struct Source {
    const void* entries;
    const double* shifts;
    const double* scales;
    const long long* sizes;
    long long k;
    long long wide;
};

// Entries of one of them; `nodes` lists R where there are scales.
struct Entries {
    Source source;
    long long b;
    const int* nodes;
    LANES_FN double operator()(int i, int j) const {
        if (source.scales) {
            const long long row = nodes[i], column = nodes[j];
            const double x = static_cast<const double*>(source.entries)[row * source.k + column] *
                             source.scales[b * source.k + column];
            return i == j ? x - source.shifts[row] : x;
        }
        const long long at = (b * source.k + i) * source.k + j;
        return source.wide ? static_cast<const double*>(source.entries)[at]
                           : widen(static_cast<const float*>(source.entries)[at]);
    }
};

// List where `scales` (k,) are not zero, in order.
template <class Team>
LANES_FN void list_nodes(const double* scales, int k, int* nodes, Team team) {
    LANES_FEW for (int i = team.rank(); i < k; i += team.size()) {
        if (scales[i] == 0) continue;
        int place = 0;
        for (int j = 0; j < i; ++j) place += scales[j] != 0;
        nodes[place] = i;
    }
    team.sync();
}

// Call visit(i, j) for every entry of an n x n matrix, each by one thread, neighbors in a row by neighbors in the team.
template <class Team, class Visit>
LANES_FN void each_entry(int n, Team team, Visit visit) {
    int i = 0, j = team.rank();
    for (;;) {
        while (j >= n) {
            j -= n;
            if (++i >= n) return;
        }
        visit(i, j);
        j += team.size();
    }
}

// What a first look at a matrix tells.
struct TeamLook {
    bool finite;
    double zeros;  // how many entries are zero
    double up;     // a power of two that brings its largest entry into [1, 2)
    double trace;  // of the scaled matrix, its entries as numbers T, which the solver sees
    double norm;   // Frobenius norm of the same; 1 for a matrix of zeros
};

template <class T, class Team>
LANES_FN TeamLook look_at(Entries entries, int n, Team team) {
    TeamLook look;
    double top = 0, bad = 0, zeros = 0;
    each_entry(n, team, [&](int i, int j) {
        const double x = entries(i, j);
        top = larger(top, absolute(x));
        bad = bad + x * 0.0;
        zeros = zeros + (x == 0 ? 1.0 : 0.0);
    });
    top = team.maximum(top);
    look.finite = team.sum(bad) == 0;
    look.zeros = team.sum(zeros);
    // Beyond these bounds, 2^-1021 and 2^1021, the factor itself would not be a normal number.
    look.up = power_scale(smaller(larger(top, 4.4501477170144028e-308), 2.2471164185778949e+307));
    double squares = 0, trace = 0;
    each_entry(n, team, [&](int i, int j) {
        const double x = widen(narrow<T>(entries(i, j) * look.up));
        squares = squares + x * x;
        if (i == j) trace = trace + x;
    });
    look.trace = team.sum(trace);
    look.norm = root(team.sum(squares));
    if (!(look.norm > 0)) look.norm = 1;
    return look;
}

}  // namespace LANES_NAMESPACE
