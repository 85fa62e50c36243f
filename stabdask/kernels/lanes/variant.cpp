// The solver for one instruction set: compiled once for each, with its own namespace and flags.
#include "batch.hpp"
#include "hill.hpp"
#include "rows.hpp"
#include "spectrum.hpp"
#include "speed.hpp"
#include "variants.hpp"

#define LANES_STRING2(x) #x
#define LANES_STRING(x) LANES_STRING2(x)

namespace LANES_NAMESPACE {

template <class T, class Source>
void solve_dense(const DenseProblem<T, Source>& problem) {
    constexpr int width = LANES_BYTES / sizeof(T);
    const DenseCores<Source> cores{problem.cores, problem.matrix_stride, problem.row_stride, problem.sizes};
    const Results<T> results{problem.values,   problem.right,    problem.left,         problem.overlap,
                             problem.residual, problem.trace_defect, problem.outcome, problem.modes};
    Batch<T, width, DenseCores<Source>>(cores, problem.batch, problem.k, results).solve();
}

template <class T>
void solve_scaled(const ScaledProblem<T>& problem) {
    constexpr int width = LANES_BYTES / sizeof(T);
    const ScaledCores cores(problem.weights, problem.shifts, problem.scales, problem.batch, problem.r);
    const Results<T> results{problem.values, nullptr, nullptr, nullptr, nullptr, problem.trace_defect, problem.outcome, 0};
    Batch<T, width, ScaledCores>(cores, problem.batch, problem.k, results).solve();
}

constexpr int kDoubles = LANES_BYTES / sizeof(double);

const Variant& variant() {
    static const Variant table{
        LANES_STRING(LANES_NAME), solve_dense<float, float>,  solve_dense<float, double>,
        solve_dense<double, float>, solve_dense<double, double>,
        solve_scaled<float>, solve_scaled<double>,
        take_rows<float>, take_rows<double>,
        hill<kDoubles>, speeds<float, kDoubles>, speeds<double, kDoubles>,
        spectrum_sums<float, kDoubles>, spectrum_sums<double, kDoubles>,
    };
    return table;
}

}  // namespace LANES_NAMESPACE
