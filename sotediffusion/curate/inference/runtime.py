"""ONNX Runtime sessions on the device that was asked for, or an error that says what to install."""

from pathlib import Path
from typing import Any

from sotediffusion.names import unknown
from sotediffusion.types import UserError

# name: (ONNX Runtime's name, its options, the package that brings it); the best comes first
PROVIDERS: dict[str, tuple[str, dict[str, str], str]] = {
    # in 16 bit the WD taggers give nonsense there
    "openvino": ("OpenVINOExecutionProvider", {"device_type": "GPU", "precision": "FP32"}, "onnxruntime-openvino"),
    "cuda": ("CUDAExecutionProvider", {}, "'onnxruntime-gpu[cuda,cudnn]'"),
    "migraphx": ("MIGraphXExecutionProvider", {}, "onnxruntime-migraphx"),
    "rocm": ("ROCMExecutionProvider", {}, "onnxruntime-rocm"),  # of ONNX Runtime before 1.23
    "cpu": ("CPUExecutionProvider", {}, "onnxruntime"),
}
GPUS = {*PROVIDERS, "xpu"} - {"cpu"}
AUTO = "auto"  # the best one that the installed ONNX Runtime was built with


def open_session(path: str | Path, provider: str = AUTO, threads: int = 0) -> Any:
    """An InferenceSession whose first provider is the one asked for; `threads` 0 takes all cores.

    UserError: a provider that is unknown or not here, a file that is no model.
    """
    onnxruntime = _onnxruntime()
    provider = provider_here(provider)
    onnxruntime.disable_telemetry_events()
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.log_severity_level = 3
    if provider == "cuda" and hasattr(onnxruntime, "preload_dlls"):  # it does not look for the libraries of the wheel itself
        onnxruntime.preload_dlls()
    name, options, _ = PROVIDERS[provider]
    try:
        session = onnxruntime.InferenceSession(str(path), settings, providers=[(name, options)])
    except Exception as error:  # the runtime's errors share no class
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
        raise UserError("model", f"{path} does not open on {provider} ({reason}); fetch it again, or ask for cpu") from error
    check_provider(provider, session.get_providers()[:1])
    return session


def provider_here(wanted: str) -> str:
    """The provider that a session on this machine runs on; UserError where the one asked for is not here."""
    return choose_provider(wanted, _onnxruntime().get_available_providers())


def choose_provider(wanted: str, available: list[str]) -> str:
    """The provider asked for, or for "auto" the best of those available; UserError where it is not among them."""
    if wanted == AUTO:
        return next((short for short, (name, _, _) in PROVIDERS.items() if name in available), "cpu")
    if wanted not in PROVIDERS:
        raise unknown("provider", wanted, [AUTO, *PROVIDERS])
    check_provider(wanted, available)
    return wanted


def provider_of(device: str) -> str:
    """The provider for a device as torch calls it; UserError where it is one of several."""
    kind, _, number = device.partition(":")
    if number:
        raise UserError("device", f"{device!r} names one of several; write {kind}, and say which in run.devices")
    return {"xpu": "openvino"}.get(kind, kind)


def wants_gpu(device: str) -> bool:
    """Whether a worker on a provider, or on a device as torch calls it, needs a GPU; "auto" goes by the runtime here."""
    kind = device.partition(":")[0]
    return (provider_here(AUTO) if kind == AUTO else kind) in GPUS


def check_provider(wanted: str, there: list[str]) -> None:
    """ONNX Runtime falls back to the CPU without a word; here that is an error."""
    name, _, package = PROVIDERS[wanted]
    if name not in there:
        instead = "" if wanted == "cpu" else " in place of onnxruntime, with the device's own libraries"
        raise UserError("provider", f"{wanted} would not be used: ONNX Runtime gives {', '.join(there)}; "
                                    f"pip install {package}{instead}, or ask for cpu")


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise UserError("provider", "ONNX Runtime is not installed; pip install 'sotediffusion[curate]'") from None
    return onnxruntime
