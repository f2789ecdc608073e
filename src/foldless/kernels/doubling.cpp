// y += x doubled by linear interpolation (half-pixel centres, borders continue); and the adjoint of doubling, added to a
// gradient on its way back through the activation of x.
//
// Channels-last memory, float or bfloat16: y (batch, size..., channels) with channels a multiple of L, x half its size on
// every axis that exists, with at least as many channels, `pitch`, of which the first are doubled. An axis that
// does not exist has size 1 on both sides.

#include <vector>

#include "lanes.h"
#include "status.h"

namespace {

using namespace foldless;

struct Shape {
    Size batch, coarse[3], fine[3], channels, pitch;
};

// The two coarse nodes that a fine one lies between: 3/4 of the nearer, 1/4 of the other.
struct Between {
    Size near, far;

    Between(Size at, Size coarse, Size fine) {
        near = coarse == fine ? at : at / 2;
        far = coarse == fine ? at : std::clamp<Size>(at % 2 ? near + 1 : near - 1, 0, coarse - 1);
    }
};

template <typename T>
void add_doubled(const T* x, T* y, const Shape& s, int threads) {
    const Size C = s.channels, P = s.pitch, W = s.coarse[2], rows = s.batch * s.fine[0] * s.fine[1];
    const Size parts = std::max(1, threads);
    std::vector<float> lines(parts * W * C);  // of each part the coarse row at a fine row's height and depth
#pragma omp parallel for schedule(static) num_threads(threads)
    for (Size part = 0; part < parts; ++part) {
        float* line = lines.data() + part * W * C;
        for (Size row = part * rows / parts; row < (part + 1) * rows / parts; ++row) {
            const Between h(row % s.fine[1], s.coarse[1], s.fine[1]);
            const Between d(row / s.fine[1] % s.fine[0], s.coarse[0], s.fine[0]);
            const Size sample = row / (s.fine[0] * s.fine[1]);
            const auto at = [&](Size z, Size y) { return x + ((sample * s.coarse[0] + z) * s.coarse[1] + y) * W * P; };
            const T *nn = at(d.near, h.near), *nf = at(d.near, h.far), *fn = at(d.far, h.near), *ff = at(d.far, h.far);
            for (Size w = 0; w < W; ++w)
                for (Size c = 0, i = w * P; c < C; c += L, i += L)
                    store(line + w * C + c, (load(nn + i) * 0.75f + load(nf + i) * 0.25f) * 0.75f +
                                                (load(fn + i) * 0.75f + load(ff + i) * 0.25f) * 0.25f);
            T* out = y + row * s.fine[2] * C;
            for (Size w = 0; w < s.fine[2]; ++w) {
                const Between k(w, W, s.fine[2]);
                const float *near = line + k.near * C, *far = line + k.far * C;
                for (Size c = 0; c < C; c += L)
                    store(out + w * C + c, load(out + w * C + c) + load(near + c) * 0.75f + load(far + c) * 0.25f);
            }
        }
    }
}

// The fine nodes that a coarse one contributes to, and how much to each.
struct Reached {
    int count = 0;
    Size at[4];
    float weight[4];

    Reached(Size node, Size coarse, Size fine) {
        if (coarse == fine) {
            at[0] = node, weight[0] = 1, count = 1;
            return;
        }
        for (Size k = std::max<Size>(0, 2 * node - 1); k < std::min<Size>(fine, 2 * node + 3); ++k) {
            const Between b(k, coarse, fine);
            at[count] = k;
            weight[count++] = (b.near == node ? 0.75f : 0.0f) + (b.far == node ? 0.25f : 0.0f);
        }
    }
};

// g_x back through the activation of x, plus what arrives from g.
template <typename T>
void doubled_adjoint(const T* g, const T* x, T* g_x, const Shape& s, int threads) {
    const Size C = s.channels, W = s.fine[2], rows = s.batch * s.coarse[0] * s.coarse[1];
    const Size parts = std::max(1, threads);
    std::vector<float> lines(parts * W * C);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (Size part = 0; part < parts; ++part) {
        float* line = lines.data() + part * W * C;
        for (Size row = part * rows / parts; row < (part + 1) * rows / parts; ++row) {
            const Reached h(row % s.coarse[1], s.coarse[1], s.fine[1]);
            const Reached d(row / s.coarse[1] % s.coarse[0], s.coarse[0], s.fine[0]);
            const Size sample = row / (s.coarse[0] * s.coarse[1]);
            std::fill(line, line + W * C, 0.0f);
            for (int a = 0; a < d.count; ++a)
                for (int b = 0; b < h.count; ++b) {
                    const T* from = g + ((sample * s.fine[0] + d.at[a]) * s.fine[1] + h.at[b]) * W * C;
                    const float weight = d.weight[a] * h.weight[b];
                    for (Size i = 0; i < W * C; i += L)
                        store(line + i, load(line + i) + load(from + i) * weight);
                }
            const T* at = x + row * s.coarse[2] * s.pitch;
            T* out = g_x + row * s.coarse[2] * s.pitch;
            for (Size w = 0; w < s.coarse[2]; ++w, at += s.pitch, out += s.pitch) {
                const Reached k(w, s.coarse[2], W);
                Size c = 0;
                for (; c + L <= s.pitch; c += L) {
                    Lanes total = load(out + c) * slope(load(at + c));
                    for (int i = 0; c < C && i < k.count; ++i) total += load(line + k.at[i] * C + c) * k.weight[i];
                    store(out + c, total);
                }
                for (; c < s.pitch; ++c) store_one(out + c, load_one(out + c) * slope(load_one(at + c)));
            }
        }
    }
}

Shape shape_of(const Size* s) { return {s[0], {s[1], s[2], s[3]}, {s[4], s[5], s[6]}, s[7], s[8]}; }

}  // namespace

// shape: batch, coarse depth, height, width, fine depth, height, width, channels, pitch.
#define FOLDLESS_DOUBLING(T, NAME)                                                                                      \
    extern "C" Status foldless_add_doubled_##NAME(const T* x, T* y, const Size* shape, int threads) {                   \
        return status_of([&] { add_doubled(x, y, shape_of(shape), threads); });                                         \
    }                                                                                                                   \
    extern "C" Status foldless_doubled_adjoint_##NAME(const T* g, const T* x, T* g_x, const Size* shape, int threads) { \
        return status_of([&] { doubled_adjoint(g, x, g_x, shape_of(shape), threads); });                                \
    }

FOLDLESS_DOUBLING(float, f32)
FOLDLESS_DOUBLING(BFloat16, bf16)
