// Reduction to Hessenberg form by Householder reflections (Golub & Van Loan, section 7.4), one pass over the
// matrix a column: the pass that applies a reflection from both sides also forms the two products that the next
// one needs.
#pragma once

#include "matrix.hpp"

namespace LANES_NAMESPACE {

// Vectors of n + 2 numbers each that the reduction works with.
template <class V>
struct HessenbergWork {
    V* v;       // the reflection being applied, 1 at its first row
    V* next;    // the one after it
    V* y;       // A v, later tau A v
    V* w;       // v^T A
    V* q;       // tau (w - tau (v.y) v)
    V* next_w;  // v^T A for the next one
};

// Make the reflection that sends column `k` below row k + 1 to zero: its vector into `v`, the new subdiagonal
// element into `a`, and what it takes to reflect vectors later below that (where the zeros would be).
// Returns tau, zero where there is nothing to do.
template <class V, class Team>
LANES_FN V make_reflection(Matrix<V> a, int n, int k, V* v, bool keep, Team team) {
    using S = typename Lane<V>::scalar;
    V top(S(0));
    LANES_FEW for (int i = k + 2 + team.rank(); i < n; i += team.size()) top = larger(top, absolute(a(i, k)));
    top = team.maximum(top);
    const V alpha = a(k + 1, k);
    const auto needed = top > V(S(0));
    const V in_range = power_scale(larger(top, absolute(alpha)));
    V squares(S(0));
    LANES_FEW for (int i = k + 2 + team.rank(); i < n; i += team.size()) {
        const V x = a(i, k) * in_range;
        squares = madd(x, x, squares);
    }
    squares = team.sum(squares);
    const V head = alpha * in_range;
    const V norm = root(madd(head, head, squares));
    const V beta = -with_sign(norm, head);
    const V safe_beta = select(needed, beta, V(S(1)));
    const V tau = select(needed, (safe_beta - head) / safe_beta, V(S(0)));
    const V shrink = select(needed, in_range / (head - safe_beta), V(S(0)));
    team.sync();
    LANES_FEW for (int i = k + 2 + team.rank(); i < n; i += team.size()) {
        v[i] = a(i, k) * shrink;
        a(i, k) = keep ? v[i] : V(S(0));
    }
    if (team.rank() == 0) {
        v[k + 1] = V(S(1));
        a(k + 1, k) = select(needed, safe_beta / in_range, alpha);
    }
    team.sync();
    return tau;
}

// y = A v and w = v^T A over columns `first` on, for the first reflection (first = 1).
template <class V, class Team>
LANES_FN void first_products(Matrix<V> a, int n, const V* v, V* y, V* w, Team team) {
    using S = typename Lane<V>::scalar;
    LANES_FEW for (int i = team.rank(); i < n; i += team.size()) {
        V sum(S(0));
        for (int j = 1; j < n; ++j) sum = madd(a(i, j), v[j], sum);
        y[i] = sum;
    }
    LANES_FEW for (int j = 1 + team.rank(); j < n; j += team.size()) {
        V sum(S(0));
        for (int i = 1; i < n; ++i) sum = madd(v[i], a(i, j), sum);
        w[j] = sum;
    }
    team.sync();
}

// Rows i .. i + R - 1 of the pass: a -= y v^T + v q^T (the second term from row k + 1 on), and with the new
// values y' = A v', w' += v'^T A over columns k + 2 on.
template <int R, bool Below, class V>
LANES_FN void update_rows(Matrix<V> a, int n, int k, int i, const HessenbergWork<V>& work) {
    using S = typename Lane<V>::scalar;
    V p[R], u[R], t[R], sum[R];
    V* rows[R];
    LANES_UNROLL
    for (int r = 0; r < R; ++r) {
        p[r] = -work.y[i + r];
        u[r] = Below ? -work.v[i + r] : V(S(0));
        t[r] = Below && i + r >= k + 2 ? work.next[i + r] : V(S(0));
        sum[r] = V(S(0));
        rows[r] = a.row(i + r);
    }
    for (int j = k + 2; j < n; ++j) {
        const V vj = work.v[j], nj = work.next[j];
        V qj, wj;
        if constexpr (Below) {
            qj = work.q[j];
            wj = work.next_w[j];
        }
        LANES_UNROLL
        for (int r = 0; r < R; ++r) {
            V x = madd(p[r], vj, rows[r][j]);
            if constexpr (Below) x = madd(u[r], qj, x);
            rows[r][j] = x;
            sum[r] = madd(x, nj, sum[r]);
            if constexpr (Below) wj = madd(t[r], x, wj);
        }
        if constexpr (Below) work.next_w[j] = wj;
    }
    LANES_UNROLL
    for (int r = 0; r < R; ++r) work.y[i + r] = sum[r];
}

template <class V>
LANES_FN void update_pass(Matrix<V> a, int n, int k, const HessenbergWork<V>& work, Serial) {
    using S = typename Lane<V>::scalar;
    for (int j = k + 2; j < n; ++j) work.next_w[j] = V(S(0));
    int i = 0;
    for (; i + 4 <= k + 1; i += 4) update_rows<4, false>(a, n, k, i, work);
    for (; i < k + 1; ++i) update_rows<1, false>(a, n, k, i, work);
    for (; i + 4 <= n; i += 4) update_rows<4, true>(a, n, k, i, work);
    for (; i < n; ++i) update_rows<1, true>(a, n, k, i, work);
}

// The same for a team: the update and w' column by column, then y' row by row.
template <class V, class Team>
LANES_FN void update_pass(Matrix<V> a, int n, int k, const HessenbergWork<V>& work, Team team) {
    using S = typename Lane<V>::scalar;
    LANES_FEW for (int j = k + 2 + team.rank(); j < n; j += team.size()) {
        const V vj = work.v[j], qj = work.q[j];
        V sum(S(0));
        for (int i = 0; i < n; ++i) {
            V x = madd(-work.y[i], vj, a(i, j));
            if (i > k) x = madd(-work.v[i], qj, x);
            a(i, j) = x;
            if (i > k + 1) sum = madd(work.next[i], x, sum);
        }
        work.next_w[j] = sum;
    }
    team.sync();
    LANES_FEW for (int i = team.rank(); i < n; i += team.size()) {
        V sum(S(0));
        for (int j = k + 2; j < n; ++j) sum = madd(a(i, j), work.next[j], sum);
        work.y[i] = sum;
    }
    team.sync();
}

// Reduce `a` (n x n) to Hessenberg form in place. With `keep`, the vectors of the reflections stay below the
// subdiagonal (their first element, 1, left out) and `tau[k]` is that of column k; without, zeros do.
template <class V, class Team>
LANES_PHASE void reduce_to_hessenberg(Matrix<V> a, int n, bool keep, V* tau, HessenbergWork<V> work, Team team) {
    using S = typename Lane<V>::scalar;
    if (n < 3) return;
    V t = make_reflection(a, n, 0, work.v, keep, team);
    first_products(a, n, work.v, work.y, work.w, team);
    for (int k = 0;; ++k) {
        if (keep && team.rank() == 0) tau[k] = t;
        V overlap(S(0));
        LANES_FEW for (int i = k + 1 + team.rank(); i < n; i += team.size()) overlap = madd(work.v[i], work.y[i], overlap);
        overlap = team.sum(overlap) * t;
        team.sync();
        LANES_FEW for (int j = k + 1 + team.rank(); j < n; j += team.size()) {
            work.q[j] = t * nmadd(overlap, work.v[j], work.w[j]);
        }
        LANES_FEW for (int i = team.rank(); i < n; i += team.size()) work.y[i] = work.y[i] * t;
        team.sync();
        // Column k + 1 first, because the next reflection is made from it.
        const V q = work.q[k + 1];
        LANES_FEW for (int i = team.rank(); i < n; i += team.size()) {
            V x = a(i, k + 1) - work.y[i];
            if (i > k) x = nmadd(work.v[i], q, x);
            a(i, k + 1) = x;
        }
        team.sync();
        if (k == n - 3) {
            // The last reflection: only the last column is left to update.
            LANES_FEW for (int i = team.rank(); i < n; i += team.size()) {
                V x = nmadd(work.y[i], work.v[n - 1], a(i, n - 1));
                if (i > k) x = nmadd(work.v[i], work.q[n - 1], x);
                a(i, n - 1) = x;
            }
            team.sync();
            return;
        }
        t = make_reflection(a, n, k + 1, work.next, keep, team);
        update_pass(a, n, k, work, team);
        V* const old_v = work.v;
        work.v = work.next;
        work.next = old_v;
        V* const old_w = work.w;
        work.w = work.next_w;
        work.next_w = old_w;
    }
}

// The orthogonal matrix Q of the reduction, from the reflections kept in `h` and `tau`, into `q` (n x n).
template <class V, class Team>
LANES_PHASE void form_q(Matrix<V> h, int n, const V* tau, Matrix<V> q, V* v, V* w, Team team) {
    using S = typename Lane<V>::scalar;
    LANES_FEW for (int i = team.rank(); i < n; i += team.size()) {
        for (int j = 0; j < n; ++j) q(i, j) = V(S(i == j ? 1 : 0));
    }
    team.sync();
    // From the last reflection to the first: each changes only rows and columns k + 1 on of what it meets.
    for (int k = n - 3; k >= 0; --k) {
        const V t = tau[k];
        LANES_FEW for (int i = k + 2 + team.rank(); i < n; i += team.size()) v[i] = h(i, k);
        if (team.rank() == 0) v[k + 1] = V(S(1));
        LANES_FEW for (int j = k + 1 + team.rank(); j < n; j += team.size()) w[j] = V(S(0));
        team.sync();
        for (int i = k + 1; i < n; ++i) {
            const V vi = v[i] * t;
            LANES_FEW for (int j = k + 1 + team.rank(); j < n; j += team.size()) w[j] = madd(vi, q(i, j), w[j]);
        }
        for (int i = k + 1; i < n; ++i) {
            const V vi = v[i];
            LANES_FEW for (int j = k + 1 + team.rank(); j < n; j += team.size()) q(i, j) = nmadd(vi, w[j], q(i, j));
        }
        team.sync();
    }
}

}  // namespace LANES_NAMESPACE
