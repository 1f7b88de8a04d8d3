//! Damage to a file, as numbers: drawn by a counter, by proptest or from libFuzzer's bytes alike.

use quern_run::random::Random;

/// Files do not grow beyond this and their own size, so that a run measures readers and not copies.
const LARGEST: usize = 4 << 20;

/// Integers at the limits of every width.
const INTEGERS: &[u64] = &[
    0,
    1,
    2,
    3,
    4,
    7,
    8,
    16,
    31,
    32,
    64,
    127,
    128,
    255,
    256,
    0x7fff,
    0x8000,
    0xffff,
    0x1_0000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    0x1_0000_0001,
    1 << 40,
    1 << 48,
    (1 << 53) + 1,
    0x3fff_ffff_ffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    0xffff_ffff_ffff_fff0,
    0xffff_ffff_ffff_ffff,
];

/// Numbers as JSON and Jinja spell them, some of them wrongly.
const NUMBERS: &[&str] = &[
    "0",
    "1",
    "-1",
    "2",
    "3",
    "0.5",
    "-0.0",
    "1e308",
    "1e999",
    "-1e999",
    "1e-400",
    "255",
    "256",
    "65536",
    "2147483647",
    "2147483648",
    "4294967295",
    "4294967296",
    "9007199254740993",
    "9223372036854775807",
    "18446744073709551615",
    "18446744073709551616",
    "1.5",
    "01",
    "1e",
    "NaN",
    "Infinity",
    "null",
    "true",
    "\"7\"",
    "[]",
    "{}",
    "1000000000000",
    "100000",
    "1.0",
];

/// Pieces that mean something in one of the formats.
const TEXTS: &[&str] = &[
    "",
    " ",
    "\0",
    "\n",
    "\u{1b}[31m",
    "\u{202e}",
    "\u{2581}",
    "\\ud800",
    "\\u0000",
    "../../x",
    "/dev/zero",
    "[[[[[[[[",
    "{\"a\":",
    "]",
    "}",
    "\"",
    ",",
    ":",
    "null",
    "model.safetensors",
    "GGUF",
    "(a)*",
    "(?:a|aa)+$",
    "[",
    "(?=(o+)+b\\1)",
    "llama",
    "gpt2",
    "BPE",
    "ByteLevel",
    "Replace",
    "Split",
    "Sequence",
    "F32",
    "BF16",
    "F8_E4M3",
    "gptq",
    "awq",
    "bitsandbytes",
    "nf4",
    "{{",
    "{% for x in range(99999) %}",
    "{% endfor %}",
    "loop.cycle()",
    "|tojson",
    "~",
    "%s",
    "{% set ns.x = [ns.x, ns.x] %}",
    "<|endoftext|>",
    "<0x0A>",
    "tokenizer.ggml.tokens",
    "general.alignment",
    "model.layers.0.self_attn.q_proj.weight",
    "-",
    "+:.*",
    "HTTP/1.1 302 Found\r\n",
    "Content-Length: -1\r\n",
    "---\n",
];

/// One change. Places wrap around the file's length, lengths end at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the text of each variant says what its fields are")]
pub enum Mutation {
    /// One bit is inverted.
    Flip { at: usize, bit: u8 },
    /// One byte is replaced.
    Byte { at: usize, value: u8 },
    /// A little-endian integer of `1 << width` bytes is written, `width` below 4.
    Integer { at: usize, width: u8, value: u64 },
    /// The next decimal number is replaced by one of a list.
    Number { at: usize, number: usize },
    /// One of a list of texts is inserted.
    Insert { at: usize, text: usize },
    /// What stands between the next quotes is replaced by one of the list.
    Quoted { at: usize, text: usize },
    /// The file ends here.
    Cut { at: usize },
    /// Bytes are taken out.
    Remove { at: usize, length: usize },
    /// Bytes are said again, 1 to 65536 times.
    Repeat { at: usize, length: usize, times: usize },
    /// Bytes are written over others.
    Copy { from: usize, to: usize, length: usize },
}

