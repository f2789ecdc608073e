// What batch and instance normalisation need, forward and backward: two sums a channel, and a combination of two tensors.
//
// p, q and out are (groups, rows, channels), channels-last memory, float or bfloat16; channels a multiple of L. Batch
// normalisation is one group of all samples' voxels, instance normalisation a group a sample.

#include <vector>

#include "lanes.h"
#include "status.h"

namespace {

using namespace foldless;

// sums (groups, 2, channels): Σ p and Σ p·q over the rows. Float within a block of rows, double between blocks.
template <typename T>
void reduce(const T* p, const T* q, double* sums, Size groups, Size rows, Size channels, int threads) {
    constexpr Size block = 256;
    const Size parts = std::max(1, threads), length = groups * 2 * channels;
    std::vector<double> partial(parts * length, 0.0);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (Size part = 0; part < parts; ++part)
        for (Size group = 0; group < groups; ++group) {
            double* mine = partial.data() + part * length + group * 2 * channels;
            const Size from = part * rows / parts, to = (part + 1) * rows / parts;
            for (Size begin = from; begin < to; begin += block) {
                const Size end = std::min(begin + block, to);
                for (Size c = 0; c < channels; c += L) {
                    constexpr int N = 4;  // chains of additions that need not wait for each other
                    Lanes sum[N] = {}, product[N] = {};
                    for (Size row = begin; row < end; row += N)
                        for (int n = 0; n < std::min<Size>(N, end - row); ++n) {
                            const Size at = (group * rows + row + n) * channels + c;
                            const Lanes v = load(p + at);
                            sum[n] += v;
                            product[n] += v * load(q + at);
                        }
                    for (int i = 0; i < L; ++i)
                        for (int n = 0; n < N; ++n) {
                            mine[c + i] += sum[n][i];
                            mine[channels + c + i] += product[n][i];
                        }
                }
            }
        }
    for (Size i = 0; i < length; ++i) {
        sums[i] = 0;
        for (Size part = 0; part < parts; ++part) sums[i] += partial[part * length + i];
    }
}

// out = a·p + b·q + c with a, b, c (groups, channels); b is not read where q is null.
template <typename T>
void combine(const T* p, const T* q, const float* a, const float* b, const float* c, T* out, Size groups, Size rows,
             Size channels, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (Size row = 0; row < groups * rows; ++row) {
        const Size group = row / rows * channels;
        for (Size i = 0; i < channels; i += L) {
            const Size at = row * channels + i;
            Lanes v = load(c + group + i) + load(a + group + i) * load(p + at);
            if (q) v += load(b + group + i) * load(q + at);
            store(out + at, v);
        }
    }
}

}  // namespace

#define FOLDLESS_NORM(T, NAME)                                                                                    \
    extern "C" Status foldless_norm_reduce_##NAME(const T* p, const T* q, double* sums, Size groups, Size rows,   \
                                                  Size channels, int threads) {                                   \
        return status_of([&] { reduce(p, q, sums, groups, rows, channels, threads); });                           \
    }                                                                                                             \
    extern "C" Status foldless_norm_combine_##NAME(const T* p, const T* q, const float* a, const float* b,        \
                                                   const float* c, T* out, Size groups, Size rows, Size channels, \
                                                   int threads) {                                                 \
        return status_of([&] { combine(p, q, a, b, c, out, groups, rows, channels, threads); });                  \
    }

FOLDLESS_NORM(float, f32)
FOLDLESS_NORM(BFloat16, bf16)
