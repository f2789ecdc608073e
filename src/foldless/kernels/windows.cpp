// What the nodes of a lattice half as fine meet of x, written out: a copy of bytes, whatever they are.
//
// Channels-last memory: x (batch, size..., bytes of a node), out (lines, nodes along the last axis, width..., bytes of a
// node); the `lines` of nodes begin with number `first` of all. A window begins before the double of its node; outside x
// are zeros. An axis that does not exist has size, nodes and width 1.

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "status.h"

namespace {

using namespace foldless;

using Size = std::int64_t;

struct Shape {
    Size size[3], nodes[3], width[3], node, first, lines;  // node: bytes
};

// A window's taps along an axis: the first one's place, and those that lie inside.
struct Taps {
    Size begin, low, high;

    Taps(Size at, Size size, Size width) : begin(width == 1 ? at : 2 * at - 1) {
        low = std::clamp<Size>(-begin, 0, width);
        high = std::clamp<Size>(size - begin, low, width);
    }
    bool inside(Size tap) const { return low <= tap && tap < high; }
};

void windows(const char* x, char* out, const Shape& s, int threads) {
    const Size run = s.width[2] * s.node;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (Size i = 0; i < s.lines; ++i) {
        const Size line = s.first + i, sample = line / (s.nodes[0] * s.nodes[1]);
        const Taps d(line / s.nodes[1] % s.nodes[0], s.size[0], s.width[0]);
        const Taps h(line % s.nodes[1], s.size[1], s.width[1]);
        char* to = out + i * s.nodes[2] * s.width[0] * s.width[1] * run;
        for (Size node = 0; node < s.nodes[2]; ++node) {
            const Taps w(node, s.size[2], s.width[2]);
            const Size before = w.low * s.node, met = (w.high - w.low) * s.node;
            for (Size a = 0; a < s.width[0]; ++a)
                for (Size b = 0; b < s.width[1]; ++b, to += run) {
                    if (!d.inside(a) || !h.inside(b)) {
                        std::memset(to, 0, run);
                        continue;
                    }
                    const Size row = (sample * s.size[0] + d.begin + a) * s.size[1] + h.begin + b;
                    std::memset(to, 0, before);
                    std::memcpy(to + before, x + (row * s.size[2] + w.begin + w.low) * s.node, met);
                    std::memset(to + before + met, 0, run - before - met);
                }
        }
    }
}

}  // namespace

// shape: size, nodes and width, each by depth, height and width; bytes of a node, the first line, lines.
extern "C" Status foldless_windows(const char* x, char* out, const Size* s, int threads) {
    return status_of([&] {
        windows(x, out, {{s[0], s[1], s[2]}, {s[3], s[4], s[5]}, {s[6], s[7], s[8]}, s[9], s[10], s[11]}, threads);
    });
}
