// Images read where a coarse displacement and an affine map take the nodes of their lattice, and the force that pulls.
//
// images (batch, channels, *lattice), u (batch, dim, *coarse), matrices (batch, dim, dim + 1): the value of an image at
// matrix · (x + u(x)) for every node x, and its derivative by u(x), all in the unit cube, which both lattices span. u is
// read between its nodes row by row, whose weights are the same in every row. The referee is sampling in torch.

#include "bands.h"
#include "lattice.h"
#include "status.h"

namespace {

using namespace foldless;

// Along each axis, the coarse node below every fine one and the fraction towards the next.
template <typename T, int D>
struct Between {
    std::vector<Size> low[D];
    std::vector<T> part[D];

    Between(const Lattice<D>& fine, const Lattice<D>& coarse) {
        for (int d = 0; d < D; ++d) {
            const Size n = fine.shape[d], m = coarse.shape[d], last = std::max<Size>(n - 1, 1);
            low[d].resize(n), part[d].resize(n);
            for (Size i = 0; i < n; ++i) {
                low[d][i] = std::min(i * (m - 1) / last, std::max<Size>(m - 2, 0));
                part[d][i] = static_cast<T>(static_cast<double>(i * (m - 1) - low[d][i] * last) / last);
            }
        }
    }
};

// A thread's row of the fine lattice: how far u moves its nodes.
template <typename T, int D>
struct Row {
    const Lattice<D>&fine, &coarse;
    const Between<T, D>& between;
    std::vector<T> moved, line;  // (D, nodes of a row); coarse nodes of a row and one more

    Row(const Lattice<D>& fine, const Lattice<D>& coarse, const Between<T, D>& between)
        : fine(fine), coarse(coarse), between(between), moved(D * fine.shape[D - 1]), line(coarse.shape[D - 1] + 1) {}

    void read(const T* u, const Size* at) {
        const Size n = fine.shape[D - 1], m = coarse.shape[D - 1];
        const Size* low = between.low[D - 1].data();
        const T* part = between.part[D - 1].data();
        for (int c = 0; c < D; ++c) {
            std::fill(line.begin(), line.end(), T(0));
            for (int k = 0; k < 1 << (D - 1); ++k) {
                T weight = 1;
                const T* from = u + c * coarse.nodes;
                for (int d = 0; d < D - 1; ++d) {
                    const T up = between.part[d][at[d]];
                    weight *= k >> d & 1 ? up : T(1) - up;
                    from += between.low[d][at[d]] * coarse.stride[d];
                }
                from += coarse.step[k];
                for (Size j = 0; j < m; ++j) line[j] += weight * from[j];
            }
            T* to = moved.data() + c * n;
            for (Size i = 0; i < n; ++i) to[i] = line[low[i]] + part[i] * (line[low[i] + 1] - line[low[i]]);
        }
    }
};

// What one sample is read with: its affine map, in the images' number type.
template <typename T, int D>
struct Matrix {
    T linear[D][D], shift[D];

