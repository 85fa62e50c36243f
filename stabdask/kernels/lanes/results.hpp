// What solvers on CPU and GPU say of eigenvalues alike.
#pragma once

#include "pack.hpp"

namespace LANES_NAMESPACE {

// Numbers of stabdask.schema.Status.
enum Outcome : unsigned char { kSolved = 0, kNotConverged = 1, kNotFinite = 3, kNotComputed = 255 };

template <class T>
struct Value {
    T re, im;
};

// Canonical order: real part descending, then imaginary part descending.
template <class T>
LANES_FN bool comes_before(const Value<T>& a, const Value<T>& b) {
    return a.re > b.re || (a.re == b.re && a.im > b.im);
}

}  // namespace LANES_NAMESPACE
