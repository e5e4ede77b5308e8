"""A guest of a bubble without a machine: a network namespace whose card's cable is a socket, as QEMU's is.

Run with the opened /dev/net/tun as descriptor 3: ``bubble_guest.py CABLE MAC ADDRESS NAME``. It answers its name at
port 80, and reads questions: ``get HOST PORT`` prints what is said there.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import subprocess
import sys
import threading

CABLE, MAC, ADDRESS, NAME = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]


def from_cable(cable: socket.socket) -> None:
    with cable.makefile("rb") as stream:
        while head := stream.read(4):
            frame = stream.read(int.from_bytes(head, "big"))
            if frame:
                os.write(3, frame)
    os._exit(0)


def to_cable(cable: socket.socket) -> None:
    while True:
        frame = os.read(3, 65550)
        cable.sendall(len(frame).to_bytes(4, "big") + frame)


def serve(listener: socket.socket) -> None:
    while True:
        peer, _ = listener.accept()
        threading.Thread(target=greet, args=(peer,), daemon=True).start()


def greet(peer: socket.socket) -> None:
    """Say the name; the guest called ``holds`` hangs up only when the other end does."""
    with peer:
        peer.sendall(NAME.encode())
        if NAME == "holds":
            peer.recv(1)


def asked(host: str, port: str, seconds: str) -> str:
    try:
        with socket.create_connection((host, int(port)), timeout=float(seconds)) as peer:
            return peer.recv(100).decode()
    except OSError as error:
        return f"error {type(error).__name__}"


fcntl.ioctl(3, 0x400454CA, struct.pack("16sH22x", b"eth0", 0x0002 | 0x1000))
for words in (f"link set eth0 address {MAC}", f"addr add {ADDRESS} dev eth0", "link set eth0 up", "link set lo up"):
    subprocess.run(["ip", *words.split()], check=True)
own = socket.socket(fileno=CABLE)
for work in (from_cable, to_cable):
    threading.Thread(target=work, args=(own,), daemon=True).start()
# It listens before it says that it is up: who asks at once is answered, however busy this host is.
threading.Thread(target=serve, args=(socket.create_server(("0.0.0.0", 80)),), daemon=True).start()
print("up", flush=True)
for line in sys.stdin:
    print(asked(*line.split()[1:]), flush=True)
