// Local normalised cross correlation: its mean over an image, and the gradient of that, with nothing kept but the latter.
//
// Images (images, depth, height, width); a mask (samples, depth, height, width) or null. Windows are products of one
// symmetric kernel an axis, with zeros outside. The plain form in similarity.LNCC is the referee.
//
// Windows are summed axis by axis, directly: nothing cancels as in running sums, and box and Gaussian are the same. A
// tile's sums along the first axis stay in the cache until the others are taken. The gradient is closed: the derivatives
// by the windows' averages, averaged under the same windows.
//
// In double, moments are taken about a mean of each image, or variances would cancel where intensities are far from zero.
// The zeros outside are then minus that mean, which counts by the share of the window that lies there. In float,
// intensities are about 1 at most, as LNCC sees to.

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#include "scratch.h"
#include "status.h"
#include "wide.h"

namespace {

using namespace foldless;

constexpr Size HEIGHT = 32, DEPTH = 32;  // of a tile

template <typename T>
struct Window {
    Size shape[3], reach[3];
    const T* weight[3];          // 2 reach + 1 numbers an axis
    std::vector<T> outside[3];  // at every node of an axis: the share of the weights that lies outside

    // Of whole windows exactly 0: the mean it is multiplied by may be large.
    void measure() {
        for (int d = 0; d < 3; ++d) {
            const Size n = shape[d], r = reach[d];
            double total = 0;
            for (Size k = 0; k <= 2 * r; ++k) total += weight[d][k];
            outside[d].assign(n, T(0));
            for (Size i = 0; i < n; ++i) {
                double missing = 0;
                for (Size k = 0; k < r - i; ++k) missing += weight[d][k];
                for (Size k = n - i + r; k <= 2 * r; ++k) missing += weight[d][k];
                outside[d][i] = static_cast<T>(missing / total);
            }
        }
    }
    Size nodes() const { return shape[0] * shape[1] * shape[2]; }
};

template <typename T>
struct Settings {
    T scale;    // what turns a weighted sum into an average
    T epsilon;  // added to each variance; squared, to their product
    bool squared;
    double share;  // of a voxel's correlation in the mean
};

template <typename V, typename T>
inline V load_some(const T* from, Size some) {
    if (some >= static_cast<Size>(sizeof(V) / sizeof(T))) return load<V>(from);
    V v = {};
    std::memcpy(&v, from, some * sizeof(T));
    return v;
}

template <typename T>
constexpr bool CENTRED = std::is_same_v<T, double>;

constexpr double NOISE = 16 * std::numeric_limits<double>::epsilon();  // of a mean square: less is no variance

// An image and the mean that its moments are taken about.
template <typename T>
struct Centred {
    const T* values;
    T mean;

