"""What the cloud offers: regions, sizes with their prices, images. Slugs and prices as DigitalOcean publishes them.

A price here is what a plan or a test reckons with; the real list is asked from the real API.
"""

from dataclasses import dataclass

from wopr.emulators.documents import Document

_HOURS_A_MONTH = 672  # a droplet is billed by the hour up to so many hours a month
_FEATURES = ("backups", "ipv6", "metadata", "install_agent", "storage", "image_transfer")
_IMAGE_DATE = "2026-08-04T12:00:00Z"


@dataclass(frozen=True)
class _Gpu:
    model: str
    count: int
    vram_gib: int


@dataclass(frozen=True)
class _Size:
    slug: str
    vcpus: int
    memory_mib: int
    disk_gib: int
    transfer_tb: float
    monthly_dollars: float
    hourly_dollars: float | None = None
    description: str = "Basic"
    gpu: _Gpu | None = None
    regions: tuple[str, ...] = ()

    @property
    def hourly(self) -> float:
        return self.hourly_dollars or round(self.monthly_dollars / _HOURS_A_MONTH, 5)


REGION_NAMES = {
    "nyc1": "New York 1",
    "nyc2": "New York 2",
    "nyc3": "New York 3",
    "ams3": "Amsterdam 3",
    "sfo2": "San Francisco 2",
    "sfo3": "San Francisco 3",
    "sgp1": "Singapore 1",
    "lon1": "London 1",
    "fra1": "Frankfurt 1",
    "tor1": "Toronto 1",
    "blr1": "Bangalore 1",
    "syd1": "Sydney 1",
    "atl1": "Atlanta 1",
}
_GPU = "GPU"
_ADA = ("tor1", "nyc1", "atl1")
_HOPPER = ("nyc2", "tor1", "atl1", "ams3")
_INSTINCT = ("nyc2", "tor1", "atl1")

_SIZES = (
    _Size("s-1vcpu-512mb-10gb", 1, 512, 10, 0.5, 4),
    _Size("s-1vcpu-1gb", 1, 1024, 25, 1, 6),
    _Size("s-1vcpu-2gb", 1, 2048, 50, 2, 12),
    _Size("s-2vcpu-2gb", 2, 2048, 60, 3, 18),
    _Size("s-2vcpu-4gb", 2, 4096, 80, 4, 24),
    _Size("s-4vcpu-8gb", 4, 8192, 160, 5, 48),
    _Size("s-8vcpu-16gb", 8, 16384, 320, 6, 96),
    _Size("c-2", 2, 4096, 25, 4, 42, description="CPU-Optimized"),
    _Size("c-4", 4, 8192, 50, 5, 84, description="CPU-Optimized"),
    _Size("g-2vcpu-8gb", 2, 8192, 25, 4, 63, description="General Purpose"),
    _Size("gpu-4000adax1-20gb", 8, 32768, 500, 10, 565.44, 0.76, _GPU, _Gpu("nvidia_rtx4000_ada", 1, 20), _ADA),
    _Size("gpu-6000adax1-48gb", 8, 65536, 500, 10, 1168.08, 1.57, _GPU, _Gpu("nvidia_rtx6000_ada", 1, 48), _ADA),
    _Size("gpu-l40sx1-48gb", 8, 65536, 500, 10, 1168.08, 1.57, _GPU, _Gpu("nvidia_l40s", 1, 48), _ADA),
    _Size("gpu-h100x1-80gb", 20, 245760, 720, 15, 2522.16, 3.39, _GPU, _Gpu("nvidia_h100", 1, 80), _HOPPER),
    _Size("gpu-mi300x1-192gb", 20, 245760, 720, 15, 1480.56, 1.99, _GPU, _Gpu("amd_mi300x", 1, 192), _INSTINCT),
    _Size("gpu-h100x8-640gb", 160, 1966080, 2046, 60, 17796.48, 23.92, _GPU, _Gpu("nvidia_h100", 8, 640), _HOPPER),
)

# Slug, distribution, name, and what kind of droplet it is for.
_IMAGES = (
    ("debian-12-x64", "Debian", "12 x64"),
    ("debian-13-x64", "Debian", "13 x64"),
    ("ubuntu-22-04-x64", "Ubuntu", "22.04 (LTS) x64"),
    ("ubuntu-24-04-x64", "Ubuntu", "24.04 (LTS) x64"),
    ("docker-20-04", "Ubuntu", "Docker on Ubuntu 22.04"),
    ("gpu-h100x1-base", "Ubuntu", "NVIDIA AI/ML Ready"),
    ("gpu-h100x8-base", "Ubuntu", "NVIDIA AI/ML Ready NVLink"),
)
_IMAGE_IDS_FROM = 155_133_600


def sizes() -> list[Document]:
    """Every size as the API shows it, cheapest first."""
    return [_shown(size) for size in _SIZES]


def size(slug: str) -> Document | None:
    """A size by its slug."""
    return next((found for found in sizes() if found["slug"] == slug), None)


def regions() -> list[Document]:
    """Every region with the sizes that are to be had there."""
    return [found for slug in REGION_NAMES if (found := region(slug)) is not None]


def region(slug: str) -> Document | None:
    """A region by its slug."""
    if slug not in REGION_NAMES:
        return None
    offered = [size.slug for size in _SIZES if slug in _regions_of(size)]
    shown = {"name": REGION_NAMES[slug], "slug": slug, "features": list(_FEATURES), "available": True}
    return shown | {"sizes": offered}


def images() -> list[Document]:
    """Every public image."""
    return [_image(number, *described) for number, described in enumerate(_IMAGES)]


def image(name: str | int) -> Document | None:
    """An image by its slug or its number."""
    return next((found for found in images() if str(name) in (found["slug"], str(found["id"]))), None)


def _shown(one: _Size) -> Document:
    shown: Document = {"slug": one.slug, "memory": one.memory_mib, "vcpus": one.vcpus, "disk": one.disk_gib}
    shown |= {"transfer": one.transfer_tb, "price_monthly": one.monthly_dollars, "price_hourly": one.hourly}
    shown |= {"regions": list(_regions_of(one)), "available": True, "description": one.description}
    shown["disk_info"] = [{"type": "local", "size": {"amount": one.disk_gib, "unit": "gib"}}]
    if one.gpu is not None:
        vram = {"amount": one.gpu.vram_gib, "unit": "gib"}
        shown["gpu_info"] = {"count": one.gpu.count, "model": one.gpu.model, "vram": vram}
    return shown


def _regions_of(one: _Size) -> tuple[str, ...]:
    return one.regions or tuple(REGION_NAMES)


def _image(number: int, slug: str, distribution: str, name: str) -> Document:
    shown: Document = {"id": _IMAGE_IDS_FROM + number, "name": name, "distribution": distribution, "slug": slug}
    shown |= {"public": True, "regions": list(REGION_NAMES), "created_at": _IMAGE_DATE, "min_disk_size": 7}
    shown |= {"type": "base", "size_gigabytes": 2.4, "description": f"{distribution} {name}", "tags": []}
    return shown | {"status": "available", "error_message": ""}
