"""Options of the engines, apart from what draws: checked before anything heavy is imported."""

from pydantic import BaseModel, ConfigDict, Field


class ContinuousBatchingConfig(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    cache_tokens: int = Field(
        65_536, ge=256, description="tokens whose keys and values are held at once, at most; answers past them wait"
    )
    page_tokens: int = Field(32, ge=4, description="tokens a page of the cache")
    batch_tokens: int = Field(2048, ge=1, description="tokens read in a pass, at most")
