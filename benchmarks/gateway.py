"""Gateway: G1 metered requests/s, G2 added latency, G3 metered streams/s, G4 byte-equal payload.

The gateway, a bare ASGI application with aiohttp and (unless --no-litellm) LiteLLM's proxy serve the same upstream in
interleaved rounds; medians are printed. LiteLLM is installed into an environment of its own under the cache folder; if
that can't be done, its column says so.
"""

import argparse
import asyncio
import os
import subprocess
import sys
import venv
from pathlib import Path

import common

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "wopr-benchmarks"
LITELLM_SECONDS = 900
LITELLM_READY_SECONDS = 180.0
# Without keys and without a database, as it was measured before: the least work that it can do.
LITELLM_ENVIRONMENT = {"LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true"}
LITELLM_CONFIG = """
model_list:
  - model_name: bench
    litellm_params: {{model: openai/bench, api_base: "http://127.0.0.1:{port}/v1", api_key: secret}}
litellm_settings: {{telemetry: false}}
"""


def litellm_program() -> Path | None:
    """LiteLLM's command in an environment of its own, installed when it is missing; None when that fails."""
    folder = CACHE / "litellm"
    program = folder / "bin" / "litellm"
    if program.exists():
        return program
    print("installing litellm[proxy] into", folder, file=sys.stderr)
    try:
        venv.create(folder, with_pip=True)
        command = [str(folder / "bin" / "pip"), "install", "--quiet", "litellm[proxy]"]
        subprocess.run(command, check=True, timeout=LITELLM_SECONDS)
    except (OSError, subprocess.SubprocessError) as error:
        print(f"skipped: LiteLLM could not be installed ({error})", file=sys.stderr)
        return None
    return program if program.exists() else None


async def start_litellm(lab: common.Lab) -> common.Server | None:
    """LiteLLM's proxy on the server's core, or None with a line that says why."""
    program = await asyncio.to_thread(litellm_program)
    if program is None:
        return None
    config = lab.home / "litellm.yaml"
    config.write_text(LITELLM_CONFIG.format(port=lab.upstream_port))
    port = common.free_port()
    command = ["taskset", "-c", str(common.SERVER_CORE), str(program), "--config", str(config), "--port", str(port)]
    process = common.start_process(command, LITELLM_ENVIRONMENT)
    server = common.Server("LiteLLM", port, process)
    lab.servers.append(server)
    try:
        await common.answering(server, LITELLM_READY_SECONDS)
    except RuntimeError as error:
        print(f"skipped: LiteLLM did not start ({error})", file=sys.stderr)
        server.stop()
        return None
    return server


async def measure(arguments: argparse.Namespace) -> None:
    async with common.laboratory() as lab:
        customer = await lab.customer("10000")
        servers = [await lab.gateway(), await lab.bare()]
        if not arguments.no_litellm and (litellm := await start_litellm(lab)) is not None:
            servers.append(litellm)
        rounds: dict[tuple[str, str], list[common.Load]] = {}
        whole, stream = common.chat_body(stream=False), common.chat_body(stream=True)
        expected = b"".join(common.stream_events())
        direct = common.Server("direct", lab.upstream_port, lab.servers[0].process)
        for number in range(arguments.rounds + 1):
            for server in [direct, *servers]:
                seconds = arguments.seconds if number else arguments.warmup
                data = common.request_bytes(server.port, whole, customer.key)
                streamed = common.request_bytes(server.port, stream, customer.key)
                exact = expected if server.name != "LiteLLM" else None
                found = {
                    "whole 8": await common.load(server, data, 8, seconds),
                    "whole 1": await common.load(server, data, 1, seconds / 2),
                    "stream 16": await common.load(server, streamed, 16, seconds, exact),
                }
                if number:
                    for name, result in found.items():
                        rounds.setdefault((server.name, name), []).append(result)
        await asyncio.sleep(1)
        report(rounds, [server.name for server in servers])
        sent = sum(len(r.latencies) for (name, _), each in rounds.items() if name == "wopr" for r in each)
        print(f"\nusage rows {await lab.usage(customer.tenant_id)} (measured requests {sent}, warm-up beside them)")


def report(rounds: dict[tuple[str, str], list[common.Load]], names: list[str]) -> None:
    def rate(server: str, what: str) -> float:
        return common.median([each.rate for each in rounds[server, what]])

    def latency(server: str, what: str, share: float) -> float:
        return common.median([each.percentile(share) * 1000 for each in rounds[server, what]])

    def cpu(server: str, what: str) -> float:
        return common.median([each.cpu_seconds / len(each.latencies) * 1e6 for each in rounds[server, what]])

    rows = []
    for name in names:
        streams = rounds[name, "stream 16"]
        failures = sum(each.failures for (server, _), all_ in rounds.items() if server == name for each in all_)
        wrong = sum(each.wrong_bodies for each in streams)
        total = sum(len(each.latencies) for each in streams)
        rows.append(
            [
                name,
                f"{rate(name, 'whole 8'):.0f}",
                f"{cpu(name, 'whole 8'):.0f} / {cpu(name, 'stream 16'):.0f}",
                f"{latency(name, 'whole 1', 0.5) - latency('direct', 'whole 1', 0.5):.2f}",
                f"{latency(name, 'whole 8', 0.99):.2f}",
                f"{rate(name, 'stream 16'):.0f}",
                f"{100 * (total - wrong) / total:.1f} %" if name != "LiteLLM" else "rewritten",
                failures,
            ]
        )
    header = [
        "server",
        "G1 requests/s",
        "CPU µs a request / stream",
        "G2 added p50 ms",
        "G2 p99 at 8 ms",
        "G3 streams/s",
        "G4 equal",
        "failures",
    ]
    print(common.table(header, rows))
    if "LiteLLM" in names:
        for goal, what in (("G1", "whole 8"), ("G3", "stream 16")):
            print(f"{goal}: {rate('wopr', what) / rate('LiteLLM', what):.0f} × LiteLLM")
    print(f"G1: bare / wopr = {rate('bare', 'whole 8') / rate('wopr', 'whole 8'):.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--warmup", type=float, default=2.0)
    parser.add_argument("--no-litellm", action="store_true")
    common.run(measure(parser.parse_args()))
