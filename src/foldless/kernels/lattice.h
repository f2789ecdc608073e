// What reading off a lattice multilinearly is made of, for the kernels that do it. The values' plain form is plain.py.
//
// Points are taken N at a time. Reading gathers the corners of all N and interpolates across the points' lanes.
// Scattering goes the other way, by groups of channels that lie side by side, so that a corner is one addition.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include "scratch.h"
#include "wide.h"

namespace foldless {
namespace {

constexpr int N = 64;            // points of a block
constexpr Size AHEAD = 4;        // blocks between asking for memory and using it
constexpr Size CHUNK = 64 * N;   // points that a thread takes at once
constexpr Size NODES = 1024;     // nodes of a group of channels that are added up at once

template <int D>
constexpr int GROUP = D == 1 ? 1 : 4;  // channels of a displacement's scattered corner

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

}  // namespace
}  // namespace foldless
