// SPDX-License-Identifier: Apache-2.0
// Drives a Verilated accelerator: its control port, and memory behind its AXI4 masters.
//
// One call runs many clock cycles. Signals are sampled before the rising edge and driven after it. The memory
// answers each burst after a random latency, rests at random, shares a bandwidth limit between its ports if
// asked for, checks the AXI rules that a burst must keep, and injects errors at given addresses.
// The class of the model is Vtop (verilator --prefix Vtop).
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
enum Port { kProg, kWgt, kFront, kPost, kKeys, kValues, kWgt1 };  // kWgt1: not in every build

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

struct Faults {
    uint64_t first = ~uint64_t(0), last = 0;  // addresses of bursts answered with an error; none
    uint32_t response = 2;

    uint32_t of(uint64_t address, uint64_t limit, uint64_t bytes) const {
        if (address >= limit || bytes > limit - address) return 3;
        return address <= last && address + bytes > first ? response : 0;
    }
};

// What all ports share.
struct Memory {
    std::vector<uint8_t> data;
    Random random;
    uint32_t latency_low = 8, latency_high = 8;
    uint64_t stall = 0;      // probability of a rest, of 2**32
    uint64_t bandwidth = 0;  // bytes in a cycle, all ports together; 0: no limit
    int64_t credit = 0;
    uint64_t now = 0;
    uint64_t violations = 0;  // bursts that cross 4 KiB or are not aligned to a beat

    uint64_t due() {
        const uint32_t span = latency_high - latency_low;
        return now + latency_low + (span ? random.draw() % (span + 1) : 0);
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
        if (address % kBeat || address / kPage != (address + uint64_t(beats) * kBeat - 1) / kPage)
            ++violations;
    }
};

struct Burst {
    uint64_t address;
    uint32_t left;  // beats
    uint64_t due;
    uint32_t response;
};

struct ReadPort {
    QData* araddr;
    CData *arlen, *arvalid, *arready;
    VlWide<16>* rdata;
    CData *rresp, *rlast, *rvalid, *rready;
    std::deque<Burst> bursts;
    Faults faults;
    uint64_t beats = 0, requests = 0;
    bool valid = false;

    void drive(Memory& memory) {
        *arready = bursts.size() < 32 && !memory.random.chance(memory.stall);
        if (!valid && !bursts.empty() && bursts.front().due <= memory.now &&
            !memory.random.chance(memory.stall) && memory.spend()) {
            const Burst& burst = bursts.front();
            if (burst.address + kBeat <= memory.data.size())
                std::memcpy(&(*rdata)[0], memory.data.data() + burst.address, kBeat);
            *rresp = burst.response;
            *rlast = burst.left == 1;
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
            const uint32_t response =
                faults.of(address, memory.data.size(), uint64_t(length + 1) * kBeat);
            bursts.push_back({address, length + 1, memory.due(), response});
            ++requests;
        }
    }

    void clear() { bursts.clear(); valid = false; *rvalid = 0; }
};

struct WritePort {
    QData* awaddr;
    CData *awlen, *awvalid, *awready;
    VlWide<16>* wdata;
    QData* wstrb;
    CData *wlast, *wvalid, *wready, *bresp, *bvalid, *bready;
    std::deque<Burst> bursts, responses;
    Faults faults;
    uint64_t beats = 0, requests = 0;
    bool valid = false;

    void drive(Memory& memory) {
        *awready = bursts.size() < 32 && !memory.random.chance(memory.stall);
        // Data may come before its address, as AXI allows; this memory waits for the address.
        *wready = !bursts.empty() && !memory.random.chance(memory.stall) && memory.spend();
        if (!valid && !responses.empty() && responses.front().due <= memory.now) {
            *bresp = responses.front().response;
            valid = true;
        }
        *bvalid = valid;
    }

    void step(Memory& memory, bool aw, uint64_t address, uint32_t length, bool w, uint64_t strobe,
              bool last, const uint8_t* bytes, bool b) {
        if (b) {
            valid = false;
            responses.pop_front();
        }
        if (w) {
            ++beats;
            Burst& burst = bursts.front();
            if (!burst.response && burst.address + kBeat <= memory.data.size()) {
                uint8_t* target = memory.data.data() + burst.address;
                if (strobe == ~uint64_t(0)) std::memcpy(target, bytes, kBeat);
                else
                    for (int i = 0; i < kBeat; ++i)
                        if (strobe >> i & 1) target[i] = bytes[i];
            }
            burst.address += kBeat;
            --burst.left;
            if (last != (burst.left == 0)) ++memory.violations;
            if (!burst.left) {
                burst.due = memory.due();
                responses.push_back(burst);
                bursts.pop_front();
            }
        }
        if (aw) {
            memory.check(address, length + 1);
            const uint32_t response =
                faults.of(address, memory.data.size(), uint64_t(length + 1) * kBeat);
            bursts.push_back({address, length + 1, 0, response});
            ++requests;
        }
    }

    void clear() { bursts.clear(); responses.clear(); valid = false; *bvalid = 0; }
};

