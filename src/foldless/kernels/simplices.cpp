// Signed sizes of the simplices around every node of a lattice under a displacement: which nodes fold, and by how much.
//
// field (batch, dim, *lattice), displacement in voxels. A simplex is a node and `dim` others, given by their offsets, and
// the sign of its determinant at the identity, which all its determinants are multiplied by. Places are the nodes that
// the crop, `low` and `high` on each axis, leaves. Edges that simplices share are computed once.
// Determinants are computed in double: what is asked is their sign. The plain form in metrics/jacobian.py is the referee.

#include <algorithm>
#include <cmath>

#include "scratch.h"
#include "status.h"
#include "wide.h"

namespace {

using namespace foldless;

template <typename T, int D>
struct Field {
    Size shape[D], stride[D], places[D];
    Size nodes = 1, low;

    Field(const Size* sizes, Size low, Size high) : low(low) {
        for (int d = D - 1; d >= 0; --d) {
            shape[d] = sizes[d];
            stride[d] = nodes;
            places[d] = sizes[d] - low - high;
            nodes *= sizes[d];
        }
    }

    Size rows() const {
        Size count = 1;
        for (int d = 0; d + 1 < D; ++d) count *= places[d];
        return count;
    }

    // The first node of a row of places.
    Size node(Size row) const {
        Size at = low * stride[D - 1];
        for (int d = D - 2; d >= 0; --d) {
            at += (low + row % places[d]) * stride[d];
            row /= places[d];
        }
        return at;
    }
};

constexpr int N = 16;  // places that are judged at once
constexpr int FEW = 32;  // edges that lie in an array of their own, which takes half the time of one behind a pointer

// The edges from N places by one offset: [component][place].
template <int D>
using Edge = double[D][N];

inline double determinant(const Edge<1>* e, const int* s, int x) { return e[s[0]][0][x]; }
inline double determinant(const Edge<2>* e, const int* s, int x) {
    return e[s[0]][0][x] * e[s[1]][1][x] - e[s[0]][1][x] * e[s[1]][0][x];
}
inline double determinant(const Edge<3>* e, const int* s, int x) {
    const auto &a = e[s[0]], &b = e[s[1]], &c = e[s[2]];
    return a[0][x] * (b[1][x] * c[2][x] - b[2][x] * c[1][x]) - a[1][x] * (b[0][x] * c[2][x] - b[2][x] * c[0][x]) +
           a[2][x] * (b[0][x] * c[1][x] - b[1][x] * c[0][x]);
}

// What simplices are made of: offsets (edges, dim), and of each simplex its edges and its sign.
struct Simplices {
    const int *offsets, *corners, *signs;
    Size edges, count;
};

// N places from a node on, of which `some` exist: the smallest determinant of each, and the sum of max(-determinant, 0).
template <typename T, int D>
__attribute__((always_inline)) inline void judge_some(const T* field, const Field<T, D>& f, const Simplices& s, Edge<D>* edges, int some,
                double (&smallest)[N], double (&negative)[N]) {
    for (Size i = 0; i < s.edges; ++i) {
        const int* offset = s.offsets + i * D;
        Size step = 0;
        for (int d = 0; d < D; ++d) step += offset[d] * f.stride[d];
        for (int c = 0; c < D; ++c) {
            const T *here = field + c * f.nodes, *there = here + step, whole = static_cast<T>(offset[c]);
            if (some == N)
                for (int x = 0; x < N; ++x) edges[i][c][x] = there[x] - here[x] + whole;
            else
                for (int x = 0; x < N; ++x) edges[i][c][x] = x < some ? there[x] - here[x] + whole : whole;
        }
    }
    std::fill(smallest, smallest + N, HUGE_VAL);
    std::fill(negative, negative + N, 0.0);
    for (Size i = 0; i < s.count; ++i) {
        const int* corners = s.corners + i * D;
        const double sign = s.signs[i];
#pragma omp simd
        for (int x = 0; x < N; ++x) {
            const double volume = sign * determinant(edges, corners, x);
            smallest[x] = volume < smallest[x] ? volume : smallest[x];
            negative[x] += volume < 0 ? -volume : 0.0;
        }
    }
}

template <typename T, int D>
void judge_few(const T* field, const Field<T, D>& f, const Simplices& s, int some, double (&smallest)[N],
               double (&negative)[N]) {
    alignas(64) Edge<D> edges[FEW];
    judge_some<T, D>(field, f, s, edges, some, smallest, negative);
}

template <typename T, int D>
void judge(const T* field, bool* folded, T* negative, const Simplices& s, Size batch, const Size* shape, Size low,
           Size high, int zero_folds, int threads) {
    const Field<T, D> f(shape, low, high);
    const Size rows = f.rows(), count = f.places[D - 1];
    const Size jobs = batch * rows, parts = std::max(1, threads);
    const Scratch<Edge<D>> edges(parts * s.edges);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (Size part = 0; part < parts; ++part)
        for (Size job = part * jobs / parts; job < (part + 1) * jobs / parts; ++job) {
            const T* row = field + job / rows * D * f.nodes + f.node(job % rows);
            for (Size x = 0; x < count; x += N) {
                const int some = static_cast<int>(std::min<Size>(N, count - x));
                alignas(64) double smallest[N], sum[N];
                if (s.edges <= FEW)
                    judge_few<T, D>(row + x, f, s, some, smallest, sum);
                else
                    judge_some<T, D>(row + x, f, s, edges.data() + part * s.edges, some, smallest, sum);
                for (int i = 0; i < some; ++i) {
                    folded[job * count + x + i] = zero_folds ? smallest[i] <= 0 : smallest[i] < 0;
                    negative[job * count + x + i] = static_cast<T>(sum[i]);
                }
            }
        }
}

}  // namespace

// corners (simplices, dim) says which of the offsets (edges, dim) a simplex is made of.
#define FOLDLESS_JUDGE(T, NAME)                                                                                \
    extern "C" Status foldless_judge_##NAME(const T* field, bool* folded, T* negative, const int* offsets,     \
                                            const int* corners, const int* signs, Size edges, Size simplices,  \
                                            Size batch, Size dim, const Size* shape, Size low, Size high,      \
                                            int zero_folds, int threads) {                                     \
        return status_of([&] {                                                                                 \
            auto run = dim == 1 ? judge<T, 1> : dim == 2 ? judge<T, 2> : judge<T, 3>;                          \
            run(field, folded, negative, {offsets, corners, signs, edges, simplices}, batch, shape, low, high, \
                zero_folds, threads);                                                                          \
        });                                                                                                    \
    }

FOLDLESS_JUDGE(float, f32)
FOLDLESS_JUDGE(double, f64)
