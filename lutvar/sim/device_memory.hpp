// SPDX-License-Identifier: Apache-2.0
// Memory behind the AXI4 masters of a Verilated accelerator.
//
// Each port answers its bursts in order, after a random latency, and rests at random; ports are independent of
// each other, so bursts of two ports may be answered in any order. Write data may be taken before, with or after
// its address. Bursts can be refused by address or by number, a port can be held for some cycles. AXI rules are
// checked on the way: alignment, 4 KiB, WLAST, what is offered stays until it is taken, VALIDs low in reset.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <deque>
#include <type_traits>
#include <utility>
#include <vector>

#include "Vtop.h"
#include "verilated.h"

namespace {

constexpr int kBeat = 64;
constexpr uint64_t kPage = 4096;
constexpr uint64_t kEarly = 64;  // beats of write data that a memory takes before their address
// Weight ports but the first are not in every build.
enum Port { kProg, kWgt, kFront, kPost, kKeys, kValues, kWgt1, kWgt2, kWgt3, kReadPorts };
// When write data are taken: after the address, at any time, or the address after a whole burst of data.
enum Order : int { kAddressFirst, kAnyOrder, kDataFirst };

struct Random {
    uint64_t state = 0x9E3779B97F4A7C15u;

    uint32_t draw() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        return state >> 32;
    }

    bool chance(uint64_t threshold) { return threshold && draw() < threshold; }
};

// A piece of the address space that has memory, and where it lies in it.
struct Segment {
    uint64_t address, bytes, offset;
};

// Addresses that transfers are allowed to touch.
struct Window {
    uint64_t base, limit;
};

// What all ports share.
struct Memory {
    std::vector<uint8_t> data;
    std::vector<Segment> segments;  // none: addresses are offsets
    std::vector<Window> windows;    // none: everything is allowed
    Random random;
    uint64_t bandwidth = 0;  // bytes in a cycle, all ports together; 0: no limit
    int64_t credit = 0;
    uint64_t now = 0;
    uint64_t violations = 0;  // broken AXI rules, see above
    uint64_t outside = 0;     // bursts that do not lie in one window
    uint64_t outside_first = 0;

    // The bytes at an address; null unless all of them are memory.
    uint8_t* at(uint64_t address, uint64_t bytes) {
        if (segments.empty()) {
            if (address >= data.size() || bytes > data.size() - address) return nullptr;
            return data.data() + address;
        }
        for (const Segment& s : segments)
            if (address >= s.address && address - s.address < s.bytes &&
                bytes <= s.bytes - (address - s.address))
                return data.data() + s.offset + (address - s.address);
        return nullptr;
    }

    void tick() {
        ++now;
        if (bandwidth) {
            credit += bandwidth;
            if (credit > int64_t(bandwidth) * 4) credit = bandwidth * 4;
        }
    }

    bool spend() {
        if (!bandwidth) return true;
        if (credit < kBeat) return false;
        credit -= kBeat;
        return true;
    }

    void check(uint64_t address, uint32_t beats) {
        const uint64_t bytes = uint64_t(beats) * kBeat;
        if (address % kBeat || address / kPage != (address + bytes - 1) / kPage) ++violations;
        if (windows.empty()) return;
        for (const Window& w : windows)
            if (address >= w.base && address < w.limit && bytes <= w.limit - address) return;
        if (!outside++) outside_first = address;
    }
};

// How one direction of a port answers.
struct Pace {
    uint32_t latency_low = 8, latency_high = 8;
    uint64_t stall_address = 0, stall_data = 0;  // probability of a rest, of 2**32
    uint64_t held_until = 0;                     // cycle; nothing moves before
    // Bursts that touch these addresses are answered with an error; none.
    uint64_t first = ~uint64_t(0), last = 0;
    uint32_t response = 2;
    // The burst that is refused, counted from 1 downwards; 0: none. Its address afterwards.
    uint64_t countdown = 0, refused_at = ~uint64_t(0);
    uint32_t refusal = 2;
    uint64_t wrong_last = 0;  // the beat, counted likewise, that has RLAST too early

    uint64_t due(Memory& memory) const {
        const uint32_t span = latency_high - latency_low;
        return memory.now + latency_low + (span ? memory.random.draw() % (span + 1) : 0);
    }

    bool held(const Memory& memory) const { return memory.now < held_until; }

    uint32_t answer(Memory& memory, uint64_t address, uint64_t bytes) {
        if (!memory.at(address, bytes)) return 3;
        if (countdown && !--countdown) {
            refused_at = address;
            return refusal;
        }
        return address <= last && address + bytes > first ? response : 0;
    }
};

struct Burst {
    uint64_t address;
    uint32_t left;  // beats
    uint64_t due;
    uint32_t response;
};

// What was offered and not taken in the last cycle has to be there in this one.
struct Offer {
    bool open = false;
    uint64_t address = 0;
    uint32_t length = 0;

    void check(Memory& memory, bool running, bool valid, bool ready, uint64_t at, uint32_t beats) {
        if (open && running && !(valid && at == address && beats == length)) ++memory.violations;
        open = running && valid && !ready;
        address = at;
        length = beats;
    }
};

