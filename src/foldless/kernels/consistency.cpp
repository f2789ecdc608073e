// (Gradient) inverse consistency of two chains of displacements, and its gradient by all, nothing kept in between.
//
// A link of a chain is phi(x) = x + u(x), u by multilinear reading of a field (batch, dim, *lattice), each on a lattice of
// its own. The chains are followed one after the other from points (batch, dim, count) or from the jittered nodes of a
// lattice, one way and the other. The referee is regularity.py in torch.

#include "jitter.h"
#include "lattice.h"
#include "status.h"

namespace {

using namespace foldless;

// What a block of points reads off a field: values, and slopes [component][axis] where wanted.
template <typename T, int D>
struct Reading {
    using V = typename Wide<T>::V;
    static constexpr int W = Wide<T>::W;

    Corners<T, D> corners[D];
    alignas(64) T value[D][N];
    alignas(64) T slope[D][D][N];

    void read(const Lattice<D>& lattice, const Block<T, D>& block, const T* field, bool slopes) {
        for (int c = 0; c < D; ++c) {
            corners[c].gather(lattice, field + c * lattice.nodes, block.base);
            for (int i = 0; i < N; i += W) {
                V v[1 << D], f[D], s[D];
                corners[c].at(i, v);
                for (int d = 0; d < D; ++d) f[d] = load<V>(block.fraction[d] + i), s[d] = load<V>(block.slope[d] + i);
                store(value[c] + i, interpolate<V, D, T>(v, f, s));
                for (int d = 0; d < D && slopes; ++d) store(slope[c][d] + i, interpolate<V, D, T>(v, f, s, d));
            }
        }
    }

    // What arrives at the slopes, g[component][axis], on its way to the points that they were read at.
    void to_points(const Block<T, D>& block, const T (*g)[D][N], T (*g_points)[N]) const {
        for (int i = 0; i < N; i += W) {
            V sum[D] = {};
            for (int c = 0; c < D; ++c) {
                V v[1 << D], f[D], s[D];
                corners[c].at(i, v);
                for (int d = 0; d < D; ++d) f[d] = load<V>(block.fraction[d] + i), s[d] = load<V>(block.slope[d] + i);
                for (int d = 0; d < D; ++d)
                    for (int e = d + 1; e < D; ++e) {
                        const V mixed = interpolate<V, D, T>(v, f, s, d, e);
                        sum[d] += load<V>(g[c][e] + i) * mixed;
                        sum[e] += load<V>(g[c][d] + i) * mixed;
                    }
            }
            for (int d = 0; d < D; ++d) store(g_points[d] + i, sum[d]);
        }
    }
};

// A link: what is read, and where its gradient is added up, null where nobody wants it.
template <typename T, int D>
struct Link {
    Lattice<D> lattice;
    const T* field;
    Sums<T, GROUP<D>>* sums;
};
template <typename T, int D>
using Links = std::vector<Link<T, D>>;

// What a block of points costs after all links: |end - start|² (ICON) or, with SLOPES, the squared entries of the
// Jacobian there less the identity (GradICON). Then back through the links, the gradient of `share` of it at hand.
template <typename T, int D, bool SLOPES>
struct Error {
    using Matrix = T[D][D][N];
    explicit Error(std::size_t links) : totals(SLOPES ? links : 0) {}

    // Points after the first `some` cost nothing.
    T cost(const std::vector<Reading<T, D>>& readings, T share, int some) {
        alignas(64) T squares[N] = {};
        const auto weigh = [&](T* error) {
            std::fill(error + some, error + N, T(0));
            for (int i = 0; i < N; ++i) squares[i] += error[i] * error[i], error[i] *= 2 * share;
        };
        for (int d = 0; d < D; ++d) std::fill(at_value[d], at_value[d] + N, T(0));
        if constexpr (SLOPES) {
            for (std::size_t j = 0; j < readings.size(); ++j) multiply(readings[j], j);
            for (int r = 0; r < D; ++r)
                for (int c = 0; c < D; ++c) {
                    for (int i = 0; i < N; ++i) at_total[r][c][i] = totals.back().entry[r][c][i] - T(r == c);
                    weigh(at_total[r][c]);
                }
        } else {
            for (int d = 0; d < D; ++d) {
                for (const auto& reading : readings)
                    for (int i = 0; i < N; ++i) at_value[d][i] += reading.value[d][i];
                weigh(at_value[d]);
            }
        }
        T sum = 0;
        for (T square : squares) sum += square;
        return sum;
    }

