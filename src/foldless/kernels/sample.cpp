// Multilinear reading off a lattice: value, spatial derivative, and the adjoint of both. C ABI, no dependency on torch.
//
// values (batch, channels, *lattice), points (batch, dim, count) in the unit cube, value (batch, channels, count),
// jacobian (batch, channels, dim, count). Outside the cube the border value continues, with derivative zero.
// The plain form in plain.py is the referee and says what every line must compute.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace {

using Size = std::int64_t;

template <int D>
struct Lattice {
    Size shape[D];
    Size stride[D];
    Size nodes;

    explicit Lattice(const Size* sizes) : nodes(1) {
        for (int d = D - 1; d >= 0; --d) {
            shape[d] = sizes[d];
            stride[d] = nodes;
            nodes *= sizes[d];
        }
    }
};

// One number a corner, in one register where the processor has registers that wide.
template <typename T, int K>
struct Lanes {
    typedef T type __attribute__((vector_size(K * sizeof(T))));
};

template <typename T, int K>
inline T sum(typename Lanes<T, K>::type v) {
    T total = T(0);
    for (int k = 0; k < K; ++k) total += v[k];
    return total;
}

// The 2^D corners around a point: where they are, their weights, and the weights' derivatives by the point.
template <typename T, int D>
struct Corners {
    static constexpr int K = 1 << D;
    using V = typename Lanes<T, K>::type;
    Size base = 0;
    Size step[K];
    V weight[D];  // of each axis: 1 - fraction at the low corners, fraction at the high ones
    V slope[D];   // its derivative: -(n - 1) and n - 1 inside, 0 where the point is clamped

    Corners(const Lattice<D>& lattice, const T* point, Size point_stride) {
        for (int k = 0; k < K; ++k) step[k] = 0;
        for (int d = 0; d < D; ++d) {
            const T last = static_cast<T>(lattice.shape[d] - 1);
            const T index = point[d * point_stride] * last;
            const bool inside = index >= T(0) && index <= last;
            const T clamped = index > T(0) ? std::min(index, last) : T(0);  // false for NaN
            const Size low = std::min(static_cast<Size>(clamped), std::max<Size>(lattice.shape[d] - 2, 0));
            T fraction = clamped - static_cast<T>(low);
            if (index != index) fraction = index;
            const T rise = inside ? last : T(0);
            const Size stride = lattice.shape[d] > 1 ? lattice.stride[d] : 0;
            base += low * lattice.stride[d];
            for (int k = 0; k < K; ++k) {
                const bool high = k >> d & 1;
                weight[d][k] = high ? fraction : T(1) - fraction;
                slope[d][k] = high ? rise : -rise;
                if (high) step[k] += stride;
            }
        }
    }

    V weights() const {
        V w = weight[0];
        for (int d = 1; d < D; ++d) w *= weight[d];
        return w;
    }

    // Derivative of the weights by axis a, and by axis b as well where b >= 0.
    V derivative(int a, int b = -1) const {
        V w = a == 0 || b == 0 ? slope[0] : weight[0];
        for (int d = 1; d < D; ++d) w *= d == a || d == b ? slope[d] : weight[d];
        return w;
    }

    V load(const T* from) const {
        V v;
        for (int k = 0; k < K; ++k) v[k] = from[step[k]];
        return v;
    }
};

template <typename T, int D>
void forward(const T* values, const T* points, T* value, T* jacobian, Size batch, Size channels, const Size* shape,
             Size count, Size values_stride, Size points_stride, int threads) {
    constexpr int K = 1 << D;
    using V = typename Lanes<T, K>::type;
    const Lattice<D> lattice(shape);
    constexpr Size chunk = 4096;
    const Size chunks = (count + chunk - 1) / chunk;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (Size job = 0; job < batch * chunks; ++job) {
        const Size b = job / chunks, begin = job % chunks * chunk, end = std::min(begin + chunk, count);
        const T* v_b = values + b * values_stride;
        const T* p_b = points + b * points_stride;
        for (Size n = begin; n < end; ++n) {
            const Corners<T, D> corners(lattice, p_b + n, count);
            const V w = corners.weights();
            V dw[D];
            for (int d = 0; d < D; ++d) dw[d] = corners.derivative(d);
            for (Size c = 0; c < channels; ++c) {
                const V v = corners.load(v_b + c * lattice.nodes + corners.base);
                const Size at = b * channels + c;
                value[at * count + n] = sum<T, K>(w * v);
                if (jacobian)
                    for (int d = 0; d < D; ++d) jacobian[(at * D + d) * count + n] = sum<T, K>(dw[d] * v);
            }
        }
    }
}

