"""Keys and addresses of services, from the environment or `.env`; keys are never printed."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from trimtab.errors import UsageError
from trimtab.parsing import read_text

OPENAI_URL = "https://api.openai.com/v1"


class Keys(BaseSettings):
    """What `.env.example` lists; an empty value counts as none.

    Raises:
        UsageError: `.env` cannot be read, or is no text in UTF-8.
    """

    model_config = SettingsConfigDict(env_file=".env", extra="ignore", env_ignore_empty=True)

    openai_api_key: SecretStr | None = None
    openai_base_url: str | None = None
    together_api_key: SecretStr | None = None
    hf_token: SecretStr | None = None
    trimtab_guard_key: SecretStr | None = None
    wandb_project: str | None = None

    def __init__(self) -> None:
        if Path(".env").is_file() and "\0" in read_text(".env"):
            raise UsageError(".env holds a null byte.", "Write it anew; see .env.example.")
        super().__init__()

    def export(self) -> None:
        """Set what other libraries look for in the environment: hub's token and wandb's project."""
        token = self.hf_token and self.hf_token.get_secret_value()
        for name, value in (("HF_TOKEN", token), ("WANDB_PROJECT", self.wandb_project)):
            if value and not os.environ.get(name):
                os.environ[name] = value

    def for_judge(self, url: str) -> SecretStr:
        """The key for an endpoint: of the service that its host names, or else OpenAI's.

        Raises:
            UsageError: There is none, and the endpoint is none of one's own on this machine.
        """
        host = urlsplit(url).hostname or ""
        if _within(host, "together.xyz", "together.ai"):
            return _key(url, "TOGETHER_API_KEY", self.together_api_key)
        if _within(host, "huggingface.co"):
            return _key(url, "HF_TOKEN", self.hf_token)
        if _within(host, "localhost", "127.0.0.1", "::1") and self.openai_api_key is None:
            return SecretStr("none")
        return _key(url, "OPENAI_API_KEY", self.openai_api_key)

    def for_guard(self, url: str) -> SecretStr:
        """The key for a guard's endpoint.

        Raises:
            UsageError: There is none.
        """
        key = self.trimtab_guard_key or self.together_api_key or self.openai_api_key
        return _key(url, "TRIMTAB_GUARD_KEY, TOGETHER_API_KEY or OPENAI_API_KEY", key)


def _within(host: str, *domains: str) -> bool:
    return any(host == domain or host.endswith(f".{domain}") for domain in domains)


def _key(url: str, names: str, key: SecretStr | None) -> SecretStr:
    if key is None or not key.get_secret_value().strip():
        raise UsageError(
            f"There is no key for {url}.",
            f"Set {names}, in the environment or in the file .env (see .env.example); for a server "
            "of your own any word will do.",
        )
    return key
