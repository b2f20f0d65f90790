"""Real text for the example: reads files as bytes, splits them by file, cuts random windows.

Called by train_moe_lm.py. Without `--data` the text is Python's own standard library, which is
present wherever the example runs.
"""

import sysconfig
import zlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

VALIDATION_SHARE = 0.03
SKIPPED_FOLDERS = {"idlelib", "encodings", "pydoc_data", "site-packages", "dist-packages"}


@dataclass
class Corpus:
    """Bytes to train on and bytes held out."""

    name: str
    num_files: int
    train: Tensor  # uint8 [bytes]
    validation: Tensor  # uint8 [bytes]

    @property
    def checksum(self) -> int:
        """Tells whether a resumed run reads the text that it began with."""
        return zlib.crc32(bytes(self.validation.numpy()), zlib.crc32(bytes(self.train.numpy())))


def load_corpus(path: Path | None = None) -> Corpus:
    """The text of a file, of all text files below a folder, or of the standard library."""
    if path is None:
        root = Path(sysconfig.get_paths()["stdlib"])
        name, files = "the Python standard library", standard_library(root)
    elif path.is_dir():
        root, name = path, str(path)
        files = [f for f in path.rglob("*") if f.is_file() and not is_hidden(f.relative_to(path))]
    else:
        root, name, files = path.parent, str(path), [path]

    texts = {str(f.relative_to(root)): f.read_bytes() for f in files}
    texts = {key: text for key, text in texts.items() if text and b"\0" not in text[:4096]}
    if not texts:
        raise SystemExit(f"--data {path}: got no text files; needs some kilobytes of text")
    train, validation = split_by_file(texts)
    return Corpus(name, len(texts), as_tensor(train), as_tensor(validation))


def standard_library(root: Path) -> list[Path]:
    """Python sources below `root`, without tests, tables and installed packages."""

    def is_wanted(file: Path) -> bool:
        parts = file.relative_to(root).parts
        return not any(part in SKIPPED_FOLDERS or part.startswith("test") for part in parts)

    return [file for file in root.rglob("*.py") if is_wanted(file)]


def is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def split_by_file(texts: dict[str, bytes]) -> tuple[list[bytes], list[bytes]]:
    """Whole files, in an order that looks random and is always the same, until the share is full.

    A single file is cut: its end is held out.
    """
    if len(texts) == 1:
        (text,) = texts.values()
        cut = int(len(text) * (1 - VALIDATION_SHARE))
        return [text[:cut]], [text[cut:]]
    order = sorted(texts, key=lambda name: (zlib.crc32(name.encode()), name))
    wanted = VALIDATION_SHARE * sum(map(len, texts.values()))
    count, held_out = 0, 0
    while held_out < wanted and count < len(order) - 1:
        held_out += len(texts[order[count]])
        count += 1
    return [texts[name] for name in order[count:]], [texts[name] for name in order[:count]]


def as_tensor(texts: list[bytes]) -> Tensor:
    return torch.frombuffer(bytearray(b"\n".join(texts)), dtype=torch.uint8)


class RandomWindows:
    """Endless batches of windows at random places; its position is the generator's state."""

    def __init__(self, text: Tensor, batch_size: int, context: int, seed: int) -> None:
        if len(text) <= context + 1:
            raise SystemExit(f"--data: got {len(text)} bytes to train on; needs over {context + 1}")
        self.text, self.batch_size, self.context = text, batch_size, context
        self.generator = torch.Generator().manual_seed(seed)

    def next(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Inputs and targets, int64 [batch, context] each: the target is the next byte."""
        starts = torch.randint(
            len(self.text) - self.context, (self.batch_size, 1), generator=self.generator
        )
        windows = self.text[starts + torch.arange(self.context + 1)].to(device).long()
        return windows[:, :-1], windows[:, 1:]


def consecutive_windows(text: Tensor, context: int) -> tuple[Tensor, Tensor]:
    """All of `text` in rows that follow each other: uint8 inputs and targets [rows, context]."""
    context = min(context, len(text) - 1)
    length = (len(text) - 1) // context * context
    return text[:length].view(-1, context), text[1 : length + 1].view(-1, context)
