// One matrix solved by a team of threads that share memory, from the caller's entries to the results: the steps that
// batch.hpp and pack_solver.hpp take for a pack of matrices. CUDA warps and blocks run it (device.cuh), and threads of
// a CPU in the tests.
#pragma once

#include "balance.hpp"
#include "francis.hpp"
#include "hessenberg.hpp"
#include "inverse.hpp"
#include "parts.hpp"
#include "results.hpp"
#include "team_source.hpp"

namespace LANES_NAMESPACE {

// What to compute: eigenvalues; with vectors by inverse iteration; or with vectors from the Schur form, for matrices
// whose eigenvalues inverse iteration may not keep apart.
enum Task { kValues = 0, kVectors = 1, kSchur = 2 };

// How much memory a matrix of order n takes. kernels/cuda_launch.py plans with the same figures.
struct Needs {
    int n;
    Task task;
    LANES_FN int leading() const { return (n + 1) | 1; }  // odd: a column lies in all banks of shared memory
    LANES_FN long long cells() const { return (long long)(n + 1) * leading(); }
    LANES_FN int stride() const { return n + 3; }
    LANES_FN int lists() const { return task == kValues ? 9 : 19; }
    LANES_FN int other_matrices() const { return task == kValues ? 0 : task == kVectors ? 2 : 3; }
    LANES_FN long long integers() const { return 4ll * n + (long long)n * Parts::words(n); }
    LANES_FN long long numbers() const { return cells() + (long long)lists() * stride(); }
    LANES_FN long long other_numbers() const { return other_matrices() * cells(); }
};

// Where it is: `numbers` and `integers` are in use all the time, `others` less often.
template <class T>
struct Storage {
    T* numbers;
    T* others;
    int* integers;
};

// Where results go, laid out as NumPy has them; complex numbers as pairs. `left` and `overlap` null where not wanted.
template <class T>
struct TeamResults {
    T* values;               // (batch, width, 2)
    T* right;                // (batch, modes, width, 2)
    T* left;                 // (batch, modes, width, 2)
    double* overlap;         // (batch, modes): |y^H x|
    double* residual;        // (batch,): largest |C x - lambda x| / |C|
    double* trace_defect;    // (batch,): |sum of eigenvalues - trace| / |C|
    unsigned char* outcome;  // (batch,)
    long long width, modes;
};

template <class T, class Team>
class TeamSolver {
public:
    // `again` marks the matrices that need their Schur form and have no vectors yet.
    LANES_FN TeamSolver(const Source& source, const TeamResults<T>& out, unsigned char* again, Storage<T> storage, Team team)
        : source_(source), out_(out), again_(again), storage_(storage), team_(team) {}

    template <Task task>
    LANES_FN void solve(long long b) {
        b_ = b;
        n_ = (int)source_.sizes[b];
        needs_ = {n_, task};
        int* const integers = storage_.integers;
        parts_ = {integers, integers + n_, integers + 2 * n_, reinterpret_cast<unsigned*>(integers + 4 * n_)};
        entries_ = {source_, b, integers + 3 * n_};
        if (source_.scales) list_nodes(source_.scales + b * source_.k, (int)source_.k, integers + 3 * n_, team_);
        look_ = look_at<T>(entries_, n_, team_);
        Outcome outcome = kNotFinite;
        if (look_.finite) {
            reorder();
            if constexpr (task == kValues) outcome = values_of_parts();
            else outcome = values_and_vectors<task>();
        }
        if (team_.rank() == 0) out_.outcome[b] = outcome;
        team_.sync();
    }

private:
    static constexpr int kNear = 1 << 14;  // roundings between eigenvalues that inverse iteration may not keep apart

    LANES_FN T* list(int number) const { return storage_.numbers + needs_.cells() + number * needs_.stride(); }
    LANES_FN T* re() const { return list(6); }
    LANES_FN T* im() const { return list(7); }
    LANES_FN T* scale() const { return list(8); }
    LANES_FN T* tau() const { return list(9); }
    LANES_FN HessenbergWork<T> hessenberg_work() const { return {list(0), list(1), list(2), list(3), list(4), list(5)}; }
    LANES_FN Matrix<T> first() const { return {storage_.numbers, needs_.leading()}; }
    LANES_FN Matrix<T> other(int number) const { return {storage_.others + number * needs_.cells(), needs_.leading()}; }
    LANES_FN T entry(int i, int j) const { return narrow<T>(entries_(i, j) * look_.up); }

    // ---- eigenvalues --------------------------------------------------------------------------------------------

