// SPDX-License-Identifier: Apache-2.0
// Drives a Verilated accelerator: its control port, and memory behind its AXI4 masters.
//
// One call runs many clock cycles. Signals are sampled before the rising edge and driven after it.
// The class of the model is Vtop (verilator --prefix Vtop).
#include <cstdint>
#include <cstring>
#include <vector>

#include "device_memory.hpp"

namespace {

const uint32_t kAddresses = 0xFFF, kStrobes = 0xF;  // all bits of the control port

struct Change {
    uint64_t cycle;
    uint32_t busy, active;
};

#define READ_PORT(top, p)                                                                          \
    ReadPort{&top.p##_araddr, &top.p##_arlen, &top.p##_arvalid, &top.p##_arready, &top.p##_rdata,   \
             &top.p##_rresp, &top.p##_rlast, &top.p##_rvalid, &top.p##_rready}
#define WRITE_PORT(top, p)                                                                         \
    WritePort{&top.p##_awaddr, &top.p##_awlen, &top.p##_awvalid, &top.p##_awready, &top.p##_wdata,  \
              &top.p##_wstrb, &top.p##_wlast, &top.p##_wvalid, &top.p##_wready, &top.p##_bresp,     \
              &top.p##_bvalid, &top.p##_bready}

// A port that only builds with more weight ports have.
#define OPTIONAL_PORT(Name, p)                                                                     \
    template <class Top, class = void> struct Name {                                               \
        static void add(Top&, std::vector<ReadPort>&) {}                                           \
    };                                                                                             \
    template <class Top> struct Name<Top, std::void_t<decltype(std::declval<Top&>().p##_rdata)>> { \
        static void add(Top& top, std::vector<ReadPort>& reads) {                                  \
            reads.push_back(READ_PORT(top, p));                                                    \
        }                                                                                          \
    };
OPTIONAL_PORT(SecondWeights, m_axi_wgt1)
OPTIONAL_PORT(ThirdWeights, m_axi_wgt2)
OPTIONAL_PORT(FourthWeights, m_axi_wgt3)

struct Simulation {
    VerilatedContext context;
    Vtop top{&context};
    Memory memory;
    std::vector<ReadPort> reads;
    std::vector<WritePort> writes;  // post, values
    std::vector<Change> trace;
    bool tracing = false;
    uint32_t last_busy = ~0u, last_active = ~0u;
    bool kept = false;            // the memory goes on during a reset
    uint64_t valid_in_reset = 0;  // port and cycle pairs with a VALID while ap_rst_n is low

    Simulation(uint64_t bytes, const char* plusarg) {
        const char* arguments[] = {"device", plusarg};
        context.commandArgs(*plusarg ? 2 : 1, arguments);
        memory.data.resize(bytes);
        reads = {READ_PORT(top, m_axi_prog), READ_PORT(top, m_axi_wgt), READ_PORT(top, m_axi_front),
                 READ_PORT(top, m_axi_post), READ_PORT(top, m_axi_keys), READ_PORT(top, m_axi_values)};
        SecondWeights<Vtop>::add(top, reads);
        ThirdWeights<Vtop>::add(top, reads);
        FourthWeights<Vtop>::add(top, reads);
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
            bool address, data, response;
            uint64_t at;
            uint32_t length;
        } r[kReadPorts], w[2];
        WriteBeat beat[2];
        const bool running = top.ap_rst_n;
        const bool answers = running || kept;  // a memory that knows nothing of the reset
        const int count = reads.size();
        for (int i = 0; i < count; ++i) {
            ReadPort& p = reads[i];
            p.offer.check(memory, running, *p.arvalid, *p.arready, *p.araddr, *p.arlen);
            if (!running && *p.arvalid) ++valid_in_reset;
            r[i].address = running && *p.arvalid && *p.arready;
            r[i].at = *p.araddr;
            r[i].length = *p.arlen;
            r[i].data = answers && *p.rvalid && *p.rready;
        }
        for (int i = 0; i < 2; ++i) {
            WritePort& p = writes[i];
            p.offer.check(memory, running, *p.awvalid, *p.awready, *p.awaddr, *p.awlen);
            if (!running && (*p.awvalid || *p.wvalid)) ++valid_in_reset;
            w[i].address = running && *p.awvalid && *p.awready;
            w[i].at = *p.awaddr;
            w[i].length = *p.awlen;
            const bool offered = running && *p.wvalid;
            w[i].data = offered && *p.wready;
            if (offered || p.waits) {
                beat[i].strobe = *p.wstrb;
                beat[i].last = *p.wlast;
                std::memcpy(beat[i].bytes, &(*p.wdata)[0], kBeat);
                if (p.waits && running && !(offered && beat[i] == p.waiting)) ++memory.violations;
            }
            p.waits = offered && !w[i].data;
            if (p.waits) p.waiting = beat[i];
            w[i].response = answers && *p.bvalid && *p.bready;
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
            writes[i].step(memory, w[i].address, w[i].at, w[i].length, w[i].data, beat[i],
                           w[i].response);
    }

    void tick() { settle(); edge(); }

    Pace& pace(int port, int write) {
        return write ? writes[port == kValues].pace : reads[port].pace;
    }

    // Verilator renames ports that it takes for reserved words.
    bool interrupt() const { return top.__SYM__interrupt; }
};

Simulation* self(void* handle) { return static_cast<Simulation*>(handle); }

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

// plusarg: for $value$plusargs in the Verilog, or "".
void* lutvar_create(uint64_t bytes, const char* plusarg) { return new Simulation(bytes, plusarg); }
void lutvar_destroy(void* handle) { delete self(handle); }
uint64_t lutvar_cycles(void* handle) { return self(handle)->memory.now; }
int lutvar_interrupt(void* handle) { return self(handle)->interrupt(); }
uint8_t* lutvar_memory(void* handle) { return self(handle)->memory.data.data(); }
int lutvar_read_ports(void* handle) { return self(handle)->reads.size(); }
uint64_t lutvar_violations(void* handle) { return self(handle)->memory.violations; }

// Hold ap_rst_n low for some cycles. keep 0: bursts under way are forgotten, as the interconnect resets too;
// 1: the memory answers them all the same, during the reset and after it.
void lutvar_reset(void* handle, uint64_t cycles, int keep) {
    Simulation& s = *self(handle);
    for (ReadPort& port : s.reads)
        if (!keep) port.clear();
    for (WritePort& port : s.writes) {
        if (keep) port.cut(s.memory);
        else port.clear();
        port.waits = false;
    }
    s.kept = keep;
    s.top.ap_rst_n = 0;
    for (uint64_t i = 0; i < cycles; ++i) s.tick();
    s.top.ap_rst_n = 1;
    s.kept = false;
}

// Latency in cycles from a burst's address to its first beat, or from its last beat to the response;
// stall: probability, of 2**32, that a channel rests in a cycle; bandwidth: bytes in a cycle, or 0.
void lutvar_timing(void* handle, uint32_t low, uint32_t high, uint64_t stall, uint64_t bandwidth,
                   uint64_t seed) {
    Simulation& s = *self(handle);
    s.memory.bandwidth = bandwidth;
    s.memory.random.state = seed * 0x9E3779B97F4A7C15u + 1;
    if (!s.memory.random.state) s.memory.random.state = 1;
    const auto set = [&](Pace& pace) {
        pace.latency_low = low;
        pace.latency_high = high;
        pace.stall_address = pace.stall_data = stall;
    };
    for (ReadPort& port : s.reads) set(port.pace);
    for (WritePort& port : s.writes) set(port.pace);
}

// The same for one direction of a port. write: 0 or 1.
void lutvar_pace(void* handle, int port, int write, uint32_t low, uint32_t high, uint64_t address,
                 uint64_t data) {
    Pace& pace = self(handle)->pace(port, write);
    pace.latency_low = low;
    pace.latency_high = high;
    pace.stall_address = address;
    pace.stall_data = data;
}

// Nothing moves on a port for some cycles.
void lutvar_hold(void* handle, int port, int write, uint64_t cycles) {
    Simulation& s = *self(handle);
    s.pace(port, write).held_until = s.memory.now + cycles;
}

// How write data and their addresses are taken, see Order.
void lutvar_order(void* handle, int port, int order) {
    Simulation& s = *self(handle);
    s.writes[port == kValues].order = Order(order);
}

// Refuse the bursts that touch addresses first..last on a port.
void lutvar_fault(void* handle, int port, int write, uint64_t first, uint64_t last,
                  uint32_t response) {
    Pace& pace = self(handle)->pace(port, write);
    pace.first = first;
    pace.last = last;
    pace.response = response;
}

// Refuse the n-th burst from now, 1 being the next; 0: none.
void lutvar_refuse(void* handle, int port, int write, uint64_t number, uint32_t response) {
    Pace& pace = self(handle)->pace(port, write);
    pace.countdown = number;
    pace.refused_at = ~uint64_t(0);
    pace.refusal = response;
}

// Address of the burst that lutvar_refuse has refused, or all ones.
uint64_t lutvar_refused(void* handle, int port, int write) {
    return self(handle)->pace(port, write).refused_at;
}

// RLAST with the n-th beat from now that is not a burst's last; 0: with none.
void lutvar_wrong_last(void* handle, int port, uint64_t number) {
    self(handle)->reads[port].pace.wrong_last = number;
}

// Put bytes of the memory at an address. Once there is a segment, all other addresses answer DECERR.
void lutvar_segment(void* handle, uint64_t address, uint64_t bytes, uint64_t offset) {
    self(handle)->memory.segments.push_back({address, bytes, offset});
}

// Bursts outside all windows are counted from now on.
void lutvar_window(void* handle, uint64_t base, uint64_t limit) {
    self(handle)->memory.windows.push_back({base, limit});
}

uint64_t lutvar_outside(void* handle, uint64_t* first) {
    Memory& memory = self(handle)->memory;
    *first = memory.outside_first;
    return memory.outside;
}

uint64_t lutvar_valid_in_reset(void* handle) { return self(handle)->valid_in_reset; }

uint64_t lutvar_beats(void* handle, int port, int write) {
    Simulation& s = *self(handle);
    return write ? s.writes[port == kValues].beats : s.reads[port].beats;
}

// A register access. Each channel's VALID or READY comes so many cycles late. Returns the response, or -1
// when there was none within max_cycles.
int lutvar_write(void* handle, uint32_t address, uint32_t data, uint32_t strobe, uint64_t max_cycles,
                 uint32_t aw_late, uint32_t w_late, uint32_t b_late) {
    Simulation& s = *self(handle);
    Vtop& t = s.top;
    bool aw_done = false, w_done = false;
    int response = -1;
    for (uint64_t i = 0; i < max_cycles && response < 0; ++i) {
        t.s_axi_control_awvalid = !aw_done && i >= aw_late;
        t.s_axi_control_wvalid = !w_done && i >= w_late;
        t.s_axi_control_bready = i >= b_late;
        // Without VALID the opposite of what was meant: a core that looks late sees it.
        t.s_axi_control_awaddr = t.s_axi_control_awvalid ? address : address ^ kAddresses;
        t.s_axi_control_wdata = t.s_axi_control_wvalid ? data : ~data;
        t.s_axi_control_wstrb = t.s_axi_control_wvalid ? strobe : strobe ^ kStrobes;
        s.settle();
        aw_done |= t.s_axi_control_awvalid && t.s_axi_control_awready;
        w_done |= t.s_axi_control_wvalid && t.s_axi_control_wready;
        if (t.s_axi_control_bvalid && t.s_axi_control_bready) response = t.s_axi_control_bresp;
        s.edge();
    }
    t.s_axi_control_awvalid = t.s_axi_control_wvalid = t.s_axi_control_bready = 0;
    return response;
}

int lutvar_read(void* handle, uint32_t address, uint32_t* data, uint64_t max_cycles,
                uint32_t ar_late, uint32_t r_late) {
    Simulation& s = *self(handle);
    Vtop& t = s.top;
    bool ar_done = false;
    int response = -1;
    for (uint64_t i = 0; i < max_cycles && response < 0; ++i) {
        t.s_axi_control_arvalid = !ar_done && i >= ar_late;
        t.s_axi_control_rready = i >= r_late;
        t.s_axi_control_araddr = t.s_axi_control_arvalid ? address : address ^ kAddresses;
        s.settle();
        ar_done |= t.s_axi_control_arvalid && t.s_axi_control_arready;
        if (t.s_axi_control_rvalid && t.s_axi_control_rready) {
            response = t.s_axi_control_rresp;
            *data = t.s_axi_control_rdata;
        }
        s.edge();
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
