"""What all parts of a config share."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A part of the config: unknown keys are errors, values are fixed once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Every key that has a default, as plain data; a rater's keys come from its group."""
        plain = cls.model_construct().model_dump(mode="json", exclude={"rater"})
        # The configs give the cache's folder by an interpolation.
        return plain | ({"cache_dir": ""} if "cache_dir" in cls.model_fields else {})
