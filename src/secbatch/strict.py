"""What the models of job files have in common."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @field_validator("path", "model", "revision", mode="after", check_fields=False)
    @classmethod
    def _no_nul(cls, value: str | None) -> str | None:
        if value is not None and "\0" in value:
            raise ValueError("it must not hold a NUL character")
        return value

    @field_validator("delimiter", mode="after", check_fields=False)
    @classmethod
    def _one_character(cls, value: str | None) -> str | None:
        value = "\t" if value in ("\\t", "tab") else value
        if value is not None and (len(value) != 1 or value in '"\r\n' or ord(value) > 127):
            raise ValueError("delimiter must be one ASCII character other than a quote or a line end, or tab")
        return value


def _no_truth_value(value: Any) -> Any:
    if isinstance(value, bool):  # pydantic takes `yes` for 1
        raise ValueError("it must be a number")
    return value


# A number that may stand as text: YAML reads 1e-4 as such.
Number = Annotated[float, Field(strict=False), BeforeValidator(_no_truth_value)]
FiniteNumber = Annotated[float, Field(strict=False, allow_inf_nan=False), BeforeValidator(_no_truth_value)]
Names = Annotated[tuple[str, ...], Field(strict=False)]


def one_or_several(value: Any) -> Any:
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value
