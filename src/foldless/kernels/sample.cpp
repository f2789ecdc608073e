// Multilinear reading off a lattice: value, spatial derivative, and the adjoint of both. C ABI, no dependency on torch.
//
// values (batch, channels, *lattice), points (batch, dim, count) in the unit cube, value (batch, channels, count),
// jacobian (batch, channels, dim, count). Outside the cube the border value continues, with derivative zero.
// The plain form in plain.py is the referee and says what every line must compute.

#include "lattice.h"
#include "status.h"

namespace {

using namespace foldless;

template <typename T, int D>
void forward_range(const Lattice<D>& lattice, const T* values, const T* points, T* value, T* jacobian, Size channels,
                   Size count, Size begin, Size end) {
    using V = typename Wide<T>::V;
    constexpr int W = Wide<T>::W;
    Corners<T, D> corners;
    alignas(64) T out[1 + D][N];
    walk<T, D>(lattice, values, points, channels, count, begin, end, [&](const Block<T, D>& block, Size n, int some) {
        for (Size c = 0; c < channels; ++c) {
            expect<1>(value + c * count + n + AHEAD * N);
            for (int d = 0; d < D && jacobian; ++d) expect<1>(jacobian + (c * D + d) * count + n + AHEAD * N);
            corners.gather(lattice, values + c * lattice.nodes, block.base);
            for (int i = 0; i < N; i += W) {
                V v[1 << D], f[D], s[D];
                corners.at(i, v);
                for (int d = 0; d < D; ++d) f[d] = load<V>(block.fraction[d] + i), s[d] = load<V>(block.slope[d] + i);
                store(out[D] + i, interpolate<V, D, T>(v, f, s));
                if (jacobian)
                    for (int d = 0; d < D; ++d) store(out[d] + i, interpolate<V, D, T>(v, f, s, d));
            }
            copy(value + c * count + n, out[D], some);
            if (jacobian)
                for (int d = 0; d < D; ++d) copy(jacobian + (c * D + d) * count + n, out[d], some);
        }
    });
}

template <typename T, int D>
void forward(const T* values, const T* points, T* value, T* jacobian, Size batch, Size channels, const Size* shape,
             Size count, Size values_stride, Size points_stride, int threads) {
    const Lattice<D> lattice(shape);
    const Size chunks = (count + CHUNK - 1) / CHUNK;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (Size job = 0; job < batch * chunks; ++job) {
        const Size b = job / chunks, begin = job % chunks * CHUNK, at = b * channels * count;
        forward_range<T, D>(lattice, values + b * values_stride, points + b * points_stride, value + at,
                            jacobian ? jacobian + at * D : nullptr, channels, count, begin,
                            std::min(begin + CHUNK, count));
    }
}

// The gradient by a block's points.
template <typename T, int D>
void to_points(const Lattice<D>& lattice, const Block<T, D>& block, const T* values, const Arriving<T, D>& arriving,
               T* g_points, Size n, int some) {
    using V = typename Wide<T>::V;
    constexpr int W = Wide<T>::W;
    Corners<T, D> corners;
    alignas(64) T g[1 + D][N];
    alignas(64) T total[D][N] = {};
    for (Size c = 0; c < arriving.channels; ++c) {
        corners.gather(lattice, values + c * lattice.nodes, block.base);
        arriving.read(g[D], c, D, n, some);
        for (int d = 0; d < D && arriving.jacobian; ++d) arriving.read(g[d], c, d, n, some);
        for (int i = 0; i < N; i += W) {
            V v[1 << D], f[D], s[D], sum[D];
            corners.at(i, v);
            for (int d = 0; d < D; ++d) f[d] = load<V>(block.fraction[d] + i), s[d] = load<V>(block.slope[d] + i);
            const V by_value = load<V>(g[D] + i);
            for (int d = 0; d < D; ++d) sum[d] = load<V>(total[d] + i) + by_value * interpolate<V, D, T>(v, f, s, d);
            if (arriving.jacobian)
                for (int d = 0; d < D; ++d)
                    for (int e = d + 1; e < D; ++e) {
                        const V mixed = interpolate<V, D, T>(v, f, s, d, e);
                        sum[d] += load<V>(g[e] + i) * mixed;
                        sum[e] += load<V>(g[d] + i) * mixed;
                    }
            for (int d = 0; d < D; ++d) store(total[d] + i, sum[d]);
        }
    }
    for (int d = 0; d < D; ++d) {
        expect<1>(g_points + d * arriving.count + n + AHEAD * N);
        copy(g_points + d * arriving.count + n, total[d], some);
    }
}

// The part of the backward that belongs to points [begin, end) of one sample. Either gradient out may be null.
template <typename T, int D, int G>
void backward_range(const Lattice<D>& lattice, const T* values, const T* points, const Arriving<T, D>& arriving,
                    T* g_points, Sums<T, G>* sums, Size first, Size begin, Size end) {
    const Size read = g_points ? arriving.channels : 0;
    walk<T, D>(lattice, values, points, read, arriving.count, begin, end, [&](const Block<T, D>& block, Size n, int some) {
        if (g_points) to_points(lattice, block, values, arriving, g_points, n, some);
        if (!sums) return;
        auto scatter = arriving.jacobian ? to_values<T, D, G, true> : to_values<T, D, G, false>;
        scatter(lattice, block, arriving, *sums, first, n, some);
    });
}

// One sample, shared by `threads`: each scatters a range of the points into sums of its own.
template <typename T, int D, int G>
void backward_sample(const Lattice<D>& lattice, const T* values, const T* points, const Arriving<T, D>& arriving,
                     T* g_values, T* g_points, int threads) {
    const Size count = arriving.count, channels = arriving.channels;
    const Size worth = g_values ? 8 * count / lattice.nodes + 1 : threads;  // few points need no sums of their own
    const Size pieces = std::max<Size>(1, std::min<Size>(threads, worth));
    const Size piece = (count / pieces / N + 1) * N;
    std::vector<std::unique_ptr<Sums<T, G>>> sums(g_values ? pieces : 0);
    for (auto& part : sums) part = std::make_unique<Sums<T, G>>(lattice.nodes);
    for (Size first = 0; first < (g_values ? channels : 1); first += G) {
#pragma omp parallel for schedule(static) num_threads(pieces) if (pieces > 1)
        for (Size part = 0; part < pieces; ++part) {
            if (g_values) sums[part]->low = sums[part]->high = 0;
            backward_range<T, D, G>(lattice, values, points, arriving, first == 0 ? g_points : nullptr,
                                    g_values ? sums[part].get() : nullptr, first, part * piece,
                                    std::min((part + 1) * piece, count));
        }
        if (!g_values) return;
        const Size chunks = (lattice.nodes + NODES - 1) / NODES;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && chunks > 1)
        for (Size chunk = 0; chunk < chunks; ++chunk)
            add_up<T, G>(sums, g_values + first * lattice.nodes, std::min<Size>(G, channels - first), lattice.nodes,
                         chunk * NODES, std::min((chunk + 1) * NODES, lattice.nodes));
    }
}

