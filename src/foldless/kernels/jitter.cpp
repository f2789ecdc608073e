// Jittered points for whoever wants them in memory; consistency.cpp makes its own.

#include "jitter.h"
#include "status.h"

namespace {

using namespace foldless;

template <typename T, int D>
void fill(T* points, Size batch, const Size* shape, std::uint64_t seed, int threads) {
    Size count = 1;
    for (int d = 0; d < D; ++d) count *= shape[d];
    const Size pieces = (count + BUNCH - 1) / BUNCH;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (Size part = 0; part < batch * pieces; ++part) {
        const Size sample = part / pieces, begin = part % pieces * BUNCH;
        jitter<T, D>(shape, seed, sample, begin, std::min(BUNCH, count - begin), points + sample * D * count + begin,
                     count);
    }
}

}  // namespace

// points: (batch, dim, *shape).
#define FOLDLESS_JITTER(T, NAME)                                                                               \
    extern "C" Status foldless_jitter_##NAME(T* points, Size batch, Size dim, const Size* shape,               \
                                             std::uint64_t seed, int threads) {                                \
        return status_of([&] {                                                                                 \
            (dim == 1 ? fill<T, 1> : dim == 2 ? fill<T, 2> : fill<T, 3>)(points, batch, shape, seed, threads); \
        });                                                                                                    \
    }

FOLDLESS_JITTER(float, f32)
FOLDLESS_JITTER(double, f64)