    explicit Matrix(const double* numbers) {
        for (int e = 0; e < D; ++e) {
            for (int d = 0; d < D; ++d) linear[e][d] = static_cast<T>(numbers[e * (D + 1) + d]);
            shift[e] = static_cast<T>(numbers[e * (D + 1) + D]);
        }
    }
};

// The places of nodes [begin, begin + some), the last of them filling the block. Rows are read as they begin.
template <typename T, int D>
void places(const Lattice<D>& lattice, const Matrix<T, D>& matrix, const T* u, Row<T, D>& row, Size& current,
            Size begin, int some, T (*points)[N]) {
    alignas(64) T y[D][N];
    const Size width = lattice.shape[D - 1];
    for (int i = 0, run; i < some; i += run) {
        const Size number = (begin + i) / width, first = (begin + i) % width;
        run = static_cast<int>(std::min<Size>(some - i, width - first));
        Size at[D];
        for (int d = 0; d < D - 1; ++d) at[d] = (begin + i) / lattice.stride[d] % lattice.shape[d];
        if (number != current) row.read(u, at), current = number;
        for (int d = 0; d < D; ++d) {
            const T* moved = row.moved.data() + d * width + first;
            const T last = static_cast<T>(std::max<Size>(lattice.shape[d] - 1, 1));
            if (d < D - 1) {
                const T own = static_cast<T>(at[d]) / last;
                for (int k = 0; k < run; ++k) y[d][i + k] = own + moved[k];
            } else {
                for (int k = 0; k < run; ++k) y[d][i + k] = static_cast<T>(static_cast<int>(first) + k) / last + moved[k];
            }
        }
    }
    for (int d = 0; d < D; ++d) std::fill(y[d] + some, y[d] + N, y[d][some - 1]);
    for (int e = 0; e < D; ++e)
        for (int i = 0; i < N; ++i) {
            T sum = matrix.shift[e];
            for (int d = 0; d < D; ++d) sum += matrix.linear[e][d] * y[d][i];
            points[e][i] = sum;
        }
}

template <typename T, int D>
void read_range(const Lattice<D>& lattice, const Matrix<T, D>& matrix, const T* image, const T* u, Row<T, D>& row,
                T* value, T* gradient, Size channels, Size begin, Size end) {
    using V = typename Wide<T>::V;
    constexpr int W = Wide<T>::W;
    Corners<T, D> corners;
    Block<T, D> block;
    alignas(64) T points[D][N], out[1 + D][N];
    Size current = -1;
    for (Size n = begin; n < end; n += N) {
        const int some = static_cast<int>(std::min<Size>(N, end - n));
        places<T, D>(lattice, matrix, u, row, current, n, some, points);
        block.place(lattice, &points[0][0], N, 0, N);
        for (Size c = 0; c < channels; ++c) {
            corners.gather(lattice, image + c * lattice.nodes, block.base);
            for (int i = 0; i < N; i += W) {
                V v[1 << D], f[D], s[D], slope[D];
                corners.at(i, v);
                for (int d = 0; d < D; ++d) f[d] = load<V>(block.fraction[d] + i), s[d] = load<V>(block.slope[d] + i);
                store(out[D] + i, interpolate<V, D, T>(v, f, s));
                for (int d = 0; d < D; ++d) slope[d] = interpolate<V, D, T>(v, f, s, d);
                for (int d = 0; d < D; ++d) {
                    V sum = matrix.linear[0][d] * slope[0];
                    for (int e = 1; e < D; ++e) sum += matrix.linear[e][d] * slope[e];
                    store(out[d] + i, sum);
                }
            }
            copy(value + c * lattice.nodes + n, out[D], some);
            for (int d = 0; d < D; ++d) copy(gradient + (c * D + d) * lattice.nodes + n, out[d], some);
        }
    }
}

template <typename T, int D>
void read(const T* images, const T* u, const double* matrices, T* value, T* gradient, Size batch, Size channels,
          const Size* shape, const Size* coarse_shape, int threads) {
    const Lattice<D> lattice(shape), coarse(coarse_shape);
    const Between<T, D> between(lattice, coarse);
    const Size nodes = lattice.nodes, chunks = (nodes + CHUNK - 1) / CHUNK;
    std::vector<std::unique_ptr<Row<T, D>>> rows(std::max(threads, 1));
    for (auto& row : rows) row = std::make_unique<Row<T, D>>(lattice, coarse, between);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int part = 0; part < threads; ++part)
        for (Size job = part * batch * chunks / threads; job < (part + 1) * batch * chunks / threads; ++job) {
            const Size b = job / chunks, begin = job % chunks * CHUNK, at = b * channels * nodes;
            read_range<T, D>(lattice, Matrix<T, D>(matrices + b * D * (D + 1)), images + at, u + b * D * coarse.nodes,
                             *rows[part], value + at, gradient + D * at, channels, begin, std::min(begin + CHUNK, nodes));
        }
}

// The force at every node, with the sign of its sample, banded along the last axis: (dim, *rows, to).
template <typename T>
void pull(const Bands<T>& bands, const T* g, const T* gradient, const double* signs, T* out, Size batch, Size channels,
          Size dim, Size rows, int threads) {
    const Size width = bands.from, nodes = rows * width, parts = std::max(1, threads);
    Scratch<T> lines(2 * parts * width);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (Size part = 0; part < parts; ++part)
        for (Size job = part * dim * rows / parts; job < (part + 1) * dim * rows / parts; ++job) {
            const Size d = job / rows, begin = job % rows * width;
            T *line = lines.data() + 2 * part * width, *one = line + width;
            std::fill(line, line + width, T(0));
            for (Size b = 0; b < batch; ++b) {  // whole, before it gets its sign: a - b is then exactly -(b - a)
                const T sign = static_cast<T>(signs[b]);
                std::fill(one, one + width, T(0));
                for (Size image = b * channels; image < (b + 1) * channels; ++image) {
                    const T *by = g + image * nodes + begin, *slope = gradient + (image * dim + d) * nodes + begin;
                    for (Size i = 0; i < width; ++i) one[i] += by[i] * slope[i];
                }
                for (Size i = 0; i < width; ++i) line[i] += sign * one[i];
            }
            bands.apply(line, out + job * bands.to);
        }
}

}  // namespace

#define FOLDLESS_FORCES(T, NAME)                                                                                       \
    extern "C" Status foldless_halfway_##NAME(const T* images, const T* u, const double* matrices, T* value,           \
                                              T* gradient, Size batch, Size channels, Size dim, const Size* shape,     \
                                              const Size* coarse, int threads) {                                       \
        return status_of([&] {                                                                                         \
            auto run = dim == 1 ? read<T, 1> : dim == 2 ? read<T, 2> : read<T, 3>;                                     \
            run(images, u, matrices, value, gradient, batch, channels, shape, coarse, threads);                        \
        });                                                                                                            \
    }                                                                                                                  \
    extern "C" Status foldless_pull_##NAME(const T* g, const T* gradient, const double* signs, T* out,                 \
                                           const Size* start, const T* weight, Size from, Size to, Size taps,          \
                                           Size batch, Size channels, Size dim, Size rows, int threads) {              \
        return status_of([&] {                                                                                         \
            pull(Bands<T>{start, weight, from, to, taps}, g, gradient, signs, out, batch, channels, dim, rows, threads); \
        });                                                                                                            \
    }

FOLDLESS_FORCES(float, f32)
FOLDLESS_FORCES(double, f64)
