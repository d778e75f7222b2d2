"""A rented machine's first boot, played: what cloud-init would do there, through the platform's own HTTP API."""

from dataclasses import dataclass, field, replace

import httpx
import yaml
from fastapi import FastAPI

from wopr.core.platform import Platform
from wopr.emulators.digitalocean.machines import Addresses, Blueprint, Wall
from wopr.emulators.digitalocean.simulated import Simulated
from wopr.inference.api import router
from wopr.main import install_error_handlers

STAGES = ("installing_drivers", "installing_docker", "downloading_models", "starting_services")


class Here(Simulated):
    """Simulated machines whose private address is this machine's, so that a test can play their services."""

    async def create(self, blueprint: Blueprint, wall: Wall) -> Addresses:
        return replace(await super().create(blueprint, wall), private_ip="127.0.0.1")


@dataclass
class FirstBoot:
    """What runs on a rented machine, played by a test: opens with the token, reports, answers as its services."""

    api: httpx.AsyncClient
    first: dict[str, str]
    secret: str = ""
    files: dict[str, str] = field(default_factory=dict)

    async def open(self) -> httpx.Response:
        answer = await self.api.post(
            "/internal/gpu/bootstrap", headers={"authorization": f"Bearer {self.first['TOKEN']}"}
        )
        if answer.is_success:
            self.files = answer.json()["files"]
            self.secret = self.files["report.header"].strip().removeprefix("authorization: Bearer ")
        return answer

    async def report(self, stage: str, detail: str = "") -> httpx.Response:
        headers = {"authorization": f"Bearer {self.secret}"}
        return await self.api.post(
            "/internal/gpu/register", params={"stage": stage}, json={"detail": detail}, headers=headers
        )

    async def report_stages(self) -> None:
        """Everything before its services run. Each report moves the node on."""
        for stage in STAGES:
            assert (await self.report(stage)).json()["provision_stage"] == stage


def first_env(blueprint: Blueprint) -> dict[str, str]:
    """What a machine was told in its user data."""
    document = yaml.safe_load(blueprint.user_data)
    written = {file["path"]: file["content"] for file in document["write_files"]}
    return dict(line.split("=", 1) for line in written["/etc/wopr/first.env"].splitlines())


def api_of(platform: Platform) -> FastAPI:
    """The routes of nodes alone, those for their machines among them."""
    app = FastAPI()
    app.state.platform = platform
    app.include_router(router)
    install_error_handlers(app)
    return app
