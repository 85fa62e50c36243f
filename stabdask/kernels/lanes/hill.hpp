// Hill activations and their slopes, one regulator in each lane.
#pragma once

#include <limits>

#include "elementary.hpp"
#include "variants.hpp"

namespace LANES_NAMESPACE {

template <int N>
struct HillLane {
    using V = Pack<double, N>;

    // Of `count` regulators: activation s = 1 / (1 + exp(-z)), z = n (log x - log k), and slope n s (1 - s) / x.
    static LANES_FN void evaluate(const HillProblem& problem, int64_t cell, int64_t first, int64_t count, V& near) {
        const int64_t r = problem.r;
        const auto parameter = [&](HillRow row) { return load<N>(problem.parameters + row * r + first, count); };
        const V x = load<N>(problem.x + cell * r + first, count);
        // What is never so is NaN there: comparisons with it are false.
        const auto second = absolute(x - parameter(kThreshold2)) < absolute(x - parameter(kThreshold));
        const V log_threshold = select(second, parameter(kLog2), parameter(kLog));
        const V n = select(second, parameter(kExponent2), parameter(kExponent));
        const auto none = x == 0.0;
        const V positive = select(none, V(1.0), x);
        V z = n * (logarithm(positive) - log_threshold);
        z = select(x >= 0.0, z, V(std::numeric_limits<double>::quiet_NaN()));
        // s and 1 - s are the larger and the smaller of these two, without cancellation near saturation.
        V low = decay(absolute(z));
        const V high = V(1.0) / (low + 1.0);
        low = low * high;
        const V activation = select(none, V(0.0), select(z > 0.0, high, low));
        const V at_zero = select(second, parameter(kAtZero2), parameter(kAtZero));
        const V slope = select(none, at_zero, n * high * low / positive);
        store<N>(problem.activation + cell * r + first, count, activation);
        store<N>(problem.slope + cell * r + first, count, slope);
        const V at = parameter(kSwitch);
        const auto close = absolute(x - at) <= absolute(at) * problem.nearness;
        V one = select(close, V(1.0), V(0.0));
        for (int lane = (int)count; lane < N; ++lane) put(one, lane, 0.0);
        near = near + one;
    }
};

template <int N>
void hill(const HillProblem& problem) {
    const int64_t whole = problem.r / N * N;
    for (int64_t cell = 0; cell < problem.cells; ++cell) {
        Pack<double, N> near(0.0);
        for (int64_t first = 0; first < whole; first += N) HillLane<N>::evaluate(problem, cell, first, N, near);
        if (whole < problem.r) HillLane<N>::evaluate(problem, cell, whole, problem.r - whole, near);
        double count = 0;
        for (int lane = 0; lane < N; ++lane) count += get(near, lane);
        problem.near[cell] = (int64_t)count;
    }
}

}  // namespace LANES_NAMESPACE
