"""Options of the engines, in a file of their own so that they are checked before anything heavy is imported."""

from pydantic import BaseModel, ConfigDict, Field


class ContinuousBatchingConfig(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    cache_tokens: int = Field(
        65_536, ge=256, description="most tokens whose keys and values are held at once; further answers wait"
    )
    page_tokens: int = Field(32, ge=4, description="tokens in a page of the cache")
    batch_tokens: int = Field(2048, ge=1, description="most tokens read in one pass")
