"""The dependencies that all routes share, and the base of their bodies. One of the few doors to FastAPI."""

from typing import Annotated

from fastapi import Depends, Request
from pydantic import BaseModel, ConfigDict

from wopr.core.platform import Platform


class ApiModel(BaseModel):
    """The base of request and response bodies: unknown fields are refused, so that a typo is never ignored."""

    model_config = ConfigDict(extra="forbid", from_attributes=True)


class ErrorBody(ApiModel):
    """What went wrong: a stable code for programs, a sentence for people, and what to do about it."""

    code: str
    message: str
    remedy: str


class ErrorAnswer(ApiModel):
    """The body of every answer from status 400 on."""

    error: ErrorBody


def platform_of(request: Request) -> Platform:
    """The platform that the composition root put on the application."""
    platform: Platform = request.app.state.platform
    return platform


PlatformDep = Annotated[Platform, Depends(platform_of)]
