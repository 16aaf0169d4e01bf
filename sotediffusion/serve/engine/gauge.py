"""Measuring memory: how much a process may take on its device, and how much a piece of work took at its peak."""

import ctypes
from collections.abc import Callable
from pathlib import Path

SHARE = 0.85  # of what is free when a worker starts; the rest is for what is not counted

_RESET_PEAK = "5"  # to /proc/self/clear_refs: the peak of the resident memory starts anew (proc_pid_clear_refs(5))
_CGROUP, _OWN_GROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def budget(device: str) -> int:
    """Bytes that may be taken on a device, cpu or cuda, of what is free there now."""
    if device.startswith("cuda"):
        import torch

        return int(SHARE * torch.cuda.mem_get_info(device)[0])
    return int(SHARE * min(_available(), _left_in_group()))


def peak(device: str, work: Callable[[], None]) -> int | None:
    """Do the work; the bytes that it took at its peak above what was taken before, None where the system does not tell.

    On a CPU that is resident memory, after what malloc keeps has been given back, so that reused memory counts as taken.
    """
    if device.startswith("cuda"):
        import torch

        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    if not _reset():
        work()
        return None
    before = _status("VmRSS")
    work()
    return max(_status("VmHWM") - before, 0)


def _reset() -> bool:
    ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text(_RESET_PEAK)
    except OSError:  # a hardened container
        return False
    return True


def _status(field: str) -> int:
    return _kilobytes(Path("/proc/self/status"), field)


def _available() -> int:
    return _kilobytes(Path("/proc/meminfo"), "MemAvailable")


def _kilobytes(file: Path, field: str) -> int:
    line = next(line for line in file.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024


def _left_in_group(root: Path = _CGROUP, own: Path = _OWN_GROUP) -> float:
    """What the limits of a container or a service leave (cgroup v2), infinity where there are none."""
    line = next((line for line in own.read_text().splitlines() if line.startswith("0::")), "0::/")
    group = root / line.removeprefix("0::").lstrip("/")
    return min(_left(folder) for folder in (group, *group.parents) if folder.is_relative_to(root))


def _left(group: Path) -> float:
    try:
        limit, taken = ((group / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:  # the root of all groups has no limit
        return float("inf")
    return float("inf") if limit == "max" else int(limit) - int(taken)


def ran_out(error: BaseException) -> bool:
    """Whether this is how a full device or a full main memory shows; a CPU's has no class of its own."""
    import torch

    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "DefaultCPUAllocator" in str(error)
