// A vector register of floats, filled from and emptied to float or bfloat16 memory.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace foldless {

using Size = std::int64_t;
#ifdef __AVX512F__
constexpr int L = 16;
#else
constexpr int L = 8;
#endif
typedef float Lanes __attribute__((vector_size(L * sizeof(float))));
typedef std::uint16_t Half __attribute__((vector_size(L * sizeof(std::uint16_t))));
typedef std::uint32_t Word __attribute__((vector_size(L * sizeof(std::uint32_t))));

struct BFloat16 {
    std::uint16_t bits;
};

inline Lanes load(const float* p) {
    Lanes v;
    std::memcpy(&v, p, sizeof v);
    return v;
}
inline Lanes load(const BFloat16* p) {
    Half half;
    std::memcpy(&half, p, sizeof half);
    const Word word = __builtin_convertvector(half, Word) << 16;
    Lanes v;
    std::memcpy(&v, &word, sizeof v);
    return v;
}
inline void store(float* p, Lanes v) { std::memcpy(p, &v, sizeof v); }
inline void store(BFloat16* p, Lanes v) {  // to the nearest, ties to even
    Word bits;
    std::memcpy(&bits, &v, sizeof bits);
    const Word rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    const Half half = __builtin_convertvector(v == v ? rounded : Word{} + 0x7fc0, Half);
    std::memcpy(p, &half, sizeof half);
}
// One number of such memory.
inline float load_one(const float* p) { return *p; }
inline float load_one(const BFloat16* p) {
    const std::uint32_t word = std::uint32_t(p->bits) << 16;
    float value;
    std::memcpy(&value, &word, sizeof value);
    return value;
}
inline void store_one(float* p, float value) { *p = value; }
inline void store_one(BFloat16* p, float value) {
    BFloat16 all[L];
    store(all, Lanes{} + value);
    *p = all[0];
}
// What a gradient is multiplied by on its way back through leaky_relu, at x.
inline Lanes slope(Lanes x) { return x > 0 ? Lanes{} + 1.0f : Lanes{} + 0.01f; }
inline float slope(float x) { return x > 0 ? 1.0f : 0.01f; }
// Halves added to each other: as many steps as bits, where adding lane by lane would wait for each.
inline float sum(Lanes v) {
    typedef float Eight __attribute__((vector_size(32)));
    typedef float Four __attribute__((vector_size(16)));
#ifdef __AVX512F__
    const Eight eight = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) +
                        __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
#else
    const Eight eight = v;
#endif
    const Four four = __builtin_shufflevector(eight, eight, 0, 1, 2, 3) +
                      __builtin_shufflevector(eight, eight, 4, 5, 6, 7);
    return (four[0] + four[2]) + (four[1] + four[3]);
}
// The sums of four, each in a lane: halves of two side by side added to the other halves, until one is left.
typedef float Four __attribute__((vector_size(16)));
inline Four sums(const Lanes* v) {
#ifdef __AVX512F__
    const auto halved = [](Lanes a, Lanes b) {
        return __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
               __builtin_shufflevector(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
    };
    const Lanes a = halved(v[0], v[1]), b = halved(v[2], v[3]);
    const Lanes fours = __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
                        __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
    typedef float Eight __attribute__((vector_size(32)));
    const Eight twos = __builtin_shufflevector(fours, fours, 0, 1, 4, 5, 8, 9, 12, 13) +
                       __builtin_shufflevector(fours, fours, 2, 3, 6, 7, 10, 11, 14, 15);
#else
    const auto halved = [](Lanes a, Lanes b) {
        return __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11) +
               __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
    };
    const Lanes a = halved(v[0], v[1]), b = halved(v[2], v[3]);
    const Lanes twos = __builtin_shufflevector(a, b, 0, 1, 4, 5, 8, 9, 12, 13) +
                       __builtin_shufflevector(a, b, 2, 3, 6, 7, 10, 11, 14, 15);
#endif
    return __builtin_shufflevector(twos, twos, 0, 2, 4, 6) + __builtin_shufflevector(twos, twos, 1, 3, 5, 7);
}

}  // namespace foldless
