// Where the matrices of a batch come from, and a first look at each.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "components.hpp"

namespace LANES_NAMESPACE {

// What a first look at a matrix tells.
struct Look {
    double up;     // a power of two that brings its largest entry into [1, 2)
    double down;   // its inverse
    double trace;  // of the scaled matrix
    double norm;   // Frobenius norm of the scaled matrix
};

// A power of two that brings `top` into [1, 2), and its inverse. Beyond the bounds the factor itself would not be a
// normal number; entries of that size lose nothing that matters.
inline void choose_scale(double top, Look& out) {
    int exponent = 0;
    std::frexp(top, &exponent);
    exponent = std::min(std::max(exponent - 1, -1021), 1021);
    out.up = std::ldexp(1.0, -exponent);
    out.down = std::ldexp(1.0, exponent);
}

// The matrices given by the caller, in an array whose rows are contiguous.
template <class Source>
struct DenseCores {
    const Source* data;
    int64_t matrix_stride, row_stride;
    const int64_t* sizes;

    int size(int64_t b) const { return (int)sizes[b]; }

    // False if the matrix is not finite. `zeros` gets the number of its entries that are zero; trace and norm are
    // those of the entries as numbers T, which the solver sees.
    template <class T>
    bool look(int64_t b, Look& out, int64_t& zeros) const {
        const int n = size(b);
        Source top = 0;
        double bad = 0;
        zeros = 0;
        for (int i = 0; i < n; ++i) {
            const Source* row = entries(b, i);
            scan_row(row, n, top, bad, zeros);
        }
        if (!(bad == 0)) return false;
        choose_scale((double)top, out);
        double squares[8] = {0}, trace = 0;
        for (int i = 0; i < n; ++i) {
            const Source* row = entries(b, i);
            int j = 0;
            for (; j + 8 <= n; j += 8) {
                for (int u = 0; u < 8; ++u) {
                    const double x = (double)(T)((double)row[j + u] * out.up);
                    squares[u] += x * x;
                }
            }
            for (; j < n; ++j) {
                const double x = (double)(T)((double)row[j] * out.up);
                squares[0] += x * x;
            }
            trace += (double)(T)((double)row[i] * out.up);
        }
        out.trace = trace;
        double total = 0;
        for (double s : squares) total += s;
        out.norm = std::sqrt(total);
        return true;
    }

    // The strongly connected components; false where there is but one and its nodes are all, in order.
    bool components(int64_t b, int64_t zeros, Components& graph) const {
        const int n = size(b);
        // A matrix of order n with fewer than n - 1 zeros cannot be reducible.
        if (n < 2 || zeros < n - 1) return false;
        graph.reset(n);
        for (int i = 0; i < n; ++i) {
            const Source* row = entries(b, i);
            uint64_t* bits = graph.row(i);
            for (int w = 0; w < graph.words(); ++w) {
                const int end = std::min(n, w * 64 + 64);
                uint64_t word = 0;
                for (int j = w * 64; j < end; ++j) word |= (uint64_t)(row[j] != 0) << (j % 64);
                bits[w] = word;
            }
        }
        graph.find([](int) { return true; });
        return true;
    }

    // Write rows `members` (all, where null) of row `i` into one lane of a row of packs.
    template <class T, int N>
    void load_row(int64_t b, const Look& look, const int32_t* members, int n, int i, T* lane) const {
        const Source* row = entries(b, members ? members[i] : i);
        const double up = look.up;
        if (members) {
            for (int j = 0; j < n; ++j) lane[(size_t)j * N] = (T)((double)row[members[j]] * up);
        } else if (sizeof(T) == sizeof(Source) && up < 1e30 && up > 1e-30) {
            const T factor = (T)up;
            for (int j = 0; j < n; ++j) lane[(size_t)j * N] = (T)row[j] * factor;
        } else {
            for (int j = 0; j < n; ++j) lane[(size_t)j * N] = (T)((double)row[j] * up);
        }
    }

private:
    const Source* entries(int64_t b, int i) const { return data + b * matrix_stride + i * row_stride; }

