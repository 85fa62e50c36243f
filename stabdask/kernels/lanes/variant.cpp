// The solver for one instruction set: compiled once for each, with its own namespace and flags.
#include "batch.hpp"
#include "variants.hpp"

#define LANES_STRING2(x) #x
#define LANES_STRING(x) LANES_STRING2(x)

namespace LANES_NAMESPACE {

template <class T, class Source>
void solve_dense(const DenseProblem<T, Source>& problem) {
    constexpr int width = LANES_BYTES / sizeof(T);
    const DenseCores<Source> cores{problem.cores, problem.k, problem.sizes};
    const Results<T> results{problem.values,   problem.right,    problem.left,         problem.overlap,
                             problem.residual, problem.trace_defect, problem.outcome, problem.modes};
    Batch<T, width, DenseCores<Source>>(cores, problem.batch, problem.k, results).solve();
}

const Variant& variant() {
    static const Variant table{
        LANES_STRING(LANES_NAME), solve_dense<float, float>,  solve_dense<float, double>,
        solve_dense<double, float>, solve_dense<double, double>,
    };
    return table;
}

}  // namespace LANES_NAMESPACE
