"""The far end of a tunnel, where the kernel has none of its kind: a TUN device whose packets go wrapped over the kernel's sockets, and come so.

usage: tunnel.py ipip|gue DEVICE LOCAL REMOTE [PORT]

What is wrapped by somebody else than REMOTE, or badly, is lost. What would have to be fragmented is lost, too, and told on standard error.
"""

import errno
import fcntl
import os
import selectors
import socket
import struct
import sys

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 1, 0x1000
SO_RCVBUFFORCE, SO_SNDBUFFORCE = 33, 32
IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, DO = 10, 23, 2
IPIP, IPV6 = 4, 41
# As many packets as are taken at once.
BURST = 64


def protocol(packet):
    return IPV6 if packet[0] >> 4 == 6 else IPIP


class Outer:
    """A socket that carries wrapped packets."""

    def __init__(self, local, remote, kind, proto=0, port=0):
        self.v6 = ":" in local
        self.remote, self.port = remote, port
        family = socket.AF_INET6 if self.v6 else socket.AF_INET
        self.socket = socket.socket(family, kind, proto)
        for option in (SO_RCVBUFFORCE, SO_SNDBUFFORCE):
            self.socket.setsockopt(socket.SOL_SOCKET, option, 16 << 20)
        if self.v6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, DO)
        else:
            self.socket.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, DO)
        self.socket.bind((local, port))
        self.socket.setblocking(False)

    def send(self, packet):
        try:
            self.socket.sendto(packet, (self.remote, self.port))
        except OSError as e:
            if e.errno == errno.EMSGSIZE:
                print(f"{len(packet)} bytes do not fit: {packet[:80].hex()}", file=sys.stderr, flush=True)
            elif e.errno not in (errno.EAGAIN, errno.ENOBUFS, errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EINVAL):
                raise

    def receive(self):
        """A packet of the other end's, or nothing that is one."""
        packet, sender = self.socket.recvfrom(65536)
        return packet if sender[0] == self.remote else b""


def gue(local, remote, port):
    outer = Outer(local, remote, socket.SOCK_DGRAM, port=port)

    def wrap(packet):
        outer.send(bytes((0, protocol(packet), 0, 0)) + packet)

    def unwrap(packet):
        # Variant 0, no optional fields, no flags.
        return packet[4:] if len(packet) > 24 and packet[0] == 0 and packet[2:4] == b"\0\0" and packet[1] == protocol(packet[4:]) else b""

    return wrap, {outer: unwrap}


def ipip(local, remote, _):
    outer = {proto: Outer(local, remote, socket.SOCK_RAW, proto) for proto in (IPIP, IPV6)}

    def wrap(packet):
        outer[protocol(packet)].send(packet)

    def unwrapping(proto):
        def unwrap(packet):
            # Raw sockets of IPv4 show the outer header.
            inner = packet if ":" in local else packet[(packet[0] & 15) * 4:] if packet else b""
            return inner if len(inner) > 20 and protocol(inner) == proto else b""
        return unwrap

    return wrap, {o: unwrapping(proto) for proto, o in outer.items()}


def main(kind, device, local, remote, port="6080"):
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", device.encode(), IFF_TUN | IFF_NO_PI))
    wrap, ends = {"gue": gue, "ipip": ipip}[kind](local, remote, int(port))

    def out():
        wrap(os.read(tun, 65536))

    def back(outer, unwrap):
        if packet := unwrap(outer.receive()):
            os.write(tun, packet)

    waiting = selectors.DefaultSelector()
    waiting.register(tun, selectors.EVENT_READ, out)
    for outer, unwrap in ends.items():
        waiting.register(outer.socket, selectors.EVENT_READ, lambda outer=outer, unwrap=unwrap: back(outer, unwrap))
    while True:
        for key, _ in waiting.select():
            for _ in range(BURST):
                try:
                    key.data()
                except BlockingIOError:
                    break
                except OSError as e:
                    # The device is not up yet, or the other end's machine said that nobody is there.
                    if e.errno not in (errno.EIO, errno.ECONNREFUSED, errno.EINVAL, errno.EBADFD):
                        raise
                    break


if __name__ == "__main__":
    main(*sys.argv[1:])
