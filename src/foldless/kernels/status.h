// How a call ends: an exception that leaves C, or a thread of a parallel loop, would end the process.

#pragma once

#include <exception>
#include <mutex>
#include <new>
#include <stdexcept>

namespace foldless {

enum class Status : int { DONE, NO_MEMORY, FAILED };  // what library.py raises follows from the numbers

// What every function with a C interface returns of its work.
template <typename Work>
Status status_of(Work work) noexcept {
    try {
        work();
        return Status::DONE;
    } catch (const std::bad_alloc&) {
        return Status::NO_MEMORY;
    } catch (const std::length_error&) {  // a vector longer than any memory
        return Status::NO_MEMORY;
    } catch (...) {
        return Status::FAILED;
    }
}

// Carries the first exception that a parallel loop's threads throw out of it. Loops that allocate nothing need none.
class Carrier {
  public:
    template <typename Work>
    void run(Work work) noexcept {
        try {
            work();
        } catch (...) {
            const std::lock_guard<std::mutex> guard(lock);
            if (!first) first = std::current_exception();
        }
    }

    // After the loop.
    void deliver() const {
        if (first) std::rethrow_exception(first);
    }

  private:
    std::mutex lock;
    std::exception_ptr first;
};

}  // namespace foldless
