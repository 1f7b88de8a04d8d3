//! The names of pre-tokenizers in GGUF files (`tokenizer.ggml.pre`), and the rule of each.
//!
//! llama.cpp defines the names, one for each model whose tokenizer it supports, and many mean the same rule;
//! the first row of a rule gives its name when a file is written. The parts are those of the models' own
//! `tokenizer.json`, where they are known, else those of llama.cpp; where both are known and differ, the model's own
//! are used, because it was trained on their tokens. The same holds for `nfc`, which llama.cpp leaves out.

use std::borrow::Cow;

use super::{Behavior, GPT2, Part, Rule};

/// One rule and its names.
pub(crate) struct Known {
    /// What GGUF files call it.
    pub names: &'static [&'static str],
    pub parts: &'static [Part<'static>],
    /// Other spellings of the same rule.
    pub also: &'static [&'static [Part<'static>]],
    pub nfc: bool,
    pub ignore_merges: bool,
    /// Whether beginning-of-text is added where the file does not say.
    pub add_bos: bool,
}

impl Known {
    pub fn rule(&self) -> Rule {
        Rule { parts: Cow::Borrowed(self.parts), nfc: self.nfc, ignore_merges: self.ignore_merges }
    }
}

/// The rule with this name.
pub(crate) fn find(name: &str) -> Option<&'static Known> {
    named(name).map(|(_, known)| known)
}

/// The same, with the table's own copy of the name.
pub(crate) fn named(name: &str) -> Option<(&'static str, &'static Known)> {
    KNOWN.iter().find_map(|known| Some((*known.names.iter().find(|n| **n == name)?, known)))
}

/// What a file without a name, or with an unknown one, is read by.
pub(crate) const DEFAULT: &str = "default";

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// LLAMA3 as newer files write it.
const LLAMA3_PLAIN: &str = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2_PLAIN: &str = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const DEEPSEEK_V3: &str = "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+";
/// The cased letters, as of an old Unicode, that DeepSeek LLM's rule lists one by one.
const DEEPSEEK_LETTERS: &str = r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+";
const DEEPSEEK_MARKS: &str = r"\s?[!-/:-~！-／：-～‘-‟　-。]+";
const DEEPSEEK_HAN: &str = "[一-龥ࠀ-一가-퟿]+";
const HAN_KANA: &str = "[一-龥぀-ゟ゠-ヿ]+";
const BLOOM: &str = r" ?[^(\s|[.,!?…。，、।۔،])]+";
const BLOOM_PLAIN: &str = r" ?[^(\s|.,!?…。，、।۔،)]+";
const SEED_CODER: &str = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1}| ?[^\\s\\p{L}\\p{N}\r\n]+|\\s*[\r\n]+|\\s+(?!\\S)|\\s+";
const BAILING: &str = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";
const JAIS2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}";
const EXAONE_MOE: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+";
const MINICPM5: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const UFAKZEKA: &str = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Of Moonshot's tokenization_kimi.py: GPT-4o's with runs of Han by themselves.
const KIMI_K2: &str = r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Of Youtu-LLM, as llama.cpp has it: what is written without spaces first, then GPT-4o's with single digits.
const YOUTU_SCRIPTS: &str = "[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+";
const YOUTU: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// A row without beginning-of-text, NFC or whole words.
const fn plain(names: &'static [&'static str], parts: &'static [Part<'static>]) -> Known {
    Known { names, parts, also: &[], nfc: false, ignore_merges: false, add_bos: false }
}

