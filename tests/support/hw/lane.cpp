// SPDX-License-Identifier: Apache-2.0
// Feeds records to a Verilated row of quantizer lanes, one in each cycle, and writes what comes out.
//
// Input: records of four little-endian uint16: value, negative maximum, positive maximum, dual.
// Output: for each record, all output words of the row, as raw uint32, little-endian host assumed.
#include <cstdint>
#include <cstdio>
#include <vector>

#include "Vlutvar_lane_row.h"
#include "verilated.h"

static const size_t LATENCY = ROW_LATENCY;

int main(int argc, char** argv) {
    if (argc != 3) return 2;
    std::vector<uint16_t> records;
    FILE* file = std::fopen(argv[1], "rb");
    uint16_t record[4];
    while (file && std::fread(record, sizeof record, 1, file) == 1)
        records.insert(records.end(), record, record + 4);
    if (file) std::fclose(file);
    FILE* output = std::fopen(argv[2], "wb");
    if (!file || !output) return 2;

    VerilatedContext context;
    Vlutvar_lane_row top(&context);
    top.rst = 0;
    const size_t count = records.size() / 4;
    for (size_t cycle = 0; cycle < count + LATENCY; ++cycle) {
        const size_t at = cycle < count ? cycle : 0;
        top.clk = 0;
        top.x = records[4 * at];
        top.negative = records[4 * at + 1];
        top.positive = records[4 * at + 2];
        top.dual = records[4 * at + 3];
        top.eval();
        if (cycle >= LATENCY) std::fwrite(&top.result, sizeof top.result, 1, output);
        top.clk = 1;
        top.eval();
    }
    std::fclose(output);
    return 0;
}
