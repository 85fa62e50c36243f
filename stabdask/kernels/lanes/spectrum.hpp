// Sums and counts over the eigenvalues of each matrix.
#pragma once

#include <cmath>

#include "elementary.hpp"
#include "variants.hpp"

namespace LANES_NAMESPACE {

template <class T, int N>
class SpectrumSums {
    using V = Pack<double, N>;

public:
    explicit SpectrumSums(const SpectrumProblem<T>& problem) : p_(problem) {}

    void compute() const {
        for (int64_t b = 0; b < p_.batch; ++b) matrix(b);
    }

private:
    // Lanes are added up last, so that NaN past a matrix's order, which adds nothing, changes no sum.
    void matrix(int64_t b) const {
        const T* values = p_.values + 2 * p_.k * b;
        V squares(0.0), logs(0.0), found(0.0), above(0.0), below(0.0), negative(0.0), vanishing(0.0);
        for (int64_t first = 0; first < p_.k; first += N) {
            const int count = (int)(p_.k - first < N ? p_.k - first : N);
            double parts[2][N];
            for (int lane = 0; lane < N; ++lane) {
                parts[0][lane] = lane < count ? (double)values[2 * (first + lane)] : std::nan("");
                parts[1][lane] = lane < count ? (double)values[2 * (first + lane) + 1] : 0.0;
            }
            const V real = load<N>(parts[0], N), imag = load<N>(parts[1], N);
            const auto there = real == real;
            const V square = real * real + imag * imag;
            found = found + one(there);
            squares = squares + select(there, square, V(0.0));
            above = above + one(real > p_.tolerance);
            below = below + one(real < -p_.tolerance);
            // Complex eigenvalues come in pairs, whose product is positive.
            const auto on_axis = imag == 0.0;
            negative = negative + one((real < 0.0) & on_axis);
            vanishing = vanishing + one((real == 0.0) & on_axis);
            logs = logs + logarithms(there, real, imag, square);
        }
        p_.squares[b] = total(squares);
        p_.logs[b] = 0.5 * total(logs);
        p_.found[b] = (int64_t)total(found);
        p_.above[b] = (int64_t)total(above);
        p_.below[b] = (int64_t)total(below);
        p_.negative[b] = (int64_t)total(negative);
        p_.vanishing[b] = (int64_t)total(vanishing);
    }

    // log |lambda|^2, where there is one; lane by lane where the square leaves the range of double.
    static LANES_FN V logarithms(Mask<double, N> there, V real, V imag, V square) {
        const auto extreme = there & ((square < Limits<double>::smallest) | (square > 1.0e308));
        V out = logarithm(select(there & !extreme, square, V(1.0)));
        if (any(extreme)) {
            for (int lane = 0; lane < N; ++lane) {
                if (get(extreme, lane)) put(out, lane, 2.0 * std::log(std::hypot(get(real, lane), get(imag, lane))));
            }
        }
        return out;
    }

    static LANES_FN V one(Mask<double, N> where) { return select(where, V(1.0), V(0.0)); }

    static LANES_FN double total(V x) {
        double sum = 0;
        for (int lane = 0; lane < N; ++lane) sum += get(x, lane);
        return sum;
    }

    const SpectrumProblem<T>& p_;
};

template <class T, int N>
void spectrum_sums(const SpectrumProblem<T>& problem) {
    SpectrumSums<T, N>(problem).compute();
}

}  // namespace LANES_NAMESPACE
