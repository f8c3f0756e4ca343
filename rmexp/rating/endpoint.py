"""An OpenAI-compatible endpoint: its address and key, and its answers that end a rating."""

from __future__ import annotations

import os
from typing import Any

from rmexp.errors import UserError

KEY_VARIABLE = "OPENAI_API_KEY"
OPENAI = "https://api.openai.com/v1"
_URL_VARIABLE = "OPENAI_BASE_URL"
_SHOWN = 200  # characters of what the endpoint said


def endpoint_address(base_url: str | None) -> str | None:
    """The endpoint asked, None for OpenAI's own.

    Found once, since the client would look into the environment by itself.
    """
    return base_url or os.environ.get(_URL_VARIABLE) or None


def check_key(base_url: str | None) -> None:
    """UserError where there is no key; a local server needs none."""
    if not os.environ.get(KEY_VARIABLE) and endpoint_address(base_url) is None:
        raise UserError(f"rater=openai: set the environment variable {KEY_VARIABLE}")


def said(error: Exception) -> str:
    """What the endpoint answered, or why it could not be reached, on one line."""
    response = getattr(error, "response", None)
    parts = [error, error.__cause__] if response is None else [error, response.text]
    text = " ".join(" ".join(str(part) for part in parts if part).split())
    return text[:_SHOWN] or type(error).__name__


def refused_key(error: Any) -> UserError:
    """What to tell where the key is refused."""
    return UserError(
        f"rater=openai: the endpoint refused the key ({error.status_code}): "
        f"check {KEY_VARIABLE} and rater.base_url"
    )


def refuse_hopeless(error: Any, model: str, probabilities: bool) -> None:
    """UserError for an answer that no other question would change."""
    if error.status_code == 401:
        raise refused_key(error) from error
    if error.status_code == 429 and "insufficient_quota" in error.response.text:
        raise UserError(
            "rater=openai: the endpoint's quota is used up (429): check its plan and billing; "
            "what was rated is kept"
        ) from error
    if error.status_code == 404:
        raise UserError(
            f"rater.model: the endpoint does not know '{model}' (404): "
            "check rater.model and rater.base_url"
        ) from error
    if probabilities and error.status_code in (400, 422) and "logprobs" in error.response.text:
        raise UserError(
            f"rater=openai: the endpoint gives no log probabilities ({error.status_code}): "
            "set rater.probabilities=false to rate by the answer's word"
        ) from error
