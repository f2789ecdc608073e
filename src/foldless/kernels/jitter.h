// The nodes of a lattice on the unit cube, each moved by Gaussian noise of a voxel on every axis.
//
// The noise of a node is a function of the seed and of its place, so that it does not matter which thread asks for it
// when. jitter.py computes the same in torch.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "wide.h"

namespace foldless {
namespace {

typedef std::uint32_t Words __attribute__((vector_size(BYTES)));
constexpr int WORDS = BYTES / 4;

// Every bit of the result depends on all of x (lowbias32).
template <typename Word>
inline Word mixed(Word x) {
    x ^= x >> 16;
    x *= 0x7feb352du;
    x ^= x >> 15;
    x *= 0x846ca68bu;
    return x ^ (x >> 16);
}

// What tells the nodes of one plane, an axis of a sample, from those of all others.
struct Key {
    std::uint32_t first, second;

    Key(std::uint64_t seed, Size plane) {
        const auto low = static_cast<std::uint32_t>(seed), high = static_cast<std::uint32_t>(seed >> 32);
        const auto number = static_cast<std::uint32_t>(plane);
        first = mixed(number ^ low);
        second = mixed(mixed(number ^ high) + 0x9e3779b9u);
    }
};

using Floats = Wide<float>::V;

inline Floats logarithm(Floats y) {  // of normal numbers; Cephes
    using I = Wide<float>::I;
    I bits;
    std::memcpy(&bits, &y, sizeof bits);
    const I exponent = (bits - 0x3f3504f3) >> 23;  // so that what is left lies around 1
    bits -= exponent << 23;
    Floats m;
    std::memcpy(&m, &bits, sizeof m);
    const Floats e = __builtin_convertvector(exponent, Floats), r = m - 1.0f, z = r * r;
    constexpr float p[] = {7.0376836292e-2f, -1.1514610310e-1f, 1.1676998740e-1f, -1.2420140846e-1f, 1.4249322787e-1f,
                           -1.6668057665e-1f, 2.0000714765e-1f, -2.4999993993e-1f, 3.3333331174e-1f};
    Floats sum = Floats{} + p[0];
    for (int i = 1; i < 9; ++i) sum = sum * r + p[i];
    return r + (r * z * sum - e * 2.12194440e-4f - 0.5f * z) + e * 0.693359375f;
}

// 23 of a word's bits as a standard normal number: sqrt(2) erfinv of where they lie between -1 and 1 (Giles 2010).
inline Floats normal(Words word) {
    using I = Wide<float>::I;
    const I place = (I)(word >> 9) * 2 + (1 - (1 << 23));
    const Floats v = __builtin_convertvector(place, Floats) * 0x1p-23f;
    const Floats w = -logarithm((1.0f - v) * (1.0f + v));
    alignas(BYTES) float root[WORDS];
    store(root, w);
    for (float& number : root) number = std::sqrt(number);
    constexpr float inner[] = {2.81022636e-08f, 3.43273939e-07f, -3.5233877e-06f, -4.39150654e-06f, 0.00021858087f,
                               -0.00125372503f, -0.00417768164f, 0.246640727f,   1.50140941f};
    constexpr float outer[] = {-0.000200214257f, 0.000100950558f, 0.00134934322f, -0.00367342844f, 0.00573950773f,
                               -0.0076224613f,   0.00943887047f,  1.00167406f,    2.83297682f};
    const Floats near = w - 2.5f, far = load<Floats>(root) - 3.0f;
    Floats a = Floats{} + inner[0], b = Floats{} + outer[0];
    for (int i = 1; i < 9; ++i) a = a * near + inner[i], b = b * far + outer[i];
    return (w < 5.0f ? a : b) * v * 1.41421356f;
}

constexpr Size BUNCH = 4096;  // points of a sample that are moved at once

// Points [begin, begin + some) of a sample, at most BUNCH, a row of `pitch` numbers an axis.
template <typename T, int D>
void jitter(const Size* shape, std::uint64_t seed, Size sample, Size begin, Size some, T* points, Size pitch) {
    alignas(BYTES) float noise[BUNCH];
    Size stride = 1;
    for (int d = D - 1; d >= 0; stride *= shape[d--]) {
        const Key key(seed, sample * D + d);
        for (Size i = 0; i < some; i += WORDS) {
            Words word;
            for (int k = 0; k < WORDS; ++k) word[k] = static_cast<std::uint32_t>(begin + i + k);
            store(noise + i, normal(mixed(mixed(word ^ key.first) + key.second)));
        }
        const T last = static_cast<T>(std::max<Size>(shape[d] - 1, 1)), voxel = T(1) / last;
        T* row = points + d * pitch;
        for (Size i = 0, run; i < some; i += run) {  // nodes with one coordinate, or all of a line's
            const Size node = (begin + i) / stride % shape[d];
            run = std::min(some - i, d == D - 1 ? shape[d] - node : stride - (begin + i) % stride);
            const int along = d == D - 1, from = static_cast<int>(node);
            for (int k = 0; k < static_cast<int>(run); ++k)
                row[i + k] = static_cast<T>(noise[i + k]) * voxel + static_cast<T>(from + along * k) / last;
        }
    }
}

}  // namespace
}  // namespace foldless
