# SPDX-License-Identifier: Apache-2.0
"""Verilog of the testbench of exported vectors, in parts for `str.format`.

Head, read port and write port of the memory, driver and comparison.
"""

HEAD = """\
// Replays case {case} on {config}: the driver's register writes, programs and answers. After each
// program ALL memory is compared. Prints PASS or FAIL. Generated; needs accelerator.v and the
// .hex files of this folder in the current directory.
//
//   SEED     of the pauses and latencies on the memory ports
//   PAUSE    how often a channel rests, of 256
//   LATENCY  largest number of cycles from an address to its data
//   TIMEOUT  cycles that a program may take
module testbench;
  parameter SEED = 1, PAUSE = 48, LATENCY = 64, TIMEOUT = 50000000;
  localparam WORDS = {words};
  localparam [63:0] BASE = 64'h{base:x}, BYTES = 64'd{size};

  reg ap_clk = 0, ap_rst_n = 0;
  always #2 ap_clk = ~ap_clk;
  reg [31:0] cycle = 0;
  always @(posedge ap_clk) cycle <= cycle + 1;
  wire interrupt;

  reg [511:0] memory [0:WORDS-1], expected [0:WORDS-1];
  reg [47:0] steps [0:{last_step}];
  // PASS needs it to be 0: some simulators go on for a while after $finish.
  integer problems = 0;

  function [31:0] next(input [31:0] x);  // xorshift
    begin
      next = x ^ (x << 13);
      next = next ^ (next >> 17);
      next = next ^ (next << 5);
    end
  endfunction

  function in_memory(input [63:0] address);
    in_memory = address >= BASE && address - BASE < BYTES;
  endfunction

  function [31:0] index(input [63:0] address);
    index = in_memory(address) ? (address - BASE) >> 6 : 0;
  endfunction

  function [511:0] mask(input [63:0] strobe);
    integer k;
    begin
      mask = 0;
      for (k = 0; k < 64; k = k + 1) mask[8*k +: 8] = {{8{{strobe[k]}}}};
    end
  endfunction

  // Rules that every burst must keep.
  task check_burst(input [63:0] address, input [7:0] length, input [2:0] size, input [1:0] burst);
    if (address[5:0] != 0 || size != 6 || burst != 1 || length > 15 || !in_memory(address)
        || !in_memory(address + (length << 6))
        || address[63:12] != ((address + (length << 6)) >> 12)) begin
      $display("FAIL: a burst of %0d beats from %h breaks a rule", length + 1, address);
      problems = problems + 1;
    end
  endtask
"""

READ = """
  // {port}: reads
  wire [63:0] {p}_araddr; wire [7:0] {p}_arlen; wire [2:0] {p}_arsize; wire [1:0] {p}_arburst;
  wire {p}_arvalid, {p}_rready;
  reg {p}_arready = 0, {p}_rvalid = 0, {p}_rlast = 0;
  reg [1:0] {p}_rresp = 0;
  reg [511:0] {p}_rdata = 0;
  reg [63:0] {p}_at [0:31];
  reg [7:0] {p}_left [0:31];
  reg [31:0] {p}_due [0:31], {p}_draw = 32'h{seed:x} + SEED;
  reg [5:0] {p}_head = 0, {p}_tail = 0;
  wire [5:0] {p}_count = {p}_tail - {p}_head;
  wire [4:0] {p}_first = {p}_head[4:0];
  always @(posedge ap_clk) begin
    {p}_draw <= next({p}_draw);
    {p}_arready <= ap_rst_n && {p}_count < 28 && {p}_draw[7:0] >= PAUSE;
    if ({p}_arvalid && {p}_arready) begin
      check_burst({p}_araddr, {p}_arlen, {p}_arsize, {p}_arburst);
      {p}_at[{p}_tail[4:0]] <= {p}_araddr;
      {p}_left[{p}_tail[4:0]] <= {p}_arlen;
      {p}_due[{p}_tail[4:0]] <= cycle + {p}_draw[31:16] % LATENCY;
      {p}_tail <= {p}_tail + 1;
    end
    if (!{p}_rvalid || {p}_rready) begin
      {p}_rvalid <= 0;
      if ({p}_count != 0 && {p}_due[{p}_first] <= cycle && {p}_draw[15:8] >= PAUSE) begin
        {p}_rvalid <= 1;
        {p}_rdata <= memory[index({p}_at[{p}_first])];
        {p}_rresp <= in_memory({p}_at[{p}_first]) ? 0 : 3;
        {p}_rlast <= {p}_left[{p}_first] == 0;
        {p}_at[{p}_first] <= {p}_at[{p}_first] + 64;
        {p}_left[{p}_first] <= {p}_left[{p}_first] - 1;
        if ({p}_left[{p}_first] == 0) {p}_head <= {p}_head + 1;
      end
    end
  end
"""

