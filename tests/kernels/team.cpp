// The solver that a GPU runs, run by threads of a CPU: the same header, with a team whose threads meet at barriers.
//
//     team INPUT OUTPUT
//
// INPUT holds the numbers of `Header`, then orders, a list of the matrices to solve, and the arrays of Source, as
// test_team.py writes them; OUTPUT gets the arrays of TeamResults and the marks of matrices solved twice.
#include <atomic>
#include <barrier>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <thread>
#include <type_traits>
#include <vector>

#include "team_solver.hpp"

namespace {

using namespace lanes;

// What the threads of a team share; `few` is that of its leaders.
struct Meeting {
    explicit Meeting(int size, bool whole = true) : size(size), barrier(size) {
        if (whole && size > 1) few = std::make_unique<Meeting>((size + 1) / 2, false);
    }
    int size;
    std::barrier<> barrier;
    std::unique_ptr<Meeting> few;
    alignas(16) unsigned char board[kPanel * sizeof(Reflection<double>)];
    alignas(16) unsigned char numbers[64 * sizeof(double)];
    long long taken = 0;
};

struct ThreadTeam {
    static constexpr bool parallel = true;
    Meeting* meeting;
    int number;
    int rank() const { return number; }
    int size() const { return meeting->size; }
    void sync() const {
#if defined(TEAM_WITHOUT_LEADERS_BARRIER)
        if (!meeting->few && meeting->size > 1) return;
#endif
        meeting->barrier.arrive_and_wait();
    }
    bool leads() const { return number < leaders().size(); }
    ThreadTeam leaders() const { return {meeting->few ? meeting->few.get() : meeting, number}; }
    template <class V>
    V* board(V*) const {
        return reinterpret_cast<V*>(meeting->board);
    }
    template <class V>
    V sum(V x) const {
        return join(x, [](V a, V b) { return a + b; });
    }
    template <class V>
    V maximum(V x) const {
        return join(x, [](V a, V b) { return larger(a, b); });
    }
    long long take(std::atomic<long long>* next) const {
        if (number == 0) meeting->taken = next->fetch_add(1);
        sync();
        const long long taken = meeting->taken;
        sync();
        return taken;
    }

private:
    template <class V, class Add>
    V join(V x, Add add) const {
        V* const partial = reinterpret_cast<V*>(meeting->numbers);
        partial[number] = x;
        sync();
        V total = partial[0];
        for (int i = 1; i < size(); ++i) total = add(total, partial[i]);
        sync();
        return total;
    }
};

struct Header {
    // Bytes of a number of the arithmetic and of an entry; threads of a team; teams.
    long long precision, entry, threads, teams;
    long long batch, listed, k, width, modes;
    long long scaled, vectors, left, flush;  // yes or no
};

[[noreturn]] void fail(const char* what) {
    std::fprintf(stderr, "%s\n", what);
    std::exit(1);
}

template <class T>
std::vector<T> read(std::FILE* file, long long count) {
    std::vector<T> out(count);
    if (count && std::fread(out.data(), sizeof(T), count, file) != (size_t)count) fail("the input is too short");
    return out;
}

template <class T>
void write(std::FILE* file, const std::vector<T>& data) {
    if (!data.empty() && std::fwrite(data.data(), sizeof(T), data.size(), file) != data.size()) fail("the output cannot be written");
}

// Round subnormal numbers to zero, as CuPy has GPUs do in single precision.
void flush_subnormals() {
#if defined(__x86_64__)
    _mm_setcsr(_mm_getcsr() | 0x8040);
#endif
}

// Everything the threads of all teams work with.
template <class T>
struct Job {
    Header header;
    Source source;
    TeamResults<T> out;
    unsigned char* again;
};

// Memory of one team, full of what must not be read before it is written.
template <class T>
struct Memory {
    Memory(int largest, Task task) {
        const Needs needs{largest, task};
        numbers.assign(needs.numbers(), std::numeric_limits<T>::quiet_NaN());
        others.assign(needs.other_numbers(), std::numeric_limits<T>::quiet_NaN());
        integers.assign(needs.integers(), -1000000);
    }
    std::vector<T> numbers, others;
    std::vector<int> integers;
};

template <Task task, class T>
void launch(const Job<T>& job, const std::vector<long long>& list) {
    long long largest = 0;
    for (long long b : list) largest = job.source.sizes[b] > largest ? job.source.sizes[b] : largest;
    std::atomic<long long> next{0};
    std::vector<std::unique_ptr<Meeting>> meetings;
    std::vector<std::unique_ptr<Memory<T>>> memories;
    std::vector<std::thread> threads;
    for (long long t = 0; t < job.header.teams; ++t) {
        meetings.push_back(std::make_unique<Meeting>((int)job.header.threads));
        memories.push_back(std::make_unique<Memory<T>>((int)largest, task));
        Memory<T>& memory = *memories.back();
        const Storage<T> storage{memory.numbers.data(), memory.others.data(), memory.integers.data()};
        for (int i = 0; i < (int)job.header.threads; ++i) {
            const ThreadTeam team{meetings.back().get(), i};
            threads.emplace_back([&job, &list, &next, storage, team] {
                if (job.header.flush) flush_subnormals();
                const TeamSolver<T, ThreadTeam> solver(job.source, job.out, job.again, storage, team);
                solve_list<task>(solver, list.data(), (long long)list.size(), &next, team);
            });
        }
    }
    for (std::thread& thread : threads) thread.join();
}

// Eigenvalues, or vectors too: by inverse iteration, then from the Schur form where that is called for.
template <class T>
void solve(const Header& header, std::FILE* input, std::FILE* output) {
    const auto sizes = read<long long>(input, header.batch);
    auto list = read<long long>(input, header.listed);
    const long long count = (header.scaled ? 1 : header.batch) * header.k * header.k;
    const auto entries = read<unsigned char>(input, count * header.entry);
    const auto shifts = read<double>(input, header.scaled ? header.k : 0);
    const auto scales = read<double>(input, header.scaled ? header.batch * header.k : 0);
    const double nan = std::numeric_limits<double>::quiet_NaN();
    const long long vectors = header.vectors ? header.batch * header.modes : 0, left = header.left ? vectors : 0;
    std::vector<T> values(2 * header.batch * header.width, (T)nan), right(2 * vectors * header.width, T(0)),
        left_vectors(2 * left * header.width, T(0));
    std::vector<double> overlap(left, nan), residual(header.batch, nan), trace_defect(header.batch, nan);
    std::vector<unsigned char> outcome(header.batch, 255), again(header.batch, 0);
    const Source source{entries.data(), shifts.data(), header.scaled ? scales.data() : nullptr,
                        sizes.data(),   header.k,      header.entry == 8};
    const TeamResults<T> out{values.data(),       right.data(),   header.left ? left_vectors.data() : nullptr,
                             overlap.data(),      residual.data(), trace_defect.data(),
                             outcome.data(),      header.width,   header.modes};
    const Job<T> job{header, source, out, again.data()};
    if (!header.vectors) {
        launch<kValues>(job, list);
    } else {
        launch<kVectors>(job, list);
        std::erase_if(list, [&](long long b) { return !again[b]; });
        launch<kSchur>(job, list);
    }
    write(output, values);
    write(output, right);
    write(output, left_vectors);
    write(output, overlap);
    write(output, residual);
    write(output, trace_defect);
    write(output, outcome);
    write(output, again);
}

// The figures that a launch is planned with, for orders 1 .. n: bytes in shared memory and in the workspace.
int print_needs(int largest) {
    for (int n = 0; n <= largest; ++n) {
        for (const Task task : {kValues, kVectors, kSchur}) {
            const Needs needs{n, task};
            std::printf("%d %d %lld %lld %lld\n", n, (int)task, needs.numbers(), needs.other_numbers(), needs.integers());
        }
    }
    return 0;
}

}  // namespace

int main(int count, char** words) {
    if (count == 3 && !std::strcmp(words[1], "needs")) return print_needs(std::atoi(words[2]));
    if (count != 3) fail("usage: team INPUT OUTPUT, or team needs N");
    std::FILE* const input = std::fopen(words[1], "rb");
    std::FILE* const output = std::fopen(words[2], "wb");
    if (!input || !output) fail("a file cannot be opened");
    const Header header = read<Header>(input, 1)[0];
    if (header.precision == 4) solve<float>(header, input, output);
    else solve<double>(header, input, output);
    if (std::fclose(output)) fail("the output cannot be written");
    return 0;
}
