// The 2-norm of velocities W phi - gamma x + I with a sparse W, one cell in each lane.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "pack.hpp"
#include "variants.hpp"

namespace LANES_NAMESPACE {

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define LANES_SHUFFLE 1
#endif
#endif
#if defined(LANES_SHUFFLE)
template <int Step, int N, int... Lane>
LANES_FN void exchange(Pack<double, N>& a, Pack<double, N>& b, std::integer_sequence<int, Lane...>) {
    const auto low = __builtin_shufflevector(a.v, b.v, (Lane & Step ? N + Lane - Step : Lane)...);
    const auto high = __builtin_shufflevector(a.v, b.v, (Lane & Step ? N + Lane : Lane + Step)...);
    a.v = low;
    b.v = high;
}
template <int Step, int N>
LANES_FN void exchange_from(Pack<double, N>* packs) {
    if constexpr (Step < N) {
        LANES_UNROLL
        for (int i = 0; i < N; ++i) {
            if (!(i & Step)) exchange<Step, N>(packs[i], packs[i + Step], std::make_integer_sequence<int, N>());
        }
        exchange_from<2 * Step, N>(packs);
    }
}
// Exchange lanes and packs: afterwards lane i of pack j is what lane j of pack i was.
template <int N>
LANES_FN void transpose(Pack<double, N>* packs) {
    exchange_from<1, N>(packs);
}
#else
template <int N>
LANES_FN void transpose(Pack<double, N>* packs) {
    for (int i = 0; i < N; ++i) {
        for (int j = 0; j < i; ++j) std::swap(packs[i].v[j], packs[j].v[i]);
    }
}
#endif

// Cells go by tiles, whose activations and expression of a few genes stay in the first cache. What a cell's sum is
// made of, and in which order, depends on no other cell.
template <class Source, int N>
class SpeedTiles {
    static constexpr int kPacks = 4, kTile = kPacks * N, kGenes = 64;
    using V = Pack<double, N>;

public:
    explicit SpeedTiles(const SpeedProblem<Source>& problem)
        : p_(problem), activation_((size_t)problem.r * kPacks), expression_((size_t)kGenes * kPacks) {}

    void compute() {
        for (int64_t first = 0; first < p_.cells; first += kTile) {
            tile(first, (int)std::min<int64_t>(kTile, p_.cells - first));
        }
    }

private:
    void tile(int64_t first, int cells) {
        fill(activation_, p_.activation + first * p_.r, p_.r, p_.r, cells);
        V squares[kPacks] = {V(0.0), V(0.0), V(0.0), V(0.0)};
        for (int64_t gene = 0; gene < p_.genes; gene += kGenes) {
            const int64_t genes = std::min<int64_t>(kGenes, p_.genes - gene);
            fill(expression_, p_.x + first * p_.x_stride + gene, p_.x_stride, genes, cells);
            for (int64_t g = 0; g < genes; ++g) add(gene + g, expression_.data() + g * kPacks, squares);
        }
        for (int cell = 0; cell < cells; ++cell) p_.speed[first + cell] = root(get(squares[cell / N], cell % N));
    }

    LANES_FN void add(int64_t gene, const V* x, V* squares) const {
        const V bias(p_.bias[gene]), gamma(p_.gamma[gene]);
        V push[kPacks] = {bias, bias, bias, bias};
        for (int64_t k = p_.starts[gene]; k < p_.starts[gene + 1]; ++k) {
            const V weight(p_.weights[k]);
            const V* own = activation_.data() + (size_t)p_.columns[k] * kPacks;
            for (int u = 0; u < kPacks; ++u) push[u] = madd(weight, own[u], push[u]);
        }
        for (int u = 0; u < kPacks; ++u) {
            const V velocity = nmadd(gamma, x[u], push[u]);
            squares[u] = madd(velocity, velocity, squares[u]);
        }
    }

    // Put `width` numbers of each cell into the cell's lane; lanes without a cell get another's.
    template <class T>
    static void fill(std::vector<V>& lanes, const T* rows, int64_t stride, int64_t width, int cells) {
        for (int u = 0; u < kPacks && u * N < cells; ++u) {
            const T* own[N];
            for (int lane = 0; lane < N; ++lane) own[lane] = rows + std::min(u * N + lane, cells - 1) * stride;
            V* out = lanes.data() + u;
            int64_t i = 0;
            for (; i + N <= width; i += N) {
                V square[N];
                LANES_UNROLL
                for (int lane = 0; lane < N; ++lane) square[lane] = widened(own[lane] + i);
                transpose<N>(square);
                LANES_UNROLL
                for (int k = 0; k < N; ++k) out[(i + k) * kPacks] = square[k];
            }
            for (; i < width; ++i) {
                V one(0.0);
                for (int lane = 0; lane < N; ++lane) put(one, lane, (double)own[lane][i]);
                out[i * kPacks] = one;
            }
        }
    }

    template <class T>
    static LANES_FN V widened(const T* from) {
        typename Register<T, N>::type narrow;
        std::memcpy(&narrow, from, sizeof narrow);
        return {__builtin_convertvector(narrow, typename V::raw)};
    }

    const SpeedProblem<Source>& p_;
    std::vector<V> activation_, expression_;
};

template <class Source, int N>
void speeds(const SpeedProblem<Source>& problem) {
    SpeedTiles<Source, N>(problem).compute();
}

}  // namespace LANES_NAMESPACE
