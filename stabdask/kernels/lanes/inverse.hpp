// Eigenvectors of Hessenberg matrices by inverse iteration with known eigenvalues (Ipsen, "Computing an
// eigenvector with inverse iteration", SIAM Review 39, 1997), right and left ones from one factorization, and their
// way back through the reflections.
#pragma once

#include "francis.hpp"

namespace LANES_NAMESPACE {

constexpr int kStarts = 4;

template <class V>
struct ComplexVector {
    V* re;
    V* im;
};

// What one factorization H - lambda I = P L U leaves behind; `upper` are n x n, the rest n long.
template <class V>
struct Factors {
    Matrix<V> upper_re, upper_im;
    V* multiplier_re;
    V* multiplier_im;
    V* swapped;      // 1 where row i and i + 1 changed places, else 0
    V* inverse_re;   // 1 / U_ii
    V* inverse_im;
};

// (a + ib) / (c + id) without overflow in between; 0 where the divisor is zero.
template <class V>
LANES_FN void divide(V a, V b, V c, V d, V& re, V& im) {
    using S = typename Lane<V>::scalar;
    const V top = larger(absolute(c), absolute(d));
    const V in_range = select(top > V(S(0)), power_scale(top), V(S(0)));
    const V x = c * in_range, y = d * in_range;
    const V squares = madd(x, x, y * y);
    const V shrink = select(squares > V(S(0)), in_range / select(squares > V(S(0)), squares, V(S(1))), V(S(0)));
    re = madd(a, x, b * y) * shrink;
    im = nmadd(a, y, b * x) * shrink;
}

// Pivots below this are taken as this: about a rounding of the Hessenberg matrix `h`.
template <class V, class Team>
LANES_FN V smallest_pivot(Matrix<V> h, int n, Team team) {
    using S = typename Lane<V>::scalar;
    V norm(S(0));
    LANES_FEW for (int i = team.rank(); i < n; i += team.size()) {
        V row(S(0));
        for (int j = i ? i - 1 : 0; j < n; ++j) row = row + absolute(h(i, j));
        norm = larger(norm, row);
    }
    return larger(team.maximum(norm) * V(Limits<S>::epsilon), V(Limits<S>::smallest / Limits<S>::epsilon));
}

// Factorize H - (re + i im) I with row exchanges. Pivots smaller than `tiny` become `tiny`. The subdiagonal element
// of column `kept` is left out, lane by lane.
template <class V, class Team>
LANES_PHASE void factorize(Matrix<V> h, int n, V re, V im, V tiny, V kept, Factors<V> f, Team team) {
    using S = typename Lane<V>::scalar;
    const V zero(S(0)), one(S(1));
    LANES_FEW for (int j = team.rank(); j < n; j += team.size()) {
        f.upper_re(0, j) = j == 0 ? h(0, 0) - re : h(0, j);
        f.upper_im(0, j) = j == 0 ? -im : zero;
    }
    team.sync();
    for (int i = 0; i + 1 < n; ++i) {
        const V below = select(kept == V(S(i)), zero, h(i + 1, i));
        const V pr = f.upper_re(i, i), pi = f.upper_im(i, i);
        const auto swap = absolute(below) > absolute(pr) + absolute(pi);
        // The pivot row is the larger; what remains of the other becomes row i + 1.
        V pivot_re = select(swap, below, pr), pivot_im = select(swap, zero, pi);
        const auto vanishes = absolute(pivot_re) + absolute(pivot_im) < tiny;
        pivot_re = select(vanishes, tiny, pivot_re);
        pivot_im = select(vanishes, zero, pivot_im);
        V mr, mi, qr, qi;
        divide(select(swap, pr, below), select(swap, pi, zero), pivot_re, pivot_im, mr, mi);
        divide(one, zero, pivot_re, pivot_im, qr, qi);
        team.sync();
        LANES_FEW for (int j = i + 1 + team.rank(); j < n; j += team.size()) {
            const V ur = f.upper_re(i, j), ui = f.upper_im(i, j);
            const V br = j == i + 1 ? h(i + 1, j) - re : h(i + 1, j);
            const V bi = j == i + 1 ? -im : zero;
            const V ar = select(swap, br, ur), ai = select(swap, bi, ui);
            const V cr = select(swap, ur, br), ci = select(swap, ui, bi);
            f.upper_re(i, j) = ar;
            f.upper_im(i, j) = ai;
            f.upper_re(i + 1, j) = madd(mi, ai, nmadd(mr, ar, cr));
            f.upper_im(i + 1, j) = nmadd(mi, ar, nmadd(mr, ai, ci));
        }
        if (team.rank() == 0) {
            f.upper_re(i, i) = pivot_re;
            f.upper_im(i, i) = pivot_im;
            f.multiplier_re[i] = mr;
            f.multiplier_im[i] = mi;
            f.swapped[i] = select(swap, one, zero);
            f.inverse_re[i] = qr;
            f.inverse_im[i] = qi;
        }
        team.sync();
    }
    if (team.rank() == 0) {
        V pr = f.upper_re(n - 1, n - 1), pi = f.upper_im(n - 1, n - 1);
        const auto vanishes = absolute(pr) + absolute(pi) < tiny;
        pr = select(vanishes, tiny, pr);
        pi = select(vanishes, zero, pi);
        f.upper_re(n - 1, n - 1) = pr;
        f.upper_im(n - 1, n - 1) = pi;
        divide(one, zero, pr, pi, f.inverse_re[n - 1], f.inverse_im[n - 1]);
    }
    team.sync();
}

// Shrink a solution that is growing out of range, all of it, where `value` is its newest component.
template <class V, class Team>
LANES_FN void keep_in_range(ComplexVector<V> x, int n, V& re, V& im, V& shrunk, Team team) {
    using S = typename Lane<V>::scalar;
    const V limit(sizeof(S) == 4 ? S(1e15) : S(1e130));
    const V top = larger(absolute(re), absolute(im));
    const auto grown = top > limit;
    if (!any(grown)) return;
    const V by = select(grown, power_scale(top), V(S(1)));
    team.sync();
    LANES_FEW for (int j = team.rank(); j < n; j += team.size()) {
        x.re[j] = x.re[j] * by;
        x.im[j] = x.im[j] * by;
    }
    team.sync();
    re = re * by;
    im = im * by;
    shrunk = shrunk * by;
}

// Solve U x = b in place, where components from `given` on are known; `shrunk` is multiplied by what x had to be
// shrunk by.
template <class V, class Team>
LANES_PHASE void solve_upper(const Factors<V>& f, int n, V given, ComplexVector<V> x, V& shrunk, Team team) {
    for (int i = n - 1; i >= 0; --i) {
        // Row by row: a product of row i with what is known already.
        using S = typename Lane<V>::scalar;
        V sr(S(0)), si(S(0));
        LANES_FEW for (int j = i + 1 + team.rank(); j < n; j += team.size()) {
            const V ur = f.upper_re(i, j), ui = f.upper_im(i, j), xr = x.re[j], xi = x.im[j];
            sr = nmadd(ui, xi, madd(ur, xr, sr));
            si = madd(ui, xr, madd(ur, xi, si));
        }
        const V rr = x.re[i] - team.sum(sr), ri = x.im[i] - team.sum(si);
        V re = nmadd(ri, f.inverse_im[i], rr * f.inverse_re[i]);
        V im = madd(ri, f.inverse_re[i], rr * f.inverse_im[i]);
        const auto free = given > V(S(i));
        re = select(free, re, x.re[i]);
        im = select(free, im, x.im[i]);
        keep_in_range(x, n, re, im, shrunk, team);
        team.sync();
        if (team.rank() == 0) {
            x.re[i] = re;
            x.im[i] = im;
        }
        team.sync();
    }
}

// Solve U^H x = b in place, where components up to `given` are known.
template <class V, class Team>
LANES_PHASE void solve_upper_adjoint(const Factors<V>& f, int n, V given, ComplexVector<V> x, V& shrunk, Team team) {
    using S = typename Lane<V>::scalar;
    for (int i = 0; i < n; ++i) {
        const V rr = x.re[i], ri = x.im[i];
        // Times conj(1 / U_ii).
        V re = madd(ri, f.inverse_im[i], rr * f.inverse_re[i]);
        V im = nmadd(rr, f.inverse_im[i], ri * f.inverse_re[i]);
        const auto free = given < V(S(i));
        re = select(free, re, rr);
        im = select(free, im, ri);
        keep_in_range(x, n, re, im, shrunk, team);
        team.sync();
        LANES_FEW for (int j = i + 1 + team.rank(); j < n; j += team.size()) {
            const V ur = f.upper_re(i, j), ui = f.upper_im(i, j);
            const auto open = given < V(S(j));
            x.re[j] = select(open, nmadd(ui, im, nmadd(ur, re, x.re[j])), x.re[j]);
            x.im[j] = select(open, madd(ui, re, nmadd(ur, im, x.im[j])), x.im[j]);
        }
        if (team.rank() == 0) {
            x.re[i] = re;
            x.im[i] = im;
        }
        team.sync();
    }
}

// Apply L^-1 P, the eliminations in order (one thread: every step needs the one before).
template <class V, class Team>
LANES_FN void eliminate(const Factors<V>& f, int n, ComplexVector<V> x, Team team) {
    using S = typename Lane<V>::scalar;
    if (team.rank() == 0) {
        for (int i = 0; i + 1 < n; ++i) {
            const auto swap = f.swapped[i] != V(S(0));
            const V ar = x.re[i], ai = x.im[i], br = x.re[i + 1], bi = x.im[i + 1];
            const V tr = select(swap, br, ar), ti = select(swap, bi, ai);
            const V lr = select(swap, ar, br), li = select(swap, ai, bi);
            const V mr = f.multiplier_re[i], mi = f.multiplier_im[i];
            x.re[i] = tr;
            x.im[i] = ti;
            x.re[i + 1] = madd(mi, ti, nmadd(mr, tr, lr));
            x.im[i + 1] = nmadd(mi, tr, nmadd(mr, ti, li));
        }
    }
    team.sync();
}

// Apply P^T L^-H, their adjoints in reverse.
template <class V, class Team>
LANES_FN void eliminate_adjoint(const Factors<V>& f, int n, ComplexVector<V> x, Team team) {
    using S = typename Lane<V>::scalar;
    if (team.rank() == 0) {
        for (int i = n - 2; i >= 0; --i) {
            const auto swap = f.swapped[i] != V(S(0));
            const V br = x.re[i + 1], bi = x.im[i + 1];
            const V mr = f.multiplier_re[i], mi = f.multiplier_im[i];
            // a - conj(m) b
            const V ar = nmadd(mi, bi, nmadd(mr, br, x.re[i]));
            const V ai = madd(mi, br, nmadd(mr, bi, x.im[i]));
            x.re[i] = select(swap, br, ar);
            x.im[i] = select(swap, bi, ai);
            x.re[i + 1] = select(swap, ar, br);
            x.im[i + 1] = select(swap, ai, bi);
        }
    }
    team.sync();
}

// +1 or -1 (start 0: always +1): start vectors that differ from one another, the same in every run.
LANES_FN int start_sign(int i, int start) {
    unsigned x = (unsigned)i * 2654435761u + (unsigned)start * 2246822519u;
    x ^= x >> 15;
    x *= 2246822519u;
    x ^= x >> 13;
    return start == 0 || (x & 1u) ? 1 : -1;
}

// Solve (H - lambda I) x = b in place, or the adjoint system.
template <bool Left, class V, class Team>
LANES_FN void solve_system(const Factors<V>& f, int n, ComplexVector<V> x, V& shrunk, Team team) {
    if constexpr (Left) {
        solve_upper_adjoint(f, n, V(typename Lane<V>::scalar(-1)), x, shrunk, team);
        eliminate_adjoint(f, n, x, team);
    } else {
        eliminate(f, n, x, team);
        solve_upper(f, n, V(typename Lane<V>::scalar(n)), x, shrunk, team);
    }
}

template <class V, class Team>
LANES_FN V largest_component(ComplexVector<V> x, int n, Team team) {
    using S = typename Lane<V>::scalar;
    V top(S(0));
    LANES_FEW for (int i = team.rank(); i < n; i += team.size()) top = larger(top, larger(absolute(x.re[i]), absolute(x.im[i])));
    return team.maximum(top);
}

// Scale x to largest component 1 in every lane (left alone where all are zero).
template <class V, class Team>
LANES_FN void scale_to_one(ComplexVector<V> x, int n, Team team) {
    using S = typename Lane<V>::scalar;
    const V top = largest_component(x, n, team);
    const V by = select(top > V(S(0)), power_scale(top), V(S(1)));
    LANES_FEW for (int i = team.rank(); i < n; i += team.size()) {
        x.re[i] = x.re[i] * by;
        x.im[i] = x.im[i] * by;
    }
    team.sync();
}

// One vector, right or left, for the eigenvalue that `f` was made for: two steps from a start of components
// +-tiny, tried again from other starts in the lanes of `wanted` where that leaves a residual of more than about
// `tiny`. Returns where it does to the end.
template <bool Left, class V, class M, class Team>
LANES_PHASE M inverse_iteration(
    const Factors<V>& f, int n, V size, M wanted, V tiny, ComplexVector<V> x, ComplexVector<V> best, Team team) {
    using S = typename Lane<V>::scalar;
    const V zero(S(0)), one(S(1));
    V reached = zero;
    LANES_FEW for (int i = team.rank(); i < n; i += team.size()) best.re[i] = best.im[i] = zero;
    M open = wanted;
    for (int attempt = 0; attempt < kStarts && any(open); ++attempt) {
        LANES_FEW for (int i = team.rank(); i < n; i += team.size()) {
            x.re[i] = select(size > V(S(i)), tiny * V(S(start_sign(i, attempt))), zero);
            x.im[i] = zero;
        }
        team.sync();
        V right_side = tiny;
        for (int step = 0; step < 2; ++step) {
            V shrunk = one;
            if (step > 0 || Left) solve_system<Left>(f, n, x, shrunk, team);
            else solve_upper(f, n, V(S(n)), x, shrunk, team);
            // The residual of x is |right side| / |x|, in units of tiny.
            const V top = largest_component(x, n, team);
            const V growth = top * (tiny / (right_side * larger(shrunk, V(Limits<S>::smallest))));
            const M better = open & (growth > reached);
            LANES_FEW for (int i = team.rank(); i < n; i += team.size()) {
                best.re[i] = select(better, x.re[i], best.re[i]);
                best.im[i] = select(better, x.im[i], best.im[i]);
            }
            reached = select(better, growth, reached);
            team.sync();
            scale_to_one(x, n, team);
            right_side = largest_component(x, n, team);
            right_side = select(right_side > zero, right_side, one);
        }
        open = open & !(reached >= V(S(0.5)));
    }
    scale_to_one(best, n, team);
    return wanted & !(reached >= V(S(0.02)));
}

// The vector, right or left, of the eigenvalue re + i im of the quasi-triangular `t`, by substitution as in LAPACK's
// trevc. The eigenvalue stands at `place` on the diagonal, or is the upper one of the 2 x 2 block that begins there,
// which `f`, made from `t`, has left as it is.
template <bool Left, class V, class Team>
LANES_PHASE void substitution(
    Matrix<V> t, const Factors<V>& f, int n, V place, V re, V im, ComplexVector<V> x, Team team) {
    using S = typename Lane<V>::scalar;
    const V zero(S(0)), one(S(1));
    LANES_FEW for (int i = team.rank(); i < n; i += team.size()) x.re[i] = x.im[i] = zero;
    team.sync();
    const auto pair = im != zero;
    const V a = element(t, place, 0, place, 0), b = element(t, place, 0, place, 1);
    const V c = element(t, place, 1, place, 0), d = element(t, place, 1, place, 1);
    // (lambda - d, c) or (b, lambda - a), whichever is larger; for the left vector b and c change places.
    const V side = Left ? b : c, other = Left ? c : b;
    const auto lower = absolute(side) >= absolute(other);
    const V sign = Left ? -one : one;
    const V x0_re = select(pair, select(lower, re - d, other), one);
    const V x0_im = select(pair & lower, sign * im, zero);
    const V x1_re = select(lower, side, re - a);
    const V x1_im = select(lower, zero, sign * im);
    const auto there = place >= zero;
    if (team.rank() == 0) {
        store_at(x.re, place, there, x0_re);
        store_at(x.im, place, there, x0_im);
        store_at(x.re, place + one, there & pair, x1_re);
        store_at(x.im, place + one, there & pair, x1_im);
    }
    team.sync();
    scale_to_one(x, n, team);
    V shrunk = one;
    if constexpr (Left) {
        solve_upper_adjoint(f, n, select(pair, place + one, place), x, shrunk, team);
        eliminate_adjoint(f, n, x, team);
    } else {
        solve_upper(f, n, place, x, shrunk, team);
    }
    scale_to_one(x, n, team);
}

// y := Z x for the columns of `vectors`, through `scratch`.
template <class V, class Team>
LANES_PHASE void multiply(Matrix<V> z, int n, ComplexVector<V> x, ComplexVector<V> scratch, Team team) {
    using S = typename Lane<V>::scalar;
    LANES_FEW for (int i = team.rank(); i < n; i += team.size()) {
        V re(S(0)), im(S(0));
        for (int j = 0; j < n; ++j) {
            re = madd(z(i, j), x.re[j], re);
            im = madd(z(i, j), x.im[j], im);
        }
        scratch.re[i] = re;
        scratch.im[i] = im;
    }
    team.sync();
    LANES_FEW for (int i = team.rank(); i < n; i += team.size()) {
        x.re[i] = scratch.re[i];
        x.im[i] = scratch.im[i];
    }
    team.sync();
}

// x := Q x for the reflections that `reduce_to_hessenberg` kept in `h` and `tau`; `v` has room for n numbers.
template <class V, class Team>
LANES_PHASE void back_transform(
    Matrix<V> h, int n, const V* tau, V* v, const ComplexVector<V>* vectors, int count, Team team) {
    using S = typename Lane<V>::scalar;
    for (int k = n - 3; k >= 0; --k) {
        const V t = tau[k];
        LANES_FEW for (int i = k + 2 + team.rank(); i < n; i += team.size()) v[i] = h(i, k);
        if (team.rank() == 0) v[k + 1] = V(S(1));
        team.sync();
        for (int m = 0; m < count; ++m) {
            const ComplexVector<V> x = vectors[m];
            V sr(S(0)), si(S(0));
            LANES_FEW for (int i = k + 1 + team.rank(); i < n; i += team.size()) {
                sr = madd(v[i], x.re[i], sr);
                si = madd(v[i], x.im[i], si);
            }
            sr = team.sum(sr) * t;
            si = team.sum(si) * t;
            LANES_FEW for (int i = k + 1 + team.rank(); i < n; i += team.size()) {
                x.re[i] = nmadd(v[i], sr, x.re[i]);
                x.im[i] = nmadd(v[i], si, x.im[i]);
            }
            team.sync();
        }
    }
}

// Unit 2-norm, and the first of the largest components (to a relative 1e-6) real and positive.
template <class V, class Team>
LANES_PHASE void normalize(ComplexVector<V> x, int n, Team team) {
    using S = typename Lane<V>::scalar;
    const V zero(S(0)), one(S(1));
    scale_to_one(x, n, team);
    V squares(S(0)), top(S(0));
    LANES_FEW for (int i = team.rank(); i < n; i += team.size()) {
        const V size = madd(x.re[i], x.re[i], x.im[i] * x.im[i]);
        squares = squares + size;
        top = larger(top, size);
    }
    squares = team.sum(squares);
    top = team.maximum(top) * V(S(1) - S(2e-6));
    // Every thread looks for the pivot itself: it needs the order of the components.
    V pr = one, pi = zero, place = V(S(-1));
    for (int i = 0; i < n && any(place < zero); ++i) {
        const V size = madd(x.re[i], x.re[i], x.im[i] * x.im[i]);
        const auto here = (place < zero) & (size >= top) & (size > zero);
        pr = select(here, x.re[i], pr);
        pi = select(here, x.im[i], pi);
        place = select(here, V(S(i)), place);
    }
    const V length = root(madd(pr, pr, pi * pi)) * root(squares);
    const V by = select(length > zero, one / select(length > zero, length, one), zero);
    pr = pr * by;
    pi = pi * by;
    team.sync();
    LANES_FEW for (int i = team.rank(); i < n; i += team.size()) {
        // Times the conjugate of the pivot.
        const V re = madd(x.im[i], pi, x.re[i] * pr), im = nmadd(x.re[i], pi, x.im[i] * pr);
        x.re[i] = re;
        x.im[i] = select(place == V(S(i)), zero, im);
    }
    team.sync();
}

}  // namespace LANES_NAMESPACE
