"""One base model, many adapters: loaded from folders, checked, switched at each call."""

from __future__ import annotations

import copy
import hashlib
import re
import threading
import warnings
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import chat, models
from .session import HARMLESS_WARNINGS

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BASE = "base"  # the name under which the model answers without an adapter
ADAPTER_NAME = r"[a-z0-9][a-z0-9_-]{0,31}"


class AdapterError(ValueError):
    """An adapter's folder cannot be used with this base; the message says why."""


class UnknownAdapterError(LookupError):
    """No adapter of this name is loaded."""


class LanguageModel:
    """One base in memory and any number of LoRA adapters on it; one call at a time, each with the adapter it names."""

    def __init__(
        self,
        model: PreTrainedModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        max_new_tokens: int = 64,
    ) -> None:
        """Takes ``models.load_lm()`` by default. A model that is given is wrapped in place: it should be used for nothing else."""
        if model is None or tokenizer is None:
            model, tokenizer = models.load_lm()
        for message, category in HARMLESS_WARNINGS:  # a program has no session that does it
            warnings.filterwarnings("ignore", message=message, category=category)
        self.tokenizer, self.max_new_tokens = tokenizer, max_new_tokens
        self.fingerprint = _fingerprint(model.named_parameters())
        self._config, self._model, self._adapters = model.config, model.eval(), []
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """Of the base: its folder's, or its hub id."""
        return Path(self._config.name_or_path).name or self._config.model_type

    @property
    def adapters(self) -> list[str]:
        """Names that :meth:`generate` takes."""
        return [BASE, *self._adapters]

    def check(self, adapter: str) -> None:
        """Raises UnknownAdapterError where no adapter has this name."""
        if adapter not in self.adapters:
            raise UnknownAdapterError(f"no adapter {adapter!r} is loaded; choose one of {', '.join(self.adapters)}")

    def generate(self, text: str, adapter: str = BASE) -> str:
        """The answer to one user's turn, greedy. Raises UnknownAdapterError."""
        with self._lock:
            self.check(adapter)
            if adapter != BASE:
                self._model.set_adapter(adapter)
            with self._model.disable_adapter() if adapter == BASE and self._adapters else nullcontext():
                return chat.reply(self._model, self.tokenizer, [text], max_new_tokens=self.max_new_tokens)[0]

    def load(self, folder: str | Path, name: str | None = None) -> str:
        """Adds the adapter that ``peft`` saved in a folder, or replaces the one of the same name: by default the folder's.

        The base it was trained on is known by ``base.sha256`` in the folder, the ``fingerprint`` of that base. ``peft``
        writes no such file. A folder without it is taken where all tensors fit: an adapter of another base of the same
        shape is not noticed then. Whoever saves an adapter should write the file, as lesson 08 and :mod:`.jobs` do.

        Raises:
            AdapterError: it is damaged, belongs to another base, or has a name that cannot be used.
        """
        folder = Path(folder)
        name = name or folder.name
        if not re.fullmatch(ADAPTER_NAME, name) or name == BASE:
            raise AdapterError(f"{name!r} cannot name an adapter: 1 to 32 of a-z, 0-9, _ and -, and not {BASE!r}")
        config = self._verified(folder)
        from peft import PeftModel

        with self._lock:
            if name in self._adapters:
                self._model.delete_adapter(name)
                self._adapters.remove(name)
            if isinstance(self._model, PeftModel):
                self._model.load_adapter(str(folder), adapter_name=name)
            else:
                self._model = PeftModel.from_pretrained(self._model, str(folder), adapter_name=name, config=config)
            self._model.eval()
            self._adapters.append(name)
        return name

    def copy_of_base(self) -> PreTrainedModel:
        """The base without adapters, to be trained while this one goes on answering; as much memory again."""
        with self._lock:
            model = copy.deepcopy(self._model)
        return model.unload() if self._adapters else model

    def _verified(self, folder: Path) -> Any:
        """The adapter's configuration, once its weights are known to fit: peft warns of missing ones, and goes on."""
        import torch
        from peft import PeftConfig, get_peft_model, get_peft_model_state_dict
        from safetensors.torch import load_file
        from transformers import AutoModelForCausalLM

        trained_on = folder / "base.sha256"
        if trained_on.is_file() and trained_on.read_text(encoding="utf-8").strip() != self.fingerprint:
            raise AdapterError(
                f"adapter {folder.name!r} was trained on another base than {self.name}: train it anew on this one"
            )
        try:
            config = PeftConfig.from_pretrained(str(folder))
            weights = load_file(folder / "adapter_model.safetensors")
        except Exception as error:
            raise AdapterError(
                f"adapter {folder.name!r} cannot be read ({error}): save it again with save_pretrained"
            ) from error
        if config.peft_type != "LORA":
            raise AdapterError(f"adapter {folder.name!r} is {config.peft_type!s}, expected LORA")
        try:
            with torch.device("meta"):
                bare = get_peft_model(AutoModelForCausalLM.from_config(self._config), copy.deepcopy(config))
        except ValueError as error:
            raise AdapterError(f"adapter {folder.name!r} does not fit {self.name}: {error}") from error
        expected = {key: tuple(value.shape) for key, value in get_peft_model_state_dict(bare).items()}
        found = {key: tuple(value.shape) for key, value in weights.items()}
        if wrong := sorted(key for key in expected | found if expected.get(key) != found.get(key)):
            key = wrong[0]
            raise AdapterError(
                f"adapter {folder.name!r} does not fit {self.name}: {len(wrong)} of its tensors differ, first {key}, shape "
                f"{found.get(key)}, expected {expected.get(key)}"
            )
        if not all(value.isfinite().all() for value in weights.values()):
            raise AdapterError(f"adapter {folder.name!r} holds numbers that are not finite: its training diverged")
        return config


def _fingerprint(named: Iterable[tuple[str, Any]]) -> str:
    """SHA-256 over a base's weights in the model's own order, as lesson 08 writes it next to its adapters."""
    digest = hashlib.sha256()
    for name, weight in named:
        if "lora_" not in name:
            digest.update(weight.detach().cpu().numpy().tobytes())
    return digest.hexdigest()