WRITE = """
  // {port}: writes
  wire [63:0] {p}_awaddr, {p}_wstrb; wire [7:0] {p}_awlen; wire [2:0] {p}_awsize;
  wire [1:0] {p}_awburst; wire {p}_awvalid, {p}_wvalid, {p}_wlast, {p}_bready;
  wire [511:0] {p}_wdata;
  reg {p}_awready = 0, {p}_open = 0, {p}_bvalid = 0;
  reg [1:0] {p}_bresp = 0;
  reg [63:0] {p}_to [0:31];
  reg [7:0] {p}_more [0:31];
  reg [31:0] {p}_when [0:31], {p}_toss = 32'h{seed:x} + SEED;
  reg [5:0] {p}_wfirst = 0, {p}_wtail = 0, {p}_bfirst = 0;
  wire [5:0] {p}_writes = {p}_wtail - {p}_wfirst, {p}_replies = {p}_wfirst - {p}_bfirst;
  wire [5:0] {p}_bursts = {p}_wtail - {p}_bfirst;
  wire [4:0] {p}_w = {p}_wfirst[4:0], {p}_b = {p}_bfirst[4:0];
  wire {p}_wready = {p}_open && {p}_writes != 0;
  always @(posedge ap_clk) begin
    {p}_toss <= next({p}_toss);
    {p}_awready <= ap_rst_n && {p}_bursts < 28 && {p}_toss[7:0] >= PAUSE;
    {p}_open <= {p}_toss[15:8] >= PAUSE;
    if ({p}_awvalid && {p}_awready) begin
      check_burst({p}_awaddr, {p}_awlen, {p}_awsize, {p}_awburst);
      {p}_to[{p}_wtail[4:0]] <= {p}_awaddr;
      {p}_more[{p}_wtail[4:0]] <= {p}_awlen;
      {p}_wtail <= {p}_wtail + 1;
    end
    if ({p}_wvalid && {p}_wready) begin
      if (in_memory({p}_to[{p}_w]))
        memory[index({p}_to[{p}_w])] <=
          (memory[index({p}_to[{p}_w])] & ~mask({p}_wstrb)) | ({p}_wdata & mask({p}_wstrb));
      if ({p}_wlast != ({p}_more[{p}_w] == 0)) begin
        $display("FAIL: {port} gives a wrong WLAST");
        problems = problems + 1;
      end
      {p}_to[{p}_w] <= {p}_to[{p}_w] + 64;
      {p}_more[{p}_w] <= {p}_more[{p}_w] - 1;
      if ({p}_more[{p}_w] == 0) begin
        {p}_when[{p}_w] <= cycle + {p}_toss[31:16] % LATENCY;
        {p}_wfirst <= {p}_wfirst + 1;
      end
    end
    if (!{p}_bvalid || {p}_bready) begin
      {p}_bvalid <= 0;
      if ({p}_replies != 0 && {p}_when[{p}_b] <= cycle) begin
        {p}_bvalid <= 1;
        {p}_bresp <= 0;
        {p}_bfirst <= {p}_bfirst + 1;
      end
    end
  end
"""

