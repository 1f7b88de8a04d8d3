"""Makes tiny tokenizers of every family, trained on fixtures/text/calibration.txt and a few lines of our own.

Each family keeps what its published tokenizer.json says around the vocabulary: normalizer, pre-tokenizer, post-processor,
decoder, order and flags of its special tokens. Only the vocabulary is small: 256 bytes and about a hundred merges.
`write(family, folder)` writes the files of a family as its repositories on the Hub have them: tokenizer.json,
tokenizer_config.json, special_tokens_map.json, and tokenizer.model for SentencePiece, or a vocabulary of the tiktoken
library with its configuration and program; it returns the length of the vocabulary. Used by make_tiny_models.py and
make_tiktoken_golden.py.
"""

import base64
import functools
import io
import json
import pathlib
import types
import unicodedata

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Tokenizer, pre_tokenizers, trainers

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Lines for merges of digits, code, white space and other scripts, which English prose alone lacks.
EXTRA = [
    "In 2024 there were 1,234,567 of them; in 1999 only 12345, or 3.14159 per 100.",
    "def add(x, y):\n    return x + y\n\n\nfor i in range(10):\n    print(add(i, 10))\n",
    "\tif (x != 0) {\n\t\treturn x;\n\t}\n",
    "Der Bär trägt Öl über die Straße; l'été, la fenêtre, ça va, naïve café.",
    "東京は日本の首都です。北京是中国的首都。",
    "🙂 Привет, мир! 🙂",
    "I'd say it's what they've said; we'll see, you're right, I'm not, don't.",
] * 12

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
BYTES_ONLY = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
TIKTOKEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# llama.cpp's "jais-2": runs of white space by powers of two
JAIS2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    + "".join(r"|\s{%d}(?!\S)" % 2**n for n in range(9, 1, -1)) + r"|\s{1,2}(?!\S)|\s{1}"
)

# llama.cpp's "exaone-moe": words with spaces between them
EXAONE_MOE = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?"
    r"|\s*[\r\n]|\s+(?!\S)|\s+"
)

SEED_CODER = (
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1}| ?[^\\s\\p{L}\\p{N}\r\n]+|\\s*[\r\n]+"
    "|\\s+(?!\\S)|\\s+"
)

# The cased letters of an old Unicode, one by one, as DeepSeek's tokenizers list them.
DEEPSEEK_LETTERS = (
    r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+"
)
DEEPSEEK_V3 = (
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"
)
BOS, EOS, PAD = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"
# Of GPT-4o: letters by case, contractions at their end.
GPT4O = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
HUNYUAN_MOE_CHAT = (
    "{% for message in messages %}{% if message['role'] == 'system' %}{{ '<|startoftext|>' + message['content'] + '<|extra_4|>' }}"
    "{% elif message['role'] == 'user' %}{{ '<|startoftext|>' + message['content'] + '<|extra_0|>' }}"
    "{% else %}{{ message['content'] + '<|eos|>' }}{% endif %}{% endfor %}")
LLAMA4_CHAT = (
    "{{- bos_token }}{%- for message in messages %}{{- '<|header_start|>' + message['role'] + '<|header_end|>\n\n' }}"
    "{%- if message['content'] is string %}{{- message['content'] }}{%- else %}{%- for part in message['content'] %}"
    "{%- if part['type'] == 'text' %}{{- part['text'] }}{%- endif %}{%- endfor %}{%- endif %}{{- '<|eot|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|header_start|>assistant<|header_end|>\n\n' }}{%- endif %}")
LLAMA3_CHAT = (
    "{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'"
    " + message['content'] | trim + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
HARMONY_CHAT = (
    "{{ '<|start|>system<|message|>Reasoning: ' + (reasoning_effort if reasoning_effort is defined else 'medium') +"
    " '\\n# Valid channels: analysis, commentary, final.<|end|>' }}{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ '<|start|>developer<|message|># Instructions\\n\\n' + message['content'] + '<|end|>' }}"
    "{% elif message['role'] == 'assistant' %}{{ '<|start|>assistant<|channel|>final<|message|>' + message['content'] + '<|end|>' }}"
    "{% else %}{{ '<|start|>' + message['role'] + '<|message|>' + message['content'] + '<|end|>' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"
)
GEMMA_CHAT = (
    "{{ bos_token }}{% for message in messages %}{% set role = 'model' if message['role'] == 'assistant' else "
    "message['role'] %}{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
K_EXAONE_CHAT = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\\n' + message['content'] + '<|endofturn|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)
SOLAR_CHAT = (
    "{% for message in messages %}{{ '<|begin|>' + message['role'] + '<|content|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|begin|>assistant' }}{% endif %}"
)
SEED_CHAT = (
    "{% for message in messages %}{{ '<seed:bos>' + message['role'] + '\\n' + message['content'] + '<seed:eos>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<seed:bos>assistant\\n' }}{% endif %}"
)
GRANITE_CHAT = (
    "{% for message in messages %}{{ '<|start_of_role|>' + message['role'] + '<|end_of_role|>' + message['content'] + "
    "'<|end_of_text|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_of_role|>assistant<|end_of_role|>' }}"
    "{% endif %}"
)
EXAONE_CHAT = (
    "{% for message in messages %}{{ '[|' + message['role'] + '|]\\n' + message['content'] + '[|endofturn|]\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '[|assistant|]\\n' }}{% endif %}"
)
COHERE_CHAT = (
    "{{ bos_token }}{% for message in messages %}{{ '<|START_OF_TURN_TOKEN|>' + ('<|CHATBOT_TOKEN|>' if message['role'] =="
    " 'assistant' else '<|SYSTEM_TOKEN|>' if message['role'] == 'system' else '<|USER_TOKEN|>') + message['content'] +"
    " '<|END_OF_TURN_TOKEN|>' }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% endif %}"
)
ERNIE_CHAT = (
    "{{ '<s>' }}{% for message in messages %}{% if message['role'] == 'user' %}{{ 'User: ' + message['content'] + '\\n' }}"
    "{% elif message['role'] == 'assistant' %}{{ 'Assistant: ' + message['content'] + eos_token }}{% else %}"
    "{{ message['content'] + '\\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}"
)
GLM_CHAT = (
    "[gMASK]<sop>{% for message in messages %}{{ '<|' + message['role'] + '|>\\n' + message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
HUNYUAN_CHAT = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}{{ '<|hy_User|>' + message['content'] }}"
    "{% elif message['role'] == 'assistant' %}{{ '<|hy_Assistant|>' + message['content'] + eos_token }}{% else %}"
    "{{ message['content'] }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|hy_Assistant|>' }}{% endif %}"
)
OLMO_CHAT = (
    "{{ bos_token }}{% for message in messages %}{{ '<|' + message['role'] + '|>\\n' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)
DEEPSEEK_CHAT = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}{{ 'User: ' + message['content'] + "
    "'\\n\\n' }}{% elif message['role'] == 'assistant' %}{{ 'Assistant: ' + message['content'] + eos_token }}{% else %}"
    "{{ message['content'] + '\\n\\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
DEEPSEEK_V3_CHAT = (
    "{% set ns = namespace(system='') %}{% for message in messages %}{% if message['role'] == 'system' %}"
    "{% set ns.system = message['content'] %}{% endif %}{% endfor %}{{ bos_token }}{{ ns.system }}"
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ '<｜User｜>' + message['content'] }}"
    "{% elif message['role'] == 'assistant' %}{{ '<｜Assistant｜>' + message['content'] + '<｜end▁of▁sentence｜>' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<｜Assistant｜>' }}{% endif %}"
)
DOTS_CHAT = (
    "{% for message in messages %}{% if message['role'] == 'system' %}{{ '<|system|>' + message['content'] + "
    "'<|endofsystem|>' }}{% elif message['role'] == 'user' %}{{ '<|userprompt|>' + message['content'] + "
    "'<|endofuserprompt|>' }}{% else %}{{ '<|response|>' + message['content'] + '<|endofresponse|>' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|response|>' }}{% endif %}"
)
GLM_CHAT = (
    "[gMASK]<sop>{% for message in messages %}{{ '<|' + message['role'] + '|>\\n' + message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
MINIMAX_CHAT = (
    "{{ ']~!b[' }}{% for message in messages %}{{ ']~b]' + ('ai' if message['role'] == 'assistant' else message['role']) +"
    " '\\n' + message['content'] + '[e~[\\n' }}{% endfor %}{% if add_generation_prompt %}{{ ']~b]ai\\n' }}{% endif %}"
)
PHI3_CHAT = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"
)
MISTRAL_CHAT = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}"
    "{% endfor %}"
)


