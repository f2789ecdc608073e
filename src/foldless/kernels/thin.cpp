// Convolutions with one, two or three output channels: the last layer of every network, which libraries are slow at.
//
// x (batch, depth, height, width, channels) channels-last, float or bfloat16; y and its gradient (batch, outputs, depth,
// height, width) planar float. Kernel sides are odd, padding is half of them. Channels are taken in blocks of `L` that
// begin at 0, L, 2 L, ... and, for the last, at channels - L: it may overlap the one before. Weights and their gradient
// are packed by block, (taps, outputs, blocks, L).
//
// Of a normalised x, a·x + c, the factor a is in the weights, and `shift` (taps, outputs) says what c comes to at every
// tap that meets the lattice; the gradient of x then has a multiple of x and a constant a channel added, `by` and `plus`.

#include <vector>

#include "lanes.h"
#include "status.h"

namespace {

using namespace foldless;

struct Shape {
    Size batch, size[3], channels, kernel[3], blocks;

    Size start(Size block) const { return std::min(block * L, channels - L); }

    Size rows() const { return batch * size[0] * size[1]; }
    Size nodes() const { return size[0] * size[1] * size[2]; }
    Size taps() const { return kernel[0] * kernel[1] * kernel[2]; }
};

// The rows of the lattice that a row's kernel reaches: where they begin, in nodes, and their first tap.
struct Reach {
    std::vector<Size> node, tap;
    int count = 0;

    explicit Reach(const Shape& s) : node(s.kernel[0] * s.kernel[1]), tap(node.size()) {}

    void move(const Shape& s, Size row, int sign) {
        const Size z = row / s.size[1] % s.size[0], y = row % s.size[1], sample = row / (s.size[0] * s.size[1]);
        count = 0;
        for (Size i = 0; i < s.kernel[0]; ++i)
            for (Size j = 0; j < s.kernel[1]; ++j) {
                const Size other_z = z + sign * (i - s.kernel[0] / 2), other_y = y + sign * (j - s.kernel[1] / 2);
                if (other_z < 0 || other_z >= s.size[0] || other_y < 0 || other_y >= s.size[1]) continue;
                node[count] = ((sample * s.size[0] + other_z) * s.size[1] + other_y) * s.size[2];
                tap[count++] = (i * s.kernel[1] + j) * s.kernel[2];
            }
    }
};

// Calls `visit(part, row, reach)` for every row, a range of them a thread. `visit` allocates nothing.
template <typename F>
inline void at_rows(const Shape& s, int sign, int threads, F visit) {
    const Size rows = s.rows(), parts = std::max(1, threads);
    std::vector<Reach> reaches(parts, Reach(s));
#pragma omp parallel for schedule(static) num_threads(threads)
    for (Size part = 0; part < parts; ++part)
        for (Size row = part * rows / parts; row < (part + 1) * rows / parts; ++row) {
            reaches[part].move(s, row, sign);
            visit(part, row, reaches[part]);
        }
}

// N neighbours at once, so that additions need not wait for each other; taps [first, last) of a row serve them all. Of
// K taps, if that is not 0, each number is read once.
template <int N, int K, typename T, int O>
inline void forward_some(const T* x, const float* weights, const float* start, float* out, const Shape& s,
                         const Reach& reach, Size w, Size first, Size last) {
    const Size pack = s.blocks * L, C = s.channels;
    Lanes total[N][O] = {};
    for (int r = 0; r < reach.count; ++r)
        for (Size b = 0; b < s.blocks; ++b) {
            const T* p = x + (reach.node[r] + w - s.kernel[2] / 2) * C + s.start(b);
            const float* q = weights + reach.tap[r] * O * pack + b * L;
            const auto add = [&](const Lanes* v, Size k) {
                for (int o = 0; o < O; ++o) {
                    const Lanes weight = load(q + (k * O + o) * pack);
                    for (int i = 0; i < N; ++i) total[i][o] += v[i] * weight;
                }
            };
            Lanes v[N + K];
            if constexpr (K > 0) {
                for (int i = 0; i < N + K - 1; ++i) v[i] = load(p + i * C);
#pragma GCC unroll 8
                for (int k = 0; k < K; ++k) add(v + k, k);
            } else {
                for (Size k = first; k < last; ++k) {
                    for (int i = 0; i < N; ++i) v[i] = load(p + (i + k) * C);
                    add(v, k);
                }
            }
        }
    for (int o = 0; o < O; ++o) {
        float* to = out + o * s.nodes() + w;
        static_assert(N == 1 || N == 4, "four are summed at once");
        if constexpr (N == 4) {
            const Lanes all[] = {total[0][o], total[1][o], total[2][o], total[3][o]};
            const auto four = sums(all);
            for (int i = 0; i < 4; ++i) to[i] = start[o] + four[i];
        } else {
            for (int i = 0; i < N; ++i) to[i] = start[o] + sum(total[i][o]);
        }
    }
}

// What every output of some nodes of a row begins with.
template <int O>
struct Start {
    float of[O];

