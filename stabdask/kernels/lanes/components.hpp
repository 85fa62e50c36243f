// Strongly connected components of the pattern of a matrix: its eigenvalues are those of the diagonal blocks that
// belong to them. Patterns are rows of bits; forward-backward search with trimming (Fleischer, Hendrickson,
// Pinar 2000; McLendon et al. 2005), which is quick both where there are few zeros and where there are many.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "pack.hpp"

namespace LANES_NAMESPACE {

class Components {
public:
    // Make room for a pattern of n nodes, with no edges.
    void reset(int n) {
        n_ = n;
        words_ = (n + 63) / 64;
        rows_.assign((size_t)n * words_, 0);
    }

    uint64_t* row(int i) { return rows_.data() + (size_t)i * words_; }
    int words() const { return words_; }
    int size() const { return n_; }

    // Find the components of the nodes for which `present(i)`: `members` lists their nodes one component after the
    // other, each in ascending order, and `ends` where each one ends.
    template <class Present>
    void find(Present present) {
        members.clear();
        ends.clear();
        std::vector<uint64_t>& all = take();
        for (int i = 0; i < n_; ++i) {
            row(i)[i / 64] &= ~(uint64_t(1) << (i % 64));
            if (present(i)) all[i / 64] |= uint64_t(1) << (i % 64);
        }
        waiting_.clear();
        waiting_.push_back(&all);
        while (!waiting_.empty()) {
            std::vector<uint64_t>& part = *waiting_.back();
            waiting_.pop_back();
            split(part);
            give(part);
        }
    }

    // Put the components found in an order that makes the matrix block upper triangular: edges lead onwards only.
    void order_upper_triangular() {
        const int count = (int)ends.size();
        std::vector<int32_t> part(n_), waits(count, 0), order;
        for (int c = 0, m = 0; c < count; ++c) {
            for (; m < ends[c]; ++m) part[members[m]] = c;
        }
        const auto each_edge = [&](int c, auto visit) {
            for (int m = c ? ends[c - 1] : 0; m < ends[c]; ++m) {
                const uint64_t* edges = row(members[m]);
                for (int w = 0; w < words_; ++w) {
                    for (uint64_t bits = edges[w]; bits; bits &= bits - 1) {
                        const int to = part[w * 64 + lowest(bits)];
                        if (to != c) visit(to);
                    }
                }
            }
        };
        for (int c = 0; c < count; ++c) each_edge(c, [&](int to) { ++waits[to]; });
        for (int c = 0; c < count; ++c) {
            if (!waits[c]) order.push_back(c);
        }
        for (size_t next = 0; next < order.size(); ++next) {
            each_edge(order[next], [&](int to) {
                if (!--waits[to]) order.push_back(to);
            });
        }
        std::vector<int32_t> sorted, new_ends;
        for (int c : order) {
            sorted.insert(sorted.end(), members.begin() + (c ? ends[c - 1] : 0), members.begin() + ends[c]);
            new_ends.push_back((int32_t)sorted.size());
        }
        members = std::move(sorted);
        ends = std::move(new_ends);
    }

    std::vector<int32_t> members;
    std::vector<int32_t> ends;

private:
    using Set = std::vector<uint64_t>;

    Set& take() {
        if (free_.empty()) {
            owned_.emplace_back(new Set);
            free_.push_back(owned_.back().get());
        }
        Set* set = free_.back();
        free_.pop_back();
        set->assign(words_, 0);
        return *set;
    }
    void give(Set& set) { free_.push_back(&set); }

    static int lowest(uint64_t bits) { return __builtin_ctzll(bits); }

    template <class Visit>
    void each(const Set& set, Visit visit) {
        for (int w = 0; w < words_; ++w) {
            for (uint64_t bits = set[w]; bits; bits &= bits - 1) visit(w * 64 + lowest(bits));
        }
    }
    bool meets(const uint64_t* edges, const Set& set) const {
        uint64_t joined = 0;
        for (int w = 0; w < words_; ++w) joined |= edges[w] & set[w];
        return joined != 0;
    }
    static bool empty(const Set& set) {
        for (uint64_t word : set) {
            if (word) return false;
        }
        return true;
    }

    void emit(const Set& set) {
        each(set, [&](int i) { members.push_back(i); });
        ends.push_back((int32_t)members.size());
    }

    // Nodes of `part` without an edge to or from another one in it are components of their own.
    void trim(Set& part) {
        Set& targets = take();
        for (bool changed = true; changed;) {
            changed = false;
            std::memset(targets.data(), 0, sizeof(uint64_t) * words_);
            each(part, [&](int i) {
                if (!meets(row(i), part)) {
                    single(i, part);
                    changed = true;
                    return;
                }
                const uint64_t* edges = row(i);
                for (int w = 0; w < words_; ++w) targets[w] |= edges[w];
            });
            for (int w = 0; w < words_; ++w) {
                for (uint64_t bits = part[w] & ~targets[w]; bits; bits &= bits - 1) {
                    single(w * 64 + lowest(bits), part);
                    changed = true;
                }
            }
        }
        give(targets);
    }
    void single(int i, Set& part) {
        part[i / 64] &= ~(uint64_t(1) << (i % 64));
        members.push_back(i);
        ends.push_back((int32_t)members.size());
    }

    void split(Set& part) {
        trim(part);
        if (empty(part)) return;
        int root = -1;
        each(part, [&](int i) {
            if (root < 0) root = i;
        });
        Set& forward = take();
        reach_forward(root, part, forward);
        Set& backward = take();
        reach_backward(root, part, backward);
        Set& both = take();
        for (int w = 0; w < words_; ++w) {
            both[w] = forward[w] & backward[w];
            part[w] &= ~(forward[w] | backward[w]);
            forward[w] &= ~both[w];
            backward[w] &= ~both[w];
        }
        emit(both);
        give(both);
        for (Set* rest : {&forward, &backward}) {
            if (empty(*rest)) give(*rest);
            else waiting_.push_back(rest);
        }
        if (!empty(part)) {
            Set& rest = take();
            rest = part;
            waiting_.push_back(&rest);
        }
    }

    void reach_forward(int root, const Set& part, Set& reached) {
        Set& frontier = take();
        reached[root / 64] |= uint64_t(1) << (root % 64);
        frontier[root / 64] = reached[root / 64];
        for (bool grew = true; grew;) {
            grew = false;
            Set& next = take();
            each(frontier, [&](int i) {
                const uint64_t* edges = row(i);
                for (int w = 0; w < words_; ++w) next[w] |= edges[w];
            });
            for (int w = 0; w < words_; ++w) {
                frontier[w] = next[w] & part[w] & ~reached[w];
                reached[w] |= frontier[w];
                grew = grew || frontier[w];
            }
            give(next);
        }
        give(frontier);
    }

    void reach_backward(int root, const Set& part, Set& reached) {
        reached[root / 64] |= uint64_t(1) << (root % 64);
        for (bool grew = true; grew;) {
            grew = false;
            for (int w = 0; w < words_; ++w) {
                for (uint64_t bits = part[w] & ~reached[w]; bits; bits &= bits - 1) {
                    const int i = w * 64 + lowest(bits);
                    if (meets(row(i), reached)) {
                        reached[w] |= uint64_t(1) << (i % 64);
                        grew = true;
                    }
                }
            }
        }
    }

    int n_ = 0, words_ = 0;
    std::vector<uint64_t> rows_;
    std::vector<std::unique_ptr<Set>> owned_;
    std::vector<Set*> free_, waiting_;
};

}  // namespace LANES_NAMESPACE
