"""Loaded by every Python process whose PYTHONPATH names this folder: no connection leaves the machine.

A test run (lessons_src/bootstrap.py) puts the folder there, so notebook kernels are under it too. Loopback stays open: Jupyter
talks to its kernels over it. The error is a ConnectionError, what a library meets on a machine without a network.
"""

import ipaddress
import socket

_connect, _connect_ex, _getaddrinfo = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo


class NetworkBlocked(ConnectionError):
    """Something tried to leave the machine during a test run."""


def _check(host):
    name = host.decode() if isinstance(host, bytes) else host
    if name in (None, "", "localhost") or name == socket.gethostname():
        return
    try:
        if ipaddress.ip_address(name.split("%")[0]).is_loopback:
            return
    except ValueError:
        pass  # a host name: asking for its address would already need the network
    raise NetworkBlocked(f"the network is blocked in tests, and something asked for {name!r}: the course works offline")


def _guarded(original):
    def call(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6):
            _check(address[0])
        return original(self, address)

    return call


def _getaddrinfo_guarded(host, *args, **kwargs):
    _check(host)
    return _getaddrinfo(host, *args, **kwargs)


socket.socket.connect, socket.socket.connect_ex = _guarded(_connect), _guarded(_connect_ex)
socket.getaddrinfo = _getaddrinfo_guarded