// Threads take a sample each where that keeps all of them busy, and share every sample otherwise.
template <typename T, int D, int G>
void backward(const T* values, const T* points, const T* g_value, const T* g_jacobian, T* g_values, T* g_points,
              Size batch, Size channels, const Size* shape, Size count, Size values_stride, Size points_stride,
              int threads) {
    const Lattice<D> lattice(shape);
    const bool alone = batch % threads == 0 || batch >= 8 * threads;
    Carrier carrier;
#pragma omp parallel for schedule(static) num_threads(threads) if (alone && threads > 1)
    for (Size b = 0; b < batch; ++b)
        carrier.run([&] {
            const Size at = b * channels * count;
            const Arriving<T, D> arriving{g_value ? g_value + at : nullptr, g_jacobian ? g_jacobian + at * D : nullptr,
                                          channels, count};
            backward_sample<T, D, G>(lattice, values + b * values_stride, points + b * points_stride, arriving,
                                     g_values ? g_values + b * channels * lattice.nodes : nullptr,
                                     g_points ? g_points + b * D * count : nullptr, alone ? 1 : threads);
        });
    carrier.deliver();
}

template <typename T, int G>
constexpr auto backward_of(Size dim) {
    return dim == 1 ? backward<T, 1, G> : dim == 2 ? backward<T, 2, G> : backward<T, 3, G>;
}

}  // namespace

#define FOLDLESS_EXPORT(T, NAME)                                                                                         \
    extern "C" Status foldless_sample_##NAME(const T* values, const T* points, T* value, T* jacobian, Size batch,        \
                                             Size channels, Size dim, const Size* shape, Size count, Size values_stride, \
                                             Size points_stride, int threads) {                                          \
        return status_of([&] {                                                                                           \
            auto run = dim == 1 ? forward<T, 1> : dim == 2 ? forward<T, 2> : forward<T, 3>;                              \
            run(values, points, value, jacobian, batch, channels, shape, count, values_stride, points_stride, threads);  \
        });                                                                                                              \
    }                                                                                                                    \
    extern "C" Status foldless_sample_backward_##NAME(                                                                   \
        const T* values, const T* points, const T* g_value, const T* g_jacobian, T* g_values, T* g_points, Size batch,   \
        Size channels, Size dim, const Size* shape, Size count, Size values_stride, Size points_stride, int threads) {   \
        return status_of([&] {                                                                                           \
            auto run = channels == 1 ? backward_of<T, 1>(dim) : backward_of<T, 4>(dim);                                  \
            run(values, points, g_value, g_jacobian, g_values, g_points, batch, channels, shape, count, values_stride,   \
                points_stride, threads);                                                                                 \
        });                                                                                                              \
    }

FOLDLESS_EXPORT(float, f32)
FOLDLESS_EXPORT(double, f64)