struct Change {
    uint64_t cycle;
    uint32_t busy, active;
};

#define READ_PORT(top, p)                                                                          \
    ReadPort{&top.p##_araddr, &top.p##_arlen, &top.p##_arvalid, &top.p##_arready, &top.p##_rdata,   \
             &top.p##_rresp, &top.p##_rlast, &top.p##_rvalid, &top.p##_rready, {}, {}, 0, 0, false}
#define WRITE_PORT(top, p)                                                                         \
    WritePort{&top.p##_awaddr, &top.p##_awlen, &top.p##_awvalid, &top.p##_awready, &top.p##_wdata,  \
              &top.p##_wstrb, &top.p##_wlast, &top.p##_wvalid, &top.p##_wready, &top.p##_bresp,     \
              &top.p##_bvalid, &top.p##_bready, {}, {}, {}, 0, 0, false}

// The port that only builds with two weight ports have.
template <class Top, class = void> struct SecondWeights {
    static void add(Top&, std::vector<ReadPort>&) {}
};
template <class Top> struct SecondWeights<Top, std::void_t<decltype(std::declval<Top&>().m_axi_wgt1_rdata)>> {
    static void add(Top& top, std::vector<ReadPort>& reads) {
        reads.push_back(READ_PORT(top, m_axi_wgt1));
    }
};

struct Simulation {
    VerilatedContext context;
    Vtop top{&context};
    Memory memory;
    std::vector<ReadPort> reads;
    std::vector<WritePort> writes;  // post, values
    std::vector<Change> trace;
    bool tracing = false;
    uint32_t last_busy = ~0u, last_active = ~0u;

    explicit Simulation(uint64_t bytes) {
        memory.data.resize(bytes);
        reads = {READ_PORT(top, m_axi_prog), READ_PORT(top, m_axi_wgt), READ_PORT(top, m_axi_front),
                 READ_PORT(top, m_axi_post), READ_PORT(top, m_axi_keys), READ_PORT(top, m_axi_values)};
        SecondWeights<Vtop>::add(top, reads);
        writes = {WRITE_PORT(top, m_axi_post), WRITE_PORT(top, m_axi_values)};
        top.ap_clk = 0;
        top.ap_rst_n = 0;
        top.s_axi_control_awvalid = top.s_axi_control_wvalid = top.s_axi_control_bready = 0;
        top.s_axi_control_arvalid = top.s_axi_control_rready = 0;
        top.s_axi_control_awaddr = top.s_axi_control_araddr = 0;
        top.s_axi_control_wdata = top.s_axi_control_wstrb = 0;
        top.eval();
    }

    ~Simulation() { top.final(); }

    void settle() {
        memory.tick();
        for (ReadPort& port : reads) port.drive(memory);
        for (WritePort& port : writes) port.drive(memory);
        top.ap_clk = 0;
        top.eval();
    }

    void edge() {
        struct Taken {
            bool address, data, response, last;
            uint64_t at, strobe;
            uint32_t length;
            uint8_t bytes[kBeat];
        } r[kWgt1 + 1], w[2];
        const bool running = top.ap_rst_n;
        const int count = reads.size();
        for (int i = 0; i < count; ++i) {
            const ReadPort& p = reads[i];
            r[i].address = running && *p.arvalid && *p.arready;
            r[i].at = *p.araddr;
            r[i].length = *p.arlen;
            r[i].data = running && *p.rvalid && *p.rready;
        }
        for (int i = 0; i < 2; ++i) {
            const WritePort& p = writes[i];
            w[i].address = running && *p.awvalid && *p.awready;
            w[i].at = *p.awaddr;
            w[i].length = *p.awlen;
            w[i].data = running && *p.wvalid && *p.wready;
            w[i].strobe = *p.wstrb;
            w[i].last = *p.wlast;
            if (w[i].data) std::memcpy(w[i].bytes, &(*p.wdata)[0], kBeat);
            w[i].response = running && *p.bvalid && *p.bready;
        }
        if (tracing && (top.unit_busy != last_busy || top.unit_active != last_active)) {
            last_busy = top.unit_busy;
            last_active = top.unit_active;
            trace.push_back({memory.now, last_busy, last_active});
        }
        top.ap_clk = 1;
        top.eval();
        for (int i = 0; i < count; ++i)
            reads[i].step(memory, r[i].address, r[i].at, r[i].length, r[i].data);
        for (int i = 0; i < 2; ++i)
            writes[i].step(memory, w[i].address, w[i].at, w[i].length, w[i].data, w[i].strobe,
                           w[i].last, w[i].bytes, w[i].response);
    }

    void tick() { settle(); edge(); }

    // Verilator renames ports that it takes for reserved words.
    bool interrupt() const { return top.__SYM__interrupt; }
};

Simulation* self(void* handle) { return static_cast<Simulation*>(handle); }

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

void* lutvar_create(uint64_t bytes) { return new Simulation(bytes); }
void lutvar_destroy(void* handle) { delete self(handle); }
uint64_t lutvar_cycles(void* handle) { return self(handle)->memory.now; }
int lutvar_interrupt(void* handle) { return self(handle)->interrupt(); }
uint8_t* lutvar_memory(void* handle) { return self(handle)->memory.data.data(); }
int lutvar_read_ports(void* handle) { return self(handle)->reads.size(); }
uint64_t lutvar_violations(void* handle) { return self(handle)->memory.violations; }

// Hold ap_rst_n low for some cycles. Bursts under way are forgotten, as the interconnect resets too.
void lutvar_reset(void* handle, uint64_t cycles) {
    Simulation& s = *self(handle);
    for (ReadPort& port : s.reads) port.clear();
    for (WritePort& port : s.writes) port.clear();
    s.top.ap_rst_n = 0;
    for (uint64_t i = 0; i < cycles; ++i) s.tick();
    s.top.ap_rst_n = 1;
}

// Latency in cycles from a burst's address to its first beat, or from its last beat to the response;
// stall: probability, of 2**32, that a channel rests in a cycle; bandwidth: bytes in a cycle, or 0.
void lutvar_timing(void* handle, uint32_t low, uint32_t high, uint64_t stall, uint64_t bandwidth,
                   uint64_t seed) {
    Memory& m = self(handle)->memory;
    m.latency_low = low;
    m.latency_high = high;
    m.stall = stall;
    m.bandwidth = bandwidth;
    m.random.state = seed * 0x9E3779B97F4A7C15u + 1;
    if (!m.random.state) m.random.state = 1;
}

// Refuse the bursts that touch addresses first..last on a port. write: 0 or 1.
void lutvar_fault(void* handle, int port, int write, uint64_t first, uint64_t last,
                  uint32_t response) {
    Simulation& s = *self(handle);
    Faults& f = write ? s.writes[port == kValues].faults : s.reads[port].faults;
    f.first = first;
    f.last = last;
    f.response = response;
}

uint64_t lutvar_beats(void* handle, int port, int write) {
    Simulation& s = *self(handle);
    return write ? s.writes[port == kValues].beats : s.reads[port].beats;
}

int lutvar_write(void* handle, uint32_t address, uint32_t data, uint32_t strobe, uint64_t max_cycles) {
    Simulation& s = *self(handle);
    Vtop& t = s.top;
    t.s_axi_control_awaddr = address;
    t.s_axi_control_wdata = data;
    t.s_axi_control_wstrb = strobe;
    t.s_axi_control_awvalid = t.s_axi_control_wvalid = t.s_axi_control_bready = 1;
    int response = -1;
    for (uint64_t i = 0; i < max_cycles && response < 0; ++i) {
        s.settle();
        const bool aw = t.s_axi_control_awvalid && t.s_axi_control_awready;
        const bool w = t.s_axi_control_wvalid && t.s_axi_control_wready;
        if (t.s_axi_control_bvalid) response = t.s_axi_control_bresp;
        s.edge();
        if (aw) t.s_axi_control_awvalid = 0;
        if (w) t.s_axi_control_wvalid = 0;
    }
    t.s_axi_control_awvalid = t.s_axi_control_wvalid = t.s_axi_control_bready = 0;
    return response;
}

int lutvar_read(void* handle, uint32_t address, uint32_t* data, uint64_t max_cycles) {
    Simulation& s = *self(handle);
    Vtop& t = s.top;
    t.s_axi_control_araddr = address;
    t.s_axi_control_arvalid = t.s_axi_control_rready = 1;
    int response = -1;
    for (uint64_t i = 0; i < max_cycles && response < 0; ++i) {
        s.settle();
        const bool ar = t.s_axi_control_arvalid && t.s_axi_control_arready;
        if (t.s_axi_control_rvalid) {
            response = t.s_axi_control_rresp;
            *data = t.s_axi_control_rdata;
        }
        s.edge();
        if (ar) t.s_axi_control_arvalid = 0;
    }
    t.s_axi_control_arvalid = t.s_axi_control_rready = 0;
    return response;
}

// Run until the interrupt line is high (1) or max_cycles have passed (0).
int lutvar_run(void* handle, uint64_t max_cycles) {
    Simulation& s = *self(handle);
    for (uint64_t i = 0; i < max_cycles; ++i) {
        if (s.interrupt()) return 1;
        s.tick();
    }
    return s.interrupt();
}

void lutvar_idle(void* handle, uint64_t cycles) {
    Simulation& s = *self(handle);
    for (uint64_t i = 0; i < cycles; ++i) s.tick();
}

// Record when units become busy or active; each record is cycle, busy bits, active bits.
void lutvar_trace(void* handle, int on) {
    Simulation& s = *self(handle);
    s.tracing = on != 0;
    s.trace.clear();
    s.last_busy = s.last_active = ~0u;
}

uint64_t lutvar_trace_count(void* handle) { return self(handle)->trace.size(); }

void lutvar_trace_take(void* handle, uint64_t* records) {
    for (const Change& change : self(handle)->trace) {
        *records++ = change.cycle;
        *records++ = change.busy;
        *records++ = change.active;
    }
}

}  // extern "C"
#pragma GCC visibility pop