def sequence(kind, *parts):
    key = {"normalizers": "normalizers", "pretokenizers": "pretokenizers", "processors": "processors",
           "decoders": "decoders"}[kind]
    return {"type": "Sequence", key: list(parts)}


def split(pattern, behavior="Isolated"):
    return {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": False}


def template(*before, ids):
    """A post-processor that puts the tokens `before` in front of a text, and in front of the second of a pair."""

    def special(token, type_id):
        return {"SpecialToken": {"id": token, "type_id": type_id}}

    def text(name, type_id):
        return {"Sequence": {"id": name, "type_id": type_id}}

    return {
        "type": "TemplateProcessing",
        "single": [special(t, 0) for t in before] + [text("A", 0)],
        "pair": [special(t, 0) for t in before] + [text("A", 0)] + [special(t, 1) for t in before] + [text("B", 1)],
        "special_tokens": {t: {"id": t, "ids": [ids[t]], "tokens": [t]} for t in before},
    }


def added(content, special=True, normalized=False, rstrip=False):
    return {"content": content, "single_word": False, "lstrip": False, "rstrip": rstrip, "normalized": normalized,
            "special": special}


def runs(character, longest, shortest=2):
    """Runs of one white space character, longest first: ordinary (not special) added tokens of GPT-NeoX and Phi-2."""
    return [added(character * n, special=False, normalized=True) for n in range(longest, shortest - 1, -1)]


QWEN35 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)

