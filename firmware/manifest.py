# Freezes the firmware package. A board adds its port: see boards/*/manifest.py.

package("chargekeep")
module("main.py")
