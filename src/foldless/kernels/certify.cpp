// Whether x + u(clamp x) has a positive Jacobian determinant in every cell of its lattice and beyond the border.
//
// field (3, *shape) by strides, displacement in the units of `steps`: where a step along each axis leads, (axis,
// component). Cells are those of the lattice with its border repeated once outside, so that what is said of them holds
// everywhere: from there on the map repeats itself. An axis of one node has one cell. Fields of fewer dimensions have
// axes of one node.
// A first pass in the field's own precision proves what it can beyond doubt of rounding; what is left is decided in
// double, by halving.

#include <vector>

#include "bernstein.h"
#include "scratch.h"
#include "status.h"

namespace {

using namespace foldless;

template <typename T>
struct Lattice {
    const T* field;
    Size shape[3], cells[3], stride[4];  // of components and axes
    double steps[3][3], sign;
    double longest[3];  // largest component of each axis' step

    Lattice(const T* field, const Size* sizes, const Size* strides, const double* vectors) : field(field) {
        std::copy_n(strides, 4, stride);
        for (int d = 0; d < 3; ++d) {
            shape[d] = sizes[d], cells[d] = sizes[d] == 1 ? 1 : sizes[d] + 1;
            longest[d] = 0;
            for (int c = 0; c < 3; ++c) {
                steps[d][c] = vectors[3 * d + c];
                longest[d] = std::max(longest[d], std::abs(steps[d][c]));
            }
        }
        const auto& s = steps;
        sign = s[0][0] * (s[1][1] * s[2][2] - s[1][2] * s[2][1]) - s[0][1] * (s[1][0] * s[2][2] - s[1][2] * s[2][0]) +
                       s[0][2] * (s[1][0] * s[2][1] - s[1][1] * s[2][0]) > 0 ? 1 : -1;
    }

    Size clamp(int d, Size at) const { return std::min(std::max<Size>(at, 0), shape[d] - 1); }
    // The lower node of a cell; of an axis of one node that node.
    Size low(int d, Size cell) const { return shape[d] == 1 ? 0 : cell - 1; }
};

// The displacements around a row of cells: four rows of nodes, [z][y][component], the border repeated at both ends.
template <typename T>
class Row {
  public:
    explicit Row(const Lattice<T>& l)
        : l(l), length(l.cells[2] + 1 + Wide<T>::W), nodes(12 * length) {
        std::fill(nodes.data(), nodes.data() + 12 * length, T(0));
    }

    void read(Size z, Size y) {
        const Size X = l.shape[2], step = l.stride[3];
        for (int at = 0; at < 12; ++at) {
            const Size from = l.clamp(0, l.low(0, z) + at / 6), row = l.clamp(1, l.low(1, y) + at / 3 % 2);
            const T* source = l.field + at % 3 * l.stride[0] + from * l.stride[1] + row * l.stride[2];
            T *first = &nodes[at * length], *to = first + (X > 1);
            for (Size x = 0; x < X; ++x) to[x] = source[x * step];
            first[0] = source[0], to[X] = source[(X - 1) * step];
        }
    }

    const T* at(int z, int y, int component) const { return &nodes[(6 * z + 3 * y + component) * length]; }

  private:
    const Lattice<T>& l;
    const Size length;
    Scratch<T> nodes;
};

template <typename V>
inline V larger(V a, V b) { return a > b ? a : b; }

// Edges of the cells from x on, in type V, and the bound of each axis' components.
template <typename V, typename T>
void edges(const Lattice<T>& l, const Row<T>& row, Size x, Cell<V>& cell, V (&bound)[3]) {
    const auto node = [&](int z, int y, int c, Size at) {
        if constexpr (std::is_arithmetic_v<V>) return static_cast<V>(row.at(z, y, c)[at]);
        else return load<V>(row.at(z, y, c) + at);
    };
    for (auto& one : bound) one = V{};
    const auto edge = [&](V there, V here, int axis, int c) {
        const V moved = there - here, zero = V{};
        bound[axis] = larger(bound[axis], larger(moved, zero - moved));
        return moved + (zero + static_cast<T>(l.steps[axis][c]));
    };
    for (int a = 0; a < 2; ++a)
        for (int b = 0; b < 2; ++b)
            for (int c = 0; c < 3; ++c) {  // a step in the first index of `node` is one along the first axis, x here
                cell.x[a][b][c] = edge(node(1, a, c, x + b), node(0, a, c, x + b), 0, c);
                cell.y[a][b][c] = edge(node(a, 1, c, x + b), node(a, 0, c, x + b), 1, c);
                cell.z[a][b][c] = edge(node(a, b, c, x + 1), node(a, b, c, x), 2, c);
            }
    for (int d = 0; d < 3; ++d) bound[d] += static_cast<T>(l.longest[d]);
}

struct Extremes {
    double smallest = HUGE_VAL, largest = -HUGE_VAL, lowest = HUGE_VAL, highest = -HUGE_VAL;  // at nodes; of coefficients
    int depth = 0;