# Byte-level BPE. `first` and `last` are the tokens before and after the trained ones, and `in_vocab` which of
# them are in the model's vocabulary and not only among the added tokens.
BPE = {
    "llama3": {
        "pre": sequence("pretokenizers", split({"Regex": TIKTOKEN % "{1,3}"}), BYTES_ONLY),
        "post": lambda ids: sequence(
            "processors", {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True},
            template("<|begin_of_text|>", ids=ids)),
        "ignore_merges": True,
        "last": [added(t) for t in ["<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>",
                                    "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]],
        "config": {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|begin_of_text|>",
                   "eos_token": "<|eot_id|>", "model_input_names": ["input_ids", "attention_mask"],
                   "chat_template": LLAMA3_CHAT},
    },
    "qwen2": {
        "normalizer": {"type": "NFC"},
        "pre": sequence("pretokenizers", split({"Regex": TIKTOKEN % ""}), BYTES_ONLY | {"trim_offsets": False}),
        "post": lambda ids: BYTES_ONLY | {"trim_offsets": False},
        "last": [added("<|endoftext|>"), added("<|im_start|>"), added("<|im_end|>")],
        "config": {"tokenizer_class": "Qwen2Tokenizer", "add_prefix_space": False, "bos_token": None,
                   "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "unk_token": None, "errors": "replace",
                   "split_special_tokens": False, "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
                   "chat_template": CHATML},
    },
    "qwen3": {
        "normalizer": {"type": "NFC"},
        "pre": sequence("pretokenizers", split({"Regex": TIKTOKEN % ""}), BYTES_ONLY | {"trim_offsets": False}),
        "post": lambda ids: BYTES_ONLY | {"trim_offsets": False},
        "last": [added("<|endoftext|>"), added("<|im_start|>"), added("<|im_end|>"), added("<tool_call>", False),
                 added("</tool_call>", False), added("<think>", False), added("</think>", False)],
        "config": {"tokenizer_class": "Qwen2Tokenizer", "add_bos_token": False, "add_prefix_space": False,
                   "bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "unk_token": None,
                   "errors": "replace", "split_special_tokens": False,
                   "additional_special_tokens": ["<|im_start|>", "<|im_end|>"], "chat_template": CHATML},
    },
    "qwen35": {
        "normalizer": {"type": "NFC"},
        "pre": sequence("pretokenizers", split({"Regex": QWEN35}), BYTES_ONLY | {"trim_offsets": False}),
        "post": lambda ids: BYTES_ONLY | {"trim_offsets": False},
        "last": [added("<|endoftext|>"), added("<|im_start|>"), added("<|im_end|>"), added("<tool_call>", False),
                 added("</tool_call>", False), added("<think>", False), added("</think>", False)],
        "config": {"tokenizer_class": "Qwen2Tokenizer", "add_bos_token": False, "add_prefix_space": False,
                   "bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "unk_token": None,
                   "errors": "replace", "split_special_tokens": False,
                   "additional_special_tokens": ["<|im_start|>", "<|im_end|>"], "chat_template": CHATML},
    },
    "gpt2": {
        "pre": BYTE_LEVEL,
        "post": lambda ids: BYTE_LEVEL | {"add_prefix_space": True, "trim_offsets": False},
        "last": [added("<|endoftext|>", normalized=True)],
        "in_vocab": ["<|endoftext|>"],
        "config": {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False, "bos_token": "<|endoftext|>",
                   "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"},
    },
    # OPT's repositories have no tokenizer.json: vocab.json and merges.txt, and a class that adds </s> in front.
    "opt": {
        "pre": BYTE_LEVEL,
        "post": lambda ids: template("</s>", ids=ids),
        "first": [added(t, normalized=True) for t in ["<s>", "<pad>", "</s>", "<unk>"]],
        "in_vocab": ["<s>", "<pad>", "</s>", "<unk>"],
        "config": {"tokenizer_class": "GPT2Tokenizer", "add_bos_token": True, "add_prefix_space": False,
                   "errors": "replace", "bos_token": "</s>", "eos_token": "</s>", "pad_token": "<pad>",
                   "unk_token": "</s>"},
    },
    "phi": {
        "pre": BYTE_LEVEL,
        "post": lambda ids: BYTE_LEVEL | {"add_prefix_space": True, "trim_offsets": False},
        "last": [added("<|endoftext|>")] + runs(" ", 31) + runs("\t", 9),
        "in_vocab": ["<|endoftext|>"],
        "config": {"tokenizer_class": "CodeGenTokenizer", "add_prefix_space": False, "bos_token": "<|endoftext|>",
                   "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"},
    },
    "gpt_neox": {
        "normalizer": {"type": "NFC"},
        "pre": BYTE_LEVEL,
        "post": lambda ids: BYTE_LEVEL,
        "first": [added("<|endoftext|>"), added("<|padding|>")],
        "last": runs(" ", 24),
        "in_vocab": ["<|endoftext|>", "<|padding|>"],
        "config": {"tokenizer_class": "GPTNeoXTokenizer", "add_prefix_space": False, "bos_token": "<|endoftext|>",
                   "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"},
    },
    "starcoder2": {
        "pre": sequence("pretokenizers", {"type": "Digits", "individual_digits": True}, BYTE_LEVEL),
        "post": lambda ids: BYTE_LEVEL | {"add_prefix_space": True, "trim_offsets": False},
        "first": [added(t) for t in ["<|endoftext|>", "<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<fim_pad>",
                                     "<repo_name>", "<file_sep>"]],
        "in_vocab": ["<|endoftext|>", "<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<fim_pad>", "<repo_name>",
                     "<file_sep>"],
        "config": {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False, "bos_token": "<|endoftext|>",
                   "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>", "vocab_size": None,
                   "additional_special_tokens": ["<|endoftext|>", "<fim_prefix>", "<fim_middle>", "<fim_suffix>",
                                                 "<fim_pad>", "<repo_name>", "<file_sep>"]},
    },
    "stablelm2": {
        "normalizer": {"type": "NFC"},
        "pre": sequence("pretokenizers", split({"Regex": TIKTOKEN % ""}), BYTES_ONLY | {"trim_offsets": False}),
        "post": lambda ids: BYTES_ONLY | {"trim_offsets": False},
        "last": [added(t) for t in ["<|endoftext|>", "<|fim_prefix|>", "<|fim_suffix|>", "<|im_start|>", "<|im_end|>",
                                    "<|pause|>"]],
        "config": {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|endoftext|>",
                   "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "unk_token": "<|endoftext|>",
                   "chat_template": CHATML},
    },
    "seed_oss": {
        "pre": sequence("pretokenizers", split({"Regex": SEED_CODER}), BYTES_ONLY),
        "post": lambda ids: BYTES_ONLY | {"trim_offsets": False},
        "first": [added(t) for t in ["<seed:bos>", "<seed:pad>", "<seed:eos>"]],
        "in_vocab": ["<seed:bos>", "<seed:pad>", "<seed:eos>"],
        "last": [added(t) for t in ["<seed:think>", "</seed:think>", "<seed:tool_call>", "</seed:tool_call>"]],
        "config": {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<seed:bos>", "eos_token": "<seed:eos>",
                   "pad_token": "<seed:pad>", "chat_template": SEED_CHAT},
    },
    # two tokens in front of a text
    "glm4": {
        "pre": sequence("pretokenizers", split({"Regex": TIKTOKEN % "{1,3}"}), BYTES_ONLY),
        "post": lambda ids: sequence(
            "processors", {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True},
            template("[gMASK]", "<sop>", ids=ids)),
        "ignore_merges": True,
        "last": [added(t) for t in ["<|endoftext|>", "[MASK]", "[gMASK]", "<sop>", "<eop>", "<|system|>", "<|user|>",
                                    "<|assistant|>", "<|observation|>"]],
        "config": {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>",
                   "pad_token": "<|endoftext|>", "model_input_names": ["input_ids", "attention_mask"],
                   "chat_template": GLM_CHAT},
    },
    "hunyuan": {
        "pre": sequence("pretokenizers", split({"Regex": "\\p{N}{1,3}"}), split({"Regex": "[一-龥\u3040-ゟ゠-ヿ]+"}),
                        split({"Regex": DEEPSEEK_V3}), BYTES_ONLY),
        "post": lambda ids: BYTES_ONLY | {"trim_offsets": False},
        "last": [added(t) for t in ["<|startoftext|>", "<|endoftext|>", "<|hy_User|>", "<|hy_Assistant|>", "<|pad|>"]],
        "config": {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|startoftext|>",
                   "eos_token": "<|endoftext|>", "pad_token": "<|pad|>", "chat_template": HUNYUAN_CHAT},
    },
    # Llama 3's without its token in front of a text
    "smollm3": {
        "pre": sequence("pretokenizers", split({"Regex": TIKTOKEN % "{1,3}"}), BYTES_ONLY),
        "post": lambda ids: {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True},
        "ignore_merges": True,
        "last": [added(t) for t in ["<|begin_of_text|>", "<|end_of_text|>", "<|im_start|>", "<|im_end|>"]]
        + [added("<think>", False), added("</think>", False)],
        "config": {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": None, "eos_token": "<|im_end|>",
                   "pad_token": "<|im_end|>", "model_input_names": ["input_ids", "attention_mask"],
                   "chat_template": CHATML},
    },
    "solar_open": {
        "normalizer": {"type": "NFC"},
        "pre": sequence("pretokenizers", split({"Regex": TIKTOKEN % ""}), BYTES_ONLY | {"trim_offsets": False}),
        "post": lambda ids: BYTES_ONLY | {"trim_offsets": False},
        "first": [added(t) for t in ["<unk>", "<|startoftext|>", "<|endoftext|>"]],
        "in_vocab": ["<unk>", "<|startoftext|>", "<|endoftext|>"],
        "last": [added(t) for t in ["<|begin|>", "<|content|>", "<|end|>"]],
        "config": {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|startoftext|>",
                   "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "unk_token": "<unk>",
                   "chat_template": SOLAR_CHAT},
    },
    "jais2": {
        "pre": sequence("pretokenizers", split({"Regex": JAIS2}), BYTES_ONLY),
        "post": lambda ids: BYTES_ONLY,
        "last": [added(t) for t in ["<|begin_of_text|>", "<|end_of_text|>", "<|im_start|>", "<|im_end|>"]],
        "config": {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|begin_of_text|>",
                   "eos_token": "<|im_end|>", "pad_token": "<|end_of_text|>", "chat_template": CHATML},
    },
    "dots1": {
        "normalizer": {"type": "NFC"},
        "pre": sequence("pretokenizers", split({"Regex": TIKTOKEN % ""}), BYTES_ONLY | {"trim_offsets": False}),
        "post": lambda ids: BYTES_ONLY | {"trim_offsets": False},
        "last": [added(t) for t in ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|system|>", "<|endofsystem|>",
                                    "<|userprompt|>", "<|endofuserprompt|>", "<|response|>", "<|endofresponse|>"]],
        "config": {"tokenizer_class": "Qwen2Tokenizer", "add_prefix_space": False, "bos_token": None,
                   "eos_token": "<|endofresponse|>", "pad_token": "<|endoftext|>", "unk_token": None,
                   "errors": "replace", "split_special_tokens": False, "chat_template": DOTS_CHAT},
    },
    "glm4_moe": {
        "pre": sequence("pretokenizers", split({"Regex": TIKTOKEN % "{1,3}"}), BYTES_ONLY),
        "post": lambda ids: {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True},
        "ignore_merges": True,
        "last": [added(t) for t in ["<|endoftext|>", "[MASK]", "[gMASK]", "<sop>", "<eop>", "<|system|>", "<|user|>",
                                    "<|assistant|>", "<|observation|>"]],
        "config": {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>",
                   "pad_token": "<|endoftext|>", "model_input_names": ["input_ids", "attention_mask"],
                   "chat_template": GLM_CHAT},
    },
    "minimax_m2": {
        "pre": sequence("pretokenizers", split({"Regex": GPT4O}), BYTES_ONLY),
        "post": lambda ids: BYTES_ONLY,
        "last": [added(t) for t in ["]<]start of image[>[", "<fim_prefix>", "]~!b[", "]~b]", "[e~["]],
        "config": {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "]~!b[", "eos_token": "[e~[",
                   "unk_token": "<fim_prefix>", "model_input_names": ["input_ids", "attention_mask"],
                   "chat_template": MINIMAX_CHAT},
    },
    "granite": {
        "pre": sequence("pretokenizers", {"type": "Digits", "individual_digits": True}, BYTE_LEVEL),
        "post": lambda ids: BYTE_LEVEL | {"add_prefix_space": True, "trim_offsets": False},
        "first": [added(t) for t in ["<|end_of_text|>", "<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<fim_pad>"]],
        "in_vocab": ["<|end_of_text|>", "<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<fim_pad>"],
        "last": [added("<|start_of_role|>"), added("<|end_of_role|>"), added("<|tool_call|>")],
        "config": {"tokenizer_class": "GPT2Tokenizer", "add_bos_token": False, "add_prefix_space": False,
                   "bos_token": "<|end_of_text|>", "eos_token": "<|end_of_text|>", "pad_token": "<|end_of_text|>",
                   "unk_token": "<|end_of_text|>", "chat_template": GRANITE_CHAT},
    },
    "olmo2": {
        "pre": sequence("pretokenizers", split({"Regex": TIKTOKEN % "{1,3}"}), BYTES_ONLY),
        "post": lambda ids: BYTES_ONLY | {"trim_offsets": False},
        "last": [added(t) for t in ["<|fim_prefix|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|endofprompt|>",
                                    "<|pad|>"]],
        "config": {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False, "bos_token": "<|endoftext|>",
                   "eos_token": "<|endoftext|>", "pad_token": "<|pad|>", "unk_token": "<|endoftext|>",
                   "chat_template": OLMO_CHAT},
    },
    "gpt_oss": {
        "pre": sequence("pretokenizers", split({"Regex": GPT4O}), BYTES_ONLY),
        "post": lambda ids: {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True},
        "last": [added(t) for t in ["<|startoftext|>", "<|endoftext|>", "<|return|>", "<|constrain|>", "<|channel|>",
                                    "<|start|>", "<|end|>", "<|message|>", "<|call|>"]],
        "config": {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|startoftext|>",
                   "eos_token": "<|return|>", "pad_token": "<|endoftext|>",
                   "model_input_names": ["input_ids", "attention_mask"], "chat_template": HARMONY_CHAT},
    },
    # the class that published files bring with them normalizes by NFC, too
    "hunyuan_moe": {
        "normalizer": {"type": "NFC"},
        "pre": sequence("pretokenizers", split({"Regex": TIKTOKEN % ""}), BYTES_ONLY),
        "post": lambda ids: BYTES_ONLY | {"trim_offsets": False},
        "last": [added(t) for t in ["<|endoftext|>", "<|startoftext|>", "<|bos|>", "<|eos|>", "<|pad|>", "<|extra_0|>"]],
        "config": {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|startoftext|>", "eos_token": "<|eos|>",
                   "pad_token": "<|pad|>", "chat_template": HUNYUAN_MOE_CHAT},
    },
    "llama4": {
        "pre": sequence("pretokenizers", split({"Regex": GPT4O}), BYTES_ONLY),
        "post": lambda ids: sequence(
            "processors", {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True},
            template("<|begin_of_text|>", ids=ids)),
        "last": [added(t) for t in ["<|begin_of_text|>", "<|end_of_text|>", "<|header_start|>", "<|header_end|>",
                                    "<|eom|>", "<|eot|>", "<|finetune_right_pad|>"]],
        "config": {"tokenizer_class": "PreTrainedTokenizer", "bos_token": "<|begin_of_text|>", "eos_token": "<|eot|>",
                   "pad_token": "<|finetune_right_pad|>", "model_input_names": ["input_ids", "attention_mask"],
                   "chat_template": LLAMA4_CHAT},
    },
    # DeepSeek V2's, and that of DeepSeek LLM
    "deepseek_llm": {
        "pre": sequence("pretokenizers", split({"Regex": "[\r\n]"}), split({"Regex": DEEPSEEK_LETTERS}),
                        split({"Regex": r"\s?[!-/:-~！-／：-～‘-‟　-。]+"}), split({"Regex": r"\s+$"}),
                        split({"Regex": "[一-龥ࠀ-一가-퟿]+"}), {"type": "Digits", "individual_digits": True}, BYTES_ONLY),
        "post": lambda ids: template(BOS, ids=ids),
        "last": [added(BOS, normalized=True), added(EOS, normalized=True)],
        "config": {"tokenizer_class": "LlamaTokenizerFast", "add_bos_token": True, "add_eos_token": False,
                   "bos_token": BOS, "eos_token": EOS, "pad_token": EOS, "unk_token": None, "legacy": True,
                   "chat_template": DEEPSEEK_CHAT},
    },
    "deepseek_v3": {
        "pre": sequence("pretokenizers", split({"Regex": r"\p{N}{1,3}"}), split({"Regex": "[一-龥぀-ゟ゠-ヿ]+"}),
                        split({"Regex": DEEPSEEK_V3}), BYTES_ONLY),
        "post": lambda ids: template(BOS, ids=ids),
        "first": [added(BOS), added(EOS), added(PAD)],
        "in_vocab": [BOS, EOS, PAD],
        "last": [added("<｜User｜>", False), added("<｜Assistant｜>", False), added("<think>", False),
                 added("</think>", False)],
        "config": {"tokenizer_class": "LlamaTokenizerFast", "add_bos_token": True, "add_eos_token": False,
                   "bos_token": BOS, "eos_token": EOS, "pad_token": PAD, "unk_token": None, "legacy": True,
                   "chat_template": DEEPSEEK_V3_CHAT},
    },
    "exaone": {
        "pre": sequence("pretokenizers", {"type": "Digits", "individual_digits": True}, BYTE_LEVEL),
        "post": lambda ids: BYTE_LEVEL | {"add_prefix_space": True, "trim_offsets": False},
        "first": [added(t) for t in ["[BOS]", "[PAD]", "[EOS]", "[UNK]"]],
        "in_vocab": ["[BOS]", "[PAD]", "[EOS]", "[UNK]"],
        "last": [added(t) for t in ["[|endofturn|]", "[|system|]", "[|user|]", "[|assistant|]"]],
        "config": {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False, "bos_token": "[BOS]",
                   "eos_token": "[|endofturn|]", "pad_token": "[PAD]", "unk_token": "[UNK]",
                   "chat_template": EXAONE_CHAT},
    },
    "exaone4": {
        "pre": BYTE_LEVEL,
        "post": lambda ids: BYTE_LEVEL | {"add_prefix_space": True, "trim_offsets": False},
        "first": [added(t) for t in ["[BOS]", "[PAD]", "[EOS]", "[UNK]"]],
        "in_vocab": ["[BOS]", "[PAD]", "[EOS]", "[UNK]"],
        "last": [added(t) for t in ["[|endofturn|]", "[|system|]", "[|user|]", "[|assistant|]"]],
        "config": {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False, "bos_token": "[BOS]",
                   "eos_token": "[|endofturn|]", "pad_token": "[PAD]", "unk_token": "[UNK]",
                   "chat_template": EXAONE_CHAT},
    },
    "exaone_moe": {
        "pre": sequence("pretokenizers", split({"Regex": EXAONE_MOE}), BYTES_ONLY),
        "post": lambda ids: BYTES_ONLY,
        "first": [added(t) for t in ["[BOS]", "[PAD]", "[EOS]", "[UNK]"]],
        "in_vocab": ["[BOS]", "[PAD]", "[EOS]", "[UNK]"],
        "last": [added(t) for t in ["<|endofturn|>", "<|system|>", "<|user|>", "<|assistant|>"]],
        "config": {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False, "bos_token": "[BOS]",
                   "eos_token": "<|endofturn|>", "pad_token": "[PAD]", "unk_token": "[UNK]",
                   "chat_template": K_EXAONE_CHAT},
    },
    "cohere": {
        "normalizer": {"type": "NFC"},
        "pre": sequence("pretokenizers", {"type": "Digits", "individual_digits": True}, BYTE_LEVEL),
        "post": lambda ids: template("<BOS_TOKEN>", ids=ids),
        "first": [added(t) for t in ["<PAD>", "<UNK>", "<CLS>", "<SEP>", "<MASK_TOKEN>", "<BOS_TOKEN>", "<EOS_TOKEN>",
                                     "<EOP_TOKEN>"]],
        "in_vocab": ["<PAD>", "<UNK>", "<CLS>", "<SEP>", "<MASK_TOKEN>", "<BOS_TOKEN>", "<EOS_TOKEN>", "<EOP_TOKEN>"],
        "last": [added(t, False) for t in ["<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|USER_TOKEN|>",
                                           "<|CHATBOT_TOKEN|>", "<|SYSTEM_TOKEN|>"]],
        "config": {"tokenizer_class": "CohereTokenizer", "add_bos_token": True, "add_eos_token": False,
                   "add_prefix_space": False, "bos_token": "<BOS_TOKEN>", "eos_token": "<|END_OF_TURN_TOKEN|>",
                   "pad_token": "<PAD>", "chat_template": COHERE_CHAT},
    },
    "falcon": {
        "pre": sequence("pretokenizers", {"type": "Punctuation", "behavior": "Contiguous"}, BYTE_LEVEL,
                        {"type": "Digits", "individual_digits": False}, split({"Regex": "[0-9][0-9][0-9]"})),
        "first": [added(t) for t in [">>TITLE<<", ">>ABSTRACT<<", ">>QUESTION<<", ">>ANSWER<<", "<|endoftext|>"]],
        "in_vocab": [">>TITLE<<", ">>ABSTRACT<<", ">>QUESTION<<", ">>ANSWER<<", "<|endoftext|>"],
        "config": {"tokenizer_class": "PreTrainedTokenizerFast", "add_prefix_space": False,
                   "eos_token": "<|endoftext|>", "model_input_names": ["input_ids", "attention_mask"],
                   "additional_special_tokens": [">>TITLE<<", ">>ABSTRACT<<", ">>QUESTION<<", ">>ANSWER<<"]},
    },
}

# Vocabularies of the tiktoken library. `class` and `program` are what tokenizer_config.json maps to; `named` are special
# tokens, by their distance from the last piece, and `others` how the rest of the `reserved` ones is called.
HAN = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]"
KIMI = [
    r"[\p{Han}]+",
    r"[^\r\n\p{L}\p{N}]?%s*%s+(?i:'s|'t|'re|'ve|'m|'ll|'d)?" % HAN,
    r"[^\r\n\p{L}\p{N}]?%s+%s*(?i:'s|'t|'re|'ve|'m|'ll|'d)?" % HAN,
    r"\p{N}{1,3}",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*",
    r"\s*[\r\n]+",
    r"\s+(?!\S)",
    r"\s+",
]
KIMI_CHAT = (
    "{% for message in messages %}{{ '<|im_' + message['role'] + '|>' + message['role'] + '<|im_middle|>' + message['content'] + "
    "'<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_assistant|>assistant<|im_middle|>' }}{% endif %}"
)
RANKED = {
    "kimi_k2": {
        "file": "tiktoken.model", "class": "TikTokenTokenizer", "program": "tokenization_kimi", "pattern": KIMI, "reserved": 258,
        "named": {0: "[BOS]", 1: "[EOS]", 2: "<|im_end|>", 3: "<|im_user|>", 4: "<|im_assistant|>", 9: "[EOT]",
                  10: "<|im_system|>", 11: "<|tool_calls_section_begin|>", 17: "<|im_middle|>", 254: "[UNK]", 255: "[PAD]"},
        "ordinary": ["<|tool_calls_section_begin|>"], "others": lambda id, n: f"<|reserved_token_{id}|>",
        "config": {"bos_token": "[BOS]", "eos_token": "[EOS]", "unk_token": "[UNK]", "pad_token": "[PAD]",
                   "additional_special_tokens": ["<|im_end|>", "<|im_user|>", "<|im_assistant|>", "<|im_system|>", "<|im_middle|>"],
                   "chat_template": KIMI_CHAT},
    },
    "hunyuan_ranked": {
        "file": "hy.tiktoken", "class": "HYTokenizer", "program": "tokenization_hy", "pattern": [TIKTOKEN % ""], "reserved": 210,
        "named": dict(enumerate(["<|endoftext|>", "<|startoftext|>", "<|bos|>", "<|eos|>", "<|pad|>"])),
        "others": lambda id, n: f"<|extra_{n - 5}|>", "nfc": True,
        "config": {"bos_token": "<|startoftext|>", "eos_token": "<|eos|>", "pad_token": "<|pad|>", "chat_template": HUNYUAN_MOE_CHAT},
    },
    "qwen_ranked": {
        "file": "qwen.tiktoken", "class": "QWenTokenizer", "program": "tokenization_qwen", "pattern": [TIKTOKEN % ""], "reserved": 208,
        "named": dict(enumerate(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])),
        "others": lambda id, n: f"<|extra_{n - 3}|>", "nfc": True, "config": {},
    },
}

