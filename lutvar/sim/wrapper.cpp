// SPDX-License-Identifier: Apache-2.0
// Drives a Verilated lutvar_top through its AXI ports, behind a C interface for ctypes.
//
// One call runs many clock cycles; the streams move in every cycle, also during register accesses, as
// they would with DMA engines attached. Signals are sampled before the rising edge and driven after it.
// The class of the model is Vtop (verilator --prefix Vtop); STREAM_BYTES is the only parameter.
#include <cstdint>
#include <cstring>
#include <deque>
#include <vector>

#include "Vtop.h"
#include "verilated.h"

namespace {

constexpr int kBytes = STREAM_BYTES;

// Decides, cycle by cycle, whether a stream rests.
struct Pauses {
    uint64_t state = 1;
    uint64_t threshold = 0;  // of 2**32; 0: never rests

    bool draw() {
        if (!threshold) return false;
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        return (state >> 32) < threshold;
    }
};

struct Frame {
    std::vector<uint8_t> data;
    bool last;
};

// A stream master: sends queued frames, holds each beat until it is taken.
struct Source {
    std::deque<Frame> frames;
    size_t position = 0;
    uint64_t beats = 0;
    bool valid = false;
    Pauses pauses;

    bool idle() const { return frames.empty(); }

    template <class Data> void drive(Data& tdata, uint8_t& tvalid, uint8_t& tlast) {
        if (!valid && !frames.empty() && !pauses.draw()) {
            const Frame& frame = frames.front();
            std::memcpy(&tdata[0], frame.data.data() + position, kBytes);
            tlast = frame.last && position + kBytes == frame.data.size();
            valid = true;
        }
        tvalid = valid;
    }

    void step(bool ready) {
        if (!valid || !ready) return;
        valid = false;
        ++beats;
        position += kBytes;
        if (position == frames.front().data.size()) {
            frames.pop_front();
            position = 0;
        }
    }

    void clear() { frames.clear(); position = 0; valid = false; }
};

// A stream slave: takes beats while bytes are wanted.
struct Sink {
    std::vector<uint8_t> data;
    std::vector<uint64_t> lasts;  // index of each beat with TLAST, since the last clear
    uint64_t wanted = 0;          // bytes, since the last clear
    uint64_t received = 0;
    uint64_t beats = 0;
    Pauses pauses;

    bool idle() const { return received >= wanted; }

    template <class Data> void take(const Data& tdata, bool tlast) {
        const uint8_t* bytes = reinterpret_cast<const uint8_t*>(&tdata[0]);
        data.insert(data.end(), bytes, bytes + kBytes);
        if (tlast) lasts.push_back(received / kBytes);
        received += kBytes;
        ++beats;
    }

    void clear() { data.clear(); lasts.clear(); wanted = received = 0; }
};

struct Simulation {
    VerilatedContext context;
    Vtop top{&context};
    Source act, wgt;
    Sink out;
    uint64_t cycles = 0;

    Simulation() {
        top.ap_clk = 0;
        top.ap_rst_n = 0;
        top.s_axi_control_awvalid = top.s_axi_control_wvalid = top.s_axi_control_bready = 0;
        top.s_axi_control_arvalid = top.s_axi_control_rready = 0;
        top.s_axi_control_awaddr = top.s_axi_control_araddr = 0;
        top.s_axi_control_wdata = top.s_axi_control_wstrb = 0;
        top.s_axis_act_tvalid = top.s_axis_wgt_tvalid = top.m_axis_out_tready = 0;
        top.s_axis_act_tlast = top.s_axis_wgt_tlast = 0;
        std::memset(&top.s_axis_act_tdata[0], 0, kBytes);
        std::memset(&top.s_axis_wgt_tdata[0], 0, kBytes);
        top.eval();
    }

    ~Simulation() { top.final(); }

    // One cycle. Drives the streams, settles, then leaves the clock low for sampling.
    void settle() {
        act.drive(top.s_axis_act_tdata, top.s_axis_act_tvalid, top.s_axis_act_tlast);
        wgt.drive(top.s_axis_wgt_tdata, top.s_axis_wgt_tvalid, top.s_axis_wgt_tlast);
        top.m_axis_out_tready = !out.idle() && !out.pauses.draw();
        top.ap_clk = 0;
        top.eval();
    }

    void edge() {
        const bool running = top.ap_rst_n;
        const bool act_ready = running && top.s_axis_act_tready;
        const bool wgt_ready = running && top.s_axis_wgt_tready;
        if (running && top.m_axis_out_tvalid && top.m_axis_out_tready)
            out.take(top.m_axis_out_tdata, top.m_axis_out_tlast);
        top.ap_clk = 1;
        top.eval();
        act.step(act_ready);
        wgt.step(wgt_ready);
        ++cycles;
    }

    void tick() { settle(); edge(); }