    LANES_FN void reorder() {
        const Entries entries = entries_;
        // A matrix of order n with fewer than n - 1 zeros cannot be reducible.
        if (n_ < 2 || look_.zeros < n_ - 1) one_part(n_, parts_, team_);
        else find_parts([entries](int i, int j) { return entries(i, j) != 0; }, n_, parts_, team_);
    }

    // The matrix, scaled and reordered, with a row and a column of zeros after it. Unless all of it is wanted, only its
    // diagonal blocks, which have its eigenvalues.
    LANES_FN void load(Matrix<T> a, bool all) {
        each_entry(n_, team_, [&](int i, int j) {
            const int row = parts_.order[i], column = parts_.order[j];
            a(i, j) = all || parts_.part[row] == parts_.part[column] ? entry(row, column) : T(0);
        });
        clear_border(a);
    }

    LANES_FN void clear_border(Matrix<T> a) {
        LANES_FEW for (int i = team_.rank(); i <= n_; i += team_.size()) a(i, n_) = a(n_, i) = T(0);
        team_.sync();
    }

    LANES_FN Outcome values_of_parts() {
        const Matrix<T> a = first();
        load(a, false);
        bool solved = true;
        for (int begin = 0, end; begin < n_; begin = end) {
            const int part = parts_.part[parts_.order[begin]];
            for (end = begin + 1; end < n_ && parts_.part[parts_.order[end]] == part;) ++end;
            if (end > begin + 1) {
                solved = values_of_part({&a(begin, begin), a.ld}, begin, end - begin) && solved;
            } else if (team_.rank() == 0) {
                re()[begin] = a(begin, begin);
                im()[begin] = T(0);
            }
        }
        team_.sync();
        return solved && finish_values(T(1)) ? kSolved : kNotConverged;
    }

    LANES_FN bool values_of_part(Matrix<T> a, int begin, int n) {
        T *const re = this->re() + begin, *const im = this->im() + begin;
        balance(a, n, scale(), team_);
        const T unit = rescale(a, n, team_);
        reduce_to_hessenberg(a, n, false, scale(), hessenberg_work(), team_);
        const bool solved = hessenberg_eigenvalues(Eigenvalues<T>{a}, T(n), re, im, team_);
        LANES_FEW for (int i = team_.rank(); i < n; i += team_.size()) {
            re[i] = re[i] * unit;
            im[i] = im[i] * unit;
        }
        return solved;
    }

    // Check the eigenvalues, in units of `unit`, against the trace, and write them in canonical order; note which place
    // on the diagonal has which mode. False if they are not finite.
    LANES_FN bool finish_values(T unit) {
        const T *const re = this->re(), *const im = this->im();
        double sum_re = 0, sum_im = 0;
        LANES_FEW for (int i = team_.rank(); i < n_; i += team_.size()) {
            sum_re = sum_re + widen(re[i] * unit);
            sum_im = sum_im + widen(im[i] * unit);
        }
        sum_re = team_.sum(sum_re) - look_.trace;
        sum_im = team_.sum(sum_im);
        if (!(sum_re * 0.0 == 0 && sum_im * 0.0 == 0)) return false;
        if (team_.rank() == 0) out_.trace_defect[b_] = root(sum_re * sum_re + sum_im * sum_im) / look_.norm;
        const double down = 1.0 / look_.up;
        T* const values = out_.values + 2 * b_ * out_.width;
        LANES_FEW for (int i = team_.rank(); i < n_; i += team_.size()) {
            const Value<T> own{re[i], im[i]};
            int mode = 0;
            for (int j = 0; j < n_; ++j) {
                const Value<T> next{re[j], im[j]};
                mode += comes_before(next, own) || (j < i && !comes_before(own, next));
            }
            mode_of()[i] = mode;
            place_of()[mode] = i;
            values[2 * mode] = number(widen(own.re * unit) * down);
            values[2 * mode + 1] = number(widen(own.im * unit) * down);
        }
        team_.sync();
        return true;
    }

    // In the precision of the results, zeros positive.
    static LANES_FN T number(double x) {
        const T out = narrow<T>(x);
        return widen(out) == 0 ? T(0) : out;
    }

    // Once the matrix is loaded, nobody asks for its parts.
    LANES_FN int* mode_of() const { return parts_.part; }
    LANES_FN int* place_of() const { return parts_.reach; }

    // ---- vectors ------------------------------------------------------------------------------------------------

    // What all vectors of a matrix are computed with.
    struct Forms {
        Matrix<T> h;        // its Hessenberg form with the reflections, or its Schur form
        Matrix<T> z;        // vectors of the Schur form times this are those of the balanced matrix
        Factors<T> factors;
        T tiny, unit;
    };