PREPEND = sequence("normalizers", {"type": "Prepend", "prepend": "▁"},
                   {"type": "Replace", "pattern": {"String": " "}, "content": "▁"})
METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
SPM_DECODER = [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
               {"type": "Fuse"}]
STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
LLAMA_SPECIAL = [added("<unk>"), added("<s>"), added("</s>")]
LLAMA_CONFIG = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False,
                "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": None,
                "sp_model_kwargs": {}, "use_default_system_prompt": False}
GEMMA_USER = (
    ["<mask>", "<unused0>", "<start_of_turn>", "<end_of_turn>"] + ["\n" * n for n in range(1, 5)]
    + ["▁" * n for n in range(2, 6)] + ["<table>", "</table>"]
)
GEMMA_CONFIG = {"tokenizer_class": "GemmaTokenizer", "add_bos_token": True, "add_eos_token": False,
                "bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>",
                "additional_special_tokens": ["<start_of_turn>", "<end_of_turn>"], "sp_model_kwargs": {},
                "spaces_between_special_tokens": False, "use_default_system_prompt": False,
                "chat_template": GEMMA_CHAT}

# SentencePiece BPE with byte fallback. `model` is the trained tokenizer.model, `added` the added tokens of
# tokenizer.json; those without an id in the model follow it.
SPM = {
    "llama": {
        "model": "llama", "added": LLAMA_SPECIAL, "normalizer": PREPEND, "bos": "<s>",
        "decoder": sequence("decoders", *SPM_DECODER, STRIP), "config": LLAMA_CONFIG | {"legacy": True},
    },
    # as re-published since 2024: no normalizer, the prefix by the pre-tokenizer and only in front of the whole text
    "mistral": {
        "model": "llama", "added": LLAMA_SPECIAL, "pre": METASPACE, "bos": "<s>",
        "decoder": sequence("decoders", *SPM_DECODER, STRIP),
        "config": LLAMA_CONFIG | {"legacy": False, "chat_template": MISTRAL_CHAT},
    },
    "phi3": {
        "model": "llama",
        "added": LLAMA_SPECIAL[:2] + [added("</s>", special=False, rstrip=True), added("<|endoftext|>")] + [
            added(t, rstrip=True) for t in ["<|assistant|>", "<|placeholder1|>", "<|system|>", "<|end|>", "<|user|>"]],
        "normalizer": PREPEND, "decoder": sequence("decoders", *SPM_DECODER, STRIP),
        "config": LLAMA_CONFIG | {"add_bos_token": False, "legacy": False, "eos_token": "<|endoftext|>",
                                  "pad_token": "<|endoftext|>", "padding_side": "left", "chat_template": PHI3_CHAT},
    },
    # Llama's without a token in front of a text
    "ernie": {
        "model": "llama", "added": LLAMA_SPECIAL, "normalizer": PREPEND,
        "decoder": sequence("decoders", *SPM_DECODER, STRIP),
        "config": LLAMA_CONFIG | {"add_bos_token": False, "legacy": True, "chat_template": ERNIE_CHAT},
    },
    "gemma": {
        "model": "gemma",
        "added": [added(t) for t in ["<pad>", "<eos>", "<bos>", "<unk>"]]
        + [added(t, special=t.endswith("_turn>")) for t in GEMMA_USER],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre": split({"String": " "}, "MergedWithPrevious"), "bos": "<bos>",
        "decoder": sequence("decoders", *SPM_DECODER), "config": GEMMA_CONFIG,
    },
    # Gemma 3's pieces, without a tokenizer.model
    "gemma4": {
        "model": "gemma",
        "added": [added(t) for t in ["<pad>", "<eos>", "<bos>", "<unk>"]]
        + [added(t, special=t.endswith("_turn>")) for t in GEMMA_USER],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre": split({"String": " "}, "MergedWithPrevious"), "bos": "<bos>",
        "decoder": sequence("decoders", *SPM_DECODER), "config": GEMMA_CONFIG,
    },
}


