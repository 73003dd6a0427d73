# Starts the charger. On UNIX: micropython -X heapsize=320k main.py, in a station's folder.

from chargekeep import app

app.main()
