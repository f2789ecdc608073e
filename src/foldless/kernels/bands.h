// A matrix with few numbers a row, all side by side: row j of it holds `taps` weights for the nodes from start[j] on.

#pragma once

#include <algorithm>

#include "wide.h"

namespace foldless {
namespace {

template <typename T>
struct Bands {
    const Size* start;  // (to)
    const T* weight;    // (taps, to)
    Size from, to, taps;

    // Of one line of `from` numbers that lie side by side, `to` numbers.
    void apply(const T* line, T* out) const {
        for (Size j = 0; j < to; ++j) out[j] = weight[j] * line[start[j]];
        for (Size k = 1; k < taps; ++k)
            for (Size j = 0; j < to; ++j) out[j] += weight[k * to + j] * line[start[j] + k];
    }
};

}  // namespace
}  // namespace foldless
