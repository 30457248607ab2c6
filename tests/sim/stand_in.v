// SPDX-License-Identifier: Apache-2.0
// A small core with the ports of lutvar_top, to test simulators and wrappers by itself:
// m_axis_out = s_axis_act ^ s_axis_wgt beat by beat (TLAST of act); registers:
// 0x70 scratch (byte strobes), 0x9C beats taken, 0xF0 never answers, anything else SLVERR.
// `interrupt` is bit 31 of the scratch register.
module lutvar_top #(parameter BYTES = 32) (
    input wire ap_clk, input wire ap_rst_n, output wire interrupt,
    input wire [11:0] s_axi_control_awaddr, input wire s_axi_control_awvalid,
    output wire s_axi_control_awready,
    input wire [31:0] s_axi_control_wdata, input wire [3:0] s_axi_control_wstrb,
    input wire s_axi_control_wvalid, output wire s_axi_control_wready,
    output reg [1:0] s_axi_control_bresp, output reg s_axi_control_bvalid,
    input wire s_axi_control_bready,
    input wire [11:0] s_axi_control_araddr, input wire s_axi_control_arvalid,
    output wire s_axi_control_arready,
    output reg [31:0] s_axi_control_rdata, output reg [1:0] s_axi_control_rresp,
    output reg s_axi_control_rvalid, input wire s_axi_control_rready,
    input wire [BYTES*8-1:0] s_axis_act_tdata, input wire s_axis_act_tvalid,
    output wire s_axis_act_tready, input wire s_axis_act_tlast,
    input wire [BYTES*8-1:0] s_axis_wgt_tdata, input wire s_axis_wgt_tvalid,
    output wire s_axis_wgt_tready, input wire s_axis_wgt_tlast,
    output reg [BYTES*8-1:0] m_axis_out_tdata, output wire [BYTES-1:0] m_axis_out_tkeep,
    output reg m_axis_out_tvalid, input wire m_axis_out_tready, output reg m_axis_out_tlast
);
    reg [31:0] scratch, beats;
    wire room = ~m_axis_out_tvalid | m_axis_out_tready;
    wire take = s_axis_act_tvalid & s_axis_wgt_tvalid & room;
    assign s_axis_act_tready = take;
    assign s_axis_wgt_tready = take;
    assign m_axis_out_tkeep = {BYTES{1'b1}};
    assign interrupt = scratch[31];
    // The data is taken one cycle after the address at the earliest: a master must hold both.
    wire write = s_axi_control_awvalid & s_axi_control_wvalid & ~s_axi_control_bvalid;
    assign s_axi_control_awready = write;
    assign s_axi_control_wready = write;
    assign s_axi_control_arready = ~s_axi_control_rvalid;
    integer i;
    always @(posedge ap_clk) begin
        if (room) begin
            m_axis_out_tvalid <= take;
            m_axis_out_tdata <= s_axis_act_tdata ^ s_axis_wgt_tdata;
            m_axis_out_tlast <= s_axis_act_tlast;
        end
        if (take) beats <= beats + 1;
        if (s_axi_control_bready) s_axi_control_bvalid <= 0;
        if (write) begin
            s_axi_control_bvalid <= s_axi_control_awaddr != 12'h0F0;
            s_axi_control_bresp <= s_axi_control_awaddr == 12'h070 ? 2'b00 : 2'b10;
            if (s_axi_control_awaddr == 12'h070)
                for (i = 0; i < 4; i = i + 1)
                    if (s_axi_control_wstrb[i]) scratch[i*8 +: 8] <= s_axi_control_wdata[i*8 +: 8];
        end
        if (s_axi_control_rready) s_axi_control_rvalid <= 0;
        if (s_axi_control_arvalid & s_axi_control_arready) begin
            s_axi_control_rvalid <= s_axi_control_araddr != 12'h0F0;
            s_axi_control_rresp <= 2'b00;
            s_axi_control_rdata <= 0;
            case (s_axi_control_araddr)
                12'h070: s_axi_control_rdata <= scratch;
                12'h09C: s_axi_control_rdata <= beats;
                default: s_axi_control_rresp <= 2'b10;
            endcase
        end
        if (!ap_rst_n) begin
            scratch <= 0;
            beats <= 0;
            m_axis_out_tvalid <= 0;
            s_axi_control_bvalid <= 0;
            s_axi_control_rvalid <= 0;
        end
    end
endmodule
