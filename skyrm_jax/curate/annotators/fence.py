"""Texts of strangers inside a prompt, fenced so that none of them can end its fence and speak as the prompt itself."""

import hashlib
from collections.abc import Iterable, Sequence

from skyrm_jax.comparison import Message


class Fence:
    """Tags for all the texts of one prompt.

    Every tag ends in `mark`, which depends on the texts and stands in none of them: who writes a text
    cannot know it.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = tuple(texts)
        seed = b""
        for text in self._texts:
            seed = hashlib.sha256(seed + text.encode()).digest()
        while any(seed.hex()[:8] in text for text in self._texts):
            seed = hashlib.sha256(seed).digest()
        self.mark = seed.hex()[:8]

    def around(self, label: str, text: str) -> str:
        """`text` between tags of this label."""
        return f"<{label}-{self.mark}>\n{text}\n</{label}-{self.mark}>"

    def conversation(self, messages: Sequence[Message]) -> str:
        """Every message between tags that name its role, so that no message can invent another one."""
        return "\n".join(self.around(message.role, message.content) for message in messages)

    def response(self, label: str, messages: Sequence[Message]) -> str:
        """A response between tags of this label; a response of several messages with each between its own."""
        single = len(messages) == 1 and messages[0].role == "assistant"
        return self.around(label, messages[0].content if single else self.conversation(messages))
