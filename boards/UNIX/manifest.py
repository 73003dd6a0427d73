# What the UNIX board adds to the firmware; on a desktop it runs from the source tree.

include("../../firmware/manifest.py")
module("port_linux.py", base_path="..")
module("nor.py")
module("pty_uart.py")
