// A step of scaling and squaring: out = keep·u + u∘(id + reach·u) at the nodes of u's own lattice, and its gradient;
// and how steep a displacement is, which says how many steps it takes.
//
// u, out and the gradients are (batch, dim, *lattice), displacements in the unit cube. Points are made where they are
// read, nothing is kept in between. The referee is exponential.py in torch.

#include <cmath>

#include "lattice.h"
#include "status.h"

namespace {

using namespace foldless;

// The nodes [begin, begin + some) moved by reach·u; the last fills what is left of the block.
template <typename T, int D>
struct Moved {
    Block<T, D> block;

    Moved(const Lattice<D>& lattice, const T* u, T reach, Size begin, int some) {
        alignas(64) T points[D][N];
        for (int d = 0; d < D; ++d) {
            const T last = static_cast<T>(std::max<Size>(lattice.shape[d] - 1, 1));
            const T* own = u + d * lattice.nodes + begin;
            for (int i = 0, run; i < some; i += run) {  // nodes with one coordinate, or those of a line
                const Size node = (begin + i) / lattice.stride[d] % lattice.shape[d];
                const int along = d == D - 1;
                const Size left = along ? lattice.shape[d] - node : lattice.stride[d] - (begin + i) % lattice.stride[d];
                run = static_cast<int>(std::min<Size>(some - i, left));
                for (int k = 0; k < run; ++k)
                    points[d][i + k] = static_cast<T>(static_cast<int>(node) + along * k) / last + reach * own[i + k];
            }
            std::fill(points[d] + some, points[d] + N, points[d][some - 1]);
        }
        block.place(lattice, &points[0][0], N, 0, N);
    }
};

template <typename T, int D>
void forward_range(const Lattice<D>& lattice, const T* u, T* out, T keep, T reach, Size begin, Size end) {
    using V = typename Wide<T>::V;
    constexpr int W = Wide<T>::W;
    Corners<T, D> corners;
    alignas(64) T value[N];
    for (Size n = begin; n < end; n += N) {
        const int some = static_cast<int>(std::min<Size>(N, end - n));
        const Moved<T, D> at(lattice, u, reach, n, some);
        for (int c = 0; c < D; ++c) {
            const T* own = u + c * lattice.nodes;
            corners.gather(lattice, own, at.block.base);
            for (int i = 0; i < N; i += W) {
                V v[1 << D], f[D], s[D];
                corners.at(i, v);
                for (int d = 0; d < D; ++d) f[d] = load<V>(at.block.fraction[d] + i), s[d] = V{};
                store(value + i, interpolate<V, D, T>(v, f, s));
            }
            for (int i = 0; i < some; ++i) value[i] += keep * own[n + i];
            copy(out + c * lattice.nodes + n, value, some);
        }
    }
}

// Of points [begin, end): what arrives at the corners they are read at, and at the nodes themselves.
template <typename T, int D>
void backward_range(const Lattice<D>& lattice, const T* u, const T* g, T keep, T reach, Sums<T, GROUP<D>>& sums,
                    Size begin, Size end) {
    using V = typename Wide<T>::V;
    constexpr int W = Wide<T>::W, G = GROUP<D>;
    const Arriving<T, D> arriving{g, nullptr, D, lattice.nodes};
    Corners<T, D> corners;
    alignas(64) T here[N], own[D][N];
    for (Size n = begin; n < end; n += N) {
        const int some = static_cast<int>(std::min<Size>(N, end - n));
        const Moved<T, D> at(lattice, u, reach, n, some);
        for (int d = 0; d < D; ++d) std::fill(own[d], own[d] + N, T(0));
        for (int c = 0; c < D; ++c) {
            corners.gather(lattice, u + c * lattice.nodes, at.block.base);
            arriving.read(here, c, D, n, some);
            for (int i = 0; i < N; i += W) {
                V v[1 << D], f[D], s[D];
                corners.at(i, v);
                for (int d = 0; d < D; ++d)
                    f[d] = load<V>(at.block.fraction[d] + i), s[d] = load<V>(at.block.slope[d] + i);
                const V arrived = load<V>(here + i) * reach;
                for (int d = 0; d < D; ++d)
                    store(own[d] + i, load<V>(own[d] + i) + arrived * interpolate<V, D, T>(v, f, s, d));
            }
            for (int i = 0; i < N; ++i) own[c][i] += keep * here[i];
        }
        to_values<T, D, G, false>(lattice, at.block, arriving, sums, 0, n, some);
        sums.touch(n, n + some);
        for (int d = 0; d < D; ++d)
            for (int i = 0; i < some; ++i) sums.memory[(n + i) * G + d] += own[d][i];
    }
}

template <typename T, int D>
void forward(const T* u, T* out, Size batch, const Size* shape, T keep, T reach, int threads) {
    const Lattice<D> lattice(shape);
    const Size chunks = (lattice.nodes + CHUNK - 1) / CHUNK;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (Size job = 0; job < batch * chunks; ++job) {
        const Size sample = job / chunks * D * lattice.nodes, begin = job % chunks * CHUNK;
        forward_range<T, D>(lattice, u + sample, out + sample, keep, reach, begin,
                            std::min(begin + CHUNK, lattice.nodes));
    }
}

// One sample after the other, shared by the threads, each with sums of its own.
template <typename T, int D>
void backward(const T* u, const T* g, T* g_u, Size batch, const Size* shape, T keep, T reach, int threads) {
    const Lattice<D> lattice(shape);
    const Size nodes = lattice.nodes, piece = (nodes / threads / N + 1) * N, chunks = (nodes + NODES - 1) / NODES;
    std::vector<std::unique_ptr<Sums<T, GROUP<D>>>> sums(threads);
    for (auto& part : sums) part = std::make_unique<Sums<T, GROUP<D>>>(nodes);
    for (Size b = 0; b < batch; ++b) {
        const Size sample = b * D * nodes;
#pragma omp parallel for schedule(static) num_threads(threads)
        for (int part = 0; part < threads; ++part) {
            sums[part]->low = sums[part]->high = 0;
            backward_range<T, D>(lattice, u + sample, g + sample, keep, reach, *sums[part],
                                 std::min(part * piece, nodes), std::min((part + 1) * piece, nodes));
        }
#pragma omp parallel for schedule(static) num_threads(threads)
        for (Size chunk = 0; chunk < chunks; ++chunk)
            add_up<T, GROUP<D>>(sums, g_u + sample, D, nodes, chunk * NODES, std::min((chunk + 1) * NODES, nodes));
    }
}

// The largest difference of neighbouring nodes, (batch, component, axis); NaN of a component that is not finite.
template <typename T, int D>
void steepest(const T* u, T* out, Size batch, const Size* shape, int threads) {
    const Lattice<D> lattice(shape);
    const Size length = lattice.shape[D - 1], rows = lattice.nodes / length;
    for (Size field = 0; field < batch * D; ++field) {
        const T* from = u + field * lattice.nodes;
        T* most = out + field * D;
        std::fill(most, most + D, T(0));
#pragma omp parallel num_threads(threads)
        {
            T own[D] = {}, wrong = 0;
#pragma omp for schedule(static) nowait
            for (Size row = 0; row < rows; ++row) {
                const T* here = from + row * length;
                for (int d = 0; d < D; ++d) {
                    const int along = d == D - 1;
                    if (!along && row * length / lattice.stride[d] % lattice.shape[d] + 1 == lattice.shape[d]) continue;
                    const T* next = here + lattice.stride[d];
                    T most_here = 0;
#pragma omp simd reduction(max : most_here)
                    for (Size i = 0; i < length - along; ++i) most_here = std::max(most_here, std::abs(next[i] - here[i]));
                    own[d] = std::max(own[d], most_here);
                }
#pragma omp simd reduction(+ : wrong)
                for (Size i = 0; i < length; ++i) wrong += here[i] - here[i];  // 0, or NaN of what is not finite
            }
#pragma omp critical
            for (int d = 0; d < D; ++d) most[d] = wrong == 0 && most[d] == most[d] ? std::max(most[d], own[d]) : NAN;
        }
    }
}

}  // namespace

