// The Python side of what is compiled: arrays in, arrays filled, the interpreter lock released in between.
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

template <class T>
void take_rows(nb::ndarray<const T, nb::ndim<2>, nb::device::cpu> x, Array<const int64_t, 1> rows,
               Optional<const int64_t, 1> columns, Array<T, 2> out, Array<uint8_t, 1> finite,
               Array<T, 1> lowest, const std::string& instruction_set) {
    const size_t width = out.shape(1);
    if (x.size() && x.shape(1) > 1 && x.stride(1) != 1) throw nb::value_error("rows of x are not contiguous");
    expect(out, {rows.shape(0), width}, "out");
    expect(finite, {rows.shape(0)}, "finite");
    expect(lowest, {rows.shape(0)}, "lowest");
    if (columns) expect(*columns, {width}, "columns");
    else if (width > x.shape(1)) throw nb::value_error("out has too many columns");
    const auto within = [](const Array<const int64_t, 1>& index, size_t end) {
        for (size_t i = 0; i < index.shape(0); ++i) {
            if ((uint64_t)index.data()[i] >= end) throw nb::index_error("an index is out of range");
        }
    };
    within(rows, x.shape(0));
    if (columns) within(*columns, x.shape(1));
    const RowsProblem<T> problem{x.data(), x.size() ? x.stride(0) : 0, rows.data(), columns ? columns->data() : nullptr,
                                 (int64_t)rows.shape(0), (int64_t)width, out.data(), finite.data(), lowest.data()};
    const Variant& variant = variant_named(instruction_set);
    nb::gil_scoped_release released;
    if constexpr (std::is_same_v<T, float>) variant.take_float_rows(problem);
    else variant.take_double_rows(problem);
}

void hill(Array<const double, 2> x, Array<const double, 2> parameters, double nearness, Array<double, 2> activation,
          Array<double, 2> slope, Array<int64_t, 1> near, const std::string& instruction_set) {
    const size_t cells = x.shape(0), r = x.shape(1);
    expect(parameters, {(size_t)kHillRows, r}, "parameters");
    expect(activation, {cells, r}, "activation");
    expect(slope, {cells, r}, "slope");
    expect(near, {cells}, "near");
    const HillProblem problem{x.data(), parameters.data(), nearness, (int64_t)cells, (int64_t)r,
                              activation.data(), slope.data(), near.data()};
    const Variant& variant = variant_named(instruction_set);
    nb::gil_scoped_release released;
    variant.hill(problem);
}

template <class Source>
void speeds(nb::ndarray<const Source, nb::ndim<2>, nb::device::cpu> x, Array<const double, 2> activation,
            Array<const int32_t, 1> starts, Array<const int32_t, 1> columns, Array<const double, 1> weights,
            Array<const double, 1> gamma, Array<const double, 1> bias, Array<double, 1> speed,
            const std::string& instruction_set) {
    const size_t cells = x.shape(0), genes = x.shape(1), r = activation.shape(1), stored = columns.shape(0);
    if (x.size() && x.shape(1) > 1 && x.stride(1) != 1) throw nb::value_error("rows of x are not contiguous");
    expect(activation, {cells, r}, "activation");
    expect(starts, {genes + 1}, "starts");
    expect(weights, {stored}, "weights");
    expect(gamma, {genes}, "gamma");
    expect(bias, {genes}, "bias");
    expect(speed, {cells}, "speed");
    for (size_t g = 0; g < genes; ++g) {
        if (starts.data()[g] < 0 || starts.data()[g] > starts.data()[g + 1]) throw nb::value_error("starts do not ascend");
    }
    if ((size_t)starts.data()[genes] != stored) throw nb::value_error("starts do not end where columns do");
    for (size_t k = 0; k < stored; ++k) {
        if ((size_t)columns.data()[k] >= r) throw nb::value_error("a column is out of range");
    }
    const SpeedProblem<Source> problem{x.data(), x.size() ? x.stride(0) : 0, activation.data(), starts.data(),
                                       columns.data(), weights.data(), gamma.data(), bias.data(), (int64_t)cells,
                                       (int64_t)genes, (int64_t)r, speed.data()};
    const Variant& variant = variant_named(instruction_set);
    nb::gil_scoped_release released;
    if constexpr (std::is_same_v<Source, float>) variant.speeds_of_float(problem);
    else variant.speeds_of_double(problem);
}

template <class T>
void spectrum_sums(Array<const std::complex<T>, 2> values, double tolerance, Array<double, 1> squares,
                   Array<double, 1> logs, Array<int64_t, 1> found, Array<int64_t, 1> above, Array<int64_t, 1> below,
                   Array<int64_t, 1> negative, Array<int64_t, 1> vanishing, const std::string& instruction_set) {
    const size_t batch = values.shape(0);
    for (const auto* array : {&squares, &logs}) expect(*array, {batch}, "a sum");
    for (const auto* array : {&found, &above, &below, &negative, &vanishing}) expect(*array, {batch}, "a count");
    const SpectrumProblem<T> problem{reinterpret_cast<const T*>(values.data()), (int64_t)batch, (int64_t)values.shape(1),
                                     tolerance, squares.data(), logs.data(), found.data(), above.data(), below.data(),
                                     negative.data(), vanishing.data()};
    const Variant& variant = variant_named(instruction_set);
    nb::gil_scoped_release released;
    if constexpr (std::is_same_v<T, float>) variant.float_sums(problem);
    else variant.double_sums(problem);
}

}  // namespace

NB_MODULE(_lanes, m) {
    m.doc() = "Batched eigenvalues and eigenvectors, one matrix in each SIMD lane, and Hill activations and speeds.";
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
    const auto define_rows = [&m](auto function) {
        m.def("take_rows", function, nb::arg("x").noconvert(), nb::arg("rows").noconvert(),
              nb::arg("columns").noconvert().none(), nb::arg("out").noconvert(), nb::arg("finite").noconvert(),
              nb::arg("lowest").noconvert(), nb::arg("instruction_set"));
    };
    define_rows(take_rows<float>);
    define_rows(take_rows<double>);
    m.def("hill", hill, nb::arg("x").noconvert(), nb::arg("parameters").noconvert(), nb::arg("nearness"),
          nb::arg("activation").noconvert(), nb::arg("slope").noconvert(), nb::arg("near").noconvert(),
          nb::arg("instruction_set"));
    const auto define_speeds = [&m](auto function) {
        m.def("speeds", function, nb::arg("x").noconvert(), nb::arg("activation").noconvert(),
              nb::arg("starts").noconvert(), nb::arg("columns").noconvert(), nb::arg("weights").noconvert(),
              nb::arg("gamma").noconvert(), nb::arg("bias").noconvert(), nb::arg("speed").noconvert(),
              nb::arg("instruction_set"));
    };
    const auto define_sums = [&m](auto function) {
        m.def("spectrum_sums", function, nb::arg("values").noconvert(), nb::arg("tolerance"),
              nb::arg("squares").noconvert(), nb::arg("logs").noconvert(), nb::arg("found").noconvert(),
              nb::arg("above").noconvert(), nb::arg("below").noconvert(), nb::arg("negative").noconvert(),
              nb::arg("vanishing").noconvert(), nb::arg("instruction_set"));
    };
    define_sums(spectrum_sums<float>);
    define_sums(spectrum_sums<double>);
    define_speeds(speeds<float>);
    define_speeds(speeds<double>);
    define_scaled(solve_scaled<float>);
    define_scaled(solve_scaled<double>);
    define(solve<float, float>);
    define(solve<float, double>);
    define(solve<double, float>);
    define(solve<double, double>);
}
