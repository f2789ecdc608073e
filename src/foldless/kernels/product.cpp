// Products of small matrices, and how far they are from the identity: the sum of (a · b - 1)² and its gradient.
//
// a, b (batch, dim, dim, count). The plain forms in maps/matrices.py and regularity.py are the referees.

#include <algorithm>
#include <vector>

#include "status.h"
#include "wide.h"

namespace {

using namespace foldless;

constexpr Size CHUNK = 1024;  // points whose errors are added up in T

template <typename T, int D>
T error_of(const T* a, const T* b, T* g_a, T* g_b, T factor, Size count, Size some) {
    T total = 0;
#pragma omp simd reduction(+ : total)
    for (Size x = 0; x < some; ++x) {
        T p[D][D], q[D][D], error[D][D];
        for (int i = 0; i < D; ++i)
            for (int j = 0; j < D; ++j) p[i][j] = a[(i * D + j) * count + x], q[i][j] = b[(i * D + j) * count + x];
        for (int i = 0; i < D; ++i)
            for (int j = 0; j < D; ++j) {
                T sum = i == j ? T(-1) : T(0);
                for (int k = 0; k < D; ++k) sum += p[i][k] * q[k][j];
                error[i][j] = sum;
                total += sum * sum;
            }
        if (!g_a) continue;
        for (int i = 0; i < D; ++i)
            for (int j = 0; j < D; ++j) {
                T by_a = 0, by_b = 0;
                for (int k = 0; k < D; ++k) by_a += error[i][k] * q[j][k], by_b += p[k][i] * error[k][j];
                g_a[(i * D + j) * count + x] = factor * by_a;
                g_b[(i * D + j) * count + x] = factor * by_b;
            }
    }
    return total;
}

template <typename T, int D>
double product_error(const T* a, const T* b, T* g_a, T* g_b, Size batch, Size count, double factor, int threads) {
    const Size chunks = (count + CHUNK - 1) / CHUNK;
    std::vector<double> partial(batch * chunks);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (Size job = 0; job < batch * chunks; ++job) {
        const Size begin = job % chunks * CHUNK, at = job / chunks * D * D * count + begin;
        partial[job] = error_of<T, D>(a + at, b + at, g_a ? g_a + at : nullptr, g_b ? g_b + at : nullptr,
                                      static_cast<T>(2 * factor), count, std::min(CHUNK, count - begin));
    }
    double total = 0;
    for (const double part : partial) total += part;
    return total;
}

// out = a · b with either transposed.
template <typename T, int D, bool A, bool B>
void product(const T* a, const T* b, T* out, Size batch, Size count, int threads) {
    const Size chunks = (count + CHUNK - 1) / CHUNK;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (Size job = 0; job < batch * chunks; ++job) {
        const Size begin = job % chunks * CHUNK, at = job / chunks * D * D * count + begin;
        const Size some = std::min(CHUNK, count - begin);
        const T *p = a + at, *q = b + at;
        T* r = out + at;
        for (int i = 0; i < D; ++i)
            for (int j = 0; j < D; ++j)
#pragma omp simd
                for (Size x = 0; x < some; ++x) {
                    T sum = 0;
                    for (int k = 0; k < D; ++k)
                        sum += p[(A ? k * D + i : i * D + k) * count + x] * q[(B ? j * D + k : k * D + j) * count + x];
                    r[(i * D + j) * count + x] = sum;
                }
    }
}

template <typename T, int D>
auto product_of(int transposed_a, int transposed_b) {
    if (transposed_a) return transposed_b ? product<T, D, true, true> : product<T, D, true, false>;
    return transposed_b ? product<T, D, false, true> : product<T, D, false, false>;
}

}  // namespace

// Total: the sum; gradients of `factor` times the sum where g_a and g_b are not null.
#define FOLDLESS_PRODUCT(T, NAME)                                                                                 \
    extern "C" Status foldless_product_error_##NAME(const T* a, const T* b, T* g_a, T* g_b, Size batch, Size dim, \
                                                    Size count, double factor, int threads, double* total) {      \
        return status_of([&] {                                                                                    \
            auto run = dim == 1 ? product_error<T, 1> : dim == 2 ? product_error<T, 2> : product_error<T, 3>;     \
            *total = run(a, b, g_a, g_b, batch, count, factor, threads);                                          \
        });                                                                                                       \
    }                                                                                                             \
    extern "C" Status foldless_product_##NAME(const T* a, const T* b, T* out, Size batch, Size dim, Size count,   \
                                              int transposed_a, int transposed_b, int threads) {                  \
        return status_of([&] {                                                                                    \
            auto run = dim == 1 ? product_of<T, 1>(transposed_a, transposed_b)                                    \
                       : dim == 2 ? product_of<T, 2>(transposed_a, transposed_b)                                  \
                                  : product_of<T, 3>(transposed_a, transposed_b);                                 \
            run(a, b, out, batch, count, threads);                                                                \
        });                                                                                                       \
    }

FOLDLESS_PRODUCT(float, f32)
FOLDLESS_PRODUCT(double, f64)