    // Verilator renames ports that it takes for reserved words.
    bool interrupt() const { return top.__SYM__interrupt; }

    bool moving() const { return !act.idle() || !wgt.idle() || !out.idle(); }
};

Simulation* self(void* handle) { return static_cast<Simulation*>(handle); }

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

void* lutvar_create() { return new Simulation; }
void lutvar_destroy(void* handle) { delete self(handle); }
int lutvar_stream_bytes() { return kBytes; }
uint64_t lutvar_cycles(void* handle) { return self(handle)->cycles; }
int lutvar_interrupt(void* handle) { return self(handle)->interrupt(); }

// Hold ap_rst_n low for some cycles. Queued transfers are dropped, as when DMA engines are reset.
void lutvar_reset(void* handle, uint64_t cycles) {
    Simulation& s = *self(handle);
    s.act.clear();
    s.wgt.clear();
    s.out.clear();
    s.top.ap_rst_n = 0;
    for (uint64_t i = 0; i < cycles; ++i) s.tick();
    s.top.ap_rst_n = 1;
}

// Drop queued transfers and collected results; the core is not touched.
void lutvar_clear_streams(void* handle) {
    Simulation& s = *self(handle);
    s.act.clear();
    s.wgt.clear();
    s.out.clear();
}

// Returns the AXI response (0 OKAY, 2 SLVERR, 3 DECERR), or -1 when max_cycles ran out.
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

// stream: 0 s_axis_act, 1 s_axis_wgt, 2 m_axis_out; threshold: probability of a rest, of 2**32.
void lutvar_pauses(void* handle, int stream, uint64_t seed, uint64_t threshold) {
    Simulation& s = *self(handle);
    Pauses& p = stream == 0 ? s.act.pauses : stream == 1 ? s.wgt.pauses : s.out.pauses;
    p.state = seed * 0x9E3779B97F4A7C15u + 1;
    if (!p.state) p.state = 1;
    p.threshold = threshold;
}

// Queue whole beats on an input stream (copied); last: TLAST on the final beat.
void lutvar_send(void* handle, int stream, const uint8_t* data, uint64_t bytes, int last) {
    Simulation& s = *self(handle);
    Source& source = stream == 0 ? s.act : s.wgt;
    if (bytes) source.frames.push_back({std::vector<uint8_t>(data, data + bytes), last != 0});
}

void lutvar_want(void* handle, uint64_t bytes) { self(handle)->out.wanted += bytes; }

// Run until every transfer is complete, or the interrupt rises (if asked for), or max_cycles.
// Returns 1 when all transfers are complete, 0 otherwise.
int lutvar_run(void* handle, uint64_t max_cycles, int stop_on_interrupt) {
    Simulation& s = *self(handle);
    for (uint64_t i = 0; i < max_cycles && s.moving(); ++i) {
        if (stop_on_interrupt && s.interrupt()) break;
        s.tick();
    }
    return !s.moving();
}

// Run a number of cycles whatever happens, or until the interrupt rises (if asked for).
void lutvar_idle(void* handle, uint64_t cycles, int stop_on_interrupt) {
    Simulation& s = *self(handle);
    for (uint64_t i = 0; i < cycles && !(stop_on_interrupt && s.interrupt()); ++i) s.tick();
}

// Beats moved since creation on a stream.
uint64_t lutvar_beats(void* handle, int stream) {
    Simulation& s = *self(handle);
    return stream == 0 ? s.act.beats : stream == 1 ? s.wgt.beats : s.out.beats;
}

// Bytes queued and not yet taken (inputs), or wanted and not yet received (output).
uint64_t lutvar_pending(void* handle, int stream) {
    Simulation& s = *self(handle);
    if (stream == 2) return s.out.idle() ? 0 : s.out.wanted - s.out.received;
    const Source& source = stream == 0 ? s.act : s.wgt;
    uint64_t bytes = 0;
    for (const Frame& frame : source.frames) bytes += frame.data.size();
    return bytes - source.position;
}

// Output beats since the streams were last cleared.
uint64_t lutvar_received(void* handle) { return self(handle)->out.received / kBytes; }

uint64_t lutvar_available(void* handle) { return self(handle)->out.data.size(); }

// Move the first bytes of the collected output into a buffer; bytes must be available.
void lutvar_take(void* handle, uint8_t* data, uint64_t bytes) {
    std::vector<uint8_t>& collected = self(handle)->out.data;
    std::memcpy(data, collected.data(), bytes);
    collected.erase(collected.begin(), collected.begin() + bytes);
}

uint64_t lutvar_last_count(void* handle) { return self(handle)->out.lasts.size(); }

void lutvar_lasts(void* handle, uint64_t* indices) {
    const std::vector<uint64_t>& lasts = self(handle)->out.lasts;
    std::memcpy(indices, lasts.data(), lasts.size() * sizeof(uint64_t));
}

}  // extern "C"
#pragma GCC visibility pop
