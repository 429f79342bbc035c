"""Texts, the same each time: a thousand varied ones (languages, code, numbers, spaces, special tokens, odd characters), and
English questions with their answers."""

import inspect
import itertools
import random
import re
import unicodedata

import numpy

SENTENCES = [
    "The quick brown fox jumps over the lazy dog.", "It's I'll you've THEY'RE we'd isn't O'Neill's 'tis",
    "Größe, Fuß und Übermut tut selten gut.", "L’été à la plage, c’est l’idéal !", "¿Dónde está la biblioteca? ¡Aquí!",
    "Съешь же ещё этих мягких французских булок, да выпей чаю.", "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία.",
    "敏捷的棕色狐狸跳过了懒狗。", "いろはにほへと ちりぬるを カタカナ ｶﾀｶﾅ", "다람쥐 헌 쳇바퀴에 타고파",
    "نص حكيم له سر قاطع وذو شأن عظيم", "דג סקרן שט בים מאוכזב", "ऋषियों को सताने वाले दुष्ट राक्षसों",
    "เป็นมนุษย์สุดประเสริฐเลิศคุณค่า", "Tiếng Việt có dấu: ằ ẵ ộ ử", "İstanbul'da ığdır",
    "e\u0301 vs é, n\u0303 vs ñ, A\u030a vs Å, ﬁ ligature",
    "def f(x: int) -> str:\n    return f\"{x!r:>10}\"  # comment\n",
    "for (int i = 0; i < n; ++i) {\n\ta[i] += b[i] * 3.14e-10f;\n}", "SELECT * FROM t WHERE a='x''y' AND b>=10;",
    "<div class=\"a b\">&nbsp;&amp;</div>\r\n", "$E=mc^2$, \\frac{1}{2}, ∑_{i=0}^{n} x_i ≤ ∞, √2≈1.41421356",
    "2026-11-23T19:58:00Z 1,234,567.89 007 3.14159 1e-5 ٣٤٥ १२३ ½ Ⅷ ²", "a1b22c333 x86_64 H2O v1.2.3-rc4",
    "https://example.org/a/b?c=d&e=f#g user@example.com", "#hashtag @name :-) ;) <3 ¯\\_(ツ)_/¯",
    "😀😃👍🏽👩‍👩‍👧‍👦🏳️‍🌈🇩🇪🇯🇵 ❤️ ☃", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝟘𝟙𝟚 𓀀 𒀀 🜁",
    "zero\u200bwidth\u200d joiner\ufeff bom\u00a0nbsp\u2003em\u3000ideographic\u2028line",
    "\x00\x01\x07\x1b[31mred\x1b[0m\x7f", "\u2581under\u2581\u2581lines _ __ ___ ____",
]
SPACES = [
    " ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", " \n", "\n ", "\t\t ", "     ", " " * 17, "\n" * 4,
    "\u00a0", "\u3000", "",
]
SPECIAL = [
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<s>", "</s>", "<unk>", "<0x41>", "<think>", "<|im_start|>user\n",
    "<repo_name>", "<|im_", "im_end|>",
]


def varied_texts(count=1000):
    """Short ones and the sentences first, then `count` in all."""
    rng = random.Random(3)
    found = ["", " ", "\n", "a", " a", "a ", "  a  ", "1", " 1", "12", " 12 ", "1 2"]
    found += ["'", "'s", "\u2581", "é", "e\u0301"]
    found += SENTENCES + SPECIAL + [token + token for token in SPECIAL] + [f" {token} x" for token in SPECIAL]
    found += [space * 3 + "a" + space for space in SPACES]
    characters = [chr(code) for code in range(0x20, 0x30000) if not unicodedata.category(chr(code)).startswith("C")]
    while len(found) < count:
        found.append("".join(_part(rng, characters) + rng.choice(SPACES) for _ in range(rng.randint(1, 8))))
    return found[:count]


def _part(rng, characters):
    kind = rng.random()
    if kind < 0.45:
        words = rng.choice(SENTENCES).split(" ")
        start = rng.randrange(len(words))
        return " ".join(words[start : start + rng.randint(1, 9)])
    if kind < 0.6:
        return rng.choice(SPECIAL)
    if kind < 0.7:
        return "".join(rng.choices(characters, k=rng.randint(1, 12)))
    if kind < 0.8:
        return str(rng.randrange(10 ** rng.randint(1, 12)))
    if kind < 0.9:
        return "".join(chr(rng.randrange(32, 127)) for _ in range(rng.randint(1, 20)))
    return rng.choice(SENTENCES).upper()


def questions(paragraphs=1, sections=False):
    """What NumPy's functions do, in the words of its own documentation: prompts and completions, in order of the names.

    `sections` goes on into parameters, results and examples. No token of a byte-level tokenizer reaches from a prompt, which
    ends with a question mark, into its completion, which begins with a space and a letter.
    """
    rows = []
    for name in sorted(numpy.__all__):
        document = inspect.getdoc(getattr(numpy, name)) if callable(getattr(numpy, name)) else None
        if document is None:
            continue
        parts = re.split(r"\n\s*\n", document)
        # A function's document begins with its signature now and then.
        parts = parts[1:] if re.match(r"\w+\(", parts[0]) else parts
        if not sections:
            # Their titles are underlined.
            parts = itertools.takewhile(lambda part: not re.search(r"^\s*-{4,}$", part, re.MULTILINE), parts)
        answer = "\n\n".join(" ".join(part.split()) for part in itertools.islice(parts, paragraphs))
        if re.match(r"[A-Z][a-z]", answer):
            rows.append({"prompt": f"What does numpy.{name} do?", "completion": f" {answer}"})
    return rows
