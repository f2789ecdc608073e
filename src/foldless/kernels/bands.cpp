// A banded matrix applied along one axis: (outer, from, inner) becomes (outer, to, inner).
//
// Blurring, reading off another lattice and the adjoint of both are such matrices, and so are their products.

#include "bands.h"

#include "status.h"

namespace {

using namespace foldless;

constexpr Size LEAST = 1 << 12;  // numbers that a thread takes at once

template <typename T>
void across(const Bands<T>& bands, const T* in, T* out, Size inner, Size j) {
    const T* line = in + bands.start[j] * inner;
    for (Size i = 0; i < inner; ++i) out[i] = bands.weight[j] * line[i];
    for (Size k = 1; k < bands.taps; ++k) {
        const T weight = bands.weight[k * bands.to + j];
        line += inner;
        if (weight == T(0)) continue;  // where rows are shorter than the longest
        for (Size i = 0; i < inner; ++i) out[i] += weight * line[i];
    }
}

template <typename T>
void apply(const Bands<T>& bands, const T* in, T* out, Size outer, Size inner, int threads) {
    if (inner == 1) {
#pragma omp parallel for schedule(static, std::max<Size>(1, LEAST / bands.from)) num_threads(threads)
        for (Size o = 0; o < outer; ++o) bands.apply(in + o * bands.from, out + o * bands.to);
        return;
    }
#pragma omp parallel for schedule(static, std::max<Size>(1, LEAST / inner)) num_threads(threads)
    for (Size job = 0; job < outer * bands.to; ++job)
        across(bands, in + job / bands.to * bands.from * inner, out + job * inner, inner, job % bands.to);
}

}  // namespace

#define FOLDLESS_BANDS(T, NAME)                                                                                       \
    extern "C" Status foldless_bands_##NAME(const T* in, T* out, const Size* start, const T* weight, Size from,       \
                                            Size to, Size taps, Size outer, Size inner, int threads) {                \
        return status_of([&] { apply(Bands<T>{start, weight, from, to, taps}, in, out, outer, inner, threads); });    \
    }

FOLDLESS_BANDS(float, f32)
FOLDLESS_BANDS(double, f64)
