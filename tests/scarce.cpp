// An allocator that says no: loaded before the C++ library it stands in for its `new` and for aligned_alloc.
// See memory_cases.py.

#include <atomic>
#include <cstdlib>
#include <new>

namespace {
std::atomic<long> left{-1};  // requests until one is refused; negative: none will be

bool refused() { return left.load() >= 0 && left.fetch_sub(1) == 0; }
}  // namespace

extern "C" void refuse_after(long requests) { left = requests; }
extern "C" int has_refused() { return left < 0; }

void* operator new(std::size_t bytes) {
    void* memory = refused() ? nullptr : std::malloc(bytes ? bytes : 1);
    if (!memory) throw std::bad_alloc();
    return memory;
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

extern "C" void* aligned_alloc(std::size_t alignment, std::size_t bytes) {
    void* memory = nullptr;
    return refused() || posix_memalign(&memory, alignment, bytes) ? nullptr : memory;
}
