"""The dependencies that all routes share, and the base of their bodies. One of the few doors to FastAPI."""

from typing import Annotated

from fastapi import Depends, Request
from pydantic import BaseModel, ConfigDict

from wopr.core.platform import Platform


class ApiModel(BaseModel):
    """The base of request and response bodies: unknown fields are refused, so that a typo is never ignored."""

    model_config = ConfigDict(extra="forbid", from_attributes=True)


def platform_of(request: Request) -> Platform:
    """The platform that the composition root put on the application."""
    platform: Platform = request.app.state.platform
    return platform


PlatformDep = Annotated[Platform, Depends(platform_of)]
