// Convolutions of few channels with few outputs: what the images themselves add in the last layer of a U-Net.
//
// Everything is planar float: x (batch, channels, depth, height, width), already padded by half a kernel on every side;
// y and its gradient (batch, outputs, *the lattice without padding); weights (outputs, channels, *kernel). A register
// holds neighbours along the width, so few channels waste no lanes.

#include <vector>

#include "lanes.h"
#include "status.h"

namespace {

using namespace foldless;

struct Shape {
    Size batch, channels, outputs, size[3], kernel[3];

    Size nodes() const { return size[0] * size[1] * size[2]; }
    Size rows() const { return batch * size[0] * size[1]; }
    Size taps() const { return kernel[0] * kernel[1] * kernel[2]; }
    Size padded(int axis) const { return size[axis] + kernel[axis] - 1; }
    Size padded_nodes() const { return padded(0) * padded(1) * padded(2); }

    // Where the output's row begins in its plane, and the first row that its kernel reads in a padded plane.
    Size row_out(Size row) const { return row % (size[0] * size[1]) * size[2]; }
    Size row_in(Size row) const {
        const Size z = row / size[1] % size[0], y = row % size[1];
        return (z * padded(1) + y) * padded(2);
    }
    Size tap_in(Size i, Size j) const { return (i * padded(1) + j) * padded(2); }
};

inline void load_to(float& v, const float* p) { v = *p; }
inline void load_to(Lanes& v, const float* p) { v = load(p); }
inline void add_from(float* p, float v) { *p += v; }
inline void add_from(float* p, const Lanes& v) { store(p, load(p) + v); }

// N registers (or single numbers) of neighbours, O outputs from `first` on.
template <typename V, int N, int O>
inline void add_some(const float* x, const float* weights, float* y, const Shape& s, Size width) {
    V total[N][O] = {};
    for (Size c = 0; c < s.channels; ++c)
        for (Size i = 0; i < s.kernel[0]; ++i)
            for (Size j = 0; j < s.kernel[1]; ++j)
                for (Size k = 0; k < s.kernel[2]; ++k) {
                    const float* p = x + c * s.padded_nodes() + s.tap_in(i, j) + k;
                    const float* q = weights + c * s.taps() + (i * s.kernel[1] + j) * s.kernel[2] + k;
                    V v[N];
                    for (int n = 0; n < N; ++n) load_to(v[n], p + n * width);
                    for (int o = 0; o < O; ++o) {
                        const float weight = q[o * s.channels * s.taps()];
                        for (int n = 0; n < N; ++n) total[n][o] += v[n] * weight;
                    }
                }
    for (int n = 0; n < N; ++n)
        for (int o = 0; o < O; ++o) add_from(y + o * s.nodes() + n * width, total[n][o]);
}

template <int O>
void add_row(const float* x, const float* weights, float* y, const Shape& s) {
    constexpr int N = 4;  // chains of additions that need not wait for each other
    Size w = 0;
    for (; w + N * L <= s.size[2]; w += N * L) add_some<Lanes, N, O>(x + w, weights, y + w, s, L);
    for (; w + L <= s.size[2]; w += L) add_some<Lanes, 1, O>(x + w, weights, y + w, s, L);
    for (; w < s.size[2]; ++w) add_some<float, 1, O>(x + w, weights, y + w, s, 1);
}

void add(const float* x, const float* weights, float* y, const Shape& s, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (Size row = 0; row < s.rows(); ++row) {
        const Size sample = row / (s.size[0] * s.size[1]);
        const float* from = x + sample * s.channels * s.padded_nodes() + s.row_in(row);
        float* to = y + sample * s.outputs * s.nodes() + s.row_out(row);
        for (Size o = 0; o < s.outputs; o += 3) {
            const float* w = weights + o * s.channels * s.taps();
            switch (std::min<Size>(3, s.outputs - o)) {
                case 1: add_row<1>(from, w, to + o * s.nodes(), s); break;
                case 2: add_row<2>(from, w, to + o * s.nodes(), s); break;
                default: add_row<3>(from, w, to + o * s.nodes(), s);
            }
        }
    }
}

// Σ g · x along a row, for one output, channel and row of taps; K taps at once.
template <int K>
inline void correlate(const float* x, const float* g, float* g_weights, Size width) {
    Lanes total[K] = {};
    Size w = 0;
    for (; w + L <= width; w += L) {
        const Lanes here = load(g + w);
        for (int k = 0; k < K; ++k) total[k] += here * load(x + w + k);
    }
    for (int k = 0; k < K; ++k) {
        float rest = sum(total[k]);
        for (Size v = w; v < width; ++v) rest += g[v] * x[v + k];
        g_weights[k] += rest;
    }
}

void backward_weights(const float* x, const float* g, float* g_weights, const Shape& s, int threads) {
    const Size parts = std::max(1, threads), length = s.outputs * s.channels * s.taps();
    std::vector<float> partial(parts * length, 0.0f);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (Size part = 0; part < parts; ++part)
        for (Size row = part * s.rows() / parts; row < (part + 1) * s.rows() / parts; ++row) {
            const Size sample = row / (s.size[0] * s.size[1]);
            const float* from = x + sample * s.channels * s.padded_nodes() + s.row_in(row);
            const float* here = g + sample * s.outputs * s.nodes() + s.row_out(row);
            float* mine = partial.data() + part * length;
            for (Size o = 0; o < s.outputs; ++o)
                for (Size c = 0; c < s.channels; ++c)
                    for (Size i = 0; i < s.kernel[0]; ++i)
                        for (Size j = 0; j < s.kernel[1]; ++j, mine += s.kernel[2]) {
                            const float* p = from + c * s.padded_nodes() + s.tap_in(i, j);
                            const float* q = here + o * s.nodes();
                            Size k = 0;
                            for (; k + 3 <= s.kernel[2]; k += 3) correlate<3>(p + k, q, mine + k, s.size[2]);
                            for (; k < s.kernel[2]; ++k) correlate<1>(p + k, q, mine + k, s.size[2]);
                        }
        }
    for (Size i = 0; i < length; ++i) {
        g_weights[i] = 0;
        for (Size part = 0; part < parts; ++part) g_weights[i] += partial[part * length + i];
    }
}

Shape shape_of(const Size* s) { return {s[0], s[1], s[2], {s[3], s[4], s[5]}, {s[6], s[7], s[8]}}; }

}  // namespace

// shape: batch, channels, outputs, depth, height, width, kernel depth, height, width. y is added to.
extern "C" Status foldless_planar_add(const float* x, const float* weights, float* y, const Size* shape, int threads) {
    return status_of([&] { add(x, weights, y, shape_of(shape), threads); });
}
extern "C" Status foldless_planar_backward_weights(const float* x, const float* g, float* g_weights, const Size* shape,
                                                   int threads) {
    return status_of([&] { backward_weights(x, g, g_weights, shape_of(shape), threads); });
}
