// Calls the kernels with several threads under the thread sanitizer: see test_threads.py.
//
// The sanitizer does not see how libgomp's threads wait for each other, so OpenMP's few entry points that the kernels use
// are written here with std::thread, which it does see. "planted" as the argument runs a race that it must find.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <thread>
#include <tuple>
#include <vector>

namespace {

struct Loop {  // of one parallel region
    std::mutex lock;
    bool begun = false;
    long next = 0;
};

thread_local int team = 1, number = 0;
thread_local Loop* loop = nullptr;
thread_local long end = 0, chunk = 0;

std::mutex critical;

}  // namespace

extern "C" {
int omp_get_num_threads() { return team; }
int omp_get_thread_num() { return number; }
void GOMP_parallel(void (*function)(void*), void* data, unsigned threads, unsigned) {
    Loop shared;
    std::vector<std::thread> others;
    const auto work = [&](int mine) {
        const auto before = std::make_tuple(team, number, loop, end, chunk);
        team = static_cast<int>(threads), number = mine, loop = &shared;
        function(data);
        std::tie(team, number, loop, end, chunk) = before;
    };
    for (unsigned i = 1; i < threads; ++i) others.emplace_back(work, i);
    work(0);
    for (auto& other : others) other.join();
}
bool GOMP_loop_nonmonotonic_dynamic_next(long* from, long* to) {
    const std::lock_guard<std::mutex> guard(loop->lock);
    *from = loop->next;
    *to = loop->next = std::min(*from + chunk, end);
    return *from < end;
}
bool GOMP_loop_nonmonotonic_dynamic_start(long first, long last, long, long each, long* from, long* to) {
    {
        const std::lock_guard<std::mutex> guard(loop->lock);
        if (!loop->begun) loop->begun = true, loop->next = first;
    }
    end = last, chunk = each;
    return GOMP_loop_nonmonotonic_dynamic_next(from, to);
}
void GOMP_loop_end_nowait() {}
void GOMP_critical_start() { critical.lock(); }
void GOMP_critical_end() { critical.unlock(); }

using Size = std::int64_t;
int foldless_sample_f32(const float*, const float*, float*, float*, Size, Size, Size, const Size*, Size, Size, Size, int);
int foldless_sample_backward_f32(const float*, const float*, const float*, const float*, float*, float*, Size, Size, Size,
                                 const Size*, Size, Size, Size, int);
int foldless_correlate_f32(const float*, const float*, const float*, float*, float*, const float*, const Size*,
                           const Size*, Size, Size, double, double, double, int, int, double*);
int foldless_judge_f32(const float*, bool*, float*, const int*, const int*, const int*, Size, Size, Size, Size,
                       const Size*, Size, Size, int, int);
int foldless_product_error_f32(const float*, const float*, float*, float*, Size, Size, Size, double, int, double*);
int foldless_product_f32(const float*, const float*, float*, Size, Size, Size, int, int, int);
int foldless_consistency_f32(const float* const*, float* const*, Size, Size, Size, Size, const Size*, const float*, Size,
                             Size, const Size*, std::uint64_t, double, int, double*);
int foldless_gradient_consistency_f32(const float* const*, float* const*, Size, Size, Size, Size, const Size*,
                                      const float*, Size, Size, const Size*, std::uint64_t, double, int, double*);
int foldless_square_f32(const float*, float*, Size, Size, const Size*, double, double, int);
int foldless_steepest_f32(const float*, float*, Size, Size, const Size*, int);
int foldless_square_backward_f32(const float*, const float*, float*, Size, Size, const Size*, double, double, int);
int foldless_jitter_f32(float*, Size, Size, const Size*, std::uint64_t, int);
int foldless_planar_add(const float*, const float*, float*, const Size*, int);
int foldless_planar_backward_weights(const float*, const float*, float*, const Size*, int);
int foldless_add_doubled_f32(const float*, float*, const Size*, int);
int foldless_doubled_adjoint_f32(const float*, const float*, float*, const Size*, int);
int foldless_add_means_f32(const float*, float*, const Size*, int);
int foldless_means_adjoint_f32(const float*, const float*, float*, const Size*, int);
int foldless_windows(const char*, char*, const Size*, int);
int foldless_lanes();
int foldless_thin_f32(const float*, const float*, const float*, const float*, float*, const Size*, int, int);
int foldless_thin_backward_x_f32(const float*, const float*, const float*, const float*, const float*, float*,
                                 const Size*, int, int);
int foldless_thin_backward_weights_f32(const float*, const float*, float*, const Size*, int, int);
int foldless_norm_reduce_f32(const float*, const float*, double*, Size, Size, Size, int);
int foldless_certify_f32(const float*, const Size*, const Size*, const double*, float*, double*, double*, Size, int, int,
                         int, Size*);
}