    // The whole matrix, whose order keeps its parts apart in its Hessenberg and Schur forms too.
    template <Task task>
    LANES_FN Outcome values_and_vectors() {
        const Matrix<T> a = first();
        load(a, true);
        balance(a, n_, scale(), team_);
        const T unit = rescale(a, n_, team_);
        reduce_to_hessenberg(a, n_, true, tau(), hessenberg_work(), team_);
        const T tiny = smallest_pivot(a, n_, team_), corner = n_ ? absolute(a(0, 0)) : T(0);
        // What the QR iterations leave behind them is not needed, but for a Schur form.
        const Matrix<T> kept = task == kSchur ? a : other(0), upper = task == kSchur ? other(0) : a;
        const Forms forms{kept, other(2), factors(upper), tiny, unit};
        bool solved;
        if constexpr (task == kSchur) {
            form_q(a, n_, tau(), forms.z, list(0), list(1), team_);
            clear_border(forms.z);
            cut_to_hessenberg(a);
            solved = hessenberg_eigenvalues(SchurForm<T>{a, forms.z, n_}, T(n_), re(), im(), team_);
        } else {
            each_entry(n_, team_, [&](int i, int j) { kept(i, j) = a(i, j); });
            cut_to_hessenberg(a);
            solved = hessenberg_eigenvalues(Eigenvalues<T>{a}, T(n_), re(), im(), team_);
        }
        if (!solved || !finish_values(unit)) return kNotConverged;
        const bool apart = task == kSchur || !crowded(corner);
        if (apart && write_vectors<task>(forms)) return kSolved;
        if (team_.rank() == 0) again_[b_] = 1;
        return kNotComputed;
    }

    LANES_FN void cut_to_hessenberg(Matrix<T> a) {
        team_.sync();
        each_entry(n_, team_, [&](int i, int j) {
            if (i > j + 1) a(i, j) = T(0);
        });
        team_.sync();
    }

    LANES_FN Factors<T> factors(Matrix<T> upper) const {
        return {upper, other(1), list(10), list(11), list(12), list(13), list(14)};
    }

    LANES_FN int modes() const { return (int)(out_.modes < n_ ? out_.modes : n_); }

    // Whether one of the modes wanted nearly equals another eigenvalue.
    LANES_FN bool crowded(T corner) const {
        const T *const re = this->re(), *const im = this->im();
        T top = corner;
        LANES_FEW for (int i = team_.rank(); i < n_; i += team_.size()) top = larger(top, larger(absolute(re[i]), absolute(im[i])));
        const T near = team_.maximum(top) * Limits<T>::epsilon * T(kNear);
        T found(0);
        LANES_FEW for (int m = team_.rank(); m < modes(); m += team_.size()) {
            const int i = place_of()[m];
            for (int j = 0; j < n_; ++j) {
                if (j != i && absolute(re[j] - re[i]) <= near && absolute(im[j] - im[i]) <= near) found = T(1);
            }
        }
        return team_.maximum(found) > T(0);
    }

    // Right vectors are those of side 0, left ones of side 1; of the balanced matrix, and in the end.
    LANES_FN int sides() const { return out_.left ? 2 : 1; }
    LANES_FN ComplexVector<T> balanced(int side) const { return {list(15 + 2 * side), list(16 + 2 * side)}; }
    LANES_FN ComplexVector<T> finished(int side) const { return {list(3 * side), list(3 * side + 1)}; }

    // Vectors of the leading modes; false, and nothing of use written, where inverse iteration has failed.
    template <Task task>
    LANES_FN bool write_vectors(const Forms& forms) {
        double worst = -1;
        for (int m = 0; m < modes(); ++m) {
            const int place = place_of()[m];
            const T re = this->re()[place], im = this->im()[place];
            // The two of a pair stand at neighboring places, the upper one first; its vector serves both.
            if (im < T(0)) continue;
            if (!find_vectors<task>(forms, T(place), re, im)) return false;
            LANES_FEW for (int side = 0; side < sides(); ++side) undo_balance(side);
            const T residual = residual_of(finished(0), re * forms.unit, im * forms.unit);
            worst = larger(worst, widen(residual) / look_.norm);
            const int twin = im > T(0) ? mode_of()[place + 1] : n_;
            LANES_FEW for (int copy = 0; copy < 2; ++copy) {
                const int mode = copy ? twin : m;
                if (mode < modes()) write_mode(mode, copy ? T(-1) : T(1));
            }
            team_.sync();
        }
        if (team_.rank() == 0 && worst >= 0) out_.residual[b_] = worst;
        return true;
    }

