// What a solver returns: the same for packs on a CPU and for teams on a GPU.
#pragma once

#include "pack.hpp"

namespace LANES_NAMESPACE {

enum Outcome : unsigned char { kSolved = 0, kNotConverged = 1, kNotFinite = 3 };

template <class T>
struct Value {
    T re, im;
};

// Canonical order: real part descending, then imaginary part descending.
template <class T>
LANES_FN bool comes_before(const Value<T>& a, const Value<T>& b) {
    return a.re > b.re || (a.re == b.re && a.im > b.im);
}

// Results, laid out as NumPy has them; complex numbers as pairs. Null where not wanted.
template <class T>
struct Results {
    T* values;               // (batch, k, 2)
    T* right;                // (batch, modes, k, 2)
    T* left;                 // (batch, modes, k, 2)
    double* overlap;         // (batch, modes): |y^H x|
    double* residual;        // (batch,): largest |C x - lambda x| / |C|
    double* trace_defect;    // (batch,): |sum of eigenvalues - trace| / |C|
    unsigned char* outcome;  // (batch,)
    long long width;         // k: of the rows of values, right and left
    long long modes;
};

}  // namespace LANES_NAMESPACE
