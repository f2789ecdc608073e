// A cell of a multilinear map: its Jacobian determinant as a polynomial of degree (2, 2, 2), by Bernstein coefficients.
//
// With the edges of the cell along x, y and z as the columns of the derivative, each bilinear in the other two
// coordinates, the coefficient (a, b, c) is the average of all determinants det[ex(j, k), ey(i', k'), ez(i'', j'')] with
// i' + i'' = a, j + j'' = b, k + k' = c. The polynomial lies between its smallest and its largest coefficient, and takes
// those at the cell's corners. Johnen, Weill, Remacle 2017, arXiv 1706.01613.

#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "wide.h"

namespace foldless {

// Errors in units of rounding of 6 |ex| |ey| |ez|, and what every halving adds; docs/certificate.md counts them.
constexpr double ROUNDINGS = 32, A_DEPTH = 6;

template <typename V>
struct Cell {
    V x[2][2][3], y[2][2][3], z[2][2][3];  // ex(j, k), ey(i, k), ez(i, j); components

    void coefficients(V (&c)[27]) const {
        for (auto& one : c) one = V{};
        for (int i = 0; i < 2; ++i)
            for (int k = 0; k < 2; ++k)
                for (int l = 0; l < 2; ++l)
                    for (int m = 0; m < 2; ++m) {
                        const auto &p = y[i][k], &q = z[l][m];
                        const V minor[3] = {p[1] * q[2] - p[2] * q[1], p[2] * q[0] - p[0] * q[2], p[0] * q[1] - p[1] * q[0]};
                        for (int j = 0; j < 2; ++j)
                            for (int n = 0; n < 2; ++n) {
                                const auto& r = x[j][n];
                                c[9 * (i + l) + 3 * (j + m) + k + n] += r[0] * minor[0] + r[1] * minor[1] + r[2] * minor[2];
                            }
                    }
        for (int at = 0; at < 27; ++at) c[at] *= share(at);
    }

    static constexpr float share(int at) {  // a power of two, so exact
        return (at / 9 == 1 ? 0.5f : 1.f) * (at / 3 % 3 == 1 ? 0.5f : 1.f) * (at % 3 == 1 ? 0.5f : 1.f);
    }
};

// What was found of a cell: 1 proven, 0 undecided, -1 refuted at `where` (in the cell), with the determinant there.
struct Found {
    int state = 1, depth = 0;
    double lowest = std::numeric_limits<double>::infinity();  // of all coefficients that decided
    double where[3] = {}, value = 0;
};

// Decides a cell by halving it along all axes until each part's coefficients are positive, or one of its corners is not.
class Decision {
  public:
    Decision(double scale, int deepest, int budget) : scale(scale), deepest(deepest), budget(budget) {}

    Found of(const double (&c)[27]) {
        const double origin[3] = {};
        visit(c, 0, origin, 1);
        return found;
    }

  private:
    double margin(int depth) const {
        return (ROUNDINGS + A_DEPTH * depth) * 6 * scale * (std::numeric_limits<double>::epsilon() / 2);
    }

    void visit(const double (&c)[27], int depth, const double (&origin)[3], double size) {
        found.depth = std::max(found.depth, depth);
        const double lowest = *std::min_element(c, c + 27) - margin(depth);
        if (lowest > 0 || refuted(c, depth, origin, size) || depth == deepest || --budget < 0) {
            found.lowest = std::min(found.lowest, lowest);
            if (lowest <= 0 && found.state > 0) found.state = 0;
            return;
        }
        double halves[2][27];
        for (int part = 0; part < 8 && found.state >= 0; ++part) {
            double child[27], from[3];
            std::copy(c, c + 27, child);
            for (int d = 0, stride = 9; d < 3; ++d, stride /= 3) {
                const bool upper = part >> d & 1;
                halve(child, stride, halves);
                std::copy(halves[upper], halves[upper] + 27, child);
                from[d] = origin[d] + (upper ? size / 2 : 0);
            }
            visit(child, depth + 1, from, size / 2);
        }
    }

    bool refuted(const double (&c)[27], int depth, const double (&origin)[3], double size) {
        for (int corner = 0; corner < 8; ++corner) {
            const int far[3] = {corner >> 2 & 1, corner >> 1 & 1, corner & 1};
            const double value = c[18 * far[0] + 6 * far[1] + 2 * far[2]];
            if (value > -margin(depth)) continue;
            if (found.state < 0 && value >= found.value) continue;
            found.state = -1, found.value = value;
            for (int d = 0; d < 3; ++d) found.where[d] = origin[d] + far[d] * size;
        }
        return found.state < 0;
    }

    // de Casteljau at a half: the coefficients of both halves along an axis.
    static void halve(const double (&c)[27], int stride, double (&halves)[2][27]) {
        for (int at = 0; at < 27; ++at) {
            if (at / stride % 3) continue;
            const double a = c[at], b = c[at + stride], d = c[at + 2 * stride];
            const double left = (a + b) / 2, right = (b + d) / 2, middle = (left + right) / 2;
            halves[0][at] = a, halves[0][at + stride] = left, halves[0][at + 2 * stride] = middle;
            halves[1][at] = middle, halves[1][at + stride] = right, halves[1][at + 2 * stride] = d;
        }
    }

    const double scale;
    const int deepest;
    int budget;
    Found found;
};

}  // namespace foldless
