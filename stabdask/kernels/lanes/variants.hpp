// What each compiled variant offers, and the choice among them.
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

// Parameters of Hill activations, a row of (row, r) each: those of a second component are NaN where there is none, and
// so is the expression at which a regulator goes from one to the other where it never does.
enum HillRow { kThreshold, kThreshold2, kLog, kLog2, kExponent, kExponent2, kAtZero, kAtZero2, kSwitch, kHillRows };

struct HillProblem {
    const double* x;           // (cells, r), not negative
    const double* parameters;  // (kHillRows, r)
    double nearness;           // relative distance that counts as at a switch
    int64_t cells, r;
    double* activation;        // (cells, r)
    double* slope;             // (cells, r)
    int64_t* near;             // (cells,): regulators at a switch
};

// Speeds with W in compressed rows.
template <class Source>
struct SpeedProblem {
    const Source* x;           // (cells, genes)
    int64_t x_stride;          // numbers from one cell to the next
    const double* activation;  // (cells, r)
    const int32_t* starts;     // (genes + 1,)
    const int32_t* columns;
    const double* weights;
    const double* gamma;       // (genes,)
    const double* bias;        // (genes,)
    int64_t cells, genes, r;
    double* speed;             // (cells,)
};

// Sums and counts over eigenvalues, NaN past the order of a matrix; every result is (batch,).
template <class T>
struct SpectrumProblem {
    const T* values;     // (batch, k) pairs
    int64_t batch, k;
    double tolerance;
    double* squares;     // sum of |lambda|^2
    double* logs;        // sum of log |lambda|
    int64_t* found;      // not NaN
    int64_t* above;      // real part above the tolerance; `below`: below minus the tolerance
    int64_t* below;
    int64_t* negative;   // real and negative; `vanishing`: zero
    int64_t* vanishing;
};

// Rows of a matrix, and columns if not all, to be copied.
template <class T>
struct RowsProblem {
    const T* x;
    int64_t x_stride;        // numbers from one row to the next
    const int64_t* rows;     // (n_rows,)
    const int64_t* columns;  // (width,), or null for the first ones
    int64_t n_rows, width;
    T* out;                  // (n_rows, width)
    uint8_t* finite;         // (n_rows,): whether what was copied is neither NaN nor infinite
    T* lowest;               // (n_rows,): the least of it, infinity if there is nothing
};

struct Variant {
    const char* name;
    void (*float_from_float)(const DenseProblem<float, float>&);
    void (*float_from_double)(const DenseProblem<float, double>&);
    void (*double_from_float)(const DenseProblem<double, float>&);
    void (*double_from_double)(const DenseProblem<double, double>&);
    void (*float_scaled)(const ScaledProblem<float>&);
    void (*double_scaled)(const ScaledProblem<double>&);
    void (*take_float_rows)(const RowsProblem<float>&);
    void (*take_double_rows)(const RowsProblem<double>&);
    void (*hill)(const HillProblem&);
    void (*speeds_of_float)(const SpeedProblem<float>&);
    void (*speeds_of_double)(const SpeedProblem<double>&);
    void (*float_sums)(const SpectrumProblem<float>&);
    void (*double_sums)(const SpectrumProblem<double>&);
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
