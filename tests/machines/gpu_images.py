"""The three images of a GPU node under their public names: the same ports, arguments and checks, our engines behind."""

from tests.machines.building import FOLDER, TEST_LABEL
from tests.machines.engine import Engine

GPU_IMAGES = {
    "llama-cpp": "ghcr.io/ggml-org/llama.cpp:server-cuda",
    "chatterbox": "travisvn/chatterbox-tts-api:gpu",
    "whisper": "fedirz/faster-whisper-server:0.6.0-rc.3-cuda",
}


def ensure_gpu_images(engine: Engine, platform_image: str) -> None:
    """Build them on the platform's image; what is there is found by the engine's own build cache."""
    for service, tag in GPU_IMAGES.items():
        arguments = ("--build-arg", f"PLATFORM={platform_image}", "--build-arg", f"SERVICE={service}")
        engine.docker("build", "--tag", tag, "--label", f"{TEST_LABEL}=1", *arguments, str(FOLDER / "gpu"))
