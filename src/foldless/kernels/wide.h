// The widest vector register of the processor, for float and double.

#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

namespace foldless {

using Size = std::int64_t;

#ifdef __AVX512F__
constexpr int BYTES = 64;
#elif defined(__AVX__)
constexpr int BYTES = 32;
#else
constexpr int BYTES = 16;
#endif

template <typename T>
struct Wide {
    static constexpr int W = BYTES / sizeof(T);
    using Integer = std::conditional_t<sizeof(T) == 4, std::int32_t, std::int64_t>;
    typedef T V __attribute__((vector_size(BYTES)));
    typedef Integer I __attribute__((vector_size(BYTES)));
};

template <typename V, typename T>
inline V load(const T* from) {
    V v;
    std::memcpy(&v, from, sizeof v);
    return v;
}
template <typename V, typename T>
inline void store(T* to, V v) {
    std::memcpy(to, &v, sizeof v);
}

}  // namespace foldless
