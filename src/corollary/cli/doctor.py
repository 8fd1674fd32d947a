"""`corollary doctor`: what is installed, what the machine has, and whether the data folder is there."""

import importlib.metadata
import os
import platform

from corollary.cli import _console as ui

PACKAGES = {
    "core": ("torch", "numpy", "scikit-learn", "scipy", "safetensors", "typer", "rich", "pydantic", "jaxtyping"),
    "report": ("matplotlib", "jinja2"),
    "tables": ("pyarrow", "skops"),
    "embeddings": ("sentence-transformers",),
    "hf": ("transformers",),
    "serve": ("starlette", "uvicorn", "aiohttp", "sqlalchemy", "prometheus-client"),
}


def run(as_json: ui.Json = False) -> None:
    """Versions, threads, devices, data folder: what to paste into a report of a problem."""
    found = gather()
    if as_json:
        ui.emit(found)
        return
    for name, value in found.items():
        if isinstance(value, dict):
            ui.say(f"{name}:")
            for key, item in value.items():
                ui.say(f"  {key:<20} {item if item is not None else 'not installed'}")
        else:
            ui.say(f"{name:<22} {value}")


def gather() -> dict[str, object]:
    """What `doctor` prints, as plain values."""
    import torch

    import corollary

    def version(package: str) -> str | None:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return None

    devices = ["cpu", *(f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        devices.append("mps")
    data = os.environ.get("COROLLARY_DATA")
    return {
        "corollary": corollary.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": os.cpu_count() or 1,
        "torch threads": torch.get_num_threads(),
        "devices": ", ".join(devices),
        "COROLLARY_DATA": f"{data} ({'found' if os.path.isdir(data) else 'missing'})" if data else "not set",
        **{
            f"extra {group}" if group != "core" else "core": {p: version(p) for p in names}
            for group, names in PACKAGES.items()
        },
    }