    void join(const Extremes& o) {
        smallest = std::min(smallest, o.smallest), largest = std::max(largest, o.largest);
        lowest = std::min(lowest, o.lowest), highest = std::max(highest, o.highest), depth = std::max(depth, o.depth);
    }
};

struct Doubtful {  // a cell that is not proven
    double cell, state, where[3], value;
};

// A cell in double. Its coefficients were not all positive beyond doubt.
template <typename T>
Found decide(const Lattice<T>& l, const Row<T>& row, Size x, int deepest, int budget) {
    Cell<double> cell;
    double bound[3], c[27];
    edges(l, row, x, cell, bound);
    cell.coefficients(c);
    for (auto& one : c) one *= l.sign;
    return Decision(bound[0] * bound[1] * bound[2], deepest, budget).of(c);
}

template <typename T>
void certify_row(const Lattice<T>& l, const Row<T>& row, Size first, T* lower, Extremes& extremes,
                 std::vector<Doubtful>& doubtful, int deepest, int budget) {
    using V = typename Wide<T>::V;
    constexpr int W = Wide<T>::W;
    constexpr T ERROR = static_cast<T>(6 * ROUNDINGS) * std::numeric_limits<T>::epsilon() / 2;
    const V sign = V{} + static_cast<T>(l.sign);
    for (Size x = 0; x < l.cells[2]; x += W) {
        const int some = static_cast<int>(std::min<Size>(W, l.cells[2] - x));
        Cell<V> cell;
        V bound[3], c[27];
        edges(l, row, x, cell, bound);
        cell.coefficients(c);
        for (auto& one : c) one *= sign;
        const V margin = bound[0] * bound[1] * bound[2] * ERROR;
        V low = c[0], high = c[0], least = c[0], most = c[0];
        for (int at = 0; at < 27; ++at) {
            low = c[at] < low ? c[at] : low, high = c[at] > high ? c[at] : high;
            if (at / 9 == 1 || at / 3 % 3 == 1 || at % 3 == 1) continue;
            least = c[at] < least ? c[at] : least, most = c[at] > most ? c[at] : most;
        }
        low -= margin, high += margin;
        for (int i = 0; i < some; ++i) {
            double proven = low[i];
            extremes.smallest = std::min<double>(extremes.smallest, least[i]);
            extremes.largest = std::max<double>(extremes.largest, most[i]);
            extremes.highest = std::max<double>(extremes.highest, high[i]);
            if (!(proven > 0)) {
                const Found found = decide(l, row, x + i, deepest, budget);
                proven = found.state > 0 ? found.lowest : std::min(found.lowest, 0.0);
                extremes.depth = std::max(extremes.depth, found.depth);
                if (found.state <= 0)
                    doubtful.push_back({static_cast<double>(first + x + i), static_cast<double>(found.state),
                                        {found.where[0], found.where[1], found.where[2]}, found.value});
            }
            extremes.lowest = std::min(extremes.lowest, proven);
            if (lower) lower[first + x + i] = static_cast<T>(proven);
        }
    }
}

template <typename T>
Size certify(const T* field, const Size* shape, const Size* strides, const double* steps, T* lower, double* summary,
             double* listed, Size capacity, int deepest, int budget, int threads) {
    const Lattice<T> l(field, shape, strides, steps);
    const Size rows = l.cells[0] * l.cells[1];
    std::vector<Extremes> extremes(rows);
    std::vector<std::vector<Doubtful>> doubtful(rows);
    const Size parts = std::max(1, threads);
    Carrier carrier;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (Size part = 0; part < parts; ++part)
        carrier.run([&] {
            Row<T> row(l);
            for (Size job = part * rows / parts; job < (part + 1) * rows / parts; ++job) {
                row.read(job / l.cells[1], job % l.cells[1]);
                certify_row(l, row, job * l.cells[2], lower, extremes[job], doubtful[job], deepest, budget);
            }
        });
    carrier.deliver();
    Extremes all;
    Size refuted = 0, undecided = 0;
    for (Size job = 0; job < rows; ++job) {
        all.join(extremes[job]);
        for (const auto& one : doubtful[job]) {
            if (refuted + undecided < capacity) std::copy_n(&one.cell, 6, listed + 6 * (refuted + undecided));
            ++(one.state < 0 ? refuted : undecided);
        }
    }
    const double found[7] = {all.smallest, all.largest, all.lowest, all.highest, static_cast<double>(all.depth),
                             static_cast<double>(refuted), static_cast<double>(undecided)};
    std::copy_n(found, 7, summary);
    return refuted + undecided;
}

}  // namespace

// Writes a lower bound of each cell's determinant (not positive where it is not proven) to `lower`, unless that is null;
// to `summary` the smallest and largest determinant at nodes, the smallest and largest bound, the depth, and how many
// cells are refuted and undecided; to `listed` (capacity, 6) the first of these: cell, state, place in it, determinant;
// to `found` how many these are, listed or not.
#define FOLDLESS_CERTIFY(T, NAME)                                                                                 \
    extern "C" Status foldless_certify_##NAME(const T* field, const Size* shape, const Size* strides,             \
                                              const double* steps, T* lower, double* summary, double* listed,     \
                                              Size capacity, int deepest, int budget, int threads, Size* found) { \
        return status_of([&] {                                                                                    \
            *found = certify<T>(field, shape, strides, steps, lower, summary, listed, capacity, deepest, budget,  \
                                threads);                                                                         \
        });                                                                                                       \
    }

FOLDLESS_CERTIFY(float, f32)
FOLDLESS_CERTIFY(double, f64)