#define FOLDLESS_SQUARING(T, NAME)                                                                                     \
    extern "C" Status foldless_square_##NAME(const T* u, T* out, Size batch, Size dim, const Size* shape, double keep, \
                                             double reach, int threads) {                                              \
        return status_of([&] {                                                                                         \
            auto run = dim == 1 ? forward<T, 1> : dim == 2 ? forward<T, 2> : forward<T, 3>;                            \
            run(u, out, batch, shape, static_cast<T>(keep), static_cast<T>(reach), threads);                           \
        });                                                                                                            \
    }                                                                                                                  \
    extern "C" Status foldless_steepest_##NAME(const T* u, T* out, Size batch, Size dim, const Size* shape,            \
                                               int threads) {                                                          \
        return status_of([&] {                                                                                         \
            auto run = dim == 1 ? steepest<T, 1> : dim == 2 ? steepest<T, 2> : steepest<T, 3>;                         \
            run(u, out, batch, shape, threads);                                                                        \
        });                                                                                                            \
    }                                                                                                                  \
    extern "C" Status foldless_square_backward_##NAME(const T* u, const T* g, T* g_u, Size batch, Size dim,            \
                                                      const Size* shape, double keep, double reach, int threads) {     \
        return status_of([&] {                                                                                         \
            auto run = dim == 1 ? backward<T, 1> : dim == 2 ? backward<T, 2> : backward<T, 3>;                         \
            run(u, g, g_u, batch, shape, static_cast<T>(keep), static_cast<T>(reach), threads);                        \
        });                                                                                                            \
    }

FOLDLESS_SQUARING(float, f32)
FOLDLESS_SQUARING(double, f64)
