// (Gradient) inverse consistency of two displacements of one lattice, and its gradient by both, nothing kept in between.
//
// The maps are phi(x) = x + u(x), u by multilinear reading of fields (batch, dim, *lattice), at points (batch, dim,
// count) or at the jittered nodes of a lattice, one way and the other. The referee is regularity.py in torch.

#include "jitter.h"
#include "lattice.h"

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

template <int D>
constexpr int GROUP = D == 1 ? 1 : 4;  // channels of a scattered corner

// One order of two maps at a block of points: what it costs, and what arrives at the fields, the gradient of `share` of
// it. Points after the first `some` cost nothing.

// |outer(inner(x)) - x|², ICON.
template <typename T, int D>
struct Values {
    static constexpr bool SLOPES = false;
    alignas(64) T at_outer[D][N], at_inner[D][N];

    T cost(const Reading<T, D>& inner, const Reading<T, D>& outer, T share, int some) {
        T squares = 0;
        for (int d = 0; d < D; ++d)
            for (int i = 0; i < N; ++i) {
                const T error = i < some ? inner.value[d][i] + outer.value[d][i] : T(0);
                squares += error * error;
                at_outer[d][i] = 2 * share * error;
            }
        return squares;
    }

    void follow(const Reading<T, D>& outer, const Block<T, D>&) {
        for (int d = 0; d < D; ++d)
            for (int i = 0; i < N; ++i) {
                T sum = at_outer[d][i];
                for (int c = 0; c < D; ++c) sum += at_outer[c][i] * outer.slope[c][d][i];
                at_inner[d][i] = sum;
            }
    }

    Arriving<T, D> to_outer() const { return {&at_outer[0][0], nullptr, D, N}; }
    Arriving<T, D> to_inner() const { return {&at_inner[0][0], nullptr, D, N}; }
};

// Squared entries of D(outer ∘ inner) - 1, GradICON.
template <typename T, int D>
struct Gradients {
    static constexpr bool SLOPES = true;
    alignas(64) T at_outer[D][D][N], at_inner[D][D][N], at_reached[D][N];

    T cost(const Reading<T, D>& inner, const Reading<T, D>& outer, T share, int some) {
        T squares = 0;
        for (int i = 0; i < N; ++i) {
            T a[D][D], b[D][D], error[D][D];
            for (int r = 0; r < D; ++r)
                for (int c = 0; c < D; ++c)
                    a[r][c] = outer.slope[r][c][i] + T(r == c), b[r][c] = inner.slope[r][c][i] + T(r == c);
            for (int r = 0; r < D; ++r)
                for (int c = 0; c < D; ++c) {
                    T sum = -T(r == c);
                    for (int k = 0; k < D; ++k) sum += a[r][k] * b[k][c];
                    error[r][c] = i < some ? sum : T(0);
                    squares += error[r][c] * error[r][c];
                }
            for (int r = 0; r < D; ++r)
                for (int c = 0; c < D; ++c) {
                    T outwards = 0, inwards = 0;
                    for (int k = 0; k < D; ++k) outwards += error[r][k] * b[c][k], inwards += a[k][r] * error[k][c];
                    at_outer[r][c][i] = 2 * share * outwards;
                    at_inner[r][c][i] = 2 * share * inwards;
                }
        }
        return squares;
    }

    void follow(const Reading<T, D>& outer, const Block<T, D>& there) { outer.to_points(there, at_outer, at_reached); }

    Arriving<T, D> to_outer() const { return {nullptr, &at_outer[0][0][0], D, N}; }
    Arriving<T, D> to_inner() const { return {&at_reached[0][0], &at_inner[0][0][0], D, N}; }
};

// What a sample's points [begin, end) cost; the gradient of `share` of it where sums are given.
template <typename T, int D, typename Error>
double one_order(const Lattice<D>& lattice, const T* inner, const T* outer, const T* points, Size count, Size begin,
                 Size end, T share, Sums<T, GROUP<D>>* to_inner, Sums<T, GROUP<D>>* to_outer) {
    double total = 0;
    Reading<T, D> first, second;
    Block<T, D> there;
    Error error;
    alignas(64) T reached[D][N];
    walk<T, D>(lattice, inner, points, D, count, begin, end, [&](const Block<T, D>& here, Size n, int some) {
        here.expect_corners(lattice, outer, D);  // displacements are small: about there it will be read
        first.read(lattice, here, inner, Error::SLOPES);
        for (int d = 0; d < D; ++d) {
            copy(reached[d], points + d * count + n, some);
            for (int i = 0; i < some; ++i) reached[d][i] += first.value[d][i];
            std::fill(reached[d] + some, reached[d] + N, reached[d][0]);
        }
        there.place(lattice, &reached[0][0], N, 0, N);
        second.read(lattice, there, outer, Error::SLOPES || to_inner);
        total += error.cost(first, second, share, some);
        if (!to_inner) return;
        error.follow(second, there);
        to_values<T, D, GROUP<D>, Error::SLOPES>(lattice, there, error.to_outer(), *to_outer, 0, 0, some);
        to_values<T, D, GROUP<D>, Error::SLOPES>(lattice, here, error.to_inner(), *to_inner, 0, 0, some);
    });
    return total;
}

template <typename T, int D>
using Parts = std::vector<std::unique_ptr<Sums<T, GROUP<D>>>>;

