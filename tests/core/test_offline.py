import subprocess
import sys
import textwrap

_SCRIPT = """
import socket, threading
from edgemed.core.offline import OfflineViolation, forbid_outgoing_connections
forbid_outgoing_connections()
forbid_outgoing_connections()

def refused(action):
    try:
        action()
    except OfflineViolation:
        return True
    return False

tcp, udp = socket.socket(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
assert refused(lambda: tcp.connect(("192.0.2.1", 80)))
assert refused(lambda: tcp.connect_ex(("192.0.2.1", 80)))
assert refused(lambda: udp.sendto(b"x", ("192.0.2.1", 53)))
assert refused(lambda: udp.sendto(b"x", 0, ("192.0.2.1", 53)))
assert refused(lambda: socket.getaddrinfo("example.invalid", 80))
assert refused(lambda: socket.create_connection(("192.0.2.1", 80)))
assert refused(lambda: socket.socket(socket.AF_INET6).connect(("2001:db8::1", 80)))

listener = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(listener.getsockname())
server, _ = listener.accept()
client.sendall(b"hello")
assert server.recv(5) == b"hello"
print("ok")
"""


def test_only_loopback_can_be_reached_once_the_guard_stands() -> None:
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(_SCRIPT)], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "ok", done.stderr
