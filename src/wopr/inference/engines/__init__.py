"""The engines of a machine without a GPU: the four services of a node, each a process with the images' HTTP contract.

`run` starts one of them and returns when it was told to stop. Each engine imports its own libraries when it starts, so
that no process carries another's weight.
"""

from collections.abc import Callable

from wopr.core.errors import Invalid
from wopr.inference.engines.options import EngineOptions

__all__ = ["ENGINES", "EngineOptions", "run"]

ENGINES = ("llama", "chatterbox", "whisper", "qwen")
OnReady = Callable[[str, str], None]


def run(name: str, options: EngineOptions, on_ready: OnReady = lambda address, model: None) -> None:
    """Serve the engine of that name until a signal ends it; KeyboardInterrupt when that was Ctrl-C.

    `on_ready` is called once, with the address and the model's name. Raises a WoprError with its remedy when the engine
    can't start.
    """
    if name not in ENGINES:
        raise Invalid(f"There is no engine named {name}.", remedy=f"Name one of: {', '.join(ENGINES)}.")
    if name == "llama":
        _run_llama(options, on_ready)
    elif name == "chatterbox":
        from wopr.inference.engines.server import run_engine
        from wopr.inference.engines.speech import SpeechEngine

        run_engine(SpeechEngine(options), options, on_ready)
    elif name == "whisper":
        from wopr.inference.engines.server import run_engine
        from wopr.inference.engines.transcription import TranscriptionEngine

        run_engine(TranscriptionEngine(options), options, on_ready)
    else:
        from wopr.inference.engines.embeddings import EmbeddingEngine
        from wopr.inference.engines.server import run_engine

        run_engine(EmbeddingEngine(options), options, on_ready)


def _run_llama(options: EngineOptions, on_ready: OnReady) -> None:
    from wopr.inference.weights import text_model

    model = text_model(options.models_path, options.model)
    if model is not None:
        from wopr.inference.engines.llama import serve_gguf

        serve_gguf(model, options, on_ready)
        return
    from wopr.inference.engines.handbook import HandbookEngine
    from wopr.inference.engines.server import run_engine

    run_engine(HandbookEngine(options), options, on_ready)
