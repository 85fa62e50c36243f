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

// The matrices given by the caller, one after the other.
template <class Source>
struct DenseCores {
    const Source* data;
    int64_t k;
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
        int exponent = 0;
        std::frexp((double)top, &exponent);
        // Beyond this the factor itself would not be a normal number; such entries lose nothing that matters.
        exponent = std::min(std::max(exponent - 1, -1021), 1021);
        out.up = std::ldexp(1.0, -exponent);
        out.down = std::ldexp(1.0, exponent);
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

    void pattern(int64_t b, Components& graph) const {
        const int n = size(b);
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
    const Source* entries(int64_t b, int i) const { return data + ((size_t)b * k + i) * k; }

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

}  // namespace LANES_NAMESPACE
