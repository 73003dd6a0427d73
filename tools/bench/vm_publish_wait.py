# What a QoS 1 client costs that publishes as umqtt.simple does: one record in the same five
# writes, without TCP_NODELAY, and a wait for its PUBACK before the next. The baseline of
# bench_sync.py. Arguments: port, user, password, records.

import socket
import struct
import sys
import time

port, user, password, count = int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
TOPIC = b"chargekeep/1/depot/%s/up/status" % user.encode()


def text(data):
    return struct.pack("!H", len(data)) + data


link = socket.socket()
link.connect(socket.getaddrinfo("127.0.0.1", port)[0][-1])
body = text(b"MQTT") + b"\x04\xc2\x00\x3c"
body += text(b"baseline") + text(user.encode()) + text(password.encode())
link.write(b"\x10" + bytes([len(body)]) + body)
if link.read(4) != b"\x20\x02\x00\x00":
    raise OSError("CONNACK")
record = bytes(64)
began = time.ticks_us()
for packet_id in range(1, count + 1):
    length = 2 + len(TOPIC) + 2 + len(record)
    link.write(
        b"\x32" + bytes([length & 127])
        if length < 128
        else b"\x32" + bytes([length & 127 | 128, length >> 7])
    )
    link.write(struct.pack("!H", len(TOPIC)))
    link.write(TOPIC)
    link.write(struct.pack("!H", packet_id))
    link.write(record)
    if link.read(4) != b"\x40\x02" + struct.pack("!H", packet_id):
        raise OSError("PUBACK")
print(time.ticks_diff(time.ticks_us(), began) / 1e6)
