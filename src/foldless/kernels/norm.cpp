// What batch and instance normalisation need, forward and backward: two sums a channel, and a combination of two tensors.
//
// p, q and out are (groups, rows, channels), channels-last memory, float or bfloat16; channels a multiple of L. Batch
// normalisation is one group of all samples' voxels, instance normalisation a group a sample.

#include <vector>

#include "lanes.h"
#include "status.h"

namespace {

using namespace foldless;

// One channel a lane, rows [0, rows) of a block: adds Σ p and Σ p·q to two sums.
//
// What is squared, or multiplied by a gradient, is how far q is from the block's first, k: floats would not hold a spread
// beside a mean that is thousands of it. Doubles hold what the sums about 0 follow from. OWN: q is p.
template <bool OWN, typename T>
inline void reduce_block(const T* p, const T* q, double* sum_p, double* sum_pq, Size rows, Size channels) {
    constexpr int N = 4;  // chains of additions that need not wait for each other
    const Lanes k = load(q);
    Lanes sum[N] = {}, product[N] = {};
    for (Size row = 0; row < rows; row += N)
        for (int n = 0; n < std::min<Size>(N, rows - row); ++n) {
            const Size at = (row + n) * channels;
            const Lanes away = load(q + at) - k, v = OWN ? away : load(p + at);
            sum[n] += v;
            product[n] += v * away;
        }
    for (int i = 0; i < L; ++i) {
        const double from = k[i];
        double total = 0, of_products = 0;
        for (int n = 0; n < N; ++n) {
            total += sum[n][i];
            of_products += product[n][i];
        }
        sum_p[i] += OWN ? total + rows * from : total;
        sum_pq[i] += of_products + from * (OWN ? 2 * total + rows * from : total);
    }
}

// sums (groups, 2, channels): Σ p and Σ p·q over the rows. Float within a block of rows, double between blocks.
template <bool OWN, typename T>
void reduce(const T* p, const T* q, double* sums, Size groups, Size rows, Size channels, int threads) {
    constexpr Size block = 256;
    const Size parts = std::max(1, threads), length = groups * 2 * channels;
    std::vector<double> partial(parts * length, 0.0);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (Size part = 0; part < parts; ++part)
        for (Size group = 0; group < groups; ++group) {
            double* mine = partial.data() + part * length + group * 2 * channels;
            const Size from = part * rows / parts, to = (part + 1) * rows / parts;
            for (Size begin = from; begin < to; begin += block)
                for (Size c = 0; c < channels; c += L) {
                    const Size at = (group * rows + begin) * channels + c;
                    reduce_block<OWN>(p + at, q + at, mine + c, mine + channels + c, std::min(block, to - begin), channels);
                }
        }
    for (Size i = 0; i < length; ++i) {
        sums[i] = 0;
        for (Size part = 0; part < parts; ++part) sums[i] += partial[part * length + i];
    }
}

// out = a·p + b·(q - m) + c with a, b, m, c (groups, channels); a is not read where p is null.
template <typename T>
void combine(const T* p, const T* q, const float* a, const float* b, const float* m, const float* c, T* out,
             Size groups, Size rows, Size channels, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (Size row = 0; row < groups * rows; ++row) {
        const Size group = row / rows * channels;
        for (Size i = 0; i < channels; i += L) {
            const Size at = row * channels + i;
            Lanes v = load(c + group + i) + load(b + group + i) * (load(q + at) - load(m + group + i));
            if (p) v += load(a + group + i) * load(p + at);
            store(out + at, v);
        }
    }
}

}  // namespace

#define FOLDLESS_NORM(T, NAME)                                                                                    \
    extern "C" Status foldless_norm_reduce_##NAME(const T* p, const T* q, double* sums, Size groups, Size rows,   \
                                                  Size channels, int threads) {                                   \
        return status_of([&] {                                                                                    \
            (p == q ? reduce<true, T> : reduce<false, T>)(p, q, sums, groups, rows, channels, threads);           \
        });                                                                                                       \
    }                                                                                                             \
    extern "C" Status foldless_norm_combine_##NAME(const T* p, const T* q, const float* a, const float* b,        \
                                                   const float* m, const float* c, T* out, Size groups,           \
                                                   Size rows, Size channels, int threads) {                       \
        return status_of([&] { combine(p, q, a, b, m, c, out, groups, rows, channels, threads); });               \
    }

FOLDLESS_NORM(float, f32)
FOLDLESS_NORM(BFloat16, bf16)