// The part of the backward that belongs to points [begin, end) of one sample. Either gradient out may be null.
template <typename T, int D>
void backward_range(const Lattice<D>& lattice, const T* values, const T* points, const T* g_value,
                    const T* g_jacobian, T* g_values, T* g_points, Size channels, Size count, Size begin, Size end) {
    constexpr int K = 1 << D;
    using V = typename Lanes<T, K>::type;
    for (Size n = begin; n < end; ++n) {
        const Corners<T, D> corners(lattice, points + n, count);
        const V w = corners.weights();
        V dw[D], g_point[D];
        for (int d = 0; d < D; ++d) {
            dw[d] = corners.derivative(d);
            g_point[d] = V{};
        }
        for (Size c = 0; c < channels; ++c) {
            const T g = g_value ? g_value[c * count + n] : T(0);
            T g_j[D];
            for (int d = 0; d < D; ++d) g_j[d] = g_jacobian ? g_jacobian[(c * D + d) * count + n] : T(0);
            const Size at = c * lattice.nodes + corners.base;
            if (g_values) {
                V share = g * w;
                if (g_jacobian)
                    for (int d = 0; d < D; ++d) share += g_j[d] * dw[d];
                for (int k = 0; k < K; ++k) g_values[at + corners.step[k]] += share[k];
            }
            if (g_points) {
                const V v = corners.load(values + at);
                for (int d = 0; d < D; ++d) g_point[d] += g * (dw[d] * v);
                if (g_jacobian)
                    for (int d = 0; d < D; ++d)
                        for (int e = d + 1; e < D; ++e) {
                            const V mixed = corners.derivative(d, e) * v;
                            g_point[d] += g_j[e] * mixed;
                            g_point[e] += g_j[d] * mixed;
                        }
            }
        }
        if (g_points)
            for (int d = 0; d < D; ++d) g_points[d * count + n] = sum<T, K>(g_point[d]);
    }
}

template <typename T, int D>
void backward(const T* values, const T* points, const T* g_value, const T* g_jacobian, T* g_values, T* g_points,
              Size batch, Size channels, const Size* shape, Size count, Size values_stride, Size points_stride,
              int threads) {
    const Lattice<D> lattice(shape);
    const Size volume = channels * lattice.nodes;
    // As many threads share a sample as are left over; each but the first of them scatters into a buffer of its own.
    const Size sharing = std::max<Size>(1, batch > 0 ? threads / batch : 1);
    std::vector<std::vector<T>> buffers;
    if (g_values) buffers.resize(batch * (sharing - 1));
    const Size piece = (count + sharing - 1) / sharing;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (Size job = 0; job < batch * sharing; ++job) {
        const Size b = job / sharing, part = job % sharing;
        T* scatter = g_values ? g_values + b * volume : nullptr;
        if (g_values && part > 0) {
            auto& own = buffers[b * (sharing - 1) + part - 1];
            own.assign(volume, T(0));
            scatter = own.data();
        }
        backward_range<T, D>(lattice, values + b * values_stride, points + b * points_stride,
                             g_value ? g_value + b * channels * count : nullptr,
                             g_jacobian ? g_jacobian + b * channels * D * count : nullptr, scatter,
                             g_points ? g_points + b * D * count : nullptr, channels, count, part * piece,
                             std::min((part + 1) * piece, count));
    }
    if (!g_values || sharing == 1) return;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (Size i = 0; i < batch * volume; ++i) {
        const Size b = i / volume;
        for (Size part = 1; part < sharing; ++part) g_values[i] += buffers[b * (sharing - 1) + part - 1][i % volume];
    }
}

}  // namespace

#define FOLDLESS_EXPORT(T, NAME)                                                                                       \
    extern "C" void foldless_sample_##NAME(const T* values, const T* points, T* value, T* jacobian, Size batch,         \
                                           Size channels, Size dim, const Size* shape, Size count, Size values_stride,  \
                                           Size points_stride, int threads) {                                           \
        auto run = dim == 1 ? forward<T, 1> : dim == 2 ? forward<T, 2> : forward<T, 3>;                                 \
        run(values, points, value, jacobian, batch, channels, shape, count, values_stride, points_stride, threads);     \
    }                                                                                                                   \
    extern "C" void foldless_sample_backward_##NAME(                                                                    \
        const T* values, const T* points, const T* g_value, const T* g_jacobian, T* g_values, T* g_points, Size batch,  \
        Size channels, Size dim, const Size* shape, Size count, Size values_stride, Size points_stride, int threads) {  \
        auto run = dim == 1 ? backward<T, 1> : dim == 2 ? backward<T, 2> : backward<T, 3>;                              \
        run(values, points, g_value, g_jacobian, g_values, g_points, batch, channels, shape, count, values_stride,      \
            points_stride, threads);                                                                                    \
    }

FOLDLESS_EXPORT(float, f32)
FOLDLESS_EXPORT(double, f64)
