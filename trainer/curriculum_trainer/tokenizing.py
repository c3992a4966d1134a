"""The tokenizer: trained here as a byte-level BPE, or any Hugging Face folder's. No torch."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from curriculum_trainer import failures, manifest
from curriculum_trainer.source import TOKENIZER_FILE

CONFIG_FILE = "tokenizer_config.json"
END_TOKEN = "<|endoftext|>"


class Encoder:
    """A tokenizer with its end token."""

    def __init__(self, folder: Path) -> None:
        self.sha256 = digest(folder)
        path = folder / TOKENIZER_FILE
        try:
            self.tokenizer: Tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises no narrower class
            raise failures.data_error(f'"{path}" is no tokenizer: {error}') from error
        # many published tokenizers are set to cut or fill up texts, as chat models need it
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        # numbers may have holes: what counts is the highest
        self.vocab_size: int = max(self.tokenizer.get_vocab().values()) + 1
        self.end = self._end(folder)

    def encode(self, text: str) -> list[int]:
        """A text's tokens, without any special token."""
        return self.encode_all([text])[0]

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """Each text's tokens; several texts at once, on all cores."""
        encoded = self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [one.ids for one in encoded]

    def decode(self, tokens: list[int]) -> str:
        """The text of tokens."""
        return str(self.tokenizer.decode(tokens, skip_special_tokens=False))

    def _end(self, folder: Path) -> int:
        config = folder / CONFIG_FILE
        token = json.loads(config.read_text()).get("eos_token") if config.is_file() else END_TOKEN
        # written as text, or as an object with its flags
        name = token.get("content") if isinstance(token, dict) else token
        number = self.tokenizer.token_to_id(name) if name else None
        if number is None:
            raise failures.data_error(
                f'tokenizer "{folder}" has no end token: set "eos_token" in its {CONFIG_FILE}'
            )
        return int(number)


def digest(folder: Path) -> str:
    """The SHA-256 of a folder's tokenizer."""
    path = folder / TOKENIZER_FILE
    if not path.is_file():
        raise failures.data_error(
            f'no "{TOKENIZER_FILE}" in "{folder}": name a tokenizer\'s folder, or train:VOCAB'
        )
    return manifest.sha256(path)


def train(texts: Iterable[str], *, vocab_size: int, folder: Path) -> None:
    """Train a byte-level BPE tokenizer and save it so that `transformers` loads it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_TOKEN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_TOKEN,
        "eos_token": END_TOKEN,
        "pad_token": END_TOKEN,
        "clean_up_tokenization_spaces": False,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=1) + "\n")
    part = folder / f".tmp-{TOKENIZER_FILE}"
    tokenizer.save(str(part))
    part.rename(folder / TOKENIZER_FILE)
