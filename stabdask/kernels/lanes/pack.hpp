// What one SIMD lane, or one CUDA thread, computes with.
//
// The solver is written once, for a number type V that is either a Pack (one matrix in each lane of a SIMD
// register) or a plain float or double (one matrix for a team of threads). Comparisons give a Mask or a bool.
// Every multiply-add that may be fused is written as one, and the compiler is told to fuse no others, so that a
// lane computes the same bits wherever it is used.
#pragma once

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define LANES_FN __device__ __forceinline__
#define LANES_PHASE __device__
#define LANES_CUDA 1
#define LANES_UNROLL _Pragma("unroll")
// Before a loop of few turns, such as one that a team shares out: unrolled it would only take longer to compile.
#define LANES_FEW _Pragma("unroll 1")
#else
#define LANES_FN inline __attribute__((always_inline))
#define LANES_UNROLL _Pragma("GCC unroll 16")
#define LANES_FEW
// A whole phase of the work: one copy, whoever calls it, for the sake of the compiler's time.
#define LANES_PHASE inline __attribute__((noinline))
#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__x86_64__)
#include <immintrin.h>
#endif
#endif

#ifndef LANES_NAMESPACE
#define LANES_NAMESPACE lanes
#endif

namespace LANES_NAMESPACE {

template <class T>
struct Limits;

template <>
struct Limits<float> {
    static constexpr float epsilon = 1.1920928955078125e-07f;
    static constexpr float smallest = 1.17549435082228751e-38f;
    static constexpr int mantissa_bits = 23;
};

template <>
struct Limits<double> {
    static constexpr double epsilon = 2.220446049250313080847e-16;
    static constexpr double smallest = 2.225073858507201383090e-308;
    static constexpr int mantissa_bits = 52;
};

// ---- plain numbers ------------------------------------------------------------------------------------------

template <class V>
struct Lane {
    using scalar = V;
    using mask = bool;
    static constexpr int width = 1;
};

LANES_FN float madd(float a, float b, float c) {
#if defined(LANES_CUDA)
    return __fmaf_rn(a, b, c);
#elif defined(__FMA__) || defined(__aarch64__)
    return __builtin_fmaf(a, b, c);
#else
    return a * b + c;
#endif
}
LANES_FN double madd(double a, double b, double c) {
#if defined(LANES_CUDA)
    return __fma_rn(a, b, c);
#elif defined(__FMA__) || defined(__aarch64__)
    return __builtin_fma(a, b, c);
#else
    return a * b + c;
#endif
}
LANES_FN float nmadd(float a, float b, float c) { return madd(-a, b, c); }
LANES_FN double nmadd(double a, double b, double c) { return madd(-a, b, c); }
#if defined(LANES_CUDA)
LANES_FN float absolute(float x) { return fabsf(x); }
LANES_FN double absolute(double x) { return fabs(x); }
LANES_FN float root(float x) { return __fsqrt_rn(x); }
LANES_FN double root(double x) { return __dsqrt_rn(x); }
#else
LANES_FN float absolute(float x) { return __builtin_fabsf(x); }
LANES_FN double absolute(double x) { return __builtin_fabs(x); }
LANES_FN float root(float x) { return __builtin_sqrtf(x); }
LANES_FN double root(double x) { return __builtin_sqrt(x); }
#endif
LANES_FN float larger(float a, float b) { return a > b ? a : b; }
LANES_FN double larger(double a, double b) { return a > b ? a : b; }
LANES_FN float smaller(float a, float b) { return a < b ? a : b; }
LANES_FN double smaller(double a, double b) { return a < b ? a : b; }
LANES_FN float select(bool m, float a, float b) { return m ? a : b; }
LANES_FN double select(bool m, double a, double b) { return m ? a : b; }
LANES_FN bool any(bool m) { return m; }
LANES_FN bool all(bool m) { return m; }

LANES_FN float get(float x, int) { return x; }
LANES_FN double get(double x, int) { return x; }
LANES_FN bool get(bool m, int) { return m; }
LANES_FN void put(float& x, int, float value) { x = value; }
LANES_FN void put(double& x, int, double value) { x = value; }

// A power of two p with p * x in [1, 2) for normal x > 0; some power of two for zero and subnormal x.
LANES_FN float power_scale(float x) {
#if defined(LANES_CUDA)
    const unsigned bits = __float_as_uint(x) & 0x7f800000u;
    return __uint_as_float(bits == 0 ? 0x7e800000u : 0x7f000000u - bits);
#else
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    bits &= 0x7f800000u;
    bits = bits == 0 ? 0x7e800000u : 0x7f000000u - bits;
    float out;
    std::memcpy(&out, &bits, sizeof out);
    return out;
#endif
}
LANES_FN double power_scale(double x) {
#if defined(LANES_CUDA)
    const unsigned long long bits = (unsigned long long)__double_as_longlong(x) & 0x7ff0000000000000ull;
    return __longlong_as_double((long long)(bits == 0 ? 0x7fd0000000000000ull : 0x7fe0000000000000ull - bits));
#else
    uint64_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    bits &= 0x7ff0000000000000ull;
    bits = bits == 0 ? 0x7fd0000000000000ull : 0x7fe0000000000000ull - bits;
    double out;
    std::memcpy(&out, &bits, sizeof out);
    return out;
#endif
}

#if !defined(LANES_CUDA)

// ---- SIMD packs ---------------------------------------------------------------------------------------------

template <class T>
struct Bits;
template <>
struct Bits<float> {
    using type = int32_t;
    static constexpr int32_t exponent = 0x7f800000, twice_bias = 0x7f000000, largest = 0x7e800000;
};
template <>
struct Bits<double> {
    using type = int64_t;
    static constexpr int64_t exponent = 0x7ff0000000000000ll, twice_bias = 0x7fe0000000000000ll,
                             largest = 0x7fd0000000000000ll;
};

template <class T, int N>
struct Register {
    typedef T type __attribute__((vector_size(sizeof(T) * N)));
};

template <class T, int N>
struct Mask {
    using raw = typename Register<typename Bits<T>::type, N>::type;
    raw v;
};

template <class T, int N>
struct Pack {
    using raw = typename Register<T, N>::type;
    raw v;
    Pack() = default;
    LANES_FN Pack(raw x) : v(x) {}
    LANES_FN Pack(T x) : v(x - raw{}) {}
};

template <class T, int N>
struct Lane<Pack<T, N>> {
    using scalar = T;
    using mask = Mask<T, N>;
    static constexpr int width = N;
};

#define LANES_OPERATOR(op)                                                                                   \
    template <class T, int N>                                                                                \
    LANES_FN Pack<T, N> operator op(Pack<T, N> a, Pack<T, N> b) {                                            \
        return {a.v op b.v};                                                                                 \
    }                                                                                                        \
    template <class T, int N>                                                                                \
    LANES_FN Pack<T, N> operator op(Pack<T, N> a, T b) {                                                     \
        return {a.v op Pack<T, N>(b).v};                                                                     \
    }                                                                                                        \
    template <class T, int N>                                                                                \
    LANES_FN Pack<T, N> operator op(T a, Pack<T, N> b) {                                                     \
        return {Pack<T, N>(a).v op b.v};                                                                     \
    }
LANES_OPERATOR(+)
LANES_OPERATOR(-)
LANES_OPERATOR(*)
LANES_OPERATOR(/)
#undef LANES_OPERATOR

template <class T, int N>
LANES_FN Pack<T, N> operator-(Pack<T, N> a) {
    return {-a.v};
}

#define LANES_COMPARE(op)                                                                                    \
    template <class T, int N>                                                                                \
    LANES_FN Mask<T, N> operator op(Pack<T, N> a, Pack<T, N> b) {                                            \
        return {a.v op b.v};                                                                                 \
    }                                                                                                        \
    template <class T, int N>                                                                                \
    LANES_FN Mask<T, N> operator op(Pack<T, N> a, T b) {                                                     \
        return {a.v op Pack<T, N>(b).v};                                                                     \
    }
LANES_COMPARE(<)
LANES_COMPARE(<=)
LANES_COMPARE(>)
LANES_COMPARE(>=)
LANES_COMPARE(==)
LANES_COMPARE(!=)
#undef LANES_COMPARE

template <class T, int N>
LANES_FN Mask<T, N> operator&(Mask<T, N> a, Mask<T, N> b) {
    return {a.v & b.v};
}
template <class T, int N>
LANES_FN Mask<T, N> operator|(Mask<T, N> a, Mask<T, N> b) {
    return {a.v | b.v};
}
template <class T, int N>
LANES_FN Mask<T, N> operator!(Mask<T, N> a) {
    return {~a.v};
}
template <class T, int N>
LANES_FN Pack<T, N> select(Mask<T, N> m, Pack<T, N> a, Pack<T, N> b) {
    return {m.v ? a.v : b.v};
}

template <class T, int N>
LANES_FN bool any(Mask<T, N> m) {
#if defined(__AVX512F__) && defined(__AVX512DQ__)
    if constexpr (sizeof(m.v) == 64) {
        return _mm512_test_epi32_mask((__m512i)m.v, (__m512i)m.v) != 0;
    }
#endif
#if defined(__AVX2__)
    if constexpr (sizeof(m.v) == 32) return !_mm256_testz_si256((__m256i)m.v, (__m256i)m.v);
#endif
    typename Bits<T>::type joined = 0;
    for (int i = 0; i < N; ++i) joined |= m.v[i];
    return joined != 0;
}
template <class T, int N>
LANES_FN bool all(Mask<T, N> m) {
    return !any(!m);
}

template <class T, int N>
LANES_FN Pack<T, N> madd(Pack<T, N> a, Pack<T, N> b, Pack<T, N> c) {
#if defined(__AVX512F__)
    if constexpr (sizeof(a.v) == 64) {
        if constexpr (sizeof(T) == 4) return {(typename Pack<T, N>::raw)_mm512_fmadd_ps((__m512)a.v, (__m512)b.v, (__m512)c.v)};
        else return {(typename Pack<T, N>::raw)_mm512_fmadd_pd((__m512d)a.v, (__m512d)b.v, (__m512d)c.v)};
    }
#endif
#if defined(__FMA__)
    if constexpr (sizeof(a.v) == 32) {
        if constexpr (sizeof(T) == 4) return {(typename Pack<T, N>::raw)_mm256_fmadd_ps((__m256)a.v, (__m256)b.v, (__m256)c.v)};
        else return {(typename Pack<T, N>::raw)_mm256_fmadd_pd((__m256d)a.v, (__m256d)b.v, (__m256d)c.v)};
    }
#endif
#if defined(__FMA__) || defined(__aarch64__)
    Pack<T, N> out;
    for (int i = 0; i < N; ++i) out.v[i] = madd(a.v[i], b.v[i], c.v[i]);
    return out;
#else
    return {a.v * b.v + c.v};
#endif
}
template <class T, int N>
LANES_FN Pack<T, N> nmadd(Pack<T, N> a, Pack<T, N> b, Pack<T, N> c) {
    return madd(-a, b, c);
}

template <class T, int N>
LANES_FN Pack<T, N> absolute(Pack<T, N> x) {
    using bits = typename Mask<T, N>::raw;
    constexpr typename Bits<T>::type sign = ~(typename Bits<T>::type(1) << (sizeof(T) * 8 - 1));
    return {(typename Pack<T, N>::raw)((bits)x.v & sign)};
}

template <class T, int N>
LANES_FN Pack<T, N> root(Pack<T, N> x) {
#if defined(__AVX512F__)
    if constexpr (sizeof(x.v) == 64) {
        if constexpr (sizeof(T) == 4) return {(typename Pack<T, N>::raw)_mm512_sqrt_ps((__m512)x.v)};
        else return {(typename Pack<T, N>::raw)_mm512_sqrt_pd((__m512d)x.v)};
    }
#endif
#if defined(__AVX__)
    if constexpr (sizeof(x.v) == 32) {
        if constexpr (sizeof(T) == 4) return {(typename Pack<T, N>::raw)_mm256_sqrt_ps((__m256)x.v)};
        else return {(typename Pack<T, N>::raw)_mm256_sqrt_pd((__m256d)x.v)};
    }
#elif defined(__SSE2__)
    if constexpr (sizeof(x.v) == 16) {
        if constexpr (sizeof(T) == 4) return {(typename Pack<T, N>::raw)_mm_sqrt_ps((__m128)x.v)};
        else return {(typename Pack<T, N>::raw)_mm_sqrt_pd((__m128d)x.v)};
    }
#endif
    Pack<T, N> out;
    for (int i = 0; i < N; ++i) out.v[i] = root(x.v[i]);
    return out;
}

template <class T, int N>
LANES_FN Pack<T, N> larger(Pack<T, N> a, Pack<T, N> b) {
    return select(a > b, a, b);
}
template <class T, int N>
LANES_FN Pack<T, N> smaller(Pack<T, N> a, Pack<T, N> b) {
    return select(a < b, a, b);
}

template <class T, int N>
LANES_FN T get(const Pack<T, N>& x, int lane) {
    return x.v[lane];
}
template <class T, int N>
LANES_FN bool get(const Mask<T, N>& m, int lane) {
    return m.v[lane] != 0;
}
template <class T, int N>
LANES_FN void put(Pack<T, N>& x, int lane, T value) {
    x.v[lane] = value;
}

template <class T, int N>
LANES_FN Pack<T, N> power_scale(Pack<T, N> x) {
    using bits = typename Mask<T, N>::raw;
    bits e = (bits)x.v & Bits<T>::exponent;
    bits out = (e == 0) ? (bits{} + Bits<T>::largest) : (Bits<T>::twice_bias - e);
    return {(typename Pack<T, N>::raw)out};
}

#endif  // !LANES_CUDA

// ---- what both kinds share ----------------------------------------------------------------------------------

// Magnitude of a with the sign of b; a negative zero counts as positive, so that no result hangs on the sign of
// a zero.
template <class V>
LANES_FN V with_sign(V a, V b) {
    const V size = absolute(a);
    return select(b < V(typename Lane<V>::scalar(0)), -size, size);
}

template <class V>
LANES_FN typename Lane<V>::scalar largest_lane(V x) {
    typename Lane<V>::scalar out = get(x, 0);
    for (int i = 1; i < Lane<V>::width; ++i) out = larger(out, get(x, i));
    return out;
}
template <class V>
LANES_FN typename Lane<V>::scalar smallest_lane(V x) {
    typename Lane<V>::scalar out = get(x, 0);
    for (int i = 1; i < Lane<V>::width; ++i) out = smaller(out, get(x, i));
    return out;
}

}  // namespace LANES_NAMESPACE
