// Multilinear reading off a lattice: value, spatial derivative, and the adjoint of both. C ABI, no dependency on torch.
//
// values (batch, channels, *lattice), points (batch, dim, count) in the unit cube, value (batch, channels, count),
// jacobian (batch, channels, dim, count). Outside the cube the border value continues, with derivative zero.
// The plain form in plain.py is the referee and says what every line must compute.
//
// Points are taken N at a time. Reading gathers the corners of all N and interpolates across the points' lanes.
// Scattering goes the other way, by groups of channels that lie side by side, so that a corner is one addition.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include "scratch.h"
#include "wide.h"

namespace {

using namespace foldless;

constexpr int N = 64;            // points of a block
constexpr Size AHEAD = 4;        // blocks between asking for memory and using it
constexpr Size CHUNK = 64 * N;   // points that a thread takes at once
constexpr Size NODES = 1024;     // nodes of a group of channels that are added up at once

// `some` of a block's numbers, all N with a copy whose length the compiler knows.
template <typename T>
inline void copy(T* to, const T* from, int some) {
    if (some == N)
        std::memcpy(to, from, N * sizeof(T));
    else
        std::copy(from, from + some, to);
}

template <int D>
struct Lattice {
    static constexpr int K = 1 << D;
    Size shape[D];
    Size stride[D];
    Size nodes;
    Size step[K];  // from a point's lowest corner to each: bit d of the corner's number is its side on axis d

    explicit Lattice(const Size* sizes) : nodes(1), step{} {
        for (int d = D - 1; d >= 0; --d) {
            shape[d] = sizes[d];
            stride[d] = nodes;
            nodes *= sizes[d];
        }
        for (int k = 0; k < K; ++k)
            for (int d = 0; d < D; ++d)
                if (k >> d & 1 && shape[d] > 1) step[k] += stride[d];
    }
};

// Asks for a block's worth of memory in time; the processor does not follow as many streams by itself.
template <int WRITE, typename T>
inline void expect(const T* memory) {
    for (int i = 0; i < N; i += 64 / sizeof(T)) __builtin_prefetch(memory + i, WRITE);
}

// Where N points lie: their lowest corners, the fractions towards the highest, and the fractions' derivatives.
template <typename T, int D>
struct Block {
    using V = typename Wide<T>::V;
    using I = typename Wide<T>::I;
    static constexpr int W = Wide<T>::W;

    alignas(64) T fraction[D][N];
    alignas(64) T slope[D][N];  // n - 1 inside, 0 where the point is clamped
    alignas(64) Size base[N];

    // Points [begin, begin + some) of a sample; the last of them fills what is left of the block.
    void place(const Lattice<D>& lattice, const T* points, Size count, Size begin, int some) {
        std::fill(base, base + N, Size(0));
        for (int d = 0; d < D; ++d) {
            alignas(64) T at[N];
            alignas(64) typename Wide<T>::Integer corner[N];
            copy(at, points + d * count + begin, some);
            expect<0>(points + d * count + begin + AHEAD * N);
            std::fill(at + some, at + N, at[some - 1]);
            const T last = static_cast<T>(lattice.shape[d] - 1);
            const auto highest = static_cast<typename Wide<T>::Integer>(std::max<Size>(lattice.shape[d] - 2, 0));
            for (int i = 0; i < N; i += W) {
                const V zero = {}, end = zero + last, index = load<V>(at + i) * last;
                V clamped = index > zero ? index : zero;  // false for NaN
                clamped = clamped < end ? clamped : end;
                I low = __builtin_convertvector(clamped, I);
                const I top = I{} + highest;
                low = low < top ? low : top;
                V part = clamped - __builtin_convertvector(low, V);
                part = index == index ? part : index;
                store(fraction[d] + i, part);
                store(slope[d] + i, index >= zero ? (index <= end ? end : zero) : zero);
                store(corner + i, low);
            }
            for (int i = 0; i < N; ++i) base[i] += corner[i] * lattice.stride[d];
        }
    }

