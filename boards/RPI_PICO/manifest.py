# Freezes the firmware into an image of this board (build with FROZEN_MANIFEST=this file).

include("$(PORT_DIR)/boards/manifest.py")
include("../../firmware/manifest.py")
module("port_rp2.py", base_path="..")
module("rp2_gap.py", base_path="..")
module("rp2_layout.py", base_path="..")
module("port_machine.py", base_path="..")
