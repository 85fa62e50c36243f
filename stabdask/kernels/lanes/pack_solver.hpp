// One pack of matrices, one in each lane, on one CPU thread: from the entries to eigenvalues and eigenvectors.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#include "balance.hpp"
#include "francis.hpp"
#include "hessenberg.hpp"
#include "inverse.hpp"

namespace LANES_NAMESPACE {

template <class T>
class Buffer {
public:
    T* reserve(size_t count) {
        if (count > count_) {
            const size_t bytes = (count * sizeof(T) + 63) / 64 * 64;
            memory_.reset(std::aligned_alloc(64, bytes));
            if (!memory_) throw std::bad_alloc();
            count_ = count;
        }
        return static_cast<T*>(memory_.get());
    }
    T* get() const { return static_cast<T*>(memory_.get()); }

private:
    struct Free {
        void operator()(void* p) const { std::free(p); }
    };
    std::unique_ptr<void, Free> memory_;
    size_t count_ = 0;
};

template <class T>
struct Value {
    T re, im;
};

// Canonical order: real part descending, then imaginary part descending.
struct Canonical {
    template <class T>
    bool operator()(const Value<T>& a, const Value<T>& b) const {
        return a.re > b.re || (a.re == b.re && a.im > b.im);
    }
};

// Where the results of one lane go; complex numbers as pairs, null where not wanted.
template <class T>
struct LaneResults {
    int n = 0;
    Value<T>* values = nullptr;
    T* right = nullptr;  // (modes, row, 2)
    T* left = nullptr;
    double* overlap = nullptr;  // (modes,)
    double* residual = nullptr;
    double norm = 1;
    int64_t row = 0;
    const int32_t* order = nullptr;  // row i of the matrix in the lane is row order[i] of the caller's
    bool converged = true;
    bool again = false;  // the Schur form is needed
};

template <class T, int N>
class PackSolver {
    using V = Pack<T, N>;

public:
    // A matrix of zeros of order n, with a row and a column more, for the caller to fill.
    Matrix<V> blank(int n) {
        n_ = n;
        const int ld = (n + 1) | 1;
        matrix_[0].reserve((size_t)ld * (n + 2));
        a_ = {matrix_[0].get(), ld};
        for (size_t i = 0; i < (size_t)ld * (n + 2); ++i) a_.data[i] = V(T(0));
        return a_;
    }

    // Eigenvalues only, in no particular order.
    void solve_values(LaneResults<T>* lanes, int count) {
        const V size = sizes(lanes, count);
        reserve_lists(9);
        V *re = list(6), *im = list(7), *scale = list(8);
        balance(a_, n_, scale, Serial{});
        const V unit = rescale();
        reduce_to_hessenberg(a_, n_, false, scale, hessenberg_work(), Serial{});
        const auto converged = hessenberg_eigenvalues(Eigenvalues<V>{a_}, size, re, im, Serial{});
        for (int lane = 0; lane < count; ++lane) {
            lanes[lane].converged = get(converged, lane);
            const T back = get(unit, lane);
            for (int i = 0; i < lanes[lane].n; ++i) {
                lanes[lane].values[i] = {get(re[i], lane) * back, get(im[i], lane) * back};
            }
        }
    }

    // Eigenvalues in canonical order, and vectors of the first `modes` of them. Vectors come from inverse iteration
    // with the Hessenberg form, or (`schur`) from the Schur form, which takes longer and keeps the vectors of equal
    // eigenvalues apart. Lanes that need the latter are marked so and have no results yet.
    void solve_vectors(LaneResults<T>* lanes, int count, int64_t modes, bool schur) {
        const V size = sizes(lanes, count);
        reserve_lists(kLists + 4 * kGroup);
        V *re = list(6), *im = list(7), *scale = list(8), *tau = list(9);
        const Matrix<V> original = copy(1), work = {matrix_[2].reserve(cells()), a_.ld};
        balance(a_, n_, scale, Serial{});
        const V unit = rescale();
        reduce_to_hessenberg(a_, n_, true, tau, hessenberg_work(), Serial{});
        copy_hessenberg(work);
        auto converged = size < V(T(0));
        if (schur) {
            const Matrix<V> z = {matrix_[4].reserve(cells()), a_.ld};
            std::fill(z.data, z.data + cells(), V(T(0)));
            form_q(a_, n_, tau, z, list(0), list(1), Serial{});
            converged = hessenberg_eigenvalues(SchurForm<V>{work, z, n_}, size, re, im, Serial{});
        } else {
            converged = hessenberg_eigenvalues(Eigenvalues<V>{work}, size, re, im, Serial{});
        }
        for (int lane = 0; lane < count; ++lane) {
            lanes[lane].converged = get(converged, lane);
            choose(lanes[lane], lane, re, im, unit, modes);
            lanes[lane].again = !schur && lanes[lane].converged && crowded_;
        }
        matrix_[3].reserve(cells());
        const V tiny = smallest_pivot();
        size_t most = 0;
        for (int lane = 0; lane < count; ++lane) most = std::max(most, chosen_[lane].size());
        for (size_t first = 0; first < most; first += kGroup) {
            const Group group{first, std::min<size_t>(kGroup, most - first), lanes[0].left != nullptr, schur};
            vector_group(lanes, count, group, original, tiny, unit);
        }
        for (int lane = 0; lane < count; ++lane) mirror_pairs(lanes[lane], lane);
    }

private:
    static constexpr int kGroup = 4, kLists = 16;
    static constexpr int kNear = 1 << 14;  // roundings between eigenvalues that inverse iteration may not keep apart