// Where the maps are judged.
template <typename T>
struct Where {
    const T* points;  // (batch, dim, count), samples `pitch` numbers apart; null for the jittered nodes of a lattice
    Size count, pitch;
    const Size* shape;  // of that lattice
    std::uint64_t seed;
};

// Calls `visit(points, count, begin, end)` for a sample's points [begin, end), or for bunches of jittered nodes.
template <typename T, int D, typename F>
void at_points(const Where<T>& where, Size sample, Size begin, Size end, F visit) {
    if (where.points) return visit(where.points + sample * where.pitch, where.count, begin, end);
    const Scratch<T> bunch(D * BUNCH);
    for (Size from = begin; from < end; from += BUNCH) {
        const Size some = std::min(BUNCH, end - from);
        jitter<T, D>(where.shape, where.seed, sample, from, some, bunch.data(), BUNCH);
        visit(bunch.data(), BUNCH, Size(0), some);
    }
}

// Both orders of one sample, shared by `threads`: each scatters a range of the points into sums of its own.
template <typename T, int D, typename Error>
double both_orders(const Lattice<D>& lattice, const T* field_AB, const T* field_BA, const Where<T>& where, Size sample,
                   T share, T* g_AB, T* g_BA, int threads) {
    const Size count = where.count, worth = g_AB ? 8 * count / lattice.nodes + 1 : threads;
    const Size pieces = std::max<Size>(1, std::min<Size>(threads, worth));  // few points need no sums of their own
    const Size piece = (count / pieces / N + 1) * N;
    Parts<T, D> to_AB, to_BA;
    for (Size part = 0; g_AB && part < pieces; ++part) {
        to_AB.push_back(std::make_unique<Sums<T, GROUP<D>>>(lattice.nodes));
        to_BA.push_back(std::make_unique<Sums<T, GROUP<D>>>(lattice.nodes));
    }
    std::vector<double> totals(pieces);
#pragma omp parallel for schedule(static) num_threads(pieces) if (pieces > 1)
    for (Size part = 0; part < pieces; ++part) {
        auto *AB = g_AB ? to_AB[part].get() : nullptr, *BA = g_AB ? to_BA[part].get() : nullptr;
        const auto judge = [&](const T* points, Size pitch, Size begin, Size end) {
            totals[part] +=
                one_order<T, D, Error>(lattice, field_BA, field_AB, points, pitch, begin, end, share, BA, AB) +
                one_order<T, D, Error>(lattice, field_AB, field_BA, points, pitch, begin, end, share, AB, BA);
        };
        at_points<T, D>(where, sample, part * piece, std::min((part + 1) * piece, count), judge);
    }
    double total = 0;
    for (double part : totals) total += part;
    if (!g_AB) return total;
    const Size chunks = (lattice.nodes + NODES - 1) / NODES;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && chunks > 1)
    for (Size chunk = 0; chunk < chunks; ++chunk) {
        const Size begin = chunk * NODES, end = std::min((chunk + 1) * NODES, lattice.nodes);
        add_up<T, GROUP<D>>(to_AB, g_AB, D, lattice.nodes, begin, end);
        add_up<T, GROUP<D>>(to_BA, g_BA, D, lattice.nodes, begin, end);
    }
    return total;
}

// Threads take a sample each where that keeps all of them busy, and share every sample otherwise.
template <typename T, int D, typename Error>
double consistency(const T* field_AB, const T* field_BA, const Where<T>& where, T* g_AB, T* g_BA, Size batch,
                   const Size* shape, double share, int threads) {
    const Lattice<D> lattice(shape);
    const Size length = D * lattice.nodes;
    const bool alone = batch % threads == 0 || batch >= 8 * threads;
    std::vector<double> totals(batch);
#pragma omp parallel for schedule(static) num_threads(threads) if (alone && threads > 1)
    for (Size b = 0; b < batch; ++b)
        totals[b] = both_orders<T, D, Error>(lattice, field_AB + b * length, field_BA + b * length, where, b,
                                             static_cast<T>(share), g_AB ? g_AB + b * length : nullptr,
                                             g_AB ? g_BA + b * length : nullptr, alone ? 1 : threads);
    double total = 0;
    for (double sample : totals) total += sample;
    return total;
}

}  // namespace

// Returns what both orders cost, summed over points and entries; fills the gradients of `share` of it unless null.
#define FOLDLESS_CONSISTENCY(T, KIND, NAME)                                                                             \
    extern "C" double foldless_##NAME(const T* field_AB, const T* field_BA, const T* points, T* g_AB, T* g_BA,          \
                                      Size batch, Size dim, const Size* shape, Size count, Size pitch,                  \
                                      const Size* jittered, std::uint64_t seed, double share, int threads) {            \
        auto run = dim == 1   ? consistency<T, 1, KIND<T, 1>>                                                           \
                   : dim == 2 ? consistency<T, 2, KIND<T, 2>>                                                           \
                              : consistency<T, 3, KIND<T, 3>>;                                                          \
        return run(field_AB, field_BA, {points, count, pitch, jittered, seed}, g_AB, g_BA, batch, shape, share, threads); \
    }

FOLDLESS_CONSISTENCY(float, Values, consistency_f32)
FOLDLESS_CONSISTENCY(double, Values, consistency_f64)
FOLDLESS_CONSISTENCY(float, Gradients, gradient_consistency_f32)
FOLDLESS_CONSISTENCY(double, Gradients, gradient_consistency_f64)
