// Logarithms and exponentials of packs, and packs that are not full.
#pragma once

#include "pack.hpp"

namespace LANES_NAMESPACE {

template <int N>
using Whole = typename Mask<double, N>::raw;

template <int N>
LANES_FN Whole<N> bits_of(Pack<double, N> x) {
    return (Whole<N>)x.v;
}
template <int N>
LANES_FN Pack<double, N> from_bits(Whole<N> x) {
    return {(typename Pack<double, N>::raw)x};
}

// 1.5 * 2^52: what is added to it is rounded to a whole number, which then stands in the low bits.
constexpr double kWholes = 6755399441055744.0;
constexpr int64_t kWholeBits = 0x4338000000000000ll;
// ln 2 in two parts; the first ends in zeros, so that whole multiples of it up to 2^11 are exact.
constexpr double kLn2High = 0x1.62e42fefa3800p-1, kLn2Low = 0x1.ef35793c76730p-45;

// Natural logarithm of positive normal or subnormal numbers, within 2 units in the last place. With x = 2^e m, m in
// [sqrt(1/2), sqrt(2)) and s = (m - 1) / (m + 1), log m = 2 (s + s^3/3 + s^5/5 + ...), where |s| < 0.1716.
template <int N>
LANES_FN Pack<double, N> logarithm(Pack<double, N> x) {
    using V = Pack<double, N>;
    const auto small = x < Limits<double>::smallest;
    x = select(small, x * 0x1p54, x);
    const Whole<N> bits = bits_of(x);
    const Whole<N> exponent = (bits - 0x3fe6a09e667f3bcdll) >> 52;
    const V m = from_bits<N>(bits - (exponent << 52));
    const V e = from_bits<N>(exponent + kWholeBits) - kWholes - select(small, V(54.0), V(0.0));
    const V f = m - 1.0;
    const V s = f / (f + 2.0);
    const V z = s * s;
    V series(2.0 / 21);
    LANES_UNROLL
    for (int odd = 19; odd >= 3; odd -= 2) series = madd(series, z, V(2.0 / odd));
    const V rest = madd(s * z, series, e * kLn2Low);
    return madd(e, V(kLn2High), madd(s, V(2.0), rest));
}

// exp(-t) for t >= 0, within 2 units in the last place; gradually to zero where it leaves the range of double.
// With -t = q ln 2 + r, |r| < 0.347, it is 2^q times the series of exp r.
template <int N>
LANES_FN Pack<double, N> decay(Pack<double, N> t) {
    using V = Pack<double, N>;
    t = select(t > 746.0, V(746.0), t);
    const V shifted = madd(t, V(-1.4426950408889634074), V(kWholes));
    const V q = shifted - kWholes;
    const V r = nmadd(q, V(kLn2Low), nmadd(q, V(kLn2High), -t));
    constexpr double inverse_factorials[] = {
        1.0, 1.0, 1.0 / 2, 1.0 / 6, 1.0 / 24, 1.0 / 120, 1.0 / 720, 1.0 / 5040, 1.0 / 40320, 1.0 / 362880,
        1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800.0};
    V series(inverse_factorials[13]);
    LANES_UNROLL
    for (int k = 12; k >= 0; --k) series = madd(series, r, V(inverse_factorials[k]));
    // Two powers of two, so that neither is out of range: q may be -1076.
    const Whole<N> whole = bits_of(shifted) - kWholeBits;
    const Whole<N> half = whole >> 1;
    const V first = from_bits<N>((half + 1023) << 52), second = from_bits<N>((whole - half + 1023) << 52);
    return series * first * second;
}

// The first `count` lanes of a pack, at most all of them, from or to numbers that follow one another.
template <int N>
LANES_FN Pack<double, N> load(const double* from, int64_t count) {
    Pack<double, N> out(0.0);
    if (count >= N) std::memcpy(&out, from, sizeof out);
    else std::memcpy(&out, from, sizeof(double) * count);
    return out;
}
template <int N>
LANES_FN void store(double* to, int64_t count, Pack<double, N> x) {
    if (count >= N) std::memcpy(to, &x, sizeof x);
    else std::memcpy(to, &x, sizeof(double) * count);
}

}  // namespace LANES_NAMESPACE
