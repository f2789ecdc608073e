// Memory that a call needs for itself: not cleared, in large pages where the system has them, kept for the next call.

#pragma once

#include <cstddef>
#include <cstdlib>
#include <mutex>
#include <new>
#include <vector>
#ifdef __linux__
#include <sys/mman.h>
#endif

namespace foldless {

// Large pieces that calls have left; pages that the system must find and clear anew cost more than what calls do there.
class Kept {
  public:
    struct Piece {
        void* memory;
        std::size_t bytes;
    };

    static Piece take(std::size_t bytes) {
        const bool large = bytes >= LARGE_PAGE;
        if (large) {
            const std::lock_guard<std::mutex> guard(one().lock);
            auto& pieces = one().pieces;
            for (auto it = pieces.begin(); it != pieces.end(); ++it)
                if (bytes <= it->bytes && it->bytes <= 2 * bytes) {
                    const Piece found = *it;
                    pieces.erase(it);
                    one().total -= found.bytes;
                    return found;
                }
        }
        void* memory = std::aligned_alloc(large ? LARGE_PAGE : 64, bytes);
        if (!memory) throw std::bad_alloc();
#ifdef __linux__
        if (large) madvise(memory, bytes, MADV_HUGEPAGE);
#endif
        return {memory, bytes};
    }

    static void leave(Piece piece) {
        if (piece.bytes < LARGE_PAGE || piece.bytes > MOST) return std::free(piece.memory);
        const std::lock_guard<std::mutex> guard(one().lock);
        auto& pieces = one().pieces;
        for (; one().total + piece.bytes > MOST; pieces.erase(pieces.begin())) {  // the oldest first
            one().total -= pieces.front().bytes;
            std::free(pieces.front().memory);
        }
        pieces.push_back(piece);
        one().total += piece.bytes;
    }

    static constexpr std::size_t LARGE_PAGE = std::size_t(1) << 21;

  private:
    static constexpr std::size_t MOST = std::size_t(1) << 27;  // bytes that are kept; each piece has a large page or more

    Kept() { pieces.reserve(MOST / LARGE_PAGE); }
    static Kept& one() {
        static Kept* kept = new Kept;  // never destroyed: threads may outlive what is
        return *kept;
    }

    std::mutex lock;
    std::vector<Piece> pieces;
    std::size_t total = 0;
};

template <typename T>
class Scratch {
  public:
    explicit Scratch(std::size_t count) : piece(Kept::take(rounded(count * sizeof(T)))) {}
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
    ~Scratch() { Kept::leave(piece); }

    T* data() const { return static_cast<T*>(piece.memory); }
    T& operator[](std::size_t i) const { return data()[i]; }

  private:
    const Kept::Piece piece;

    static std::size_t rounded(std::size_t bytes) {
        const std::size_t unit = bytes >= Kept::LARGE_PAGE ? Kept::LARGE_PAGE : 64;
        return (bytes / unit + 1) * unit;
    }
};

}  // namespace foldless
