// Signed sizes of the simplices around every node of a lattice under a displacement: which nodes fold, and by how much.
//
// field (batch, dim, *lattice), displacement in voxels. A simplex is a node and `dim` others, given by their offsets, and
// the sign of its determinant at the identity, which all its determinants are multiplied by. Places are the nodes that `low` and `high` crop leaves.
// Everything is computed in double: what is asked is a sign. The plain form in metrics/jacobian.py is the referee.

#include <algorithm>
#include <vector>

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

inline double determinant(const double (&m)[1][1]) { return m[0][0]; }
inline double determinant(const double (&m)[2][2]) { return m[0][0] * m[1][1] - m[0][1] * m[1][0]; }
inline double determinant(const double (&m)[3][3]) {
    return m[0][0] * (m[1][1] * m[2][2] - m[1][2] * m[2][1]) - m[0][1] * (m[1][0] * m[2][2] - m[1][2] * m[2][0]) +
           m[0][2] * (m[1][0] * m[2][1] - m[1][1] * m[2][0]);
}

// For one row: the smallest determinant of each place, and the sum of max(-determinant, 0).
template <typename T, int D>
void judge_row(const T* field, const Field<T, D>& f, Size node, const int* offsets, const int* signs,
               Size simplices, double* smallest, double* negative) {
    const Size count = f.places[D - 1];
    for (Size s = 0; s < simplices; ++s, offsets += D * D) {
        const T *here[D], *there[D][D];
        for (int c = 0; c < D; ++c) {
            here[c] = field + c * f.nodes + node;
            for (int i = 0; i < D; ++i) {
                there[i][c] = here[c];
                for (int d = 0; d < D; ++d) there[i][c] += offsets[i * D + d] * f.stride[d];
            }
        }
#pragma omp simd
        for (Size x = 0; x < count; ++x) {
            double edge[D][D];
            for (int i = 0; i < D; ++i)
                for (int c = 0; c < D; ++c)
                    edge[i][c] = static_cast<double>(there[i][c][x]) - static_cast<double>(here[c][x]) +
                                 offsets[i * D + c];
            const double volume = signs[s] * determinant(edge);
            smallest[x] = s == 0 || volume < smallest[x] ? volume : smallest[x];
            negative[x] = (s == 0 ? 0.0 : negative[x]) + (volume < 0 ? -volume : 0.0);
        }
    }
}

template <typename T, int D>
void judge(const T* field, bool* folded, T* negative, const int* offsets, const int* signs, Size simplices,
           Size batch, const Size* shape, Size low, Size high, int zero_folds, int threads) {
    const Field<T, D> f(shape, low, high);
    const Size rows = f.rows(), count = f.places[D - 1];
#pragma omp parallel for schedule(static) num_threads(threads)
    for (Size job = 0; job < batch * rows; ++job) {
        std::vector<double> row(2 * count);
        judge_row<T, D>(field + job / rows * D * f.nodes, f, f.node(job % rows), offsets, signs, simplices,
                        row.data(), row.data() + count);
        for (Size x = 0; x < count; ++x) {
            if (folded) folded[job * count + x] = zero_folds ? row[x] <= 0 : row[x] < 0;
            if (negative) negative[job * count + x] = static_cast<T>(row[count + x]);
        }
    }
}

}  // namespace

#define FOLDLESS_JUDGE(T, NAME)                                                                                       \
    extern "C" void foldless_judge_##NAME(const T* field, bool* folded, T* negative, const int* offsets, const int* signs,  \
                                          Size simplices, Size batch, Size dim, const Size* shape, Size low, Size high, \
                                          int zero_folds, int threads) {                                              \
        auto run = dim == 1 ? judge<T, 1> : dim == 2 ? judge<T, 2> : judge<T, 3>;                                     \
        run(field, folded, negative, offsets, signs, simplices, batch, shape, low, high, zero_folds, threads);               \
    }

FOLDLESS_JUDGE(float, f32)
FOLDLESS_JUDGE(double, f64)
