// SPDX-License-Identifier: Apache-2.0
// Runs a Verilated FRONT unit against a memory with latency and pauses; writes what came out.
//
// Input (little-endian): the header below, `beats` times address and 64 bytes, `commands` times
// `words` uint32 of payload. Output: records of cycle, kind and 6 words of data.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <deque>
#include <unordered_map>
#include <vector>

#include "Vlutvar_front.h"
#include "verilated.h"

// Verilator spells the second of two underscores as __05F.
struct Header {
    uint64_t beats, commands, words, latency, jitter, stall, limit, stop, restart, bad, seed;
};
enum Kind : uint32_t { kWrite, kDone, kAccept, kEnd, kRead, kReset };
struct Record {
    uint32_t cycle, kind, data[6];
};
struct Beat {
    uint64_t due, address;
    bool last;
};

static uint64_t state = 1;
static uint64_t draw() {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state >> 32;
}

template <class Port> static void fill(Port& port, const void* from, size_t size) {
    std::memset(&port, 0, sizeof port);
    std::memcpy(&port, from, size < sizeof port ? size : sizeof port);
}

int main(int argc, char** argv) {
    if (argc != 3) return 2;
    std::FILE* in = std::fopen(argv[1], "rb");
    std::FILE* out = std::fopen(argv[2], "wb");
    Header h;
    if (!in || !out || std::fread(&h, sizeof h, 1, in) != 1) return 2;
    std::unordered_map<uint64_t, std::vector<uint8_t>> memory;
    for (uint64_t i = 0; i < h.beats; ++i) {
        uint64_t address;
        std::vector<uint8_t> beat(64);
        if (std::fread(&address, 8, 1, in) != 1 || std::fread(beat.data(), 64, 1, in) != 1) return 2;
        memory[address] = beat;
    }
    std::vector<uint32_t> commands(h.commands * h.words);
    if (std::fread(commands.data(), 4, commands.size(), in) != commands.size()) return 2;
    state = h.seed * 0x9E3779B97F4A7C15u + 1;

    VerilatedContext context;
    Vlutvar_front top(&context);
    std::deque<Beat> waiting;
    std::vector<uint32_t> noise(16);
    uint64_t next = 0, done = 0, cycle = 0, tail = 0;
    bool offered = false, showing = false, restarted = false;
    uint64_t running = 4;  // reset until then
    top.rst = 1;
    // One window, all of memory but its last beat.
    fill(top.windows, std::vector<uint32_t>{0, 0xFC000000u, 0xFFFFFFFFu, 0x000FFFFFu}.data(), 16);
    top.stop = top.command___05Fvalid = top.memory___05Frvalid = 0;
    auto write = [&](uint32_t kind, const void* data, size_t size) {
        Record record{uint32_t(cycle), kind, {}};
        std::memcpy(record.data, data, size < sizeof record.data ? size : sizeof record.data);
        std::fwrite(&record, sizeof record, 1, out);
    };
    for (; cycle < h.limit && tail < 50; ++cycle) {
        if (h.restart && top.stop && tail >= 40 && !restarted) {
            restarted = true;
            running = cycle + 4;
            top.stop = offered = showing = false;
            next = done = tail = 0;
            write(kReset, &done, 8);
        }
        top.rst = cycle < running;
        if (h.stop && cycle == h.stop) top.stop = 1;
        if (!offered && next < h.commands && !top.rst && draw() >= h.stall) {
            fill(top.command___05Fpayload, &commands[next * h.words], 4 * h.words);
            offered = true;
        }
        top.command___05Fvalid = offered;
        if (!showing && !waiting.empty() && waiting.front().due <= cycle && draw() >= h.stall) {
            auto found = memory.find(waiting.front().address);
            if (found == memory.end()) {
                std::fprintf(stderr, "read of %llx\n", (unsigned long long)waiting.front().address);
                return 3;
            }
            fill(top.memory___05Frdata, found->second.data(), 64);
            top.memory___05Frlast = waiting.front().last;
            top.memory___05Frresp = h.bad && waiting.front().address == h.bad ? 2 : 0;
            showing = true;
        } else if (!showing) {
            for (auto& word : noise) word = uint32_t(draw());
            fill(top.memory___05Frdata, noise.data(), 64);
        }
        top.memory___05Frvalid = showing;
        top.memory___05Farready = draw() >= h.stall;
        top.clk = 0;
        top.eval();
        if (!top.rst) {
            if (offered && top.command___05Fready) {
                offered = false;
                ++next;
                write(kAccept, &next, 8);
            }
            if (showing && top.memory___05Frready) {
                showing = false;
                waiting.pop_front();
            }
            if (top.memory___05Farvalid && top.memory___05Farready) {
                const uint64_t address = top.memory___05Faraddr, length = top.memory___05Farlen + 1;
                if (address % 64 || address >> 12 != (address + 64 * length - 1) >> 12) return 4;
                const uint64_t due = cycle + h.latency + (h.jitter ? draw() % h.jitter : 0);
                for (uint64_t i = 0; i < length; ++i)
                    waiting.push_back({due, address + 64 * i, i + 1 == length});
                write(kRead, &address, 8);
            }
            uint32_t word[8] = {};
            std::memcpy(word, &top.bank_write, sizeof top.bank_write);
            if (word[0] & 1) write(kWrite, word, sizeof top.bank_write);
            if (top.done) {
                ++done;
                write(kDone, &done, 8);
            }
        }
        const bool idle = !top.busy && !top.rst && next == h.commands;
        tail = idle || (top.stop && top.idle) ? tail + 1 : 0;
        top.clk = 1;
        top.eval();
    }
    // First report: kinds in its lowest bits, behind them a flag, then the address in beats.
    uint64_t report = 0;
    std::memcpy(&report, &top.reports, sizeof report);
    uint64_t end[3] = {report & 7, report >> 4 << 6, waiting.size() + (top.idle ? 0 : 1000000)};
    write(kEnd, end, sizeof end);
    std::fclose(out);
    return tail < 50 ? 5 : 0;
}
