// Balancing by a diagonal similarity of powers of two: rows and columns of comparable norm.
// James, Langou, Lowery, "On matrix balancing and eigenvector computation", 2014 (2-norms, diagonal included).
#pragma once

#include "matrix.hpp"

namespace LANES_NAMESPACE {

constexpr int kBalancePasses = 24;
template <class S>
constexpr S kFarthest = S(sizeof(S) == 4 ? 1e30 : 1e250);

// How far to scale row and column i: a power of two, and 1 where the gain is not worth it.
template <class V>
LANES_FN V balance_factor(V column, V row, V scale) {
    using S = typename Lane<V>::scalar;
    V factor(S(1));
    V c = column, r = row;
    const V total = c + r;
    const auto usable = (column > V(S(0))) & (row > V(S(0)));
    // Doubling moves the norms by a factor of four against each other; 2^60 is as far as one visit goes.
    for (int step = 0; step < 60; ++step) {
        const auto low = usable & (c < r * S(0.5)) & (factor * scale < V(kFarthest<S>));
        const auto high = usable & (c * S(0.5) >= r) & (factor * scale > V(S(1) / kFarthest<S>));
        if (!any(low | high)) break;
        const V by = select(low, V(S(2)), select(high, V(S(0.5)), V(S(1))));
        const V back = select(low, V(S(0.5)), select(high, V(S(2)), V(S(1))));
        factor = factor * by;
        c = c * by;
        r = r * back;
    }
    return select(usable & (c + r < total * S(0.95)), factor, V(S(1)));
}

// Scale `a` (n x n) in place to D^-1 A D; `scale` gets the diagonal of D.
template <class V, class Team>
LANES_PHASE void balance(Matrix<V> a, int n, V* scale, Team team) {
    using S = typename Lane<V>::scalar;
    LANES_FEW for (int i = team.rank(); i < n; i += team.size()) scale[i] = V(S(1));
    team.sync();
    bool changed = true;
    for (int pass = 0; changed && pass < kBalancePasses; ++pass) {
        changed = false;
        for (int i = 0; i < n; ++i) {
            V column_top(S(0)), row_top(S(0));
            LANES_FEW for (int j = team.rank(); j < n; j += team.size()) {
                column_top = larger(column_top, absolute(a(j, i)));
                row_top = larger(row_top, absolute(a(i, j)));
            }
            // Squares in range whatever the scale of the two.
            const V column_range = power_scale(team.maximum(column_top));
            const V row_range = power_scale(team.maximum(row_top));
            V column(S(0)), row(S(0));
            LANES_FEW for (int j = team.rank(); j < n; j += team.size()) {
                const V c = a(j, i) * column_range, r = a(i, j) * row_range;
                column = madd(c, c, column);
                row = madd(r, r, row);
            }
            column = root(team.sum(column)) / column_range;
            row = root(team.sum(row)) / row_range;
            const V factor = balance_factor(column, row, scale[i]);
            if (!any(factor != V(S(1)))) continue;
            changed = true;
            const V back = V(S(1)) / factor;
            team.sync();
            LANES_FEW for (int j = team.rank(); j < n; j += team.size()) a(i, j) = a(i, j) * back;
            team.sync();
            LANES_FEW for (int j = team.rank(); j < n; j += team.size()) a(j, i) = a(j, i) * factor;
            if (team.rank() == 0) scale[i] = scale[i] * factor;
            team.sync();
        }
    }
}

// Bring the largest entry of `a` (n x n) into [1, 2) by a power of two; returns what eigenvalues are then in units of.
template <class V, class Team>
LANES_FN V rescale(Matrix<V> a, int n, Team team) {
    using S = typename Lane<V>::scalar;
    V top(S(0));
    for (int i = 0; i < n; ++i) {
        LANES_FEW for (int j = team.rank(); j < n; j += team.size()) top = larger(top, absolute(a(i, j)));
    }
    top = team.maximum(top);
    const V by = select(top > V(S(0)), power_scale(top), V(S(1)));
    if (any(by != V(S(1)))) {
        for (int i = 0; i < n; ++i) {
            LANES_FEW for (int j = team.rank(); j < n; j += team.size()) a(i, j) = a(i, j) * by;
        }
    }
    team.sync();
    return V(S(1)) / by;
}

}  // namespace LANES_NAMESPACE