@functools.cache
def corpus():
    text = (ROOT / "fixtures/text/calibration.txt").read_text(encoding="utf-8", errors="ignore")
    return [p for p in text[:60000].split("\n\n") if p.strip()] + EXTRA


def dump(path, data):
    path.write_text(json.dumps(data, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def train_bpe(spec, merges):
    empty = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [],
             "normalizer": spec.get("normalizer"), "pre_tokenizer": spec["pre"], "post_processor": None,
             "decoder": None,
             "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                       "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "vocab": {},
                       "merges": []}}
    tokenizer = Tokenizer.from_str(json.dumps(empty))
    tokenizer.train_from_iterator(corpus(), trainers.BpeTrainer(
        vocab_size=256 + merges, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    model = json.loads(tokenizer.to_str())["model"]
    assert len(model["merges"]) == merges, len(model["merges"])
    return empty, sorted(model["vocab"], key=model["vocab"].get), model["merges"]


def write_bpe(family, folder, merges=96, files="tokenizer.json"):
    spec = BPE[family]
    data, pieces, merges = train_bpe(spec, merges)
    first, last = spec.get("first", []), spec.get("last", [])
    order = [t["content"] for t in first] + pieces + [t["content"] for t in last]
    ids = {t: i for i, t in enumerate(order)}
    assert len(ids) == len(order)
    in_vocab = set(pieces) | set(spec.get("in_vocab", []))
    data["added_tokens"] = [{"id": ids[t["content"]]} | t for t in first + last]
    data["post_processor"] = spec.get("post", lambda ids: None)(ids)
    data["decoder"] = BYTE_LEVEL | {"add_prefix_space": True}
    data["model"] |= {"ignore_merges": spec.get("ignore_merges", False),
                      "vocab": {t: i for t, i in ids.items() if t in in_vocab}, "merges": merges}
    if files == "tokenizer.json":
        dump(folder / "tokenizer.json", data)
    else:
        dump(folder / "vocab.json", data["model"]["vocab"])
        (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges), "utf-8")
    write_config(folder, spec["config"], data["added_tokens"])
    return len(order)


def write_ranked(family, folder, merges=24, swap=0):
    """Ranks in place of merges. With `swap`, so many pieces of two are numbered in front of their parts, as no trained
    vocabulary has them."""
    spec = RANKED[family]
    pre = sequence("pretokenizers", split({"Regex": "|".join(spec["pattern"])}), BYTES_ONLY)
    _, pieces, pairs = train_bpe({"pre": pre, "normalizer": {"type": "NFC"} if spec.get("nfc") else None}, merges)
    for whole in [a + b for a, b in pairs if len(a) > 1 or len(b) > 1][:swap]:
        part = next(max(a, b, key=len) for a, b in pairs if a + b == whole)
        at, to = pieces.index(whole), pieces.index(part)
        pieces[at], pieces[to] = part, whole
    bytes_of = {c: b for b, c in ALPHABET.items()}
    lines = [base64.b64encode(bytes(bytes_of[c] for c in piece)) + f" {rank}\n".encode() for rank, piece in enumerate(pieces)]
    (folder / spec["file"]).write_bytes(b"".join(lines))
    special = [{"id": len(pieces) + n} | added(t, t not in spec.get("ordinary", [])) for n, t in spec["named"].items()]
    # Of the class's own program, the statement that the vocabulary leaves out.
    quoted = "".join(f'    r"""{part}""",\n' for part in spec["pattern"])
    program = f'"""A tiny {spec["class"]}: what quern reads of its program."""\n\npat_str = "|".join([\n{quoted}])\n'
    (folder / (spec["program"] + ".py")).write_text(program)
    mapped = {"AutoTokenizer": [f"{spec['program']}.{spec['class']}", None]}
    config = spec["config"] | {"tokenizer_class": spec["class"], "auto_map": mapped, "clean_up_tokenization_spaces": False,
                               "model_max_length": 1000000000000000019884624838656}
    decoder = {str(t["id"]): {k: v for k, v in t.items() if k != "id"} for t in special}
    dump(folder / "tokenizer_config.json", dict(sorted((config | {"added_tokens_decoder": decoder}).items())))
    return len(pieces) + min(spec["reserved"], 256)


# GPT-2's alphabet: a printable character for each byte.
PRINTED = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
ALPHABET = {b: chr(b) for b in PRINTED} | {b: chr(256 + n) for n, b in enumerate(sorted(set(range(256)) - set(PRINTED)))}


class Ranked:
    """The tokenizer of a folder by the tiktoken library, as the class's own program sets it up."""

    def __init__(self, family, folder):
        import tiktoken  # of these scripts, only what makes such folders needs it

        spec = RANKED[family]
        lines = (folder / spec["file"]).read_bytes().split(b"\n")
        ranks = {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines if line)}
        size = len(ranks)
        names = [spec["named"].get(n) or spec["others"](size + n, n) for n in range(spec["reserved"])]
        self.special_tokens = {name: size + n for n, name in enumerate(names)}
        self.nfc = spec.get("nfc", False)
        self.encoding = tiktoken.Encoding(
            name=family, pat_str="|".join(spec["pattern"]), mergeable_ranks=ranks, special_tokens=self.special_tokens)
        # what llama.cpp's converter reads of Moonshot's class, and of Tencent's
        self.model, self.mergeable_ranks = self.encoding, ranks

    def encode(self, text, add_special_tokens=True):
        text = unicodedata.normalize("NFC", text) if self.nfc else text
        return types.SimpleNamespace(ids=self.encoding.encode(text, allowed_special="all"))

    def token_to_id(self, token):
        return self.special_tokens.get(token)