    // Up to a register from `at` on, zeros beyond `some`.
    template <typename V>
    V load_some_at(Size at, Size some) const {
        if (!CENTRED<T>) return load_some<V>(values + at, some);
        if (some >= static_cast<Size>(sizeof(V) / sizeof(T))) return load<V>(values + at) - mean;
        V v = {};
        for (Size i = 0; i < some; ++i) v[i] = values[at + i] - mean;
        return v;
    }
};

// The mean of an image under its mask; in chunks, so that threads do not change it.
template <typename T>
T mean_of(const T* values, const T* mask, Size nodes, int threads) {
    if (!CENTRED<T>) return T(0);
    constexpr Size CHUNK = 1 << 15;
    const Size chunks = (nodes + CHUNK - 1) / CHUNK;
    std::vector<double> sums(chunks), weights(chunks);
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (Size chunk = 0; chunk < chunks; ++chunk) {
        const Size from = chunk * CHUNK, to = std::min(nodes, from + CHUNK);
        double sum = 0, weight = 0;
        if (mask) {
#pragma omp simd reduction(+ : sum, weight)
            for (Size i = from; i < to; ++i)
                sum += static_cast<double>(mask[i] * values[i]), weight += static_cast<double>(mask[i]);
        } else {
#pragma omp simd reduction(+ : sum)
            for (Size i = from; i < to; ++i) sum += static_cast<double>(values[i]);
            weight = static_cast<double>(to - from);
        }
        sums[chunk] = sum, weights[chunk] = weight;
    }
    double sum = 0, weight = 0;
    for (Size chunk = 0; chunk < chunks; ++chunk) sum += sums[chunk], weight += weights[chunk];
    return static_cast<T>(weight > 0 ? sum / weight : 0);
}

// Weighted sums of Q quantities in the window around every voxel of a tile. `quantities(at, some, q)` reads up to a
// register of them; `visit(at, sums)` gets a row at a time.
template <typename T, int Q, typename Read, typename Visit>
void sum_tile(const Window<T>& w, Size z0, Size z1, Size y0, Size y1, Read quantities, Visit visit) {
    using V = typename Wide<T>::V;
    constexpr Size W = Wide<T>::W;
    const Size X = w.shape[2], width = (X + W - 1) / W * W, long_row = width + 2 * w.reach[2];
    const Size from = std::max<Size>(0, y0 - w.reach[1]), to = std::min(w.shape[1], y1 + w.reach[1]);
    Scratch<T> slice(Q * (to - from) * width), row(Q * long_row), sums(Q * width);
    std::fill(row.data(), row.data() + Q * long_row, T(0));
    for (Size z = z0; z < z1; ++z) {
        const Size first = std::max<Size>(0, z - w.reach[0]), last = std::min(w.shape[0] - 1, z + w.reach[0]);
        for (Size y = from; y < to; ++y)
            for (Size x = 0; x < X; x += W) {
                V total[Q] = {}, q[Q];
                for (Size k = first; k <= last; ++k) {
                    quantities((k * w.shape[1] + y) * X + x, X - x, q);
                    const T weight = w.weight[0][k - z + w.reach[0]];
                    for (int i = 0; i < Q; ++i) total[i] += weight * q[i];
                }
                for (int i = 0; i < Q; ++i) store(&slice[(i * (to - from) + y - from) * width + x], total[i]);
            }
        for (Size y = y0; y < y1; ++y) {
            const Size top = std::max(from, y - w.reach[1]), bottom = std::min(to - 1, y + w.reach[1]);
            for (int i = 0; i < Q; ++i) {
                for (Size x = 0; x < width; x += W) {
                    V total = {};
                    for (Size k = top; k <= bottom; ++k)
                        total += w.weight[1][k - y + w.reach[1]] *
                                 load<V>(&slice[(i * (to - from) + k - from) * width + x]);
                    store(&row[i * long_row + w.reach[2] + x], total);
                }
                for (Size x = 0; x < width; x += W) {
                    V total = {};
                    for (Size k = 0; k <= 2 * w.reach[2]; ++k)
                        total += w.weight[2][k] * load<V>(&row[i * long_row + x + k]);
                    store(&sums[i * width + x], total);
                }
            }
            visit((z * w.shape[1] + y) * X, sums.data(), width);
        }
    }
}

// The correlation's derivatives, by the averages of ab, aa, a, bb and b.
enum { BY_AB, BY_AA, BY_A, BY_BB, BY_B };

// Where a row lies outside: what its windows lack along the other axes together, and at each node of its own.
template <typename T>
struct Border {
    T others;
    const T* own;
    T mean_a, mean_b;  // of the two images
};

// A row's correlations from its sums (w, where there is a mask,) a, b, aa, bb, ab; how much they add to the mean.
template <typename T, bool MASKED, int WANTED>
double correlate_row(const T* sums, Size width, const T* mask, Size count, const Settings<T>& s, const Border<T>& border,
                     T* const* slopes) {
    const T* moment = sums + (MASKED ? width : 0);
    T* slope[5];
    for (int i = 0; i < WANTED; ++i) slope[i] = slopes[i];
    double total = 0;
#pragma omp simd reduction(+ : total)
    for (Size x = 0; x < count; ++x) {
        T scale = s.scale, share = static_cast<T>(s.share);
        if (MASKED) {
            const T inside = s.scale * sums[x];
            scale = s.scale / (inside > T(1e-6) ? inside : T(1e-6));
            share *= mask[x];
        }
        T off_a = 0, off_b = 0;  // what lies outside, by its share
        if (CENTRED<T> && !MASKED) {
            const T outside = border.others + border.own[x] - border.others * border.own[x];
            off_a = outside * border.mean_a, off_b = outside * border.mean_b;
        }
        const T a = scale * moment[x] - off_a, b = scale * moment[width + x] - off_b;
        const T square_a = scale * moment[2 * width + x] + off_a * border.mean_a, raw_a = square_a - a * a;
        const T square_b = scale * moment[3 * width + x] + off_b * border.mean_b, raw_b = square_b - b * b;
        const T least_a = CENTRED<T> ? T(NOISE) * square_a : T(0), least_b = CENTRED<T> ? T(NOISE) * square_b : T(0);
        const T variance_a = raw_a > least_a ? raw_a : T(0), variance_b = raw_b > least_b ? raw_b : T(0);
        const T product = variance_a * variance_b;
        T covariance = scale * moment[4 * width + x] + off_a * border.mean_b - a * b;
        if (CENTRED<T>) covariance = product > T(0) ? covariance : T(0);
        T correlation, by_ab, by_aa, by_bb;
        if (s.squared) {
            const T inverse = T(1) / (product + s.epsilon);
            const T square = covariance * covariance;
            correlation = (square < product ? square : product) * inverse;  // as Cauchy and Schwarz say; rounding knows not
            by_ab = 2 * covariance * inverse;
            by_aa = -correlation * variance_b * inverse;
            by_bb = -correlation * variance_a * inverse;
        } else {
            const T wide_a = variance_a + s.epsilon, wide_b = variance_b + s.epsilon;
            by_ab = T(1) / std::sqrt(wide_a * wide_b);
            correlation = covariance * by_ab;
            correlation = correlation > T(1) ? T(1) : correlation < T(-1) ? T(-1) : correlation;
            by_aa = -correlation / (2 * wide_a);
            by_bb = -correlation / (2 * wide_b);
        }
        if (CENTRED<T>) by_ab = variance_a > T(0) || variance_b > T(0) ? by_ab : T(0);  // both constant
        by_aa = raw_a >= T(0) ? by_aa : T(0);
        by_bb = raw_b >= T(0) ? by_bb : T(0);
        total += static_cast<double>(MASKED ? mask[x] * correlation : correlation);
        const T factor = share * scale;
        if (WANTED > 0) {
            slope[BY_AB][x] = factor * by_ab;
            slope[BY_AA][x] = factor * by_aa;
            slope[BY_A][x] = -factor * (b * by_ab + 2 * a * by_aa);
        }
        if (WANTED > 3) {
            slope[BY_BB][x] = factor * by_bb;
            slope[BY_B][x] = -factor * (a * by_ab + 2 * b * by_bb);
        }
    }
    return total;
}

// One image: what its correlations add up to, and the gradient of its share of the mean where that is wanted.
template <typename T, bool MASKED, int WANTED>
double correlate_image(const Window<T>& w, const T* a, const T* b, const T* mask, T* g_a, T* g_b, const Settings<T>& s,
                       int threads) {
    using V = typename Wide<T>::V;
    const Size nodes = w.nodes(), plane = w.shape[1] * w.shape[2], height = std::max(HEIGHT, 2 * w.reach[1]);
    const Size rows = (w.shape[1] + height - 1) / height, layers = (w.shape[0] + DEPTH - 1) / DEPTH;
    const Centred<T> of_a{a, mean_of(a, mask, nodes, threads)}, of_b{b, mean_of(b, mask, nodes, threads)};
    Scratch<T> slopes(WANTED * nodes);
    std::vector<double> partial(rows * layers);
    Carrier carrier;
    const auto tile = [&](Size job, auto of) {
        const Size z = job / rows * DEPTH, y = job % rows * height;
        carrier.run([&] { of(z, std::min(z + DEPTH, w.shape[0]), y, std::min(y + height, w.shape[1])); });
    };
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (threads > 1)
    for (Size job = 0; job < rows * layers; ++job)
        tile(job, [&](Size z0, Size z1, Size y0, Size y1) {
            const auto read = [&](Size at, Size some, V* q) {
                const V va = of_a.template load_some_at<V>(at, some), vb = of_b.template load_some_at<V>(at, some);
                V wa = va, wb = vb;
                if (MASKED) {
                    *q = load_some<V>(mask + at, some);
                    wa *= *q, wb *= *q, ++q;
                }
                q[0] = wa, q[1] = wb, q[2] = wa * va, q[3] = wb * vb, q[4] = wa * vb;
            };
            sum_tile<T, MASKED ? 6 : 5>(w, z0, z1, y0, y1, read, [&](Size at, const T* sums, Size width) {
                T* to[5];
                for (int i = 0; i < WANTED; ++i) to[i] = &slopes[i * nodes + at];
                const T deep = w.outside[0][at / plane], high = w.outside[1][at % plane / w.shape[2]];
                const Border<T> border{deep + high - deep * high, w.outside[2].data(), of_a.mean, of_b.mean};
                partial[job] +=
                    correlate_row<T, MASKED, WANTED>(sums, width, mask + (MASKED ? at : 0), w.shape[2], s, border, to);
            });
        });
    carrier.deliver();
    double total = 0;
    for (const double part : partial) total += part;
    if constexpr (WANTED > 0) {
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (threads > 1)
        for (Size job = 0; job < rows * layers; ++job)
            tile(job, [&](Size z0, Size z1, Size y0, Size y1) {
                const auto read = [&](Size at, Size some, V* q) {
                    for (int i = 0; i < WANTED; ++i) q[i] = load_some<V>(&slopes[i * nodes + at], some);
                };
                sum_tile<T, WANTED>(w, z0, z1, y0, y1, read, [&](Size at, const T* sums, Size width) {
                    for (Size x = 0; x < w.shape[2]; ++x) {
                        const T weight = MASKED ? mask[at + x] : T(1), va = a[at + x] - of_a.mean, vb = b[at + x] - of_b.mean;
                        const T by_ab = sums[BY_AB * width + x];
                        g_a[at + x] = weight * (sums[BY_A * width + x] + 2 * va * sums[BY_AA * width + x] + vb * by_ab);
                        if (WANTED > 3)
                            g_b[at + x] =
                                weight * (sums[BY_B * width + x] + 2 * vb * sums[BY_BB * width + x] + va * by_ab);
                    }
                });
            });
        carrier.deliver();
    }
    return total;
}

// Small images go to a thread each, large ones are shared by all: their derivatives are kept for one at a time.
template <typename T>
double correlate(Window<T>& w, const T* a, const T* b, const T* mask, T* g_a, T* g_b, const Settings<T>& s,
                 Size images, Size images_a_mask, int threads) {
    const Size nodes = w.nodes();
    w.measure();
    const bool alone = images > 1 && nodes < (1 << 16);
    auto run = mask ? correlate_image<T, true, 0> : correlate_image<T, false, 0>;
    if (g_a) run = mask ? correlate_image<T, true, 3> : correlate_image<T, false, 3>;
    if (g_b) run = mask ? correlate_image<T, true, 5> : correlate_image<T, false, 5>;
    std::vector<double> partial(images);
    Carrier carrier;
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (alone && threads > 1)
    for (Size i = 0; i < images; ++i)
        carrier.run([&] {
            partial[i] = run(w, a + i * nodes, b + i * nodes, mask ? mask + i / images_a_mask * nodes : nullptr,
                             g_a ? g_a + i * nodes : nullptr, g_b ? g_b + i * nodes : nullptr, s, alone ? 1 : threads);
        });
    carrier.deliver();
    double total = 0;
    for (const double part : partial) total += part;
    return total;
}

}  // namespace