TAIL = """
  // AXI4-Lite master
  reg [11:0] s_awaddr = 0, s_araddr = 0;
  reg [31:0] s_wdata = 0;
  reg s_awvalid = 0, s_wvalid = 0, s_bready = 0, s_arvalid = 0, s_rready = 0;
  wire s_awready, s_wready, s_bvalid, s_arready, s_rvalid;
  wire [1:0] s_bresp, s_rresp;
  wire [31:0] s_rdata;

  {top} dut (
    .ap_clk(ap_clk), .ap_rst_n(ap_rst_n), .interrupt(interrupt),
    .s_axi_control_awaddr(s_awaddr), .s_axi_control_awvalid(s_awvalid),
    .s_axi_control_awready(s_awready), .s_axi_control_wdata(s_wdata),
    .s_axi_control_wstrb(4'hf), .s_axi_control_wvalid(s_wvalid),
    .s_axi_control_wready(s_wready), .s_axi_control_bresp(s_bresp),
    .s_axi_control_bvalid(s_bvalid), .s_axi_control_bready(s_bready),
    .s_axi_control_araddr(s_araddr), .s_axi_control_arvalid(s_arvalid),
    .s_axi_control_arready(s_arready), .s_axi_control_rdata(s_rdata),
    .s_axi_control_rresp(s_rresp), .s_axi_control_rvalid(s_rvalid),
    .s_axi_control_rready(s_rready){connections}
  );

  // No VALID of the device is ever unknown after reset.
  wire unknown = (^{{s_bvalid, s_rvalid, interrupt{valids}}}) === 1'bx;
  always @(posedge ap_clk) if (ap_rst_n && unknown) begin
    $display("FAIL: a VALID or the interrupt is unknown in cycle %0d", cycle);
    problems = problems + 1;
    $finish;
  end

  // A signature of every output in every cycle: payload counts with its VALID.
  localparam BITS = {bits};
  wire [64*BITS-1:0] outputs = {{{outputs}
  }};
  reg [63:0] signature = 0;
  function [63:0] fold(input [63:0] start, input [64*BITS-1:0] x);
    integer k;
    begin
      fold = start;
      for (k = 0; k < BITS; k = k + 1) fold = {{fold[62:0], fold[63]}} ^ x[64*k +: 64];
    end
  endfunction
  always @(posedge ap_clk) if (ap_rst_n) signature <= fold(signature, outputs);

  reg [31:0] answer;
  integer waited;

  task limit(input [31:0] cycles, input [11:0] offset);
    begin
      waited = waited + 1;
      if (waited > cycles) begin
        $display("FAIL: no answer in %0d cycles, register %h", cycles, offset);
        problems = problems + 1;
        $finish;
      end
    end
  endtask

  task write_register(input [11:0] offset, input [31:0] value);
    reg address, data, reply;
    begin
      address = 1; data = 1; reply = 1; waited = 0;
      s_awaddr <= offset; s_wdata <= value; s_awvalid <= 1; s_wvalid <= 1; s_bready <= 1;
      while (address || data || reply) begin
        @(posedge ap_clk);
        if (s_awvalid && s_awready) begin address = 0; s_awvalid <= 0; end
        if (s_wvalid && s_wready) begin data = 0; s_wvalid <= 0; end
        if (s_bvalid && s_bready) begin
          reply = 0; s_bready <= 0;
          if (s_bresp != 0) begin
            $display("FAIL: writing register %h was answered with %0d", offset, s_bresp);
            problems = problems + 1;
          end
        end
        limit(1000, offset);
      end
      @(posedge ap_clk);  // so that a signal changes once in a cycle
    end
  endtask

  task read_register(input [11:0] offset);
    reg address, reply;
    begin
      address = 1; reply = 1; waited = 0;
      s_araddr <= offset; s_arvalid <= 1; s_rready <= 1;
      while (address || reply) begin
        @(posedge ap_clk);
        if (s_arvalid && s_arready) begin address = 0; s_arvalid <= 0; end
        if (s_rvalid && s_rready) begin reply = 0; s_rready <= 0; answer = s_rdata; end
        limit(1000, offset);
      end
      @(posedge ap_clk);  // so that a signal changes once in a cycle
    end
  endtask

  task load(input [31:0] number);
    case (number)
{loads}
    endcase
  endtask

  integer i, wrong, first;
  task compare(input [31:0] number);
    begin
      case (number)
{expects}
      endcase
      wrong = 0;
      for (i = WORDS - 1; i >= 0; i = i - 1)
        if (memory[i] !== expected[i]) begin wrong = wrong + 1; first = i; end
      if (wrong != 0) begin
        $display("FAIL: %0d of %0d words of memory differ after program %0d; the first is", wrong,
          WORDS, number);
        $display("  address %h ({region})", BASE + (first << 6){region_arguments});
        $display("  expected %h", expected[first]);
        $display("  found    %h", memory[first]);
        problems = problems + 1;
        $finish;
      end
      $display("program %0d: %0d words of memory are right, cycle %0d", number, WORDS, cycle);
    end
  endtask

  integer at;
  reg [3:0] op;
  reg [11:0] offset;
  reg [31:0] value;
  initial $readmemh("steps.hex", steps);
  always begin : driver  // once: it ends the simulation
    repeat (8) @(posedge ap_clk);
    ap_rst_n <= 1;
    repeat (4) @(posedge ap_clk);
    at = 0;
    {{op, offset, value}} = steps[0];
    while (op != {END}) begin
      case (op)
        {WRITE}: write_register(offset, value);
        {EXPECT}: begin
          read_register(offset);
          if (answer !== value) begin
            $display("FAIL: register %h reads %h, expected %h", offset, answer, value);
            problems = problems + 1;
            $finish;
          end
        end
        {ONES}, {ZEROS}: begin
          answer = op == {ONES} ? 0 : value;
          for (i = 0; i < 10000 && (answer & value) !== (op == {ONES} ? value : 0); i = i + 1)
            read_register(offset);
          if ((answer & value) !== (op == {ONES} ? value : 0)) begin
            $display("FAIL: register %h stays %h, mask %h", offset, answer, value);
            problems = problems + 1;
            $finish;
          end
        end
        {INTERRUPT}: begin
          waited = 0;
          while (interrupt !== 1) begin @(posedge ap_clk); limit(TIMEOUT, 0); end
        end
        {LOAD}: load(value);
        {COMPARE}: compare(value);
      endcase
      at = at + 1;
      {{op, offset, value}} = steps[at];
    end
    if ((^signature) === 1'bx)
      $display("FAIL: something unknown was valid on a port");
    else if (problems == 0)
      $display("PASS: {programs} programs, {words} words of memory, seed %0d, signature %h", SEED,
        signature);
    $finish;
  end
endmodule
"""