    // What arrives at link j.
    Arriving<T, D> at_link(std::size_t j) {
        if constexpr (!SLOPES) return {&at_value[0][0], nullptr, D, N};
        if (j == 0)
            std::memcpy(at_slope, at_total, sizeof at_slope);
        else
            for (int r = 0; r < D; ++r)
                for (int c = 0; c < D; ++c) {
                    std::fill(at_slope[r][c], at_slope[r][c] + N, T(0));
                    for (int k = 0; k < D; ++k) add_product(at_total[r][k], totals[j - 1].entry[c][k], at_slope[r][c]);
                }
        return {&at_value[0][0], &at_slope[0][0][0], D, N};
    }

    // On to the link before it.
    void back(const Reading<T, D>& reading, const Block<T, D>& block) {
        alignas(64) T reached[D][N] = {};
        for (int d = 0; d < D; ++d)
            for (int c = 0; c < D; ++c) add_product(reading.slope[c][d], at_value[c], reached[d]);
        for (int d = 0; d < D; ++d)
            for (int i = 0; i < N; ++i) at_value[d][i] += reached[d][i];
        if constexpr (SLOPES) {
            reading.to_points(block, at_slope, reached);
            for (int d = 0; d < D; ++d)
                for (int i = 0; i < N; ++i) at_value[d][i] += reached[d][i];
            alignas(64) Matrix before;
            std::memcpy(before, at_total, sizeof before);
            for (int r = 0; r < D; ++r)
                for (int c = 0; c < D; ++c)
                    for (int k = 0; k < D; ++k) add_product(reading.slope[k][r], before[k][c], at_total[r][c]);
        }
    }

  private:
    struct Total {
        alignas(64) Matrix entry;
    };
    std::vector<Total> totals;  // Jacobians of the chain up to each link
    alignas(64) T at_value[D][N];
    alignas(64) Matrix at_total, at_slope;

    static void add_product(const T* a, const T* b, T* to) {
        for (int i = 0; i < N; ++i) to[i] += a[i] * b[i];
    }

