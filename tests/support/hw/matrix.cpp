// SPDX-License-Identifier: Apache-2.0
// Drives a Verilated matrix unit: queues of bank writes, commands, weight beats and drain requests,
// each with pauses and with what it waits for. C interface for ctypes.
#include <cstdint>
#include <cstring>
#include <deque>
#include <type_traits>
#include <utility>
#include <vector>

#include "Vtop.h"
#include "verilated.h"

// Verilator's way to write two underscores.
#define command__payload command___05Fpayload
#define command__valid command___05Fvalid
#define command__ready command___05Fready
#define WEIGHT(top, port, end) top.weights___05F##port##___05F##end

namespace {

constexpr size_t kRecord = 32;  // bytes of a packed bank write, command or drain request
constexpr size_t kBeat = 65;    // bytes of a weight beat: data, then whether it is the last one

struct Item {
    uint8_t data[kRecord];
    uint64_t writes, dones, drains;  // counts that must have been reached
};

struct Pauses {
    uint64_t state = 88172645463325252ull, threshold = 0;
    bool draw() {
        if (!threshold) return false;
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        return (state >> 32) < threshold;
    }
};

// A weight port, and what it brings.
struct Weights {
    VlWide<17>* payload;
    CData *valid, *ready;
    Pauses pause;
    std::deque<std::vector<uint8_t>> beats;
    bool shown = false;
};

// Units have one to four weight ports.
#define PORT(N)                                                                                \
    template <class Top, class = void> struct Port##N {                                        \
        static void add(Top&, std::vector<Weights>&) {}                                        \
    };                                                                                         \
    template <class Top>                                                                       \
    struct Port##N<Top, std::void_t<decltype(WEIGHT(std::declval<Top&>(), N, valid))>> {       \
        static void add(Top& top, std::vector<Weights>& ports) {                               \
            Weights port;                                                                      \
            port.payload = &WEIGHT(top, N, payload);                                           \
            port.valid = &WEIGHT(top, N, valid), port.ready = &WEIGHT(top, N, ready);          \
            ports.push_back(port);                                                             \
        }                                                                                      \
    };
PORT(0)
PORT(1)
PORT(2)
PORT(3)

struct Harness {
    VerilatedContext context;
    Vtop top{&context};
    std::deque<Item> writes, commands, drains;
    std::vector<Weights> weights;
    Pauses pause[4];  // of writes, commands and drains; ports have their own
    uint64_t latency = 0, cycle = 0, written = 0, taken = 0, done = 0, drained = 0, asked = 0;
    uint64_t issues = 0, waits = 0, beats_taken = 0;
    bool command_valid = false;
    std::deque<bool> due;
    std::vector<uint8_t> values;
    std::vector<uint64_t> done_cycles, taken_cycles, issue_cycles;

    Harness() {
        Port0<Vtop>::add(top, weights), Port1<Vtop>::add(top, weights);
        Port2<Vtop>::add(top, weights), Port3<Vtop>::add(top, weights);
    }

    bool may(const Item& item) const {
        return written >= item.writes && done >= item.dones && asked >= item.drains;
    }

    template <class Port> static void set(Port& port, const uint8_t* data) {
        std::memcpy(&port, data, sizeof port);
    }

    void step() {
        const bool write = !writes.empty() && may(writes.front()) && !pause[0].draw();
        if (write) set(top.bank_write, writes.front().data);
        else std::memset(&top.bank_write, 0, sizeof top.bank_write);
        if (!command_valid && !commands.empty() && may(commands.front()) && !pause[1].draw()) {
            set(top.command__payload, commands.front().data);
            command_valid = true;
        }
        top.command__valid = command_valid;
        for (Weights& port : weights) {
            if (!port.shown && !port.beats.empty() && !port.pause.draw()) {
                std::memcpy(port.payload, port.beats.front().data(), kBeat);
                port.shown = true;
            }
            *port.valid = port.shown;
        }
        const bool ask = !drains.empty() && may(drains.front()) && !pause[3].draw();
        if (ask) set(top.drain, drains.front().data);
        top.clk = 0;
        top.eval();
        due.push_back(ask);
        if (due.size() > latency) {
            if (due.front()) {
                const uint8_t* data = reinterpret_cast<const uint8_t*>(&top.drained);
                values.insert(values.end(), data, data + 128);
                ++drained;
            }
            due.pop_front();
        }
        if (write) writes.pop_front(), ++written;
        if (ask) drains.pop_front(), ++asked;
        for (Weights& port : weights)
            if (*port.ready && port.shown) port.beats.pop_front(), port.shown = false, ++beats_taken;
        if (top.command__ready && command_valid) {
            commands.pop_front(), command_valid = false, ++taken;
            taken_cycles.push_back(cycle);
        }
        if (top.issue) issue_cycles.push_back(cycle);
        issues += top.issue, waits += top.wait_weights;
        if (top.done) ++done, done_cycles.push_back(cycle);
        top.clk = 1;
        top.eval();
        ++cycle;
    }
};