@functools.cache
def train_spm(kind, size=392):
    special = {
        "llama": {"unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": -1, "vocab_size": size},
        "gemma": {"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3, "vocab_size": size, "bos_piece": "<bos>",
                  "eos_piece": "<eos>", "user_defined_symbols": GEMMA_USER, "add_dummy_prefix": False},
    }[kind]
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(line for p in corpus() for line in p.split("\n")), model_writer=out, model_type="bpe",
        byte_fallback=True, character_coverage=0.985, normalization_rule_name="identity", split_digits=True,
        remove_extra_whitespaces=False, allow_whitespace_only_pieces=True, num_threads=1, minloglevel=2, **special)
    return out.getvalue()


def merges_of(model):
    """The merges that give SentencePiece's result: every way to make a piece, in the order of the pieces' scores."""
    normal, user = sentencepiece_model_pb2.ModelProto.SentencePiece.NORMAL, 4
    scores = {p.piece: p.score for p in model.pieces if p.type in (normal, user)}
    index = {p.piece: i for i, p in enumerate(model.pieces)}
    merges = []
    for piece, score in scores.items():
        ways = [(piece[:i], piece[i:]) for i in range(1, len(piece))]
        ways = [(a, b) for a, b in ways if a in scores and b in scores]
        merges += [(-score, index[a], index[b], a, b) for a, b in ways]
    return [[a, b] for _, _, _, a, b in sorted(merges)]


