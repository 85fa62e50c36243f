// The Python side of the solver: arrays in, arrays filled, the interpreter lock released in between.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/complex.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <complex>
#include <optional>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "variants.hpp"

namespace nb = nanobind;

namespace {

template <class Source>
using Cores = nb::ndarray<const Source, nb::ndim<3>, nb::device::cpu>;
template <class T, size_t D>
using Array = nb::ndarray<T, nb::ndim<D>, nb::c_contig, nb::device::cpu>;
template <class T, size_t D>
using Optional = std::optional<Array<T, D>>;

template <class T, size_t D>
void expect(const Array<T, D>& array, const size_t (&shape)[D], const char* name) {
    for (size_t d = 0; d < D; ++d) {
        if (array.shape(d) != shape[d]) throw nb::value_error((std::string(name) + " has the wrong shape").c_str());
    }
}

template <class T, class Source>
void run(const Variant& variant, const DenseProblem<T, Source>& problem) {
    if constexpr (std::is_same_v<T, float> && std::is_same_v<Source, float>) variant.float_from_float(problem);
    else if constexpr (std::is_same_v<T, float>) variant.float_from_double(problem);
    else if constexpr (std::is_same_v<Source, float>) variant.double_from_float(problem);
    else variant.double_from_double(problem);
}

const Variant& variant_named(const std::string& name) {
    const Variant* variant = find_variant(name.c_str());
    if (!variant) throw nb::value_error(("this processor cannot run the variant " + name).c_str());
    return *variant;
}

template <class T>
void solve_scaled(Array<const double, 2> weights, Array<const double, 1> shifts, Array<const double, 2> scales,
                  Array<std::complex<T>, 2> values, Array<double, 1> trace_defect, Array<uint8_t, 1> outcome,
                  const std::string& instruction_set) {
    const size_t batch = scales.shape(0), r = scales.shape(1), k = values.shape(1);
    expect(weights, {r, r}, "weights");
    expect(shifts, {r}, "shifts");
    expect(values, {batch, k}, "values");
    expect(trace_defect, {batch}, "trace_defect");
    expect(outcome, {batch}, "outcome");
    for (size_t b = 0; b < batch; ++b) {
        size_t order = 0;
        for (size_t i = 0; i < r; ++i) order += scales.data()[b * r + i] != 0;
        if (order > k) throw nb::value_error("values has too few columns");
    }
    const ScaledProblem<T> problem{weights.data(), shifts.data(), scales.data(), (int64_t)batch, (int64_t)r, (int64_t)k,
                                   reinterpret_cast<T*>(values.data()), trace_defect.data(), outcome.data()};
    const Variant& variant = variant_named(instruction_set);
    nb::gil_scoped_release released;
    if constexpr (std::is_same_v<T, float>) variant.float_scaled(problem);
    else variant.double_scaled(problem);
}

template <class T, class Source>
void solve(Cores<Source> cores, Array<const int64_t, 1> sizes, Array<std::complex<T>, 2> values,
           Optional<std::complex<T>, 3> right, Optional<std::complex<T>, 3> left, Optional<double, 2> overlap,
           Array<double, 1> residual, Array<double, 1> trace_defect, Array<uint8_t, 1> outcome,
           const std::string& instruction_set) {
    const size_t batch = cores.shape(0), k = cores.shape(1);
    if (cores.shape(2) != k) throw nb::value_error("cores are not square");
    if (cores.size() && cores.stride(2) != 1) throw nb::value_error("rows of cores are not contiguous");
    expect(sizes, {batch}, "sizes");
    expect(values, {batch, k}, "values");
    expect(residual, {batch}, "residual");
    expect(trace_defect, {batch}, "trace_defect");
    expect(outcome, {batch}, "outcome");
    const size_t modes = right ? right->shape(1) : 0;
    if (right) expect(*right, {batch, modes, k}, "right");
    if (left) expect(*left, {batch, modes, k}, "left");
    if (left && !(right && overlap)) throw nb::value_error("left needs right and overlap");
    if (overlap) expect(*overlap, {batch, modes}, "overlap");
    for (size_t b = 0; b < batch; ++b) {
        if (sizes.data()[b] < 0 || (size_t)sizes.data()[b] > k) throw nb::value_error("a size is out of range");
    }
    const Variant& variant = variant_named(instruction_set);
    const auto pairs = [](auto& array) { return array ? reinterpret_cast<T*>(array->data()) : nullptr; };
    const DenseProblem<T, Source> problem{
        cores.data(), cores.stride(0), cores.stride(1), sizes.data(), (int64_t)batch, (int64_t)k, (int64_t)modes,
        reinterpret_cast<T*>(values.data()), pairs(right), pairs(left),
        overlap ? overlap->data() : nullptr, residual.data(), trace_defect.data(), outcome.data()};
    nb::gil_scoped_release released;
    run(variant, problem);
}

}  // namespace

NB_MODULE(_lanes, m) {
    m.doc() = "Batched eigenvalues and eigenvectors of real non-symmetric matrices, one matrix in each SIMD lane.";
    m.def("instruction_sets", [] {
        nb::list names;
        for (const char* name : {"avx512", "avx2", "baseline"}) {
            if (find_variant(name)) names.append(name);
        }
        return names;
    });
    const auto define = [&m](auto function) {
        m.def("solve", function, nb::arg("cores").noconvert(), nb::arg("sizes").noconvert(), nb::arg("values").noconvert(),
              nb::arg("right").noconvert().none(), nb::arg("left").noconvert().none(),
              nb::arg("overlap").noconvert().none(), nb::arg("residual").noconvert(),
              nb::arg("trace_defect").noconvert(), nb::arg("outcome").noconvert(), nb::arg("instruction_set"));
    };
    const auto define_scaled = [&m](auto function) {
        m.def("solve_scaled", function, nb::arg("weights").noconvert(), nb::arg("shifts").noconvert(),
              nb::arg("scales").noconvert(), nb::arg("values").noconvert(), nb::arg("trace_defect").noconvert(),
              nb::arg("outcome").noconvert(), nb::arg("instruction_set"));
    };
    define_scaled(solve_scaled<float>);
    define_scaled(solve_scaled<double>);
    define(solve<float, float>);
    define(solve<float, double>);
    define(solve<double, float>);
    define(solve<double, double>);
}