    // Asks for what `gather` will read.
    void expect_corners(const Lattice<D>& lattice, const T* values, Size channels) const {
        for (Size c = 0; c < channels; ++c)
            for (int i = 0; i < N; i += 32 / sizeof(T))
                for (int k = 0; k < 1 << (D - 1); ++k)
                    __builtin_prefetch(values + c * lattice.nodes + base[i] + lattice.step[k]);
    }
};

// Calls `visit(block, n, some)` for every block of points [begin, end), with the next one's corners already asked for.
template <typename T, int D, typename F>
void walk(const Lattice<D>& lattice, const T* values, const T* points, Size channels, Size count, Size begin, Size end,
          F visit) {
    Block<T, D> blocks[2];
    const auto some = [&](Size n) { return static_cast<int>(std::min<Size>(N, end - n)); };
    if (begin < end) blocks[0].place(lattice, points, count, begin, some(begin));
    for (Size n = begin, turn = 0; n < end; n += N, turn = 1 - turn) {
        if (n + N < end) {
            blocks[1 - turn].place(lattice, points, count, n + N, some(n + N));
            blocks[1 - turn].expect_corners(lattice, values, channels);
        }
        visit(blocks[turn], n, some(n));
    }
}

template <typename V, int... I>
inline void part_ways(V a, V b, V& even, V& odd, std::integer_sequence<int, I...>) {
    even = __builtin_shufflevector(a, b, (2 * I)...);
    odd = __builtin_shufflevector(a, b, (2 * I + 1)...);
}

// One channel's values at the corners of a block's points. Neighbours on the last axis are fetched together.
template <typename T, int D>
struct Corners {
    using V = typename Wide<T>::V;
    static constexpr int W = Wide<T>::W, HALF = 1 << (D - 1);
    alignas(64) T pairs[HALF][2 * N];

    void gather(const Lattice<D>& lattice, const T* values, const Size* base) {
        const int next = lattice.shape[D - 1] > 1;
        for (int i = 0; i < N; ++i)
            for (int k = 0; k < HALF; ++k) {
                const T* from = values + base[i] + lattice.step[k];
                if (next)
                    std::memcpy(pairs[k] + 2 * i, from, 2 * sizeof(T));
                else
                    pairs[k][2 * i] = pairs[k][2 * i + 1] = *from;
            }
    }

    // The values of points i, i + 1, ..., i + W - 1.
    void at(int i, V* v) const {
        for (int k = 0; k < HALF; ++k)
            part_ways(load<V>(pairs[k] + 2 * i), load<V>(pairs[k] + 2 * i + W), v[k], v[k + HALF],
                      std::make_integer_sequence<int, W>());
    }
};

// The interpolant of the corners, or its derivative by axis a, or by the axes a and b.
template <typename V, int D, typename T>
inline __attribute__((always_inline)) V interpolate(const V* corner, const V* fraction, const V* slope, int a = -1,
                                                    int b = -1) {
    V v[1 << D];
    for (int k = 0; k < 1 << D; ++k) v[k] = corner[k];
    for (int d = D - 1; d >= 0; --d)
        for (int k = 0; k < 1 << d; ++k) {
            const V low = v[k], high = v[k + (1 << d)];
            v[k] = d == a || d == b ? slope[d] * (high - low) : (T(1) - fraction[d]) * low + fraction[d] * high;
        }
    return v[0];
}

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

// The gradients that arrive at one sample, and how many of its points they belong to.
template <typename T, int D>
struct Arriving {
    const T* value;     // (channels, count), or null
    const T* jacobian;  // (channels, D, count), or null
    Size channels, count;

    // Of one channel (by axis d, or of the value where d is D), points [n, n + some); zeros where nothing arrives.
    void read(T* to, Size channel, int d, Size n, int some) const {
        const T* from = d == D ? value : jacobian;
        if (!from || channel >= channels) some = 0;
        if (some < N) std::fill(to + some, to + N, T(0));
        if (some == 0) return;
        from += (d == D ? channel : channel * D + d) * count + n;
        expect<0>(from + AHEAD * N);
        copy(to, from, some);
    }
};

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

// A thread's own sums for G channels, (nodes, G); nodes [low, high) have been touched, the others are not even cleared.
template <typename T, int G>
struct Sums {
    Scratch<T> memory;
    Size low = 0, high = 0;

    explicit Sums(Size nodes) : memory(nodes * G) {}