def write_spm(family, folder, model_file=True, size=392, **config):
    spec = SPM[family]
    data = train_spm(spec["model"], size)
    model = sentencepiece_model_pb2.ModelProto.FromString(data)
    ids = {p.piece: i for i, p in enumerate(model.pieces)}
    vocab = dict(ids)
    for token in spec["added"]:
        ids.setdefault(token["content"], len(ids))
    added_tokens = sorted(({"id": ids[t["content"]]} | t for t in spec["added"]), key=lambda t: t["id"])
    dump(folder / "tokenizer.json", {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added_tokens,
        "normalizer": spec.get("normalizer"), "pre_tokenizer": spec.get("pre"),
        "post_processor": template(*([spec["bos"]] if "bos" in spec else []), ids=ids), "decoder": spec["decoder"],
        "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
                  "vocab": vocab, "merges": merges_of(model)}})
    if model_file:
        (folder / "tokenizer.model").write_bytes(data)
    write_config(folder, spec["config"] | config, added_tokens)
    return len(ids)


def write_config(folder, config, added_tokens):
    """tokenizer_config.json and special_tokens_map.json in the style of transformers 4, as most repositories have."""
    decoder = {str(t["id"]): {k: v for k, v in t.items() if k != "id"} for t in added_tokens}
    config = {k: v for k, v in config.items() if not (k == "vocab_size" and v is None)}
    dump(folder / "tokenizer_config.json",
         dict(sorted((config | {"added_tokens_decoder": decoder, "clean_up_tokenization_spaces": False,
                                "model_max_length": 1000000000000000019884624838656}).items())))
    names = ["additional_special_tokens", "bos_token", "eos_token", "pad_token", "unk_token"]
    dump(folder / "special_tokens_map.json", {n: config[n] for n in names if config.get(n)})


def write(family, folder, **options):
    """Writes the family's files into the folder and returns how many tokens there are."""
    writer = write_bpe if family in BPE else write_ranked if family in RANKED else write_spm
    return writer(family, folder, **options)