void put(std::deque<Item>& queue, const uint8_t* data, uint64_t count, const uint64_t* gates) {
    for (uint64_t i = 0; i < count; ++i) {
        Item item;
        std::memcpy(item.data, data + i * kRecord, kRecord);
        item.writes = gates[0], item.dones = gates[1], item.drains = gates[2];
        queue.push_back(item);
    }
}

}  // namespace

#define API extern "C" __attribute__((visibility("default")))

API Harness* harness_create(uint64_t latency) {
    Harness* harness = new Harness;
    harness->latency = latency;
    harness->top.rst = 1;
    for (int i = 0; i < 4; ++i) harness->step();
    harness->top.rst = 0;
    harness->step();
    return harness;
}
API void harness_destroy(Harness* harness) { delete harness; }
// which: 0 writes, 1 commands, 2 beats of all ports, 3 drains, 4 + p: beats of port p.
API void harness_pauses(Harness* harness, int which, double share, uint64_t seed) {
    const auto set = [&](Pauses& pause, uint64_t number) {
        pause.threshold = uint64_t(share * 4294967296.0);
        pause.state = (seed + number) * 2862933555777941757ull + 3037000493ull;
    };
    if (which >= 4) return set(harness->weights[which - 4].pause, which);
    if (which != 2) return set(harness->pause[which], 0);
    for (size_t port = 0; port < harness->weights.size(); ++port)
        set(harness->weights[port].pause, 100 * port);
}
API void harness_queue(Harness* harness, int which, const uint8_t* data, uint64_t count, const uint64_t* gates) {
    put(which == 0 ? harness->writes : which == 1 ? harness->commands : harness->drains, data, count, gates);
}
API void harness_beats(Harness* harness, int port, const uint8_t* data, uint64_t count) {
    for (uint64_t i = 0; i < count; ++i)
        harness->weights[port].beats.emplace_back(data + kBeat * i, data + kBeat * (i + 1));
}
// Runs until `done` instructions and `drained` requests are complete; 1 if they are.
API int harness_run(Harness* harness, uint64_t done, uint64_t drained, uint64_t limit) {
    for (uint64_t i = 0; i < limit; ++i) {
        if (harness->done >= done && harness->drained >= drained) return 1;
        harness->step();
    }
    return harness->done >= done && harness->drained >= drained;
}
// 0 cycle, 1 written, 2 taken, 3 done, 4 drained, 5 issues, 6 waits, 7 beats taken, 8 busy,
// 9 surplus, 10 missing, 11 index of the instruction that either is about
API uint64_t harness_count(Harness* b, int which) {
    const uint64_t counts[] = {b->cycle, b->written, b->taken, b->done, b->drained,
                               b->issues, b->waits, b->beats_taken, b->top.busy,
                               b->top.surplus, b->top.missing, b->top.weights_index};
    return counts[which];
}
API void harness_values(Harness* b, uint8_t* to) { std::memcpy(to, b->values.data(), b->values.size()); }
API uint64_t harness_cycles(Harness* b, int which, uint64_t* to) {
    const auto& from = which == 0 ? b->taken_cycles : which == 1 ? b->done_cycles : b->issue_cycles;
    if (to) std::memcpy(to, from.data(), from.size() * 8);
    return from.size();
}