    static void scan_row(const Source* row, int n, Source& top, double& bad, int64_t& zeros) {
        Source largest[8] = {0}, wrong[8] = {0};
        int32_t count[8] = {0};
        int j = 0;
        for (; j + 8 <= n; j += 8) {
            for (int u = 0; u < 8; ++u) {
                const Source x = row[j + u] < 0 ? -row[j + u] : row[j + u];
                largest[u] = x > largest[u] ? x : largest[u];
                wrong[u] += x * Source(0);
                count[u] += x == 0;
            }
        }
        for (; j < n; ++j) {
            const Source x = row[j] < 0 ? -row[j] : row[j];
            largest[0] = x > largest[0] ? x : largest[0];
            wrong[0] += x * Source(0);
            count[0] += x == 0;
        }
        for (int u = 0; u < 8; ++u) {
            top = largest[u] > top ? largest[u] : top;
            bad += (double)wrong[u];
            zeros += count[u];
        }
    }
};

// Matrices W[R, R] diag(s_R) - diag(g_R) of one W of order r, where R are the nodes at which the scales s of an entry
// of the batch are not zero. They are never formed: rows are made as they are loaded into a lane.
class ScaledCores {
public:
    ScaledCores(const double* weights, const double* shifts, const double* scales, int64_t batch, int64_t r)
        : weights_(weights), shifts_(shifts), scales_(scales), r_(r), sizes_(batch) {
        for (int64_t b = 0; b < batch; ++b) {
            for (int64_t i = 0; i < r; ++i) sizes_[b] += scale(b)[i] != 0;
        }
        starts_.push_back(0);
        for (int64_t i = 0; i < r; ++i) {
            for (int64_t j = 0; j < r; ++j) {
                if (j == i || weights[i * r + j] == 0) continue;
                columns_.push_back((int32_t)j);
                values_.push_back(weights[i * r + j]);
            }
            starts_.push_back((int64_t)columns_.size());
        }
    }

    int size(int64_t b) const { return sizes_[b]; }

    template <class T>
    bool look(int64_t b, Look& out, int64_t& zeros) const {
        zeros = 0;
        const double* s = scale(b);
        const size_t diagonal = list_entries(s);
        double top = 0, bad = 0;
        for (const double x : entries_) {
            top = std::max(top, std::abs(x));
            bad += x * 0.0;
        }
        if (!(bad == 0)) return false;
        choose_scale(top, out);
        double squares = 0;
        out.trace = 0;
        for (size_t e = 0; e < entries_.size(); ++e) {
            const double seen = (double)(T)(entries_[e] * out.up);
            squares += seen * seen;
            if (e < diagonal) out.trace += seen;
        }
        out.norm = std::sqrt(squares);
        return true;
    }

    bool components(int64_t b, int64_t, Components& graph) const {
        if (graph.size() != r_) {
            graph.reset((int)r_);
            for (int64_t i = 0; i < r_; ++i) {
                for (int64_t e = starts_[i]; e < starts_[i + 1]; ++e) {
                    graph.row((int)i)[columns_[e] / 64] |= uint64_t(1) << (columns_[e] % 64);
                }
            }
        }
        const double* s = scale(b);
        graph.find([s](int i) { return s[i] != 0; });
        return true;
    }

    template <class T, int N>
    void load_row(int64_t b, const Look& look, const int32_t* members, int n, int i, T* lane) const {
        const double* s = scale(b);
        const int32_t node = members[i];
        const double* row = weights_ + (size_t)node * r_;
        for (int j = 0; j < n; ++j) {
            const int32_t column = members[j];
            double x = row[column] * s[column];
            if (j == i) x -= shifts_[node];
            lane[(size_t)j * N] = (T)(x * look.up);
        }
    }

private:
    const double* scale(int64_t b) const { return scales_ + (size_t)b * r_; }

    // The diagonal, and after it the other entries (or zeros) of every weight in the rows of R, into `entries_`. Returns
    // how many are of the diagonal.
    size_t list_entries(const double* s) const {
        entries_.clear();
        for (int64_t i = 0; i < r_; ++i) {
            if (s[i] != 0) entries_.push_back(weights_[i * r_ + i] * s[i] - shifts_[i]);
        }
        const size_t diagonal = entries_.size();
        for (int64_t i = 0; i < r_; ++i) {
            if (s[i] == 0) continue;
            // Columns that are left out give zeros, which cost less than asking.
            const int64_t begin = starts_[i], count = starts_[i + 1] - begin;
            const size_t filled = entries_.size();
            entries_.resize(filled + count);
            for (int64_t e = 0; e < count; ++e) entries_[filled + e] = values_[begin + e] * s[columns_[begin + e]];
        }
        return diagonal;
    }

    const double *weights_, *shifts_, *scales_;
    const int64_t r_;
    std::vector<int32_t> sizes_;
    std::vector<int64_t> starts_;
    std::vector<int32_t> columns_;
    std::vector<double> values_;
    mutable std::vector<double> entries_;
};

}  // namespace LANES_NAMESPACE