    Start(const float* bias, const float* shift, const Reach& reach, Size first, Size last) {
        for (int o = 0; o < O; ++o) of[o] = bias[o];
        for (int r = 0; shift && r < reach.count; ++r)
            for (Size k = first; k < last; ++k)
                for (int o = 0; o < O; ++o) of[o] += shift[(reach.tap[r] + k) * O + o];
    }
};

template <int N, typename T, int O>
inline void backward_some(const float* from, const float* weights, const T* x, const float* by, const float* plus,
                          T* g_x, const Shape& s, const Reach& reach, Size w, Size first, Size last) {
    const Size pack = s.blocks * L, nodes = s.nodes();
    for (Size b = 0; b < s.blocks; ++b) {
        Lanes total[N] = {};
        for (int r = 0; r < reach.count; ++r)
            for (Size k = first; k < last; ++k) {
                const float* p = from + reach.node[r] + w - k + s.kernel[2] / 2;
                const float* q = weights + (reach.tap[r] + k) * O * pack + b * L;
                for (int o = 0; o < O; ++o) {
                    const Lanes weight = load(q + o * pack);
                    for (int i = 0; i < N; ++i) total[i] += p[o * nodes + i] * weight;
                }
            }
        for (int i = 0; i < N; ++i) {
            const Size at = i * s.channels + s.start(b);
            if (by) total[i] += load(by + s.start(b)) * load(x + at) + load(plus + s.start(b));
            store(g_x + at, total[i]);
        }
    }
}

// Neighbours that one call takes: chains of additions enough to hide their latency, registers enough to hold them.
constexpr int FORWARD = 4, BACKWARD = 6;

template <typename T, int O>
void forward(const T* x, const float* weights, const float* bias, const float* shift, float* y, const Shape& s,
             int threads) {
    const Size W = s.size[2], K = s.kernel[2], half = K / 2, nodes = s.nodes();
    at_rows(s, 1, threads, [=](Size, Size row, const Reach& reach) {
        const Start<O> inside(bias, shift, reach, 0, K);
        const Size at = row * W, sample = at / nodes;
        float* out = y + sample * O * nodes + at % nodes;
        for (Size w = 0; w < W;) {
            if (w >= half && w + FORWARD - 1 + half < W) {
                auto run = K == 3   ? forward_some<FORWARD, 3, T, O>
                           : K == 5 ? forward_some<FORWARD, 5, T, O>
                                    : forward_some<FORWARD, 0, T, O>;
                run(x, weights, inside.of, out, s, reach, w, 0, K);
                w += FORWARD;
            } else {
                const Size first = std::max<Size>(0, half - w), last = std::min(K, W + half - w);
                const Start<O> start(bias, shift, reach, first, last);
                forward_some<1, 0, T, O>(x, weights, start.of, out, s, reach, w, first, last);
                w += 1;
            }
        }
    });
}

template <typename T, int O>
void backward_x(const float* g, const float* weights, const T* x, const float* by, const float* plus, T* g_x,
                const Shape& s, int threads) {
    const Size W = s.size[2], K = s.kernel[2], half = K / 2, nodes = s.nodes();
    at_rows(s, -1, threads, [=](Size, Size row, const Reach& reach) {
        const Size at = row * W, sample = at / nodes;
        const float* from = g + sample * (O - 1) * nodes;
        for (Size w = 0; w < W;) {
            T* out = g_x + (at + w) * s.channels;
            const T* here = by ? x + (at + w) * s.channels : x;
            if (w >= half && w + BACKWARD - 1 + half < W) {
                backward_some<BACKWARD, T, O>(from, weights, here, by, plus, out, s, reach, w, 0, K);
                w += BACKWARD;
            } else {
                const Size first = std::max<Size>(0, w + half + 1 - W), last = std::min(K, w + half + 1);
                backward_some<1, T, O>(from, weights, here, by, plus, out, s, reach, w, first, last);
                w += 1;
            }
        }
    });
}

// What a row of W nodes of x and of y's gradient adds to the gradient of K taps on a line; each number of x is read once.
template <int K, typename T, int O>
inline void along_row(const T* x, const float* g, float* g_weights, const Shape& s, Size W, Size pack) {
    const Size half = K / 2;
    Lanes total[K][O] = {};
    const auto visit = [&](Size w, bool inside) {
        const Lanes v = load(x + w * s.channels);
#pragma GCC unroll 8
        for (int k = 0; k < K; ++k) {
            const Size at = w + half - k;
            if (!inside && (at < 0 || at >= W)) continue;
            for (int o = 0; o < O; ++o) total[k][o] += g[o * s.nodes() + at] * v;
        }
    };
    Size w = 0;
    for (; w < std::min(half, W); ++w) visit(w, false);
    for (; w < W - half; ++w) visit(w, true);
    for (; w < W; ++w) visit(w, false);
    for (int k = 0; k < K; ++k)
        for (int o = 0; o < O; ++o) {
            float* to = g_weights + (k * O + o) * pack;
            store(to, load(to) + total[k][o]);
        }
}

template <typename T, int O>
void backward_weights(const T* x, const float* g, float* g_weights, const Shape& s, int threads) {
    const Size W = s.size[2], K = s.kernel[2], nodes = s.nodes(), pack = s.blocks * L;
    const Size parts = std::max(1, threads), length = s.taps() * O * pack;
    std::vector<float> partial(parts * length, 0.0f);
    float* all = partial.data();
    at_rows(s, 1, threads, [=](Size part, Size row, const Reach& reach) {
        float* mine = all + part * length;
        const Size at = row * W, sample = at / nodes;
        const float* here = g + sample * O * nodes + at % nodes;
        for (int r = 0; r < reach.count; ++r)
            for (Size b = 0; b < s.blocks; ++b) {
                const T* from = x + reach.node[r] * s.channels + s.start(b);
                float* to = mine + reach.tap[r] * O * pack + b * L;
                if (K == 3) along_row<3, T, O>(from, here, to, s, W, pack);
                else if (K == 5) along_row<5, T, O>(from, here, to, s, W, pack);
                else
                    for (Size k = 0; k < K; ++k) {  // one by one
                        const Size shift = k - K / 2, begin = std::max<Size>(0, -shift), end = std::min(W, W - shift);
                        if (begin >= end) continue;  // a tap that no node of so short a row meets
                        const T* shifted = from + (begin + shift) * s.channels;
                        along_row<1, T, O>(shifted, here + begin, to + k * O * pack, s, end - begin, pack);
                    }
            }
    });
    for (Size i = 0; i < length; ++i) {
        float total = 0;
        for (Size part = 0; part < parts; ++part) total += partial[part * length + i];
        g_weights[i] = total;
    }
}

Shape shape_of(const Size* s) { return {s[0], {s[1], s[2], s[3]}, s[4], {s[5], s[6], s[7]}, (s[4] + L - 1) / L}; }

}  // namespace

