# SPDX-License-Identifier: Apache-2.0
"""What the driver's process and the fake board say to each other.

Every open node is a connection of its own (SOCK_SEQPACKET: messages keep their bounds). The first
message names the node and is answered with an errno, 0 when it is open. Then

* a UIO device: 4 bytes either way, as its file has them: event counts, and masking;
* registers ("map " before the node): a request and its answer;
* an attribute: the text that is stored, answered with an errno.

Requests and stores are numbered, and their answers carry the number: a driver that was interrupted
between the two must not take an old answer for the next one's.
"""

from __future__ import annotations

import struct

#: number, operation (0 read, 1 write), register, value.
REQUEST = struct.Struct("<IBII")
#: number, AXI response (or NO_ANSWER), value.
ANSWER = struct.Struct("<IiI")
#: number; the text that is stored follows.
STORE = struct.Struct("<I")
STORED = struct.Struct("<Ii")
ERRNO = struct.Struct("<i")
COUNT = struct.Struct("<I")
NO_ANSWER = -1
MAP = "map "  #: before a node's path: its registers and not its file
LONGEST = 256  #: bytes of a message
