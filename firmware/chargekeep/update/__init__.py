# Firmware updates: a signed bundle is staged into the slot that does not run, proven from what
# flash holds, started on trial, and kept only once the new firmware works.