    // The Jacobian up to link j: 1 + slope, times what was before.
    void multiply(const Reading<T, D>& reading, std::size_t j) {
        auto& now = totals[j].entry;
        for (int r = 0; r < D; ++r)
            for (int c = 0; c < D; ++c) {
                for (int i = 0; i < N; ++i)
                    now[r][c][i] = j == 0 ? reading.slope[r][c][i] + T(r == c) : totals[j - 1].entry[r][c][i];
                for (int k = 0; j > 0 && k < D; ++k)
                    add_product(reading.slope[r][k], totals[j - 1].entry[k][c], now[r][c]);
            }
    }
};

// What points [begin, end), `row` numbers an axis, cost that follow the links, first to last; adds to the links' sums
// where they have some.
template <typename T, int D, bool SLOPES>
double follow(const Links<T, D>& links, const T* points, Size row, Size begin, Size end, T share) {
    double total = 0;
    const std::size_t count = links.size();
    const bool wanted = links[0].sums;
    std::vector<Block<T, D>> later(count);
    std::vector<Reading<T, D>> readings(count);
    Error<T, D, SLOPES> error(count);
    alignas(64) T reached[D][N];
    const auto visit = [&](const Block<T, D>& first, Size n, int some) {
        const auto at = [&](std::size_t j) -> const Block<T, D>& { return j == 0 ? first : later[j]; };
        for (int d = 0; d < D; ++d) copy(reached[d], points + d * row + n, some);
        for (std::size_t j = 0; j < count; ++j) {
            const auto& link = links[j];
            if (j > 0) later[j].place(link.lattice, &reached[0][0], N, 0, N);
            if (j + 1 < count && links[j + 1].lattice.nodes == link.lattice.nodes)  // displacements are small
                at(j).expect_corners(link.lattice, links[j + 1].field, D);
            readings[j].read(link.lattice, at(j), link.field, SLOPES || (wanted && j > 0));
            for (int d = 0; d < D; ++d) {
                for (int i = 0; i < some; ++i) reached[d][i] += readings[j].value[d][i];
                std::fill(reached[d] + some, reached[d] + N, reached[d][0]);
            }
        }
        total += error.cost(readings, share, some);
        for (std::size_t j = count; wanted && j-- > 0;) {
            to_values<T, D, GROUP<D>, SLOPES>(links[j].lattice, at(j), error.at_link(j), *links[j].sums, 0, 0, some);
            if (j > 0) error.back(readings[j], at(j));
        }
    };
    walk<T, D>(links[0].lattice, links[0].field, points, D, row, begin, end, visit);
    return total;
}

// Where the maps are judged.
template <typename T>
struct Where {
    const T* points;  // (batch, dim, count), samples so many numbers `apart`; null for the jittered nodes of a lattice
    Size count, apart;
    const Size* shape;  // of that lattice
    std::uint64_t seed;
};

// Calls `visit(points, row, begin, end)`, `row` numbers an axis, for a sample's points [begin, end), or for bunches of
// jittered nodes.
template <typename T, int D, typename F>
void at_points(const Where<T>& where, Size sample, Size begin, Size end, F visit) {
    if (where.points) return visit(where.points + sample * where.apart, where.count, begin, end);
    const Scratch<T> bunch(D * BUNCH);
    for (Size from = begin; from < end; from += BUNCH) {
        const Size some = std::min(BUNCH, end - from);
        jitter<T, D>(where.shape, where.seed, sample, from, some, bunch.data(), BUNCH);
        visit(bunch.data(), BUNCH, Size(0), some);
    }
}

// The fields of both chains, from the first link on: those of phi_AB, then those of phi_BA; and their gradients.
template <typename T, int D>
struct Chains {
    std::vector<Lattice<D>> lattices;
    const T* const* fields;
    T* const* gradients;  // null where they are not wanted
    std::size_t in_AB;

    std::size_t count() const { return lattices.size(); }
    Size largest() const {
        Size nodes = 0;
        for (const auto& lattice : lattices) nodes = std::max(nodes, lattice.nodes);
        return nodes;
    }
    Size length(std::size_t j) const { return D * lattices[j].nodes; }
};

template <typename T, int D>
using OwnSums = std::vector<std::unique_ptr<Sums<T, GROUP<D>>>>;

// Both orders of one sample, shared by `threads`: each scatters a range of the points into sums of its own.
template <typename T, int D, bool SLOPES>
double both_orders(const Chains<T, D>& chains, const Where<T>& where, Size sample, T share, int threads) {
    const bool wanted = chains.gradients;
    const Size count = where.count, worth = wanted ? 8 * count / chains.largest() + 1 : threads;
    const Size pieces = std::max<Size>(1, std::min<Size>(threads, worth));  // few points need no sums of their own
    const Size piece = (count / pieces / N + 1) * N;
    std::vector<OwnSums<T, D>> sums(chains.count());  // of every field, a thread's each
    for (std::size_t j = 0; wanted && j < chains.count(); ++j)
        for (Size part = 0; part < pieces; ++part)
            sums[j].push_back(std::make_unique<Sums<T, GROUP<D>>>(chains.lattices[j].nodes));
    std::vector<double> totals(pieces);
    Carrier carrier;
#pragma omp parallel for schedule(static) num_threads(pieces) if (pieces > 1)
    for (Size part = 0; part < pieces; ++part)
        carrier.run([&] {
            Links<T, D> one, other;  // phi_AB after phi_BA, and phi_BA after phi_AB
            for (std::size_t k = 0; k < chains.count(); ++k)
                for (auto* links : {&one, &other}) {
                    const std::size_t turn = links == &one ? k + chains.in_AB : k, j = turn % chains.count();
                    const T* field = chains.fields[j] + sample * chains.length(j);
                    links->push_back({chains.lattices[j], field, wanted ? sums[j][part].get() : nullptr});
                }
            const auto judge = [&](const T* points, Size row, Size begin, Size end) {
                totals[part] += follow<T, D, SLOPES>(one, points, row, begin, end, share) +
                                follow<T, D, SLOPES>(other, points, row, begin, end, share);
            };
            at_points<T, D>(where, sample, part * piece, std::min((part + 1) * piece, count), judge);
        });
    carrier.deliver();
    double total = 0;
    for (double part : totals) total += part;
    for (std::size_t j = 0; wanted && j < chains.count(); ++j) {
        const Size nodes = chains.lattices[j].nodes, chunks = (nodes + NODES - 1) / NODES;
        T* gradient = chains.gradients[j] + sample * chains.length(j);
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && chunks > 1)
        for (Size chunk = 0; chunk < chunks; ++chunk)
            add_up<T, GROUP<D>>(sums[j], gradient, D, nodes, chunk * NODES, std::min((chunk + 1) * NODES, nodes));
    }
    return total;
}