namespace {

constexpr int THREADS = 4;

std::vector<float> numbers(Size count) {
    std::vector<float> result(count);
    std::uint32_t state = 1;
    for (float& x : result) x = static_cast<float>((state = state * 1664525u + 1013904223u) >> 8) / (1 << 24);
    return result;
}

void sample(Size batch, Size channels) {
    const Size shape[] = {9, 10, 11}, nodes = 990, count = 4000;
    const auto values = numbers(batch * channels * nodes), points = numbers(batch * 3 * count);
    auto value = numbers(batch * channels * count), jacobian = numbers(batch * channels * 3 * count);
    auto g_values = values, g_points = points;
    foldless_sample_f32(values.data(), points.data(), value.data(), jacobian.data(), batch, channels, 3, shape, count,
                        channels * nodes, 3 * count, THREADS);
    foldless_sample_backward_f32(values.data(), points.data(), value.data(), jacobian.data(), g_values.data(),
                                 g_points.data(), batch, channels, 3, shape, count, channels * nodes, 3 * count, THREADS);
}

void share_memory() {  // of which every thread takes more than a large page, and leaves it for others
    const Size shape[] = {52, 52, 52}, nodes = 52 * 52 * 52, count = 1000, batch = 8;
    const auto values = numbers(batch * 4 * nodes), points = numbers(batch * 3 * count), value = numbers(batch * 4 * count);
    auto g_values = values;
    foldless_sample_backward_f32(values.data(), points.data(), value.data(), nullptr, g_values.data(), nullptr, batch, 4, 3,
                                 shape, count, 4 * nodes, 3 * count, THREADS);
}

void correlate(Size images, Size side) {
    const Size shape[] = {side, side + 1, side + 2}, reach[] = {1, 1, 1};
    const Size nodes = side * (side + 1) * (side + 2);
    const auto a = numbers(images * nodes), b = numbers(images * nodes), mask = numbers(nodes);
    const std::vector<float> weights(9, 1.0f);
    auto g_a = a, g_b = b;
    double total;
    foldless_correlate_f32(a.data(), b.data(), mask.data(), g_a.data(), g_b.data(), weights.data(), shape, reach, images,
                           images, 1.0 / 27, 1e-5, 1e-3, 0, THREADS, &total);
}

void judge() {
    const Size shape[] = {20, 9, 21};
    const int offsets[] = {1, 0, 0, 0, 1, 0, 0, 0, 1}, corners[] = {0, 1, 2}, signs[] = {1};
    const auto field = numbers(3 * 20 * 9 * 21);
    std::vector<float> negative(19 * 8 * 20);
    std::vector<std::uint8_t> folded(negative.size());
    foldless_judge_f32(field.data(), reinterpret_cast<bool*>(folded.data()), negative.data(), offsets, corners, signs, 3, 1,
                       1, 3, shape, 0, 1, 0, THREADS);
}

void normalise() {
    const auto p = numbers(64 * 999);
    double sums[2 * 64];
    foldless_norm_reduce_f32(p.data(), p.data(), sums, 1, 999, 64, THREADS);
}

void multiply() {
    const auto a = numbers(2 * 9 * 5000), b = a;
    auto g_a = a, g_b = b;
    double total;
    foldless_product_error_f32(a.data(), b.data(), g_a.data(), g_b.data(), 2, 3, 5000, 1.0, THREADS, &total);
    foldless_product_f32(a.data(), b.data(), g_a.data(), 2, 3, 5000, 0, 1, THREADS);
}

void compose(Size batch) {
    const Size shapes[] = {9, 10, 11, 4, 5, 6, 9, 10, 11}, finer[] = {15, 16, 17}, count = 4000;
    const auto one = numbers(batch * 3 * 990), small = numbers(batch * 3 * 120), points = numbers(batch * 3 * count);
    auto g_one = one, g_small = small, g_other = one;
    const float* fields[] = {one.data(), small.data(), one.data()};
    double total;
    float* gradients[] = {g_one.data(), g_small.data(), g_other.data()};
    for (const auto run : {foldless_consistency_f32, foldless_gradient_consistency_f32})
        for (const float* at : {points.data(), static_cast<const float*>(nullptr)})
            run(fields, gradients, 2, 3, batch, 3, shapes, at, at ? count : 15 * 16 * 17, 3 * count, finer, 1, 1e-5, THREADS,
                &total);
    foldless_square_f32(one.data(), g_one.data(), batch, 3, shapes, 1, 1, THREADS);
    std::vector<float> steep(batch * 9);
    foldless_steepest_f32(one.data(), steep.data(), batch, 3, shapes, THREADS);
    foldless_square_backward_f32(one.data(), one.data(), g_one.data(), batch, 3, shapes, 1, 1, THREADS);
    std::vector<float> jittered(batch * 3 * 15 * 16 * 17);
    foldless_jitter_f32(jittered.data(), batch, 3, finer, 1, THREADS);
}

void convolve() {
    const Size few[] = {2, 2, 3, 7, 8, 40, 3, 3, 3};
    const auto padded = numbers(2 * 2 * 9 * 10 * 42), weights = numbers(3 * 2 * 27);
    auto planar = numbers(2 * 3 * 7 * 8 * 40), g_weights = weights;
    foldless_planar_add(padded.data(), weights.data(), planar.data(), few, THREADS);
    foldless_planar_backward_weights(padded.data(), planar.data(), g_weights.data(), few, THREADS);
    const Size L = foldless_lanes(), many[] = {2, 7, 8, 40, L, 3, 3, 3};
    const auto packed = numbers(27 * 3 * L), bias = numbers(3);
    auto nodes = numbers(2 * 7 * 8 * 40 * L), g_packed = packed;
    foldless_thin_f32(nodes.data(), packed.data(), bias.data(), nullptr, planar.data(), many, 3, THREADS);
    foldless_thin_backward_weights_f32(nodes.data(), planar.data(), g_packed.data(), many, 3, THREADS);
    foldless_thin_backward_x_f32(planar.data(), packed.data(), nullptr, nullptr, nullptr, nodes.data(), many, 3, THREADS);
    const Size twice[] = {2, 3, 4, 5, 6, 8, 10, L, L + 2};
    auto coarse = numbers(2 * 60 * (L + 2)), seen = coarse, fine = numbers(2 * 480 * L);
    foldless_add_doubled_f32(coarse.data(), fine.data(), twice, THREADS);
    foldless_doubled_adjoint_f32(fine.data(), seen.data(), coarse.data(), twice, THREADS);
    const Size half[] = {2, 7, 8, 9, 4, 4, 5, L + 2, L + 2, L + 5, 3};
    auto whole = numbers(2 * 504 * (L + 2)), before = whole, means = numbers(2 * 80 * (L + 5));
    foldless_add_means_f32(whole.data(), means.data(), half, THREADS);
    foldless_means_adjoint_f32(means.data(), before.data(), whole.data(), half, THREADS);
    const Size met[] = {7, 8, 9, 4, 4, 5, 3, 3, 3, 4, 2, 30};  // lines 2 to 31 of 32
    std::vector<float> windows(30 * 5 * 27);
    foldless_windows(reinterpret_cast<const char*>(whole.data()), reinterpret_cast<char*>(windows.data()), met, THREADS);
}

void certify() {
    const Size shape[] = {9, 10, 11}, strides[] = {990, 110, 11, 1};
    const double steps[] = {1, 0, 0, 0, 1, 0, 0, 0, 1};
    const auto field = numbers(3 * 990);
    std::vector<float> lower(10 * 11 * 12);
    double summary[7], listed[6 * 100];
    Size found = 0;
    foldless_certify_f32(field.data(), shape, strides, steps, lower.data(), summary, listed, 100, 2, 64, THREADS, &found);
}

void increase(void* counter) { ++*static_cast<int*>(counter); }

}  // namespace

int main(int, char** arguments) {
    if (arguments[1] && std::strcmp(arguments[1], "planted") == 0) {
        int counter = 0;
        GOMP_parallel(increase, &counter, THREADS, 0);
        return 0;
    }
    for (const Size batch : {1, 3, 4}) {
        sample(batch, 1);
        sample(batch, 5);
        compose(batch);
    }
    share_memory();
    convolve();
    correlate(3, 9);
    correlate(2, 40);
    judge();
    normalise();
    certify();
    multiply();
    return 0;
}