    // An eigenvalue that a vector is computed for; its conjugate, if it has one, takes the conjugate vector.
    struct Chosen {
        int mode;
        int place;  // on the diagonal of the Schur form
        T re, im;   // in the balanced, rescaled matrix
    };
    struct Pair {
        int mode, upper;
    };
    // Vectors computed side by side.
    struct Group {
        size_t begin, count;
        bool left, schur;
    };

    size_t cells() const { return (size_t)a_.ld * (n_ + 2); }

    static V sizes(const LaneResults<T>* lanes, int count) {
        V size(T(0));
        for (int lane = 0; lane < count; ++lane) put(size, lane, T(lanes[lane].n));
        return size;
    }

    void reserve_lists(int count) {
        stride_ = (size_t)n_ + 3;
        lists_.reserve(stride_ * count);
    }
    V* list(int number) const { return lists_.get() + (size_t)number * stride_; }
    HessenbergWork<V> hessenberg_work() const { return {list(0), list(1), list(2), list(3), list(4), list(5)}; }

    // Bring the largest entry of every lane into [1, 2) again; returns what the eigenvalues are in units of.
    V rescale() {
        V top(T(0));
        for (int i = 0; i < n_; ++i) {
            for (int j = 0; j < n_; ++j) top = larger(top, absolute(a_(i, j)));
        }
        const V by = select(top > V(T(0)), power_scale(top), V(T(1)));
        if (any(by != V(T(1)))) {
            for (int i = 0; i < n_; ++i) {
                for (int j = 0; j < n_; ++j) a_(i, j) = a_(i, j) * by;
            }
        }
        return V(T(1)) / by;
    }

    Matrix<V> copy(int number) {
        V* target = matrix_[number].reserve(cells());
        std::copy(a_.data, a_.data + cells(), target);
        return {target, a_.ld};
    }

    void copy_hessenberg(Matrix<V> work) const {
        for (int i = 0; i < n_ + 2; ++i) {
            for (int j = 0; j < a_.ld; ++j) work(i, j) = j + 1 >= i ? a_(i, j) : V(T(0));
        }
    }

    // Put the eigenvalues of a lane in canonical order and choose those to compute vectors for. `crowded_` tells
    // whether one of them nearly equals another eigenvalue.
    void choose(LaneResults<T>& out, int lane, const V* re, const V* im, V unit, int64_t modes) {
        std::vector<Chosen>& chosen = chosen_[lane];
        chosen.clear();
        partner_[lane].clear();
        crowded_ = false;
        if (!out.converged) return;
        const T back = get(unit, lane);
        order_.resize(out.n);
        mode_of_.resize(out.n);
        for (int i = 0; i < out.n; ++i) order_[i] = i;
        const auto at = [&](int i) { return Value<T>{get(re[i], lane), get(im[i], lane)}; };
        std::stable_sort(order_.begin(), order_.end(), [&](int i, int j) { return Canonical()(at(i), at(j)); });
        T top = 0;
        for (int m = 0; m < out.n; ++m) {
            const Value<T> value = at(order_[m]);
            out.values[m] = {value.re * back, value.im * back};
            mode_of_[order_[m]] = m;
            top = std::max(top, std::max(std::abs(value.re), std::abs(value.im)));
        }
        const T near = std::max(top, get(absolute(a_(0, 0)), lane)) * Limits<T>::epsilon * T(kNear);
        for (int m = 0; m < out.n && m < modes; ++m) {
            const int place = order_[m];
            const Value<T> value = at(place);
            // Those close in real part lie on either side in the order.
            for (const int step : {-1, 1}) {
                for (int other = m + step; other >= 0 && other < out.n; other += step) {
                    const Value<T> next = at(order_[other]);
                    if (std::abs(next.re - value.re) > near) break;
                    crowded_ = crowded_ || std::abs(next.im - value.im) <= near;
                }
            }
            // The two of a pair converge at neighboring places, the upper one first.
            if (value.im < 0) partner_[lane].push_back({m, mode_of_[place - 1]});
            else chosen.push_back({m, place, value.re, value.im});
        }
    }