// Threads take a sample each where that keeps all of them busy, and share every sample otherwise.
template <typename T, int D, bool SLOPES>
double consistency(const T* const* fields, T* const* gradients, Size in_AB, Size links, Size batch, const Size* shapes,
                   const Where<T>& where, double share, int threads) {
    Chains<T, D> chains{{}, fields, gradients, static_cast<std::size_t>(in_AB)};
    for (Size j = 0; j < links; ++j) chains.lattices.emplace_back(shapes + j * D);
    const bool alone = batch % threads == 0 || batch >= 8 * threads;
    std::vector<double> totals(batch);
    Carrier carrier;
#pragma omp parallel for schedule(static) num_threads(threads) if (alone && threads > 1)
    for (Size b = 0; b < batch; ++b)
        carrier.run([&] {
            totals[b] = both_orders<T, D, SLOPES>(chains, where, b, static_cast<T>(share), alone ? 1 : threads);
        });
    carrier.deliver();
    double total = 0;
    for (double sample : totals) total += sample;
    return total;
}

}  // namespace

// Total: what both orders cost, summed over points and entries; fills the gradients of `share` of it unless null.
// fields and gradients: of `links` links, those of phi_AB first, from the one that sees the points first; shapes: the
// lattice of each; jittered, seed: where points is null.
#define FOLDLESS_CONSISTENCY(T, SLOPES, NAME)                                                                          \
    extern "C" Status foldless_##NAME(const T* const* fields, T* const* gradients, Size in_AB, Size links, Size batch, \
                                      Size dim, const Size* shapes, const T* points, Size count, Size apart,           \
                                      const Size* jittered, std::uint64_t seed, double share, int threads,             \
                                      double* total) {                                                                 \
        return status_of([&] {                                                                                         \
            auto run = dim == 1   ? consistency<T, 1, SLOPES>                                                          \
                       : dim == 2 ? consistency<T, 2, SLOPES>                                                          \
                                  : consistency<T, 3, SLOPES>;                                                         \
            const Where<T> where{points, count, apart, jittered, seed};                                                \
            *total = run(fields, gradients, in_AB, links, batch, shapes, where, share, threads);                       \
        });                                                                                                            \
    }

FOLDLESS_CONSISTENCY(float, false, consistency_f32)
FOLDLESS_CONSISTENCY(double, false, consistency_f64)
FOLDLESS_CONSISTENCY(float, true, gradient_consistency_f32)
FOLDLESS_CONSISTENCY(double, true, gradient_consistency_f64)
