// A batch of matrices on one CPU thread: look at each, cut it into its strongly connected pieces where only
// eigenvalues are wanted, fill the lanes with pieces of similar size, solve, put the results where they belong.
#pragma once

#include <algorithm>
#include <limits>
#include <vector>

#include "cores.hpp"
#include "pack_solver.hpp"

namespace LANES_NAMESPACE {

enum Outcome : uint8_t { kSolved = 0, kNotConverged = 1, kNotFinite = 3 };

// Results, laid out as NumPy has them; complex numbers as pairs. Null where not wanted.
template <class T>
struct Results {
    T* values;             // (batch, k, 2)
    T* right;              // (batch, modes, k, 2)
    T* left;               // (batch, modes, k, 2)
    double* overlap;       // (batch, modes): |y^H x|
    double* residual;      // (batch,): largest |C x - lambda x| / |C|
    double* trace_defect;  // (batch,): |sum of eigenvalues - trace| / |C|
    uint8_t* outcome;      // (batch,)
    int64_t modes;
};

// A matrix, or a strongly connected piece of one.
struct Piece {
    int64_t matrix;
    int64_t first;   // of its nodes in the list of members, or -1 for the whole matrix
    int32_t n;
    int32_t offset;  // where its eigenvalues go among those of the matrix
};

template <class T, int N, class Cores>
class Batch {
    using V = Pack<T, N>;

public:
    Batch(const Cores& cores, int64_t batch, int64_t k, const Results<T>& results)
        : cores_(cores), batch_(batch), k_(k), out_(results) {}

    void solve() {
        looks_.resize(batch_);
        for (int64_t b = 0; b < batch_; ++b) collect(b);
        // Pieces of one size side by side; the order among equals does not matter to any of them.
        std::stable_sort(pieces_.begin(), pieces_.end(), [](const Piece& a, const Piece& b) { return a.n < b.n; });
        solve_packs(pieces_, false);
        solve_packs(again_, true);
        for (int64_t b = 0; b < batch_; ++b) {
            if (out_.outcome[b] == kSolved) finish(b);
        }
    }

private:
    Value<T>* values(int64_t b) const { return reinterpret_cast<Value<T>*>(out_.values) + (size_t)b * k_; }

    void collect(int64_t b) {
        const int n = cores_.size(b);
        int64_t zeros = 0;
        if (!cores_.template look<T>(b, looks_[b], zeros)) {
            out_.outcome[b] = kNotFinite;
            return;
        }
        out_.outcome[b] = kSolved;
        if (!cores_.components(b, zeros, graph_)) {
            add({b, -1, n, 0});
            return;
        }
        const int64_t base = (int64_t)members_.size();
        if (out_.right) {
            // Vectors need the matrix whole; in this order its reducible form survives every step.
            graph_.order_upper_triangular();
            members_.insert(members_.end(), graph_.members.begin(), graph_.members.end());
            add({b, base, n, 0});
            return;
        }
        members_.insert(members_.end(), graph_.members.begin(), graph_.members.end());
        int32_t start = 0;
        for (int32_t end : graph_.ends) {
            add({b, base + start, end - start, start});
            start = end;
        }
    }

    void add(const Piece& piece) {
        if (piece.n == 1 && !out_.right) {
            T entry;
            cores_.template load_row<T, 1>(piece.matrix, looks_[piece.matrix], members(piece), 1, 0, &entry);
            values(piece.matrix)[piece.offset] = {entry, T(0)};
        } else if (piece.n > 0) {
            pieces_.push_back(piece);
        }
    }

    const int32_t* members(const Piece& piece) const {
        return piece.first < 0 ? nullptr : members_.data() + piece.first;
    }

    void solve_packs(const std::vector<Piece>& pieces, bool schur) {
        for (size_t first = 0; first < pieces.size(); first += N) {
            solve_pack(&pieces[first], (int)std::min<size_t>(N, pieces.size() - first), schur);
        }
    }

    // `count` pieces in the first lanes; the others hold nothing, which is solved at once.
    void solve_pack(const Piece* pieces, int count, bool schur) {
        const int n = pieces[count - 1].n;
        const Matrix<V> a = solver_.blank(n);
        for (int i = 0; i < n; ++i) {
            for (int lane = 0; lane < count; ++lane) {
                const Piece& piece = pieces[lane];
                if (i >= piece.n) continue;
                T* row = reinterpret_cast<T*>(a.row(i)) + lane;
                cores_.template load_row<T, N>(piece.matrix, looks_[piece.matrix], members(piece), piece.n, i, row);
            }
        }
        LaneResults<T> lanes[N];
        for (int lane = 0; lane < count; ++lane) {
            const Piece& piece = pieces[lane];
            const size_t first = (size_t)piece.matrix * out_.modes;
            lanes[lane].n = piece.n;
            lanes[lane].values = values(piece.matrix) + piece.offset;
            lanes[lane].right = out_.right ? out_.right + first * k_ * 2 : nullptr;
            lanes[lane].left = out_.left ? out_.left + first * k_ * 2 : nullptr;
            lanes[lane].overlap = out_.overlap ? out_.overlap + first : nullptr;
            lanes[lane].residual = out_.residual ? out_.residual + piece.matrix : nullptr;
            if (out_.residual) *lanes[lane].residual = std::numeric_limits<double>::quiet_NaN();
            lanes[lane].norm = looks_[piece.matrix].norm;
            lanes[lane].row = k_;
            lanes[lane].order = members(piece);
        }
        if (out_.right) solver_.solve_vectors(lanes, count, out_.modes, schur);
        else solver_.solve_values(lanes, count);
        for (int lane = 0; lane < count; ++lane) {
            if (!lanes[lane].converged) out_.outcome[pieces[lane].matrix] = kNotConverged;
            if (lanes[lane].again) again_.push_back(pieces[lane]);
        }
    }

    // Order the eigenvalues of a matrix, check them against its trace, and undo its scaling.
    void finish(int64_t b) {
        const int n = cores_.size(b);
        const Look& look = looks_[b];
        Value<T>* list = values(b);
        if (!out_.right) std::sort(list, list + n, Canonical());
        double re = 0, im = 0;
        for (int i = 0; i < n; ++i) {
            re += (double)list[i].re;
            im += (double)list[i].im;
        }
        out_.trace_defect[b] = std::hypot(re - look.trace, im) / (look.norm > 0 ? look.norm : 1.0);
        for (int i = 0; i < n; ++i) {
            // Adding zero makes a negative zero positive.
            list[i].re = (T)((double)list[i].re * look.down) + T(0);
            list[i].im = (T)((double)list[i].im * look.down) + T(0);
        }
    }

    const Cores& cores_;
    const int64_t batch_, k_;
    const Results<T> out_;
    std::vector<Look> looks_;
    std::vector<Piece> pieces_, again_;  // again_: those that need their Schur form
    std::vector<int32_t> members_;
    Components graph_;
    PackSolver<T, N> solver_;
};

}  // namespace LANES_NAMESPACE