    void touch(Size from, Size to) {
        if (low == high) low = high = from;
        if (from < low) std::memset(&memory[from * G], 0, (low - from) * G * sizeof(T)), low = from;
        if (to > high) std::memset(&memory[high * G], 0, (to - high) * G * sizeof(T)), high = to;
    }
};

// The gradient by the values of channels [first, first + G), added to the corners of a block's points.
template <typename T, int D, int G, bool JACOBIAN>
void to_values(const Lattice<D>& lattice, const Block<T, D>& block, const Arriving<T, D>& arriving, Sums<T, G>& sums,
               Size first, Size n, int some) {
    typedef T V __attribute__((vector_size(G * sizeof(T))));
    Size low = block.base[0], high = low;
    for (int i = 1; i < N; ++i) low = std::min(low, block.base[i]), high = std::max(high, block.base[i]);
    sums.touch(low, high + lattice.step[(1 << D) - 1] + 1);
    alignas(64) T g[1 + D][N * G], planar[G][N];
    for (int d = JACOBIAN ? 0 : D; d <= D; ++d) {
        for (int c = 0; c < G; ++c) arriving.read(planar[c], first + c, d, n, some);
        for (int i = 0; i < N; ++i)
            for (int c = 0; c < G; ++c) g[d][i * G + c] = planar[c][i];
    }
    for (int i = 0; i < some; ++i) {
        V share[1 << D], rise[D][1 << D];
        share[0] = load<V>(g[D] + i * G);
        if (JACOBIAN)
            for (int d = 0; d < D; ++d) rise[d][0] = load<V>(g[d] + i * G) * block.slope[d][i];
        for (int d = 0; d < D; ++d) {
            const T up = block.fraction[d][i], down = T(1) - up;
            for (int k = 0; k < 1 << d; ++k) {
                const int other = k + (1 << d);
                share[other] = share[k] * up;
                share[k] = share[k] * down;
                if (!JACOBIAN) continue;
                share[other] += rise[d][k];
                share[k] -= rise[d][k];
                for (int e = d + 1; e < D; ++e) {
                    rise[e][other] = rise[e][k] * up;
                    rise[e][k] = rise[e][k] * down;
                }
            }
        }
        T* to = &sums.memory[block.base[i] * G];
        for (int k = 0; k < 1 << D; ++k) {
            T* corner = to + lattice.step[k] * G;
            store(corner, load<V>(corner) + share[k]);
        }
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

// Nodes [begin, end) of all parts' sums, in their order, to the planes of at most G channels.
template <typename T, int G>
void add_up(std::vector<std::unique_ptr<Sums<T, G>>>& parts, T* planes, Size channels, Size nodes, Size begin,
            Size end) {
    alignas(64) T total[NODES * G];
    std::fill(total, total + (end - begin) * G, T(0));
    for (const auto& part : parts) {
        const Size from = std::max(begin, part->low), to = std::min(end, part->high);
        for (Size i = from * G; i < to * G; ++i) total[i - begin * G] += part->memory[i];
    }
    for (Size c = 0; c < channels; ++c)
        for (Size i = begin; i < end; ++i) planes[c * nodes + i] = total[(i - begin) * G + c];
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
#pragma omp parallel for schedule(static) num_threads(threads) if (alone && threads > 1)
    for (Size b = 0; b < batch; ++b) {
        const Size at = b * channels * count;
        const Arriving<T, D> arriving{g_value ? g_value + at : nullptr, g_jacobian ? g_jacobian + at * D : nullptr,
                                      channels, count};
        backward_sample<T, D, G>(lattice, values + b * values_stride, points + b * points_stride, arriving,
                                 g_values ? g_values + b * channels * lattice.nodes : nullptr,
                                 g_points ? g_points + b * D * count : nullptr, alone ? 1 : threads);
    }
}

template <typename T, int G>
constexpr auto backward_of(Size dim) {
    return dim == 1 ? backward<T, 1, G> : dim == 2 ? backward<T, 2, G> : backward<T, 3, G>;
}

}  // namespace

#define FOLDLESS_EXPORT(T, NAME)                                                                                       \
    extern "C" void foldless_sample_##NAME(const T* values, const T* points, T* value, T* jacobian, Size batch,         \
                                           Size channels, Size dim, const Size* shape, Size count, Size values_stride,  \
                                           Size points_stride, int threads) {                                           \
        auto run = dim == 1 ? forward<T, 1> : dim == 2 ? forward<T, 2> : forward<T, 3>;                                 \
        run(values, points, value, jacobian, batch, channels, shape, count, values_stride, points_stride, threads);     \
    }                                                                                                                   \
    extern "C" void foldless_sample_backward_##NAME(                                                                    \
        const T* values, const T* points, const T* g_value, const T* g_jacobian, T* g_values, T* g_points, Size batch,  \
        Size channels, Size dim, const Size* shape, Size count, Size values_stride, Size points_stride, int threads) {  \
        auto run = channels == 1 ? backward_of<T, 1>(dim) : backward_of<T, 4>(dim);                                     \
        run(values, points, g_value, g_jacobian, g_values, g_points, batch, channels, shape, count, values_stride,      \
            points_stride, threads);                                                                                    \
    }

FOLDLESS_EXPORT(float, f32)
FOLDLESS_EXPORT(double, f64)