extern "C" int foldless_lanes() { return L; }

// shape: batch, depth, height, width, channels, kernel depth, height, width. `outputs` is 1, 2 or 3. `shift`, and `x`
// with `by` and `plus`, are null where x is not normalised.
#define FOLDLESS_THIN(T, NAME)                                                                                           \
    extern "C" Status foldless_thin_##NAME(const T* x, const float* weights, const float* bias, const float* shift,      \
                                           float* y, const Size* shape, int outputs, int threads) {                      \
        return status_of([&] {                                                                                           \
            auto run = outputs == 1 ? forward<T, 1> : outputs == 2 ? forward<T, 2> : forward<T, 3>;                      \
            run(x, weights, bias, shift, y, shape_of(shape), threads);                                                   \
        });                                                                                                              \
    }                                                                                                                    \
    extern "C" Status foldless_thin_backward_x_##NAME(const float* g, const float* weights, const T* x, const float* by, \
                                                      const float* plus, T* g_x, const Size* shape, int outputs,         \
                                                      int threads) {                                                     \
        return status_of([&] {                                                                                           \
            auto run = outputs == 1 ? backward_x<T, 1> : outputs == 2 ? backward_x<T, 2> : backward_x<T, 3>;             \
            run(g, weights, x, by, plus, g_x, shape_of(shape), threads);                                                 \
        });                                                                                                              \
    }                                                                                                                    \
    extern "C" Status foldless_thin_backward_weights_##NAME(const T* x, const float* g, float* g_weights,                \
                                                            const Size* shape, int outputs, int threads) {               \
        return status_of([&] {                                                                                           \
            auto run =                                                                                                   \
                outputs == 1 ? backward_weights<T, 1> : outputs == 2 ? backward_weights<T, 2> : backward_weights<T, 3>;  \
            run(x, g, g_weights, shape_of(shape), threads);                                                              \
        });                                                                                                              \
    }

FOLDLESS_THIN(float, f32)
FOLDLESS_THIN(BFloat16, bf16)
