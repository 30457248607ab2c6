// SPDX-License-Identifier: Apache-2.0
// Any unit of the accelerator as a shared library: its ports as memory, its clock as a function.
#include "Vtop.h"
#include "verilated.h"

#include <cstddef>
#include <cstdint>

#define API extern "C" __attribute__((visibility("default")))

double sc_time_stamp() { return 0; }

struct Model {
  VerilatedContext context;
  Vtop top{&context};
};

API void *lutvar_create() { return new Model; }
API void lutvar_destroy(void *model) { delete static_cast<Model *>(model); }
API void lutvar_eval(void *model) { static_cast<Model *>(model)->top.eval(); }

API void lutvar_clock(void *model) {
  Vtop &top = static_cast<Model *>(model)->top;
  top.clk = 1;
  top.eval();
  top.clk = 0;
  top.eval();
}

API void *lutvar_port(void *model, size_t number) {
  Vtop &top = static_cast<Model *>(model)->top;
  void *ports[] = {PORTS};
  return ports[number];
}
