// Rows of a matrix that are wanted, copied and looked at in one go.
#pragma once

#include <algorithm>
#include <limits>

#include "variants.hpp"

namespace LANES_NAMESPACE {

// Zero times a number is zero, and NaN if that is infinite or NaN: the sum tells of the whole row.
template <class T>
bool copy_row(const T* from, const int64_t* columns, int64_t width, T* to, T* lowest) {
    constexpr int kLanes = 64 / sizeof(T);
    typedef T pack __attribute__((vector_size(64)));
    T wrong[kLanes] = {0}, least[kLanes];
    for (T& one : least) one = std::numeric_limits<T>::infinity();
    if (columns) {
        for (int64_t i = 0; i < width; ++i) to[i] = from[columns[i]];
        from = to;
    }
    int64_t i = 0;
    for (; i + kLanes <= width; i += kLanes) {
        pack x, sum, low;
        std::memcpy(&x, from + i, sizeof x);
        std::memcpy(to + i, &x, sizeof x);
        std::memcpy(&sum, wrong, sizeof sum);
        std::memcpy(&low, least, sizeof low);
        sum += x * T(0);
        low = x < low ? x : low;
        std::memcpy(wrong, &sum, sizeof sum);
        std::memcpy(least, &low, sizeof low);
    }
    for (; i < width; ++i) {
        to[i] = from[i];
        wrong[0] += from[i] * T(0);
        least[0] = std::min(least[0], from[i]);
    }
    for (int lane = 1; lane < kLanes; ++lane) {
        wrong[0] += wrong[lane];
        least[0] = std::min(least[0], least[lane]);
    }
    *lowest = least[0];
    return wrong[0] == 0;
}

template <class T>
void take_rows(const RowsProblem<T>& problem) {
    for (int64_t row = 0; row < problem.n_rows; ++row) {
        const T* from = problem.x + problem.rows[row] * problem.x_stride;
        T* to = problem.out + row * problem.width;
        problem.finite[row] = copy_row(from, problem.columns, problem.width, to, problem.lowest + row);
    }
}

}  // namespace LANES_NAMESPACE