struct ReadPort {
    QData* araddr;
    CData *arlen, *arvalid, *arready;
    VlWide<16>* rdata;
    CData *rresp, *rlast, *rvalid, *rready;
    std::deque<Burst> bursts{};
    Pace pace{};
    Offer offer{};
    uint64_t beats = 0, requests = 0;
    bool valid = false;

    void drive(Memory& memory) {
        *arready = bursts.size() < 32 && !memory.random.chance(pace.stall_address) &&
                   !pace.held(memory);
        if (!valid && !bursts.empty() && bursts.front().due <= memory.now && !pace.held(memory) &&
            !memory.random.chance(pace.stall_data) && memory.spend()) {
            const Burst& burst = bursts.front();
            if (const uint8_t* bytes = memory.at(burst.address, kBeat))
                std::memcpy(&(*rdata)[0], bytes, kBeat);
            *rresp = burst.response;
            // Only too early: RLAST that never comes is a memory that no longer answers.
            *rlast = burst.left == 1 || (pace.wrong_last && !--pace.wrong_last);
            valid = true;
        }
        *rvalid = valid;
    }

    void step(Memory& memory, bool ar, uint64_t address, uint32_t length, bool r) {
        if (r) {
            valid = false;
            ++beats;
            Burst& burst = bursts.front();
            burst.address += kBeat;
            if (!--burst.left) bursts.pop_front();
        }
        if (ar) {
            memory.check(address, length + 1);
            const uint32_t response = pace.answer(memory, address, uint64_t(length + 1) * kBeat);
            bursts.push_back({address, length + 1, pace.due(memory), response});
            ++requests;
        }
    }

    void clear() { bursts.clear(); valid = false; *rvalid = 0; }
};

struct WriteBeat {
    uint64_t strobe;
    bool last;
    uint8_t bytes[kBeat];

    bool operator==(const WriteBeat& other) const {
        return strobe == other.strobe && last == other.last && !std::memcmp(bytes, other.bytes, kBeat);
    }
};

struct WritePort {
    QData* awaddr;
    CData *awlen, *awvalid, *awready;
    VlWide<16>* wdata;
    QData* wstrb;
    CData *wlast, *wvalid, *wready, *bresp, *bvalid, *bready;
    std::deque<Burst> bursts{}, responses{};
    std::deque<WriteBeat> early{};  // data whose address is not here
    uint64_t early_bursts = 0;      // of these, whole bursts
    Order order = kAddressFirst;
    Pace pace{};
    Offer offer{};
    WriteBeat waiting{};
    bool waits = false;  // data were offered and not taken
    uint64_t beats = 0, requests = 0;
    bool valid = false;

    void drive(Memory& memory) {
        *awready = bursts.size() < 32 && !memory.random.chance(pace.stall_address) &&
                   !pace.held(memory) && (order != kDataFirst || early_bursts);
        // Where data may come at any time, only what is offered costs bandwidth.
        *wready = (order == kAddressFirst ? !bursts.empty() : *wvalid && early.size() < kEarly) &&
                  !memory.random.chance(pace.stall_data) && !pace.held(memory) && memory.spend();
        if (!valid && !responses.empty() && responses.front().due <= memory.now &&
            !pace.held(memory)) {
            *bresp = responses.front().response;
            valid = true;
        }
        *bvalid = valid;
    }

    void step(Memory& memory, bool aw, uint64_t address, uint32_t length, bool w,
              const WriteBeat& beat, bool b) {
        if (b) {
            valid = false;
            responses.pop_front();
        }
        if (w) {
            ++beats;
            if (bursts.empty()) {
                early.push_back(beat);
                early_bursts += beat.last;
            } else {
                put(memory, beat);
            }
        }
        if (aw) {
            memory.check(address, length + 1);
            const uint32_t response = pace.answer(memory, address, uint64_t(length + 1) * kBeat);
            bursts.push_back({address, length + 1, 0, response});
            ++requests;
            while (!bursts.empty() && !early.empty()) {
                early_bursts -= early.front().last;
                put(memory, early.front());
                early.pop_front();
            }
        }
    }

    void put(Memory& memory, const WriteBeat& beat) {
        Burst& burst = bursts.front();
        uint8_t* target = burst.response ? nullptr : memory.at(burst.address, kBeat);
        if (target && beat.strobe == ~uint64_t(0)) std::memcpy(target, beat.bytes, kBeat);
        else if (target)
            for (int i = 0; i < kBeat; ++i)
                if (beat.strobe >> i & 1) target[i] = beat.bytes[i];
        burst.address += kBeat;
        --burst.left;
        if (beat.last != (burst.left == 0)) ++memory.violations;
        if (!burst.left) {
            burst.due = pace.due(memory);
            responses.push_back(burst);
            bursts.pop_front();
        }
    }

    // Data of bursts that a reset has cut never come; the bursts are answered all the same.
    void cut(Memory& memory) {
        for (Burst& burst : bursts) {
            burst.due = pace.due(memory);
            responses.push_back(burst);
        }
        bursts.clear();
        early.clear();
        early_bursts = 0;
    }

    void clear() {
        bursts.clear();
        responses.clear();
        early.clear();
        early_bursts = 0;
        valid = false;
        *bvalid = 0;
    }
};

}  // namespace