const GPT2_PARTS: &[Part<'static>] = &[Part::isolated(GPT2), Part::Bytes];
const LLAMA3_PARTS: &[Part<'static>] = &[Part::isolated(LLAMA3), Part::Bytes];
const QWEN2_PARTS: &[Part<'static>] = &[Part::isolated(QWEN2), Part::Bytes];
const QWEN35_PARTS: &[Part<'static>] = &[Part::isolated(QWEN35), Part::Bytes];
const GPT4O_PARTS: &[Part<'static>] = &[Part::isolated(GPT4O), Part::Bytes];
const BLOOM_PARTS: &[Part<'static>] = &[Part::isolated(BLOOM), Part::Bytes];
const BLOOM_ALSO: &[&[Part<'static>]] = &[&[Part::isolated(BLOOM_PLAIN), Part::Bytes]];
const DIGITS_PARTS: &[Part<'static>] = &[Part::Digits(true), Part::isolated(GPT2), Part::Bytes];
/// llama.cpp's spelling of the same.
const DIGITS_ALSO: &[&[Part<'static>]] = &[&[Part::isolated(r"\p{N}"), Part::isolated(GPT2), Part::Bytes]];
const LLAMA3_ALSO: &[&[Part<'static>]] = &[&[Part::isolated(LLAMA3_PLAIN), Part::Bytes]];
const QWEN2_ALSO: &[&[Part<'static>]] = &[&[Part::isolated(QWEN2_PLAIN), Part::Bytes]];
const DEEPSEEK_V3_PARTS: &[Part<'static>] =
    &[Part::isolated(r"\p{N}{1,3}"), Part::isolated(HAN_KANA), Part::isolated(DEEPSEEK_V3), Part::Bytes];

/// All rules. Left out: names of tokenizers that are not byte-level (`gemma4`, `sarvam-moe`, `whitespace`), and
/// rules that llama.cpp's own code spells (`afmoe`, `superbpe`, `chameleon`, `tiny_aya`).
pub(crate) static KNOWN: &[Known] = &[
    plain(
        &[
            "gpt-2",
            "phi-2",
            "jina-es",
            "jina-de",
            "gigachat",
            "jina-v2-es",
            "jina-v2-de",
            "a.x-4.0",
            "mellum",
            "modern-bert",
            "jina-v1-en",
            "jina-v2-code",
            "roberta-bpe",
            "exaone4",
            "jais",
            "trillion",
            "granite-docling",
        ],
        GPT2_PARTS,
    ),
    // GPT-NeoX's tokenizer, which OLMo, Dolly, Pythia and StableLM 1 use too.
    Known { nfc: true, ..plain(&["olmo", "mpt"], GPT2_PARTS) },
    Known {
        also: LLAMA3_ALSO,
        ignore_merges: true,
        add_bos: true,
        ..plain(
            &[
                "llama-bpe",
                "llama3",
                "llama-v3",
                "falcon3",
                "falcon-h1",
                "pixtral",
                "midm-2.0",
                "lfm2",
                "jina-v5-nano",
            ],
            LLAMA3_PARTS,
        )
    },
    Known { also: LLAMA3_ALSO, ..plain(&["smaug-bpe", "dbrx", "chatglm-bpe"], LLAMA3_PARTS) },
    Known { also: LLAMA3_ALSO, ignore_merges: true, ..plain(&["glm4", "glm5"], LLAMA3_PARTS) },
    Known {
        also: QWEN2_ALSO,
        nfc: true,
        ..plain(&["qwen2", "stablelm2", "megrez", "kormo", "f2llmv2", "hunyuan", "solar-open"], QWEN2_PARTS)
    },
    Known { also: QWEN2_ALSO, ..plain(&["deepseek-r1-qwen", "grok-2"], QWEN2_PARTS) },
    Known { nfc: true, ..plain(&["qwen35"], QWEN35_PARTS) },
    Known {
        also: DIGITS_ALSO,
        ..plain(
            &["starcoder", "smollm", "refact", "codeshell", "exaone", "minerva-7b", "mellum2"],
            DIGITS_PARTS,
        )
    },
    Known { also: DIGITS_ALSO, nfc: true, ..plain(&["command-r"], DIGITS_PARTS) },
    Known {
        // The digits part sees the alphabet of bytes, whose `²`, `³`, `¹` and fractions count as digits: it cuts
        // within characters. llama.cpp leaves that out.
        also: &[&[
            Part::isolated(r"[\p{P}\$\+<=>\^~\|`]+"),
            Part::isolated(GPT2),
            Part::isolated("[0-9][0-9][0-9]"),
            Part::Bytes,
        ]],
        ..plain(
            &["falcon"],
            &[
                Part::Punctuation(Behavior::Contiguous),
                Part::isolated(GPT2),
                Part::Bytes,
                Part::Digits(false),
                Part::isolated("[0-9][0-9][0-9]"),
            ],
        )
    },
    Known {
        ignore_merges: true,
        add_bos: true,
        ..plain(&["tekken"], &[Part::isolated(TEKKEN), Part::Bytes])
    },
    plain(&["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"], GPT4O_PARTS),
    Known { ignore_merges: true, ..plain(&["granite-embed-multi-97m"], GPT4O_PARTS) },
    plain(
        &["deepseek-llm"],
        &[
            Part::isolated("[\r\n]"),
            Part::isolated(DEEPSEEK_LETTERS),
            Part::isolated(DEEPSEEK_MARKS),
            Part::isolated(r"\s+$"),
            Part::isolated(DEEPSEEK_HAN),
            Part::Digits(true),
            Part::Bytes,
        ],
    ),
    plain(
        &["deepseek-coder"],
        &[
            Part::isolated("[\r\n]"),
            Part::isolated(r"\s?\p{L}+"),
            Part::isolated(r"\s?\p{P}+"),
            Part::isolated(DEEPSEEK_HAN),
            Part::Digits(true),
            Part::Bytes,
        ],
    ),
    plain(&["deepseek-v3", "hunyuan-dense", "hy_v4", "joyai-llm"], DEEPSEEK_V3_PARTS),
    plain(&["kimi-k2"], &[Part::isolated(KIMI_K2), Part::Bytes]),
    plain(&["youtu"], &[Part::isolated(YOUTU_SCRIPTS), Part::isolated(YOUTU), Part::Bytes]),
    Known { also: BLOOM_ALSO, ..plain(&["bloom", "poro-chat", "gpt3-finnish"], BLOOM_PARTS) },
    Known {
        also: &[&[Part::isolated(BLOOM_PLAIN), Part::isolated(r"\p{N}"), Part::Bytes]],
        ..plain(&["viking"], &[Part::isolated(BLOOM), Part::Digits(true), Part::Bytes])
    },
    plain(&["seed-coder"], &[Part::isolated(SEED_CODER), Part::Bytes]),
    plain(&["bailingmoe", "bailingmoe2", "llada-moe"], &[Part::isolated(BAILING), Part::Bytes]),
    plain(&["jais-2"], &[Part::isolated(JAIS2), Part::Bytes]),
    plain(&["exaone-moe"], &[Part::isolated(EXAONE_MOE), Part::Bytes]),
    Known {
        ignore_merges: true,
        ..plain(&["minicpm5"], &[Part::isolated(r"\p{N}{1,3}"), Part::isolated(MINICPM5), Part::Bytes])
    },
    plain(&["ufakzeka"], &[Part::isolated(UFAKZEKA), Part::Bytes]),
    plain(&["laguna"], &[Part::isolated(r"[^\n]+|[\n]+"), Part::isolated(QWEN2), Part::Bytes]),
    plain(
        &[DEFAULT],
        &[
            Part::isolated(r"[\p{P}\$\+<=>\^~\|]+"),
            Part::isolated(GPT2),
            Part::isolated(r"\p{N}+"),
            Part::isolated("[0-9][0-9][0-9]"),
            Part::Bytes,
        ],
    ),
];
