// Inverse consistency of two displacements of one lattice, and its gradient by both, without anything in between.
//
// For the maps phi(x) = x + u(x), u by multilinear reading: Σ |phi_AB(phi_BA(x)) - x|² + |phi_BA(phi_AB(x)) - x|² over
// points (batch, dim, count). Fields (batch, dim, *lattice). The referee is regularity.py in torch.

#include "lattice.h"

namespace {

using namespace foldless;

// What a block of points reads off a field: values, and slopes [component][axis] where wanted.
template <typename T, int D>
struct Reading {
    alignas(64) T value[D][N];
    alignas(64) T slope[D][D][N];

    void read(const Lattice<D>& lattice, const Block<T, D>& block, const T* field, bool slopes) {
        using V = typename Wide<T>::V;
        constexpr int W = Wide<T>::W;
        Corners<T, D> corners;
        for (int c = 0; c < D; ++c) {
            corners.gather(lattice, field + c * lattice.nodes, block.base);
            for (int i = 0; i < N; i += W) {
                V v[1 << D], f[D], s[D];
                corners.at(i, v);
                for (int d = 0; d < D; ++d) f[d] = load<V>(block.fraction[d] + i), s[d] = load<V>(block.slope[d] + i);
                store(value[c] + i, interpolate<V, D, T>(v, f, s));
                for (int d = 0; d < D && slopes; ++d) store(slope[c][d] + i, interpolate<V, D, T>(v, f, s, d));
            }
        }
    }
};

template <int D>
constexpr int GROUP = D == 1 ? 1 : 4;  // channels of a scattered corner

// Σ |outer(inner(x)) - x|² of a sample's points [begin, end); the gradient of `share` of it where sums are given.
template <typename T, int D>
double one_order(const Lattice<D>& lattice, const T* inner, const T* outer, const T* points, Size count, Size begin,
                 Size end, T share, Sums<T, GROUP<D>>* to_inner, Sums<T, GROUP<D>>* to_outer) {
    double total = 0;
    Reading<T, D> first, second;
    Block<T, D> there;
    alignas(64) T reached[D][N], g_outer[D][N], g_inner[D][N];
    const Arriving<T, D> at_outer{&g_outer[0][0], nullptr, D, N}, at_inner{&g_inner[0][0], nullptr, D, N};
    walk<T, D>(lattice, inner, points, D, count, begin, end, [&](const Block<T, D>& here, Size n, int some) {
        here.expect_corners(lattice, outer, D);  // displacements are small: about there it will be read
        first.read(lattice, here, inner, false);
        for (int d = 0; d < D; ++d) {
            copy(reached[d], points + d * count + n, some);
            for (int i = 0; i < some; ++i) reached[d][i] += first.value[d][i];
            std::fill(reached[d] + some, reached[d] + N, reached[d][0]);
        }
        there.place(lattice, &reached[0][0], N, 0, N);
        second.read(lattice, there, outer, to_inner != nullptr);
        T squares = 0;
        for (int d = 0; d < D; ++d)
            for (int i = 0; i < N; ++i) {
                const T error = i < some ? first.value[d][i] + second.value[d][i] : T(0);
                squares += error * error;
                g_outer[d][i] = 2 * share * error;
            }
        total += squares;
        if (!to_inner) return;
        for (int d = 0; d < D; ++d)
            for (int i = 0; i < N; ++i) {
                T sum = g_outer[d][i];
                for (int c = 0; c < D; ++c) sum += g_outer[c][i] * second.slope[c][d][i];
                g_inner[d][i] = sum;
            }
        to_values<T, D, GROUP<D>, false>(lattice, there, at_outer, *to_outer, 0, 0, some);
        to_values<T, D, GROUP<D>, false>(lattice, here, at_inner, *to_inner, 0, 0, some);
    });
    return total;
}

template <typename T, int D>
using Parts = std::vector<std::unique_ptr<Sums<T, GROUP<D>>>>;

// Both orders of one sample, shared by `threads`: each scatters a range of the points into sums of its own.
template <typename T, int D>
double both_orders(const Lattice<D>& lattice, const T* field_AB, const T* field_BA, const T* points, Size count, T share,
                   T* g_AB, T* g_BA, int threads) {
    const Size worth = g_AB ? 8 * count / lattice.nodes + 1 : threads;  // few points need no sums of their own
    const Size pieces = std::max<Size>(1, std::min<Size>(threads, worth)), piece = (count / pieces / N + 1) * N;
    Parts<T, D> to_AB, to_BA;
    for (Size part = 0; g_AB && part < pieces; ++part) {
        to_AB.push_back(std::make_unique<Sums<T, GROUP<D>>>(lattice.nodes));
        to_BA.push_back(std::make_unique<Sums<T, GROUP<D>>>(lattice.nodes));
    }
    std::vector<double> totals(pieces);
#pragma omp parallel for schedule(static) num_threads(pieces) if (pieces > 1)
    for (Size part = 0; part < pieces; ++part) {
        const Size begin = part * piece, end = std::min((part + 1) * piece, count);
        auto *AB = g_AB ? to_AB[part].get() : nullptr, *BA = g_AB ? to_BA[part].get() : nullptr;
        totals[part] = one_order<T, D>(lattice, field_BA, field_AB, points, count, begin, end, share, BA, AB) +
                       one_order<T, D>(lattice, field_AB, field_BA, points, count, begin, end, share, AB, BA);
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
template <typename T, int D>
double consistency(const T* field_AB, const T* field_BA, const T* points, T* g_AB, T* g_BA, Size batch,
                   const Size* shape, Size count, Size points_stride, double share, int threads) {
    const Lattice<D> lattice(shape);
    const Size length = D * lattice.nodes;
    const bool alone = batch % threads == 0 || batch >= 8 * threads;
    std::vector<double> totals(batch);
#pragma omp parallel for schedule(static) num_threads(threads) if (alone && threads > 1)
    for (Size b = 0; b < batch; ++b)
        totals[b] = both_orders<T, D>(lattice, field_AB + b * length, field_BA + b * length, points + b * points_stride,
                                      count, static_cast<T>(share), g_AB ? g_AB + b * length : nullptr,
                                      g_AB ? g_BA + b * length : nullptr, alone ? 1 : threads);
    double total = 0;
    for (double sample : totals) total += sample;
    return total;
}

}  // namespace

// Returns the sum over points and components of both orders; fills the gradients of `share` times it unless null.
#define FOLDLESS_CONSISTENCY(T, NAME)                                                                                 \
    extern "C" double foldless_consistency_##NAME(const T* field_AB, const T* field_BA, const T* points, T* g_AB,       \
                                                  T* g_BA, Size batch, Size dim, const Size* shape, Size count,         \
                                                  Size points_stride, double share, int threads) {                      \
        auto run = dim == 1 ? consistency<T, 1> : dim == 2 ? consistency<T, 2> : consistency<T, 3>;                     \
        return run(field_AB, field_BA, points, g_AB, g_BA, batch, shape, count, points_stride, share, threads);         \
    }

FOLDLESS_CONSISTENCY(float, f32)
FOLDLESS_CONSISTENCY(double, f64)