    // Pivots below this are taken as this: about a rounding of each lane's matrix.
    V smallest_pivot() const {
        V norm(T(0));
        for (int i = 0; i < n_; ++i) {
            V row(T(0));
            for (int j = i ? i - 1 : 0; j < n_; ++j) row = row + absolute(a_(i, j));
            norm = larger(norm, row);
        }
        return larger(norm * V(Limits<T>::epsilon), V(Limits<T>::smallest / Limits<T>::epsilon));
    }

    void vector_group(
        LaneResults<T>* lanes, int count, const Group& group, Matrix<V> original, V tiny, V unit) {
        ComplexVector<V> right[kGroup], left[kGroup];
        V re[kGroup], im[kGroup];
        const ComplexVector<V> scratch{list(0), list(1)};
        const V size = sizes(lanes, count);
        // The Schur form is in use, so the factors take the place of what it was made from.
        const Matrix<V> form = group.schur ? Matrix<V>{matrix_[2].get(), a_.ld} : a_;
        const Matrix<V> upper = group.schur ? a_ : Matrix<V>{matrix_[2].get(), a_.ld};
        const Factors<V> factors{
            upper, {matrix_[3].get(), a_.ld}, list(10), list(11), list(12), list(13), list(14)};
        for (size_t g = 0; g < group.count; ++g) {
            V place(T(-1)), kept(T(-1));
            re[g] = im[g] = V(T(0));
            for (int lane = 0; lane < count; ++lane) {
                if (group.begin + g >= chosen_[lane].size()) continue;
                const Chosen& now = chosen_[lane][group.begin + g];
                put(re[g], lane, now.re);
                put(im[g], lane, now.im);
                put(place, lane, T(now.place));
                if (group.schur && now.im != 0) put(kept, lane, T(now.place));
            }
            right[g] = {list(kLists + 4 * g), list(kLists + 4 * g + 1)};
            left[g] = {list(kLists + 4 * g + 2), list(kLists + 4 * g + 3)};
            factorize(form, n_, re[g], im[g], tiny, kept, factors, Serial{});
            if (group.schur) {
                const Matrix<V> z{matrix_[4].get(), a_.ld};
                substitution<false>(form, factors, n_, place, re[g], im[g], right[g], Serial{});
                multiply(z, n_, right[g], scratch, Serial{});
                if (!group.left) continue;
                substitution<true>(form, factors, n_, place, re[g], im[g], left[g], Serial{});
                multiply(z, n_, left[g], scratch, Serial{});
                continue;
            }
            const auto wanted = place >= V(T(0));
            auto poor = inverse_iteration<false>(factors, n_, size, wanted, tiny, scratch, right[g], Serial{});
            if (group.left) poor = poor | inverse_iteration<true>(factors, n_, size, wanted, tiny, scratch, left[g], Serial{});
            for (int lane = 0; lane < count; ++lane) lanes[lane].again = lanes[lane].again || get(poor, lane);
        }
        if (!group.schur) {
            back_transform(a_, n_, list(9), list(2), right, (int)group.count, Serial{});
            if (group.left) back_transform(a_, n_, list(9), list(2), left, (int)group.count, Serial{});
        }
        for (size_t g = 0; g < group.count; ++g) {
            undo_balance(right[g], false);
            if (group.left) undo_balance(left[g], true);
            const V residual = residual_of(original, right[g], re[g] * unit, im[g] * unit);
            for (int lane = 0; lane < count; ++lane) {
                if (group.begin + g >= chosen_[lane].size()) continue;
                const int mode = chosen_[lane][group.begin + g].mode;
                write_mode(lanes[lane], lane, mode, right[g], group.left ? &left[g] : nullptr, get(residual, lane));
            }
        }
    }