impl Mutation {
    /// A random change of a file of `length` bytes, more often near its start, where headers are.
    pub fn random(random: &mut Random, length: usize) -> Self {
        let mut below = |limit: usize| random.below(limit.min(u32::MAX as usize) as u32) as usize;
        let mut place = || {
            let bits = usize::BITS - length.max(1).leading_zeros();
            match below(3) {
                0 => below(length + 1),
                _ => {
                    let scale = below(bits as usize + 1);
                    below(1 << scale.min(31))
                }
            }
        };
        let (at, other) = (place(), place());
        match below(12) {
            0 | 1 => Self::Flip { at, bit: below(8) as u8 },
            2 => Self::Byte { at, value: below(256) as u8 },
            3 | 4 => {
                let value = match below(4) {
                    0 => length as u64,
                    1 => (length as u64).wrapping_add(below(33) as u64).wrapping_sub(16),
                    _ => INTEGERS[below(INTEGERS.len())],
                };
                Self::Integer { at, width: below(4) as u8, value }
            }
            5 => Self::Number { at, number: below(NUMBERS.len()) },
            6 => Self::Insert { at, text: below(TEXTS.len()) },
            7 => Self::Quoted { at, text: below(TEXTS.len()) },
            8 => Self::Cut { at },
            9 => Self::Remove { at, length: 1 << below(10) },
            10 => Self::Repeat { at, length: 1 << below(8), times: 1 << below(17) },
            _ => Self::Copy { from: other, to: at, length: 1 << below(8) },
        }
    }

    /// Makes the change.
    pub fn apply(&self, data: &mut Vec<u8>) {
        let length = data.len();
        let most = length.max(LARGEST);
        let place = |at: usize| if length == 0 { 0 } else { at % length };
        let span = |at: usize, bytes: usize| {
            let at = place(at);
            at..(at + bytes).min(length)
        };
        match *self {
            Self::Flip { at, bit } => {
                if let Some(byte) = data.get_mut(place(at)) {
                    *byte ^= 1 << (bit & 7);
                }
            }
            Self::Byte { at, value } => {
                if let Some(byte) = data.get_mut(place(at)) {
                    *byte = value;
                }
            }
            Self::Integer { at, width, value } => {
                let range = span(at, 1 << (width & 3));
                let bytes = &value.to_le_bytes()[..range.len()];
                data[range].copy_from_slice(bytes);
            }
            Self::Number { at, number } => {
                let part = |byte: &u8| byte.is_ascii_digit() || b"+-.eE".contains(byte);
                let Some(start) = data[place(at)..].iter().position(u8::is_ascii_digit) else { return };
                let start = place(at) + start;
                let end = data[start..].iter().position(|b| !part(b)).map_or(length, |n| start + n);
                data.splice(start..end, NUMBERS[number % NUMBERS.len()].bytes());
            }
            Self::Insert { at, text } => {
                let at = place(at);
                data.splice(at..at, TEXTS[text % TEXTS.len()].bytes());
            }
            Self::Quoted { at, text } => {
                let quote = |from: usize| data[from..].iter().position(|&b| b == b'"').map(|n| from + n);
                let Some(start) = quote(place(at)) else { return };
                let Some(end) = quote(start + 1) else { return };
                data.splice(start + 1..end, TEXTS[text % TEXTS.len()].bytes());
            }
            Self::Cut { at } => data.truncate(place(at)),
            Self::Remove { at, length } => drop(data.drain(span(at, length))),
            Self::Repeat { at, length, times } => {
                let range = span(at, length);
                let times = times.min((most - data.len()) / range.len().max(1));
                let again = data[range.clone()].repeat(times);
                data.splice(range.end..range.end, again);
            }
            Self::Copy { from, to, length } => {
                let from = span(from, length);
                let to = span(to, from.len());
                data.copy_within(from.start..from.start + to.len(), to.start);
            }
        }
    }
}

/// One to eight changes.
pub fn damage(random: &mut Random, data: &mut Vec<u8>) {
    for _ in 0..1 + random.below(3) * random.below(4) + random.below(2) {
        Mutation::random(random, data.len()).apply(data);
    }
}
