// Eigenvalues of Hessenberg matrices by the implicitly shifted double-shift QR algorithm (Francis 1961; Golub &
// Van Loan, section 7.5), with the deflation test of Ahues & Tisseur (LAPACK Working Note 122, 1997).
//
// Each lane has its own matrix, its own active window and its own shifts; the lanes sweep in step. What a lane
// computes depends on its own matrix alone. Reflections are applied at once inside a small diagonal window and,
// several at a time, to the rest of the matrix afterwards: the same numbers with a fraction of the traffic.
#pragma once

#include "matrix.hpp"

namespace LANES_NAMESPACE {

#ifndef LANES_PANEL
#define LANES_PANEL 6
#endif
constexpr int kPanel = LANES_PANEL;
constexpr int kSweepsPerEigenvalue = 30;
constexpr int kExceptional = 10;

// I - tau (1, v1, v2)^T (1, v1, v2), with tau v1 and tau v2 at hand.
template <class V>
struct Reflection {
    V v1, v2, t0, t1, t2;
};

template <class V>
LANES_FN void reflect(const Reflection<V>& r, V& a, V& b, V& c) {
    const V s = madd(r.v2, c, madd(r.v1, b, a));
    a = nmadd(r.t0, s, a);
    b = nmadd(r.t1, s, b);
    c = nmadd(r.t2, s, c);
}

// The reflection that sends (x0, x1, x2) to (beta, 0, 0); the identity where `active` is false or x1 = x2 = 0.
template <class V, class M>
LANES_FN Reflection<V> reflection_of(V x0, V x1, V x2, M active, V& beta) {
    using S = typename Lane<V>::scalar;
    const V zero(S(0)), one(S(1));
    const V top = larger(absolute(x0), larger(absolute(x1), absolute(x2)));
    const V in_range = power_scale(top);
    const V p = x0 * in_range, q = x1 * in_range, r = x2 * in_range;
    const auto needed = active & ((x1 != zero) | (x2 != zero));
    const V norm = root(madd(p, p, madd(q, q, r * r)));
    const V signed_norm = with_sign(norm, p);
    const V head = select(needed, p + signed_norm, one);
    const V divisor = select(needed, signed_norm, one);
    Reflection<V> out;
    out.v1 = select(needed, q / head, zero);
    out.v2 = select(needed, r / head, zero);
    out.t0 = select(needed, head / divisor, zero);
    out.t1 = out.t0 * out.v1;
    out.t2 = out.t0 * out.v2;
    beta = select(needed, -signed_norm / in_range, x0);
    return out;
}

// Eigenvalues of [[a, b], [c, d]].
template <class V>
LANES_FN void eigenvalues_2x2(V a, V b, V c, V d, V& re1, V& im1, V& re2, V& im2) {
    using S = typename Lane<V>::scalar;
    const V zero(S(0)), one(S(1)), half(S(0.5));
    const V p = half * (a - d);
    const V most = larger(absolute(b), absolute(c));
    const V least = smaller(absolute(b), absolute(c)) * select(b < zero, -one, one) * select(c < zero, -one, one);
    const V scale = larger(absolute(p), most);
    const V safe = select(scale > zero, scale, one);
    const V z = madd(p / safe, p, most / safe * least);
    // Real pair: the eigenvalue farther from d without cancellation, the other from the product.
    const V distance = root(safe) * root(larger(z, zero));
    const V step = p + with_sign(distance, p);
    const V other = select(step != zero, most / select(step != zero, step, one) * least, zero);
    const auto real = z >= zero;
    const V imaginary = root(safe) * root(larger(-z, zero));
    const V mean = d + p;
    re1 = select(real, d + step, mean);
    re2 = select(real, d - other, mean);
    im1 = select(real, zero, imaginary);
    im2 = select(real, zero, -imaginary);
}

// ---- elements at a place that differs from lane to lane --------------------------------------------------------

#if !defined(LANES_CUDA)
template <class T, int N>
LANES_FN Pack<T, N> element(Matrix<Pack<T, N>> a, Pack<T, N> i, int di, Pack<T, N> j, int dj) {
    Pack<T, N> out;
    for (int lane = 0; lane < N; ++lane) {
        const int row = (int)i.v[lane] + di, column = (int)j.v[lane] + dj;
        out.v[lane] = row >= 0 && column >= 0 ? reinterpret_cast<const T*>(&a(row, column))[lane] : T(0);
    }
    return out;
}
template <class T, int N>
LANES_FN void store_at(Pack<T, N>* list, Pack<T, N> i, Mask<T, N> m, Pack<T, N> value) {
    for (int lane = 0; lane < N; ++lane) {
        if (m.v[lane]) reinterpret_cast<T*>(list + (int)i.v[lane])[lane] = value.v[lane];
    }
}
#endif
LANES_FN float element(Matrix<float> a, float i, int di, float j, int dj) {
    const int row = (int)i + di, column = (int)j + dj;
    return row >= 0 && column >= 0 ? a(row, column) : 0.0f;
}
LANES_FN double element(Matrix<double> a, double i, int di, double j, int dj) {
    const int row = (int)i + di, column = (int)j + dj;
    return row >= 0 && column >= 0 ? a(row, column) : 0.0;
}
LANES_FN void store_at(float* list, float i, bool m, float value) {
    if (m) list[(int)i] = value;
}
LANES_FN void store_at(double* list, double i, bool m, double value) {
    if (m) list[(int)i] = value;
}

// ---- deflation ------------------------------------------------------------------------------------------------

// Whether the subdiagonal element h of [[p, s], [h, d]] can be taken as zero.
template <class V>
LANES_FN auto negligible(V p, V s, V h, V d, V smallest) {
    using S = typename Lane<V>::scalar;
    const V eps(Limits<S>::epsilon);
    const V size = absolute(h);
    const V sum = absolute(p) + absolute(d);
    auto small = size <= smallest;
    const auto close = size <= eps * sum;
    if (any(close & !small)) {
        const V super = absolute(s);
        const V ab = larger(size, super), ba = smaller(size, super);
        const V gap = absolute(p - d);
        const V aa = larger(absolute(d), gap), bb = smaller(absolute(d), gap);
        const V total = aa + ab;
        const V safe = select(total > V(S(0)), total, V(S(1)));
        small = small | (close & (ba * (ab / safe) <= larger(smallest, eps * (bb * (aa / safe)))));
    }
    return small;
}

// For each lane of `wanted`, the first row of the undivided window that ends at row `last`: the row of the
// lowest negligible subdiagonal element, or zero. That element is set to zero.
template <class V, class M>
LANES_FN V window_start(Matrix<V> h, V last, M wanted, V start, V smallest, Serial) {
    using S = typename Lane<V>::scalar;
    M open = wanted;
    start = select(wanted, V(S(0)), start);
    const int top = (int)largest_lane(select(wanted, last, V(S(0))));
    V d = h(top, top);
    for (int k = top; k > 0 && any(open); --k) {
        const V p = h(k - 1, k - 1), sub = h(k, k - 1);
        const M inside = open & (last >= V(S(k)));
        const M found = inside & negligible(p, h(k - 1, k), sub, d, smallest);
        if (any(found)) {
            start = select(found, V(S(k)), start);
            open = open & !found;
            h(k, k - 1) = select(found, V(S(0)), sub);
        }
        d = p;
    }
    return start;
}

// The same for a team, whose one matrix wants it: every thread looks at some of the elements.
template <class V, class Team>
LANES_FN V window_start(Matrix<V> h, V last, bool, V, V smallest, Team team) {
    V start(0);
    LANES_FEW for (int k = 1 + team.rank(); k <= (int)last; k += team.size()) {
        if (negligible(h(k - 1, k - 1), h(k - 1, k), h(k, k - 1), h(k, k), smallest)) start = V(k);
    }
    start = team.maximum(start);
    const int k = (int)start;
    if (team.rank() == 0 && k > 0) h(k, k - 1) = V(0);
    team.sync();
    return start;
}

// ---- sweeps ---------------------------------------------------------------------------------------------------

// First column of the shifted square of each lane's window, up to a factor: what the first reflection is made of.
template <class V>
struct SweepStart {
    V x0, x1, x2;
};

template <class V>
LANES_FN SweepStart<V> sweep_start(Matrix<V> h, V first, V last, V stalled) {
    using S = typename Lane<V>::scalar;
    const V zero(S(0)), one(S(1));
    V h11 = element(h, last, -1, last, -1), h12 = element(h, last, -1, last, 0);
    V h21 = element(h, last, 0, last, -1), h22 = element(h, last, 0, last, 0);
    const V corner = element(h, first, 0, first, 0), below = element(h, first, 1, first, 0);
    const V below2 = element(h, first, 2, first, 1);
    // Every tenth sweep without a deflation takes a shift from elsewhere, from both ends in turn.
    V at_top(S(0)), at_bottom(S(0));
    for (int multiple = kExceptional; multiple < kSweepsPerEigenvalue * 12; multiple += kExceptional) {
        const auto hit = stalled == V(S(multiple));
        if ((multiple / kExceptional) % 2) at_top = select(hit, one, at_top);
        else at_bottom = select(hit, one, at_bottom);
        if (!any(stalled > V(S(multiple)))) break;
    }
    const auto top = at_top > zero, bottom = at_bottom > zero;
    if (any(top | bottom)) {
        const V s_top = absolute(below) + absolute(below2);
        const V s_bottom = absolute(h21) + absolute(element(h, last, -1, last, -2));
        const V s = select(top, s_top, s_bottom);
        const V base = select(top, corner, h22);
        const auto special = top | bottom;
        h11 = select(special, madd(s, V(S(0.75)), base), h11);
        h12 = select(special, s * V(S(-0.4375)), h12);
        h21 = select(special, s, h21);
        h22 = select(special, h11, h22);
    }
    // Shifts: the eigenvalues of [[h11, h12], [h21, h22]]; of two real ones the nearer to h22, twice.
    V size = absolute(h11) + absolute(h12) + absolute(h21) + absolute(h22);
    const V safe = select(size > zero, size, one);
    h11 = h11 / safe;
    h12 = h12 / safe;
    h21 = h21 / safe;
    h22 = h22 / safe;
    const V mean = (h11 + h22) * V(S(0.5));
    const V determinant = madd(h11 - mean, h22 - mean, -(h12 * h21));
    const V distance = root(absolute(determinant));
    const auto is_complex = determinant >= zero;
    const V one_side = mean + distance, other_side = mean - distance;
    const V nearer = select(absolute(one_side - h22) <= absolute(other_side - h22), one_side, other_side);
    const V shift1 = select(is_complex, mean, nearer) * size;
    const V shift_imaginary = select(is_complex, distance, zero) * size;
    // (H - s1)(H - s2) e1 over its own size.
    const V right = element(h, first, 0, first, 1), next = element(h, first, 1, first, 1);
    const V offset = corner - shift1;
    V scale = absolute(offset) + absolute(shift_imaginary) + absolute(below);
    scale = select(scale > zero, scale, one);
    const V b = below / scale;
    SweepStart<V> out;
    out.x0 = madd(b, right, madd(offset, offset / scale, shift_imaginary * (shift_imaginary / scale)));
    out.x1 = b * (corner + next - shift1 - shift1);
    out.x2 = b * below2;
    return out;
}

// Apply P reflections, the first at row `k`, to columns from .. to - 1 of rows k .. k + P + 1.
template <int P, int Columns, class V>
LANES_FN void reflect_columns(Matrix<V> h, const Reflection<V>* list, int k, int j) {
    V x[Columns][P + 2];
    LANES_UNROLL
    for (int r = 0; r < P + 2; ++r) {
        LANES_UNROLL
        for (int c = 0; c < Columns; ++c) x[c][r] = h(k + r, j + c);
    }
    LANES_UNROLL
    for (int p = 0; p < P; ++p) {
        const Reflection<V> now = list[p];
        LANES_UNROLL
        for (int c = 0; c < Columns; ++c) reflect(now, x[c][p], x[c][p + 1], x[c][p + 2]);
    }
    LANES_UNROLL
    for (int r = 0; r < P + 2; ++r) {
        LANES_UNROLL
        for (int c = 0; c < Columns; ++c) h(k + r, j + c) = x[c][r];
    }
}

template <int P, class V, class Team>
LANES_FN void far_columns(Matrix<V> h, const Reflection<V>* list, int k, int from, int to, Team team) {
    int j = from + team.rank();
    if constexpr (!Team::parallel) {
        for (; j + 2 <= to; j += 2) reflect_columns<P, 2>(h, list, k, j);
    }
    LANES_FEW for (; j < to; j += team.size()) reflect_columns<P, 1>(h, list, k, j);
}

// Apply P reflections, the first at column `k`, to rows from .. to - 1 of columns k .. k + P + 1.
template <int P, int Rows, class V>
LANES_FN void reflect_rows(Matrix<V> h, const Reflection<V>* list, int k, int i) {
    V x[Rows][P + 2];
    LANES_UNROLL
    for (int r = 0; r < Rows; ++r) {
        LANES_UNROLL
        for (int c = 0; c < P + 2; ++c) x[r][c] = h(i + r, k + c);
    }
    LANES_UNROLL
    for (int p = 0; p < P; ++p) {
        const Reflection<V> now = list[p];
        LANES_UNROLL
        for (int r = 0; r < Rows; ++r) reflect(now, x[r][p], x[r][p + 1], x[r][p + 2]);
    }
    LANES_UNROLL
    for (int r = 0; r < Rows; ++r) {
        LANES_UNROLL
        for (int c = 0; c < P + 2; ++c) h(i + r, k + c) = x[r][c];
    }
}

template <int P, class V, class Team>
LANES_FN void far_rows(Matrix<V> h, const Reflection<V>* list, int k, int from, int to, Team team) {
    int i = from + team.rank();
    if constexpr (!Team::parallel) {
        for (; i + 2 <= to; i += 2) reflect_rows<P, 2>(h, list, k, i);
    }
    LANES_FEW for (; i < to; i += team.size()) reflect_rows<P, 1>(h, list, k, i);
}

// What the sweeps work on: where only eigenvalues are wanted, the part of `h` between the outermost windows; for the
// Schur form all of `h`, of order `n`, and the product `z` of the reflections as well.
template <class V>
struct Eigenvalues {
    static constexpr bool whole = false;
    Matrix<V> h;
};
template <class V>
struct SchurForm {
    static constexpr bool whole = true;
    Matrix<V> h, z;
    int n;
};

// Apply P reflections to what lies outside the window that begins at `k` and ends at `window_end`.
template <int P, class Form, class V, class Team>
LANES_FN void far_updates(
    const Form& form, const Reflection<V>* list, int k, int window, int low, int high, int window_end, Team team) {
    if constexpr (Form::whole) {
        far_columns<P>(form.h, list, k, window_end + 1, form.n, team);
        far_rows<P>(form.h, list, k, 0, window, team);
        far_rows<P>(form.z, list, k, 0, form.n, team);
    } else {
        far_columns<P>(form.h, list, k, window_end + 1, high + 1, team);
        far_rows<P>(form.h, list, k, low, window, team);
    }
}

// The same for `count` reflections, a number known only at run time: a panel at once, or what is left in smaller steps.
template <class Form, class V, class Team>
LANES_FN void far_panel(
    const Form& form, const Reflection<V>* list, int count, int k, int low, int high, int window_end, Team team) {
    if (count == kPanel) {
        far_updates<kPanel>(form, list, k, k, low, high, window_end, team);
        return;
    }
    int done = 0;
    for (; done + 2 <= count; done += 2) {
        far_updates<2>(form, list + done, k + done, k, low, high, window_end, team);
        team.sync();
    }
    if (done < count) far_updates<1>(form, list + done, k + done, k, low, high, window_end, team);
}

// Reflections k0 .. k1 - 1 of a sweep, into `list`, and their work inside the window of rows and columns k0 ..
// window_end.
template <class V, class M, class Team>
LANES_FN void near_panel(Matrix<V> h, const SweepStart<V>& begin, V first, V last, M active, Reflection<V>* list, int k0,
                         int k1, int high, int window_end, Team team) {
    using S = typename Lane<V>::scalar;
    const V zero(S(0));
    for (int k = k0; k < k1; ++k) {
        const V at = V(S(k));
        const M inside = active & (first <= at) & (last > at);
        const M starts = inside & (first == at);
        const M continues = inside & (first < at);
        V x0 = begin.x0, x1 = begin.x1, x2 = begin.x2;
        if (k > 0) {
            x0 = select(starts, x0, h(k, k - 1));
            x1 = select(starts, x1, h(k + 1, k - 1));
            x2 = select(starts, x2, h(k + 2, k - 1));
        }
        // The last reflection of a window has two rows only.
        const M third = last > V(S(k + 1));
        x2 = select(third, x2, zero);
        V beta;
        const Reflection<V> r = reflection_of(x0, x1, x2, inside, beta);
        if (team.rank() == 0) list[k - k0] = r;
        team.sync();
        if (k > 0 && team.rank() == 0) {
            h(k, k - 1) = select(continues, beta, h(k, k - 1));
            h(k + 1, k - 1) = select(continues, zero, h(k + 1, k - 1));
            h(k + 2, k - 1) = select(continues & third, zero, h(k + 2, k - 1));
        }
        LANES_FEW for (int j = k + team.rank(); j <= window_end; j += team.size()) {
            reflect(r, h(k, j), h(k + 1, j), h(k + 2, j));
        }
        team.sync();
        const int bottom = k + 3 < high ? k + 3 : high;
        LANES_FEW for (int i = k0 + team.rank(); i <= bottom; i += team.size()) {
            reflect(r, h(i, k), h(i, k + 1), h(i, k + 2));
        }
        team.sync();
    }
}

// One double-shift sweep of every lane of `active` over its window first .. last. Row and column n, which hold
// zeros, take part. The windows are too small for a whole team.
template <class Form, class V, class M, class Team>
LANES_PHASE void sweep(const Form& form, V first, V last, M active, V stalled, Team team) {
    using S = typename Lane<V>::scalar;
    const Matrix<V> h = form.h;
    const int low = (int)smallest_lane(select(active, first, V(S(1e6))));
    const int high = (int)largest_lane(select(active, last, V(S(0))));
    SweepStart<V> begin{};
    if (team.leads()) begin = sweep_start(h, first, last, stalled);
    Reflection<V> own[kPanel];
    Reflection<V>* const list = team.board(own);
    for (int k0 = low; k0 < high; k0 += kPanel) {
        const int k1 = k0 + kPanel < high ? k0 + kPanel : high;
        const int window_end = k1 + 1 < high ? k1 + 1 : high;
        if (team.leads()) near_panel(h, begin, first, last, active, list, k0, k1, high, window_end, team.leaders());
        team.sync();
        far_panel(form, list, k1 - k0, k0, low, high, window_end, team);
        team.sync();
    }
}

// Turn the trailing 2 x 2 block of each lane's window, whose eigenvalues are real, into a triangle: a rotation of
// rows and columns last - 1 and last. `distance` is the eigenvalue that comes first less the last diagonal element.
template <class V, class M, class Team>
LANES_PHASE void make_triangular(const Eigenvalues<V>&, V, M, V, Team) {}

template <class V, class M, class Team>
LANES_PHASE void make_triangular(const SchurForm<V>& form, V last, M lanes, V distance, Team team) {
    using S = typename Lane<V>::scalar;
    constexpr int width = Lane<V>::width;
    S* const h = reinterpret_cast<S*>(form.h.data);
    S* const z = reinterpret_cast<S*>(form.z.data);
    for (int lane = 0; lane < width; ++lane) {
        if (!get(lanes, lane)) continue;
        const int e = (int)get(last, lane);
        const auto at = [&](S* m, int i, int j) -> S& { return m[((long long)i * form.h.ld + j) * width + lane]; };
        // The eigenvector of the block: (c, s) is along (distance, below).
        const S below = at(h, e, e - 1), along = get(distance, lane);
        const S top = larger(absolute(below), absolute(along));
        if (!(top > S(0))) continue;
        S s = below / top, c = along / top;
        const S length = root(madd(s, s, c * c));
        s = s / length;
        c = c / length;
        team.sync();
        LANES_FEW for (int j = e - 1 + team.rank(); j < form.n; j += team.size()) {
            const S a = at(h, e - 1, j), b = at(h, e, j);
            at(h, e - 1, j) = madd(s, b, c * a);
            at(h, e, j) = nmadd(s, a, c * b);
        }
        team.sync();
        LANES_FEW for (int i = team.rank(); i < form.n; i += team.size()) {
            if (i <= e) {
                const S a = at(h, i, e - 1), b = at(h, i, e);
                at(h, i, e - 1) = madd(s, b, c * a);
                at(h, i, e) = nmadd(s, a, c * b);
            }
            const S a = at(z, i, e - 1), b = at(z, i, e);
            at(z, i, e - 1) = madd(s, b, c * a);
            at(z, i, e) = nmadd(s, a, c * b);
        }
        team.sync();
        if (team.rank() == 0) at(h, e, e - 1) = S(0);
    }
    team.sync();
}

// Eigenvalues of the Hessenberg matrix of each lane: (re, im)[i] for i below the lane's own `size`, at the place
// on the diagonal where they converged, the upper one of a pair first. `form.h`, with a row and a column of zeros
// after it, is destroyed, or becomes the Schur form.
// Returns where every eigenvalue was found within the limit of sweeps.
template <class Form, class V, class Team>
LANES_PHASE typename Lane<V>::mask hessenberg_eigenvalues(const Form& form, V size, V* re, V* im, Team team) {
    using S = typename Lane<V>::scalar;
    using M = typename Lane<V>::mask;
    const Matrix<V> h = form.h;
    const V zero(S(0)), one(S(1)), two(S(2));
    const V smallest = size * V(Limits<S>::smallest / Limits<S>::epsilon);
    V last = size - one, first = zero, stalled = zero, sweeps = zero;
    const V limit = V(S(kSweepsPerEigenvalue)) * larger(size, V(S(10)));
    M failed = zero > zero;
    M fresh = last >= zero;
    for (;;) {
        // Split off what has converged, until every lane has a window of three or more rows or is done.
        while (any(fresh)) {
            first = window_start(h, last, fresh, first, smallest, team);
            const M single = fresh & (first == last);
            const M pair = fresh & (first == last - one);
            if (any(single) && team.rank() == 0) {
                store_at(re, last, single, element(h, last, 0, last, 0));
                store_at(im, last, single, zero);
            }
            if (any(pair)) {
                V re1, im1, re2, im2;
                const V corner = element(h, last, 0, last, 0);
                eigenvalues_2x2(element(h, last, -1, last, -1), element(h, last, -1, last, 0),
                                element(h, last, 0, last, -1), corner, re1, im1, re2, im2);
                const M real = pair & (im1 == zero);
                make_triangular(form, last, real, re1 - corner, team);
                if (team.rank() == 0) {
                    store_at(re, last - one, pair, re1);
                    store_at(im, last - one, pair, im1);
                    store_at(re, last, pair, re2);
                    store_at(im, last, pair, im2);
                }
            }
            last = select(single, last - one, select(pair, last - two, last));
            const M split = single | pair;
            stalled = select(split, zero, stalled);
            fresh = split & (last >= zero);
        }
        const M active = last >= zero;
        if (!any(active)) break;
        const M given_up = active & (sweeps >= limit);
        failed = failed | given_up;
        last = select(given_up, V(S(-1)), last);
        const M go = active & !given_up;
        if (!any(go)) break;
        sweep(form, first, last, go, stalled, team);
        stalled = select(go, stalled + one, stalled);
        sweeps = select(go, sweeps + one, sweeps);
        fresh = go;
    }
    team.sync();
    return !failed;
}

}  // namespace LANES_NAMESPACE
