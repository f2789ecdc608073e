// Memory that a call needs for itself: not cleared, and in large pages where the system has them.

#pragma once

#include <cstddef>
#include <cstdlib>
#include <new>
#ifdef __linux__
#include <sys/mman.h>
#endif

namespace foldless {

template <typename T>
class Scratch {
  public:
    explicit Scratch(std::size_t count) {
        const std::size_t page = std::size_t(1) << 21, wanted = count * sizeof(T);
        const std::size_t unit = wanted >= page ? page : 64, bytes = (wanted / unit + 1) * unit;
        memory = static_cast<T*>(std::aligned_alloc(unit, bytes));
        if (!memory) throw std::bad_alloc();
#ifdef __linux__
        if (unit == page) madvise(memory, bytes, MADV_HUGEPAGE);
#endif
    }
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
    ~Scratch() { std::free(memory); }

    T* data() const { return memory; }
    T& operator[](std::size_t i) const { return memory[i]; }

  private:
    T* memory;
};

}  // namespace foldless
