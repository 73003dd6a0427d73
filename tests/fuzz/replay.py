# On the MicroPython VM: replay.py TARGET FOLDER... runs the target on every file of the folders
# and prints how many there were and how many were taken for well-formed.

import gc
import os
import sys

import targets

count = taken = 0
for folder in sys.argv[2:]:
    for name in os.listdir(folder):
        with open(folder + "/" + name, "rb") as f:
            data = f.read()
        taken += targets.run(sys.argv[1], data)
        count += 1
        gc.collect()
print(count, taken)