    // Vectors of the balanced matrix for the eigenvalue at a place on the diagonal; false if they are poor.
    template <Task task>
    LANES_FN bool find_vectors(const Forms& forms, T place, T re, T im) {
        const ComplexVector<T> scratch{list(0), list(1)};
        const Factors<T>& factors = forms.factors;
        const T kept = task == kSchur && im != T(0) ? place : T(-1);
        factorize(forms.h, n_, re, im, forms.tiny, kept, factors, team_);
        if constexpr (task == kSchur) {
            substitution<false>(forms.h, factors, n_, place, re, im, balanced(0), team_);
            if (sides() > 1) substitution<true>(forms.h, factors, n_, place, re, im, balanced(1), team_);
            LANES_FEW for (int side = 0; side < sides(); ++side) multiply(forms.z, n_, balanced(side), scratch, team_);
        } else {
            const T n(n_);
            bool poor = inverse_iteration<false>(factors, n_, n, true, forms.tiny, scratch, balanced(0), team_);
            if (sides() > 1) {
                poor |= inverse_iteration<true>(factors, n_, n, true, forms.tiny, scratch, balanced(1), team_);
            }
            if (poor) return false;
            LANES_FEW for (int side = 0; side < sides(); ++side) {
                const ComplexVector<T> x = balanced(side);
                back_transform(forms.h, n_, tau(), list(2), &x, 1, team_);
            }
        }
        return true;
    }

    // From the coordinates of the balanced matrix to those of the caller, with unit norm.
    LANES_FN void undo_balance(int side) {
        const ComplexVector<T> from = balanced(side), to = finished(side);
        // Range first: balancing may stretch components by many powers of two.
        scale_to_one(from, n_, team_);
        LANES_FEW for (int i = team_.rank(); i < n_; i += team_.size()) {
            const T by = side ? T(1) / scale()[i] : scale()[i];
            to.re[parts_.order[i]] = from.re[i] * by;
            to.im[parts_.order[i]] = from.im[i] * by;
        }
        team_.sync();
        normalize(to, n_, team_);
    }

    // |A x - lambda x| for unit x.
    LANES_FN T residual_of(ComplexVector<T> x, T re, T im) const {
        T total(0);
        LANES_FEW for (int i = team_.rank(); i < n_; i += team_.size()) {
            T sum_re = nmadd(re, x.re[i], im * x.im[i]);
            T sum_im = -madd(re, x.im[i], im * x.re[i]);
            for (int j = 0; j < n_; ++j) {
                const T a = entry(i, j);
                sum_re = madd(a, x.re[j], sum_re);
                sum_im = madd(a, x.im[j], sum_im);
            }
            total = madd(sum_re, sum_re, madd(sum_im, sum_im, total));
        }
        return root(team_.sum(total));
    }

    // Write the vectors of a mode, conjugated where `sign` is -1, and |y^H x|.
    LANES_FN void write_mode(int mode, T sign) {
        const long long at = b_ * out_.modes + mode;
        const ComplexVector<T> x = finished(0), y = finished(1);
        write(out_.right + 2 * at * out_.width, x, sign);
        if (sides() == 1) return;
        write(out_.left + 2 * at * out_.width, y, sign);
        double re = 0, im = 0;
        LANES_FEW for (int i = team_.rank(); i < n_; i += team_.size()) {
            const double xr = widen(x.re[i]), xi = widen(x.im[i]), yr = widen(y.re[i]), yi = widen(y.im[i]);
            re = re + (yr * xr + yi * xi);
            im = im + (yr * xi - yi * xr);
        }
        re = team_.sum(re);
        im = team_.sum(im);
        if (team_.rank() == 0) out_.overlap[at] = root(re * re + im * im);
    }

    LANES_FN void write(T* target, ComplexVector<T> x, T sign) {
        LANES_FEW for (int i = team_.rank(); i < n_; i += team_.size()) {
            target[2 * i] = number(widen(x.re[i]));
            target[2 * i + 1] = number(widen(sign * x.im[i]));
        }
    }

    const Source source_;
    const TeamResults<T> out_;
    unsigned char* const again_;
    const Storage<T> storage_;
    const Team team_;
    long long b_ = 0;
    int n_ = 0;
    Needs needs_{};
    Parts parts_{};
    Entries entries_{};
    TeamLook look_{};
};

// Solve the `count` matrices of `list`, taking the next one from the queue `next` until there is none.
template <Task task, class T, class Team, class Counter>
LANES_FN void solve_list(TeamSolver<T, Team> solver, const long long* list, long long count, Counter* next, Team team) {
    for (long long item = team.take(next); item < count; item = team.take(next)) {
        solver.template solve<task>(list[item]);
    }
}

}  // namespace LANES_NAMESPACE
