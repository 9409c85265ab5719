"""Facts of the host for people who look for a fault: `/v1/agent/host`. Reads /proc; may take milliseconds."""

from __future__ import annotations

import platform
import socket
import time
from typing import Any

import psutil


def describe_host() -> dict[str, Any]:
    """Memory, processors, system and disk, in Consul's spelling."""
    memory, disk = psutil.virtual_memory(), psutil.disk_usage("/")
    return {
        "Memory": {
            "total": memory.total,
            "available": memory.available,
            "used": memory.used,
            "usedPercent": memory.percent,
            "free": memory.free,
        },
        "CPU": [{"cpu": number, "cores": 1} for number in range(psutil.cpu_count() or 1)],
        "Host": {
            "hostname": socket.gethostname(),
            "uptime": int(time.time() - psutil.boot_time()),
            "bootTime": int(psutil.boot_time()),
            "procs": len(psutil.pids()),
            "os": "linux",
            "kernelVersion": platform.release(),
            "kernelArch": platform.machine(),
        },
        "Disk": {
            "path": "/",
            "total": disk.total,
            "free": disk.free,
            "used": disk.used,
            "usedPercent": disk.percent,
        },
        "CollectionTime": time.time_ns(),
        "Errors": None,
    }
