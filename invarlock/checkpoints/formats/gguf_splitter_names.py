"""llama.cpp's names of the rules by which it splits text into words, and these rules; from its source, no code.

A GGUF file has a name as ``tokenizer.ggml.pre``. Source: llama.cpp as in llama-cpp-python 0.3.36,
``src/llama-vocab.cpp`` (``llm_tokenizer_bpe``, and ``load`` for the names), and ``conversion/base.py``
(``get_vocab_base_pre``) for the digests; MIT licence, copyright The ggml authors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Splitter:
    """Rules for splitting text, with the names that stand for them.

    ``rules`` are regular expressions. Each splits the parts that those before it left; a match is a part of its own,
    and so is the text between matches.
    """

    names: tuple[str, ...]
    rules: tuple[str, ...]


# The names that a message recommends come first.
SPLITTERS: tuple[Splitter, ...] = (
    Splitter(
        (
            "llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano",
            "dbrx", "smaug-bpe", "chatglm-bpe", "glm4", "glm5",
        ),
        (
            "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1"
            ",3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
        ),
    ),
    Splitter(
        ("qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "stablelm2", "megrez", "hunyuan", "grok-2", "solar-open"),
        (
            "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| "
            "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
        ),
    ),
    Splitter(
        (
            "gpt-2", "mpt", "phi-2", "jina-es", "jina-de", "gigachat", "jina-v2-es", "jina-v2-de", "a.x-4.0",
            "mellum", "modern-bert", "jina-v1-en", "jina-v2-code", "roberta-bpe", "olmo", "jais", "exaone4",
            "trillion", "granite-docling",
        ),
        (
            "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)",
        ),
    ),
    Splitter(
        ("tekken",),
        (
            "[^\\r\\n\\p{L}\\p{N}]?((?=[\\p{L}])([^a-z]))*((?=[\\p{L}])([^A-Z]))+|[^\\r\\n\\p{L}\\p{N}]?((?=["
            "\\p{L}])([^a-z]))+((?=[\\p{L}])([^A-Z]))*|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|"
            "\\s+(?!\\S)|\\s+",
        ),
    ),
    Splitter(
        ("gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"),
        (
            "[^\\r\\n\\p{L}\\p{N}]?((?=[\\p{L}])([^a-z]))*((?=[\\p{L}])([^A-Z]))+(?:'[sS]|'[tT]|'[rR][eE]|'[v"
            "V][eE]|'[mM]|'[lL][lL]|'[dD])?|[^\\r\\n\\p{L}\\p{N}]?((?=[\\p{L}])([^a-z]))+((?=[\\p{L}])([^A-Z]"
            "))*(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+["
            "\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
        ),
    ),
    Splitter(
        ("deepseek-v3", "hunyuan-dense", "hy_v4", "joyai-llm"),
        (
            "\\p{N}{1,3}",
            "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
            "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+|"
            " ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
        ),
    ),
    Splitter(
        ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"),
        (
            "\\p{N}",
            "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)",
        ),
    ),
    Splitter(
        ("falcon",),
        (
            "[\\p{P}\\$\\+<=>\\^~\\|`]+",
            "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)",
            "[0-9][0-9][0-9]",
        ),
    ),
    Splitter(
        ("default",),
        (
            "[\\p{P}\\$\\+<=>\\^~\\|]+",
            "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)",
            "\\p{N}+",
            "[0-9][0-9][0-9]",
        ),
    ),
    Splitter(
        ("minicpm5",),
        (
            "\\p{N}{1,3}",
            "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}+|"
            " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
        ),
    ),
    Splitter(
        ("deepseek-llm",),
        (
            "[\r\n]",
            "\\s?[A-Za-z\xb5\xc0-\xd6\xd8-\xf6\xf8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373"
            "\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481"
            "\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf"
            "\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d"
            "\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-"
            "\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113"
            "\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149"
            "\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b"
            "\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a"
            "\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-"
            "\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943]+",
            "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+",
            "\\s+$",
            "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+",
            "\\p{N}+",
        ),
    ),
    Splitter(
        ("deepseek-coder",),
        (
            "[\r\n]",
            "\\s?\\p{L}+",
            "\\s?\\p{P}+",
            "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+",
            "\\p{N}",
        ),
    ),
    Splitter(
        ("spark2_5",),
        (
            "\\p{N}{1,3}",
            "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
            "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+|"
            " ?[\\p{P}\\p{S}]+|[\r\n]|\\s+(?!\\S)|\\s+",
            "\\p{N}",
        ),
    ),
    Splitter(
        ("youtu",),
        (
            "[\uac00-\ud7a3\u3131-\u318e]+|[\uff01\u2026\u201c\u201d\u2018\u2019\u2014\uff1a\uff1b\uff0c"
            "\u3001-\u303f\ufe30-\ufe4f]+|[\u3105-\u312f]+|[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
            "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+(?:'[sS"
            "]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}"
            "\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|"
            "'[dD])?|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
        ),
    ),
    Splitter(
        ("jais-2",),
        (
            "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1"
            ",3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s{512}(?!\\S)|\\s{256}(?!\\S)|\\s{128}(?!\\S)"
            "|\\s{64}(?!\\S)|\\s{32}(?!\\S)|\\s{16}(?!\\S)|\\s{8}(?!\\S)|\\s{4}(?!\\S)|\\s{1,2}(?!\\S)|\\s{1}",
        ),
    ),
    Splitter(
        ("qwen35",),
        (
            "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|"
            "\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
        ),
    ),
    Splitter(
        ("poro-chat", "bloom", "gpt3-finnish"),
        (
            " ?[^(\\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+",
        ),
    ),
    Splitter(
        ("viking",),
        (
            " ?[^(\\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+",
            "\\p{N}",
        ),
    ),
    Splitter(
        ("exaone-moe",),
        (
            "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\\r\\n\\p{L}\\p{N}]?(?:\\p{L}\\p{M}*"
            "(?: \\p{L}\\p{M}*)*)+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]?|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+",
        ),
    ),
    Splitter(
        ("chameleon",),
        (
            "<sentinel:[0-9]+>",
            "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
            "([\\t\\n]|    |  )",
            "\\p{N}",
            "[\\p{P}!-/:-@\\[-`{-~]",
            "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)",
        ),
    ),
    Splitter(
        ("granite-embed-multi-97m",),
        (
            "[^\\r\\n\\p{L}\\p{N}]?((?=[\\p{L}\\p{M}])([^a-z]))*((?=[\\p{L}\\p{M}])([^A-Z]))+(?:'[sS]|'[tT]|'"
            "[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?|[^\\r\\n\\p{L}\\p{N}]?((?=[\\p{L}\\p{M}])([^a-z]))+(("
            "?=[\\p{L}\\p{M}])([^A-Z]))*(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?|\\p{N}{1,3"
            "}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
        ),
    ),
    Splitter(
        ("tiny_aya", "cohere2moe"),
        (
            "\\d{1,3}(?=(?:\\d{3})*\\b)",
            "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+(?:'[sS"
            "]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}"
            "\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|"
            "'[dD])?|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
        ),
    ),
    Splitter(
        ("bailingmoe", "bailingmoe2", "llada-moe"),
        (
            "'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p"
            "{N}]+[\\r\\n]*|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+",
        ),
    ),
    Splitter(
        ("seed-coder",),
        (
            "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1"
            "}| ?[^\\s\\p{L}\\p{N}\\r\\n]+|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
        ),
    ),
    Splitter(
        ("ufakzeka",),
        (
            "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\"
            "s+",
        ),
    ),
    Splitter(
        ("laguna",),
        (
            "[^\\n]+|[\\n]+",
            "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| "
            "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
        ),
    ),
)  # fmt: skip
# Names whose rules are code, or are not made for bytes.
NOT_COMPARED = frozenset({
    "gemma4", "granite-embed-multi-311m", "sarvam-moe", "whitespace", "superbpe", "kimi-k2", "afmoe",
})  # fmt: skip
# The text whose token ids the converter digests to know a tokenizer, and the first digits of the digests, by name.
CHECKED_TEXT = (
    "\n \n\n \n\n\n \t \t\t \t\n  \n   \n    \n     \n\U0001f680 (normal) \U0001f636\u200d\U0001f32b\ufe0f (mu"
    "ltiple emojis concatenated) \u2705 \U0001f999\U0001f999 3 33 333 3333 33333 333333 3333333 33333333 3.3 3"
    "..3 3...3 \u1780\u17b6\u1793\u17cb\u178f\u17c2\u1796\u17b7\u179f\u17c1\u179f\u17a2\u17b6\u1785\U0001f601 "
    "?\u6211\u60f3\u5728apple\u5de5\u4f5c1314151\u5929\uff5e ------======= \u043d\u0435\u0449\u043e \u043d"
    "\u0430 \u0411\u044a\u043b\u0433\u0430\u0440\u0441\u043a\u0438 ''''''```````\"\"\"\"......!!!!!!?????? I'v"
    "e been 'told he's there, 'RE you sure? 'M not sure I'll make it, 'D you like some tea? We'Ve a'lL"
)
DIGITS = 16
DIGESTS: Mapping[str, tuple[str, ...]] = {
    "chatglm-bpe": ("b6e8e1518dc4305b", "81d72c7348a9f0eb"),
    "glm4": ("a1336059768a55c9", "9ca2dd618e8afaf0", "cdf5f35325780597"),
    "minerva-7b": ("1431a23e583c9743",),
    "hunyuan": ("7e57df22b1fe23a7",),
    "hunyuan-dense": ("bba3b3366b646dbd",),
    "hy_v4": ("e6ddf9c6686791c1",),
    "falcon-h1": ("a6b57017d60e6edb", "60476e1243776c4f", "3eda48b4c4dc7de7", "48f8e02c0359c0bb"),
    "kimi-k2": ("81212dc7cdb7e0c1",),
    "qwen2": ("d4540891389ea895", "e636dc30a262dcc0"),
    "qwen35": ("1444df51289cfa80", "d30d75d9059f1aa2"),
    "grok-2": ("66b8d4e19ab16c3b",),
    "jina-v2-de": ("b3d1dd861f1d4c5c", "27949a2493fc4a9f"),
    "gpt-2": ("0fe1cf6eda062318", "3ce83efda5659b07"),
    "lfm2": ("9e454714343b69b9", "169bf0296a13c4d9"),
    "gemma4": ("846deafc5b0fa786",),
    "spark2_5": ("0a766d034107bc73",),
    "llama-bpe": ("0ef9807a4087ebef",),
    "deepseek-llm": ("049ecf7629871e30",),
    "deepseek-coder": ("347715f544604f91",),
    "falcon": ("8aeee3860c56296a",),
    "falcon3": ("9d032fcbd5501f4a",),
    "mpt": ("b6dc8df998e1cfbd",),
    "starcoder": ("35d91631860c815f",),
    "stablelm2": ("32d85c31273f8019",),
    "refact": ("6221ad2852e85ce9",),
    "command-r": ("9c2227e4dd922002",),
    "tiny_aya": ("d772b220ace2baec",),
    "cohere2moe": ("52df12b4c8d4176e",),
    "olmo": ("b6dc8df998e1cfbd",),
    "dbrx": ("a8594e3edff7c29c",),
    "jina-v1-en": ("c7699093ba4255a9",),
    "jina-v2-es": ("171aeeedd6fb548d",),
    "jina-v5-nano": ("a023e9fdc5a11f03",),
    "smaug-bpe": ("c136ed14d01c2745",),
    "poro-chat": ("c7ea5862a53e4272",),
    "jina-v2-code": ("7967bfa498ade6b7",),
    "viking": ("7fc505bd3104ca10",),
    "jais": ("b53802fb28e26d64",),
    "jais-2": ("bc5108ee1eb6a3d6",),
    "codeshell": ("7b3e7548e4308f52",),
    "tekken": ("63b97e4253352e6f",),
    "smollm": ("855059429035d75a",),
    "bloom": ("3c30d3ad1d6b6420",),
    "gpt3-finnish": ("bc01ce58980e1db4",),
    "exaone": ("4e2b24cc4770243d",),
    "phi-2": ("fcace8b9cac38ce8",),
    "chameleon": ("60824e3c0d9401f8",),
    "roberta-bpe": ("8b5a93ed70405748",),
    "gigachat": ("ad851be1dba641f2",),
    "megrez": ("d4c8f286ea6b520b",),
    "deepseek-v3": ("877081d19cf6996e",),
    "deepseek-r1-qwen": ("b3f499bb4255f8ca",),
    "gpt-4o": ("ccc2ef013c104be7",),
    "superbpe": ("7dec86086fcc38b6",),
    "trillion": ("1994ffd01900cfb3",),
    "bailingmoe": ("96a5f08be6259352",),
    "llama4": ("d353350c764d8c3b",),
    "pixtral": ("0e9433cbbb161f89",),
    "seed-coder": ("d5f1dd6f980fec56",),
    "a.x-4.0": ("b0a6b1c0bd5998eb",),
    "midm-2.0": ("f6791d196f87ce6b",),
    "exaone4": ("2085e1638f6c377a",),
    "mellum": ("a1e163ecab2e718a",),
    "modern-bert": ("a0b64b4385f12366",),
    "afmoe": ("49fc0303c9e0d2c2",),
    "bailingmoe2": ("9b1be57e70d20d95",),
    "granite-docling": ("53e325976a6e1423",),
    "minimax-m2": ("f4f37b6c8eb9ea29",),
    "kormo": ("4a2e2abae11ca2b8",),
    "youtu": ("9d70134b369a70e5",),
    "solar-open": ("16389f0a1f51ee53",),
    "exaone-moe": ("6c81ce329e080288",),
    "joyai-llm": ("b4b8ca1f9769494f",),
    "kanana2": ("e4d54df1ebc1f2b9",),
    "f2llmv2": ("862f827721df9560",),
    "sarvam-moe": ("62f6fb0a6fd5098c",),
    "talkie": ("f728162c1315c26e",),
    "minicpm5": ("36f3066e97b7f399",),
    "granite-embed-multi-97m": ("f241072145675bf8",),
    "granite-embed-multi-311m": ("789696f5946cc0fc",),
    "mellum2": ("9dcf830ee9990cdb",),
    "laguna": ("972da7b59cec44d1",),
    "ufakzeka": ("653660222fb704f6",),
}  # fmt: skip
