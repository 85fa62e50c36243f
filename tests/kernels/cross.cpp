// Solves random matrices with the baseline variant and prints the worst residual of each order and precision, in
// roundings: for processors that Python does not run on here (test_lanes.py).
#include <cstdio>
#include <vector>

#include "variants.hpp"

template <class T>
void solve(int k, double rounding) {
    const int64_t batch = 9, modes = 3;
    std::vector<T> cores((size_t)batch * k * k);
    uint64_t state = 12345;
    for (T& x : cores) {
        state = state * 6364136223846793005ull + 1442695040888963407ull;
        x = (T)((double)(state >> 11) / 9007199254740992.0 - 0.5);
    }
    const std::vector<int64_t> sizes(batch, k);
    std::vector<T> values((size_t)batch * k * 2), right((size_t)batch * modes * k * 2), left(right.size());
    std::vector<double> overlap(batch * modes), residual(batch), defect(batch);
    std::vector<uint8_t> outcome(batch);
    const DenseProblem<T, T> problem{cores.data(), sizes.data(), batch, k, modes, values.data(), right.data(),
                                     left.data(), overlap.data(), residual.data(), defect.data(), outcome.data()};
    if constexpr (sizeof(T) == 8) lanes_baseline::variant().double_from_double(problem);
    else lanes_baseline::variant().float_from_float(problem);
    double worst = 0;
    for (int64_t b = 0; b < batch; ++b) {
        for (const double x : {residual[b], defect[b]}) worst = worst >= x ? worst : x;
        if (outcome[b]) worst = -1;
    }
    std::printf("%d %d %g\n", (int)sizeof(T), k, worst / rounding);
}

int main() {
    for (const int k : {1, 2, 5, 16, 33, 64}) {
        solve<double>(k, 2.3e-16);
        solve<float>(k, 1.2e-7);
    }
}
