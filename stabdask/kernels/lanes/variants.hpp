// What each compiled variant of the solver offers, and the choice among them.
#pragma once

#include <cstdint>
#include <cstring>

// One call: `batch` matrices of leading size `k`, and where their results go. Complex numbers are pairs; see
// Results in batch.hpp. T is the precision of the arithmetic, Source that of the input.
template <class T, class Source>
struct DenseProblem {
    const Source* cores;   // (batch, k, k)
    int64_t matrix_stride, row_stride;
    const int64_t* sizes;  // (batch,)
    int64_t batch, k, modes;
    T* values;
    T* right;
    T* left;
    double* overlap;
    double* residual;
    double* trace_defect;
    uint8_t* outcome;
};

// Eigenvalues of the matrices of ScaledCores (cores.hpp).
template <class T>
struct ScaledProblem {
    const double* weights;  // (r, r)
    const double* shifts;   // (r,)
    const double* scales;   // (batch, r)
    int64_t batch, r, k;
    T* values;              // (batch, k): k at least the largest order
    double* trace_defect;
    uint8_t* outcome;
};

struct Variant {
    const char* name;
    void (*float_from_float)(const DenseProblem<float, float>&);
    void (*float_from_double)(const DenseProblem<float, double>&);
    void (*double_from_float)(const DenseProblem<double, float>&);
    void (*double_from_double)(const DenseProblem<double, double>&);
    void (*float_scaled)(const ScaledProblem<float>&);
    void (*double_scaled)(const ScaledProblem<double>&);
};

namespace lanes_baseline {
const Variant& variant();
}
#if defined(LANES_X86)
namespace lanes_avx2 {
const Variant& variant();
}
namespace lanes_avx512 {
const Variant& variant();
}
#endif

// The variant of that name, or null where it was not built or this processor cannot run it.
inline const Variant* find_variant(const char* name) {
#if defined(LANES_X86)
    if (!std::strcmp(name, "avx512")) {
        const bool runs = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                          __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
        return runs ? &lanes_avx512::variant() : nullptr;
    }
    if (!std::strcmp(name, "avx2")) {
        const bool runs = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
        return runs ? &lanes_avx2::variant() : nullptr;
    }
#endif
    return std::strcmp(name, "baseline") ? nullptr : &lanes_baseline::variant();
}
