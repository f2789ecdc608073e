// y += means of x over blocks of two nodes an axis (what is left of one, where the size is odd); and the adjoint, added
// to a gradient on its way back through the activation of x.
//
// Channels-last memory, float or bfloat16: x (batch, fine..., pitch), y (batch, coarse..., pitch); `channels` of them meet,
// the first of x and those of y after the first `behind`.

#include "lanes.h"
#include "status.h"

namespace {

using namespace foldless;

struct Shape {
    Size batch, fine[3], coarse[3], channels, pitch_x, pitch_y, behind;
};

// The fine nodes [begin, end) of a coarse one.
struct Span {
    Size begin, end;

    Span(Size node, Size fine) : begin(2 * node), end(std::min(2 * node + 2, fine)) {}
    Size count() const { return end - begin; }
};

template <typename T>
void add_means(const T* x, T* y, const Shape& s, int threads) {
    const Size C = s.channels, P = s.pitch_x, rows = s.batch * s.coarse[0] * s.coarse[1];
#pragma omp parallel for schedule(static) num_threads(threads)
    for (Size row = 0; row < rows; ++row) {
        const Span h(row % s.coarse[1], s.fine[1]), d(row / s.coarse[1] % s.coarse[0], s.fine[0]);
        const Size sample = row / (s.coarse[0] * s.coarse[1]);
        const T* lines[4];
        int count = 0;
        for (Size z = d.begin; z < d.end; ++z)
            for (Size k = h.begin; k < h.end; ++k)
                lines[count++] = x + ((sample * s.fine[0] + z) * s.fine[1] + k) * s.fine[2] * P;
        for (Size node = 0; node < s.coarse[2]; ++node) {
            const Span w(node, s.fine[2]);
            const float share = 1.0f / static_cast<float>(count * w.count());
            T* out = y + (row * s.coarse[2] + node) * s.pitch_y + s.behind;
            Size c = 0;
            for (; c + L <= C; c += L) {
                Lanes total{};
                for (int i = 0; i < count; ++i)
                    for (Size k = w.begin; k < w.end; ++k) total += load(lines[i] + k * P + c);
                store(out + c, load(out + c) + total * share);
            }
            for (; c < C; ++c) {
                float total = 0;
                for (int i = 0; i < count; ++i)
                    for (Size k = w.begin; k < w.end; ++k) total += load_one(lines[i] + k * P + c);
                store_one(out + c, load_one(out + c) + total * share);
            }
        }
    }
}

// g_x back through the activation of x, plus what arrives from g.
template <typename T>
void means_adjoint(const T* g, const T* x, T* g_x, const Shape& s, int threads) {
    const Size C = s.channels, P = s.pitch_x, rows = s.batch * s.fine[0] * s.fine[1];
#pragma omp parallel for schedule(static) num_threads(threads)
    for (Size row = 0; row < rows; ++row) {
        const Size k = row % s.fine[1] / 2, z = row / s.fine[1] % s.fine[0] / 2, sample = row / (s.fine[0] * s.fine[1]);
        const T* line = g + ((sample * s.coarse[0] + z) * s.coarse[1] + k) * s.coarse[2] * s.pitch_y + s.behind;
        const Size across = Span(k, s.fine[1]).count() * Span(z, s.fine[0]).count();
        for (Size node = 0; node < s.fine[2]; ++node) {
            const float share = 1.0f / static_cast<float>(across * Span(node / 2, s.fine[2]).count());
            const T* from = line + node / 2 * s.pitch_y;
            const T* at = x + (row * s.fine[2] + node) * P;
            T* out = g_x + (row * s.fine[2] + node) * P;
            Size c = 0;
            for (; c + L <= C; c += L)
                store(out + c, load(out + c) * slope(load(at + c)) + load(from + c) * share);
            for (; c < P; ++c) {
                const float arrives = c < C ? load_one(from + c) * share : 0;
                store_one(out + c, load_one(out + c) * slope(load_one(at + c)) + arrives);
            }
        }
    }
}

Shape shape_of(const Size* s) { return {s[0], {s[1], s[2], s[3]}, {s[4], s[5], s[6]}, s[7], s[8], s[9], s[10]}; }

}  // namespace

// shape: batch, fine depth, height, width, coarse depth, height, width, channels, x's pitch, y's pitch, behind.
#define FOLDLESS_HALVING(T, NAME)                                                                                     \
    extern "C" Status foldless_add_means_##NAME(const T* x, T* y, const Size* shape, int threads) {                   \
        return status_of([&] { add_means(x, y, shape_of(shape), threads); });                                         \
    }                                                                                                                 \
    extern "C" Status foldless_means_adjoint_##NAME(const T* g, const T* x, T* g_x, const Size* shape, int threads) { \
        return status_of([&] { means_adjoint(g, x, g_x, shape_of(shape), threads); });                                \
    }

FOLDLESS_HALVING(float, f32)
FOLDLESS_HALVING(BFloat16, bf16)