// Total: Σ correlation · mask; `share` is one over the sum of all masks. Gradients of the mean where not null; g_b only
// together with g_a. `weights` holds the kernels of the three axes one after the other.
#define FOLDLESS_CORRELATE(T, NAME)                                                                                      \
    extern "C" Status foldless_correlate_##NAME(const T* a, const T* b, const T* mask, T* g_a, T* g_b, const T* weights, \
                                                const Size* shape, const Size* reach, Size images, Size images_a_mask,   \
                                                double scale, double epsilon, double share, int squared, int threads,    \
                                                double* total) {                                                         \
        return status_of([&] {                                                                                           \
            Window<T> w;                                                                                                 \
            for (int d = 0; d < 3; ++d) {                                                                                \
                w.shape[d] = shape[d], w.reach[d] = reach[d], w.weight[d] = weights;                                     \
                weights += 2 * reach[d] + 1;                                                                             \
            }                                                                                                            \
            const Settings<T> s{static_cast<T>(scale), static_cast<T>(epsilon), squared != 0, share};                    \
            *total = correlate<T>(w, a, b, mask, g_a, g_b, s, images, images_a_mask, threads);                           \
        });                                                                                                              \
    }

FOLDLESS_CORRELATE(float, f32)
FOLDLESS_CORRELATE(double, f64)