    void write_mode(
        LaneResults<T>& out, int lane, int mode, ComplexVector<V> right, const ComplexVector<V>* left, T residual) {
        const double relative = (double)residual / (out.norm > 0 ? out.norm : 1.0);
        // NaN, where there has been nothing yet, compares false.
        if (!(*out.residual >= relative)) *out.residual = relative;
        write(right, lane, out, out.right + 2 * mode * out.row);
        if (left) {
            write(*left, lane, out, out.left + 2 * mode * out.row);
            out.overlap[mode] = overlap_of(right, *left, lane, out.n);
        }
    }

    // From the balanced coordinates back to those of the caller.
    void undo_balance(ComplexVector<V> x, bool left) {
        const V* scale = list(8);
        // Range first: balancing may stretch components by many powers of two.
        scale_to_one(x, n_, Serial{});
        for (int i = 0; i < n_; ++i) {
            const V by = left ? V(T(1)) / scale[i] : scale[i];
            x.re[i] = x.re[i] * by;
            x.im[i] = x.im[i] * by;
        }
        normalize(x, n_, Serial{});
    }

    // |A x - lambda x| for unit x.
    V residual_of(Matrix<V> a, ComplexVector<V> x, V re, V im) const {
        V total(T(0));
        for (int i = 0; i < n_; ++i) {
            V sr = nmadd(re, x.re[i], im * x.im[i]);
            V si = -madd(re, x.im[i], im * x.re[i]);
            for (int j = 0; j < n_; ++j) {
                sr = madd(a(i, j), x.re[j], sr);
                si = madd(a(i, j), x.im[j], si);
            }
            total = madd(sr, sr, madd(si, si, total));
        }
        return root(total);
    }

    static double overlap_of(ComplexVector<V> x, ComplexVector<V> y, int lane, int n) {
        double re = 0, im = 0;
        for (int i = 0; i < n; ++i) {
            const double xr = get(x.re[i], lane), xi = get(x.im[i], lane);
            const double yr = get(y.re[i], lane), yi = get(y.im[i], lane);
            re += yr * xr + yi * xi;
            im += yr * xi - yi * xr;
        }
        return std::hypot(re, im);
    }

    static void write(ComplexVector<V> x, int lane, const LaneResults<T>& out, T* target) {
        for (int i = 0; i < out.n; ++i) {
            const int row = out.order ? out.order[i] : i;
            target[2 * row] = get(x.re[i], lane) + T(0);
            target[2 * row + 1] = get(x.im[i], lane) + T(0);
        }
        if (out.order) turn(target, out.n);
    }

    // Make the first of the largest components real and positive, in the order of the caller.
    static void turn(T* x, int n) {
        T top = 0;
        for (int i = 0; i < n; ++i) top = std::max(top, x[2 * i] * x[2 * i] + x[2 * i + 1] * x[2 * i + 1]);
        int pivot = 0;
        while (!(x[2 * pivot] * x[2 * pivot] + x[2 * pivot + 1] * x[2 * pivot + 1] >= top * (T(1) - T(2e-6)))) ++pivot;
        const T length = std::hypot(x[2 * pivot], x[2 * pivot + 1]);
        if (!(length > 0)) return;
        const T c = x[2 * pivot] / length, s = x[2 * pivot + 1] / length;
        for (int i = 0; i < n; ++i) {
            const T re = x[2 * i], im = x[2 * i + 1];
            x[2 * i] = madd(im, s, re * c) + T(0);
            x[2 * i + 1] = i == pivot ? T(0) : nmadd(re, s, im * c) + T(0);
        }
    }

    // The vectors of the lower ones of conjugate pairs.
    void mirror_pairs(LaneResults<T>& out, int lane) {
        for (const Pair& pair : partner_[lane]) {
            const auto conjugate = [&](T* vectors) {
                const T* from = vectors + 2 * pair.upper * out.row;
                T* to = vectors + 2 * pair.mode * out.row;
                for (int i = 0; i < out.n; ++i) {
                    to[2 * i] = from[2 * i];
                    to[2 * i + 1] = T(0) - from[2 * i + 1];
                }
            };
            conjugate(out.right);
            if (out.left) {
                conjugate(out.left);
                out.overlap[pair.mode] = out.overlap[pair.upper];
            }
        }
    }

    int n_ = 0;
    Matrix<V> a_{nullptr, 0};
    Buffer<V> matrix_[5];
    Buffer<V> lists_;
    size_t stride_ = 0;
    std::vector<Chosen> chosen_[N];
    std::vector<Pair> partner_[N];
    std::vector<int> order_, mode_of_;
    bool crowded_ = false;
};

}  // namespace LANES_NAMESPACE
