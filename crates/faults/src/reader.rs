//! The readers: for each, the sound inputs that are damaged, and what is done with them.

use std::panic::{self, AssertUnwindSafe};
use std::path::Path;

use quern_run::random::Random;

use crate::exercise::{self, Outcome};
use crate::seed::{Place, Result, Seed};
use crate::{allocation, hub, mutation, round_trip};

/// One reader, or a group that reads one kind of file.
pub struct Reader {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it reads.
    pub what: &'static str,
    /// Sound inputs.
    pub seeds: fn(&Place) -> Result<Vec<Seed>>,
    /// What is done with one.
    pub exercise: fn(&Path) -> Outcome,
}

/// All of them.
pub const READERS: &[Reader] = &[
    Reader {
        name: "gguf",
        what: "one GGUF file: header, metadata, vocabulary, tensors, blocks",
        seeds: ggufs,
        exercise: exercise::checkpoint,
    },
    Reader {
        name: "gguf-settings",
        what: "metadata, vocabulary and chat template of GGUF files, more often than their tensors",
        seeds: ggufs,
        exercise: exercise::settings,
    },
    Reader {
        name: "gguf-split",
        what: "a GGUF file in parts",
        seeds: |place| files_of(&place.split()?, ".gguf"),
        exercise: exercise::checkpoint,
    },
    Reader {
        name: "safetensors",
        what: "one safetensors file of a Hugging Face directory",
        seeds: |place| of_architectures(place, &["model.safetensors"]),
        exercise: exercise::checkpoint,
    },
    Reader {
        name: "index",
        what: "shards of safetensors and their index",
        seeds: |place| files_of(&place.sharded()?, ""),
        exercise: exercise::checkpoint,
    },
    Reader {
        name: "packed",
        what: "GPTQ, AWQ, compressed-tensors and bitsandbytes layers and their settings",
        seeds: packed,
        exercise: exercise::tensors,
    },
    Reader {
        name: "pytorch",
        what: "files of torch.save: zip, pickle, the older format, shards",
        seeds: pytorch,
        exercise: exercise::tensors,
    },
    Reader {
        name: "imatrix",
        what: "importance matrices in both formats",
        seeds: imatrices,
        exercise: exercise::imatrix,
    },
    Reader {
        name: "config",
        what: "config.json and generation_config.json",
        seeds: |place| of_architectures(place, &["config.json", "generation_config.json"]),
        exercise: exercise::settings,
    },
    Reader {
        name: "tokenizer-json",
        what: "tokenizer.json",
        seeds: |place| of_architectures(place, &["tokenizer.json"]),
        exercise: exercise::settings,
    },
    Reader {
        name: "tokenizer-model",
        what: "tokenizer.model of SentencePiece, tiktoken.model",
        seeds: tokenizer_models,
        exercise: exercise::settings,
    },
    Reader {
        name: "tokenizer-settings",
        what: "tokenizer_config.json, special_tokens_map.json, vocab.json, merges.txt",
        seeds: |place| {
            let names = ["tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt"];
            of_architectures(place, &names)
        },
        exercise: exercise::settings,
    },
    Reader { name: "template", what: "chat templates", seeds: templates, exercise: exercise::settings },
    Reader {
        name: "notes",
        what: "README.md of a model (its front matter) and quern.json (how it was made)",
        seeds: notes,
        exercise: exercise::settings,
    },
    Reader {
        name: "pattern",
        what: "regular expressions over names of tensors and modules, one on each line",
        seeds: patterns,
        exercise: exercise::patterns,
    },
    Reader {
        name: "hub",
        what: "a Hub's answers: headers, listings, files",
        seeds: hub_answers,
        exercise: hub::pull,
    },
    Reader {
        name: "round-trip",
        what: "tensors and metadata chosen by bytes: written as GGUF or safetensors and read again",
        seeds: choices,
        exercise: round_trip::run,
    },
];

impl Reader {
    /// The reader of this name.
    pub fn find(name: &str) -> Option<&'static Self> {
        READERS.iter().find(|reader| reader.name == name)
    }

    /// The input of this number: which of `seeds`, and its damaged bytes.
    pub fn input<'s>(&self, seeds: &'s [Seed], case: u64) -> (&'s Seed, Vec<u8>) {
        let name = self.name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let mut random = Random::new(name ^ case);
        let seed = &seeds[random.below(seeds.len() as u32) as usize];
        let mut bytes = seed.bytes.clone();
        mutation::damage(&mut random, &mut bytes);
        (seed, bytes)
    }
}

/// What giving an input came to.
#[derive(Debug)]
pub struct Given {
    /// The reader's outcome, or that it panicked.
    pub outcome: std::thread::Result<Outcome>,
    /// Memory beyond the size of the input, in bytes.
    pub beyond: usize,
}

impl Reader {
    /// Puts `bytes` in the place of a seed's file, reads it, and puts the sound file back.
    pub fn give(&self, seed: &Seed, bytes: &[u8]) -> Result<Given> {
        seed.put(bytes)?;
        let body = || panic::catch_unwind(AssertUnwindSafe(|| (self.exercise)(&seed.open)));
        let (outcome, peak) = allocation::peak(body);
        seed.put(&seed.bytes)?;
        Ok(Given { outcome, beyond: peak.saturating_sub(bytes.len()) })
    }
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

fn ggufs(place: &Place) -> Result<Vec<Seed>> {
    place.ggufs()?.iter().chain([&place.with_factor()?]).map(|file| Seed::file(file)).collect()
}

fn files_of(folder: &Path, suffix: &str) -> Result<Vec<Seed>> {
    let entries = std::fs::read_dir(folder).map_err(exercise::text)?;
    let mut names: Vec<_> = entries.flatten().filter_map(|e| e.file_name().into_string().ok()).collect();
    names.sort();
    let names = names.iter().filter(|name| name.ends_with(suffix));
    names.map(|name| Seed::in_folder(folder, name)).collect()
}

/// These files of all architectures, where they are.
fn of_architectures(place: &Place, names: &[&str]) -> Result<Vec<Seed>> {
    let mut seeds = Vec::new();
    for architecture in place.architectures()? {
        let folder = place.copy(&format!("architectures/{architecture}"), &format!("hf/{architecture}"))?;
        for name in names.iter().filter(|name| folder.join(name).is_file()) {
            seeds.push(Seed::in_folder(&folder, name)?);
        }
    }
    Ok(seeds)
}

fn packed(place: &Place) -> Result<Vec<Seed>> {
    let mut seeds = Vec::new();
    for name in place.names("packed")? {
        if place.fixtures.join("packed").join(&name).is_dir() {
            let folder = place.copy(&format!("packed/{name}"), &format!("packed/{name}"))?;
            seeds.extend(files_of(&folder, "")?);
        }
    }
    Ok(seeds)
}

fn pytorch(place: &Place) -> Result<Vec<Seed>> {
    let folder = place.copy("pytorch", "pytorch")?;
    let mut seeds = Vec::new();
    for name in place.names("pytorch")?.iter().filter(|name| name.ends_with(".bin")) {
        seeds.push(Seed::file(&folder.join(name))?);
    }
    seeds.extend(files_of(&folder.join("sharded"), "")?);
    Ok(seeds)
}

fn imatrices(place: &Place) -> Result<Vec<Seed>> {
    let mut seeds = Vec::new();
    seeds.push(Seed::file(&place.copy_file("golden/bookworm-4m.imatrix.gguf", "imatrix")?)?);
    // The format before GGUF: entries of name, calls and sums.
    let mut legacy = 3_i32.to_le_bytes().to_vec();
    for name in ["blk.0.attn_q.weight", "blk.0.ffn_up.weight", "output.weight"] {
        legacy.extend((name.len() as i32).to_le_bytes());
        legacy.extend(name.as_bytes());
        legacy.extend(4_i32.to_le_bytes());
        legacy.extend(32_i32.to_le_bytes());
        (0..32).for_each(|i| legacy.extend((i as f32).to_le_bytes()));
    }
    legacy.extend(4_i32.to_le_bytes());
    legacy.extend(3_i32.to_le_bytes());
    legacy.extend(b"x.t");
    let legacy = Seed::new(&place.work.join("imatrix"), "legacy.dat", &legacy)?;
    seeds.push(Seed { open: legacy.file.clone(), ..legacy });
    Ok(seeds)
}

fn tokenizer_models(place: &Place) -> Result<Vec<Seed>> {
    let ranked = of_architectures(place, &["tiktoken.model"])?;
    let mut seeds = of_architectures(place, &["tokenizer.model"])?;
    // tokenizer.json is asked first where both are.
    for seed in &mut seeds {
        let _ = std::fs::remove_file(seed.open.join("tokenizer.json"));
    }
    seeds.truncate(4);
    seeds.extend(ranked);
    Ok(seeds)
}

/// A folder with each template that came with a model of the fixtures, and some that use most of the language.
fn templates(place: &Place) -> Result<Vec<Seed>> {
    let mut sources: Vec<String> = TEMPLATES.iter().map(|&s| s.to_owned()).collect();
    for architecture in place.architectures()? {
        let file = place.fixtures.join("architectures").join(architecture).join("tokenizer_config.json");
        let text = std::fs::read(file).unwrap_or_default();
        let config: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
        sources.extend(config.get("chat_template").and_then(|t| t.as_str()).map(str::to_owned));
    }
    sources.sort();
    sources.dedup();
    let make = |(at, source): (usize, &String)| {
        let folder = place.copy("architectures/llama", &format!("template/{at}"))?;
        Seed::new(&folder, "chat_template.jinja", source.as_bytes())
    };
    sources.iter().enumerate().map(make).collect()
}

const TEMPLATES: &[&str] = &[
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}[INST] {{ message['content'].strip() \
     }} [/INST]{% elif loop.last %}{{ message.content|trim|upper }}{% else %}{{ message['content'] + eos_token }}\
     {% endif %}{% endfor %}",
    "{% set ns = namespace(x=[1], n=0) %}{% for m in messages %}{% set ns.x = [ns.x, ns.x] %}{% set ns.n = ns.n + 1 %}\
     {{ loop.index0 }}{{ loop.cycle('a', 'b') }}{{ m|tojson(indent=2) }}{% endfor %}{{ ns.x|string|length }}{{ ns.x }}",
    "{% macro f(a, b=2) %}{{ a }}{{ caller() if caller else b }}{% endmacro %}{{ f(1) }}{% call f([1, 2]) %}x{% endcall \
     %}{% for k, v in {'a': 1, 'b': [1.5, none, true]}.items() %}{{ k ~ v }}{% endfor %}{{ range(5)|list|join(',') }}\
     {{ 'a,b'.split(',')|sort|reverse|list }}{{ messages|selectattr('role', 'equalto', 'user')|list|length }}",
    "{%- if tools is defined and tools %}{{ raise_exception('no tools') }}{% endif -%}{{ strftime_now('%Y') }}{{ '%s-%d' \
     % ('a', 3) }}{{ messages[0].content[1:3] }}{{ messages[-1]['content'].replace('l', 'L') }}{{ 'x' * 3 }}{{ 7 // 2 }}\
     {{ 7 % 3 }}{{ 2 ** 5 }}{{ 'b' in 'abc' }}{{ [1, 2] + [3] }}{{ {'a': 1} == {'a': 1} }}{{ messages|map(attribute='role')\
     |join('|') }}",
];

fn notes(place: &Place) -> Result<Vec<Seed>> {
    let folder = place.copy("architectures/llama", "notes")?;
    let card = "---\nlicense: apache-2.0\nbase_model:\n- a/b\n- c/d\ntags: [gguf, \"x\"]\nlanguage:\n  - en\nmetrics: >\n  \
                long\n  text\n---\n# A model\n";
    let record = r#"{"version":1,"steps":[{"quern":"0.1.0","command":["quantize","a","--to","q4_k_m"],"base":{"name":"a/b",
        "revision":"0123456789abcdef0123456789abcdef01234567","files":[{"name":"x","sha256":"00"}]},"figures":{"kl":0.01},
        "calibration":{"file":"c.txt","sha256":"ab"},"license":"mit"}]}"#;
    Ok(vec![
        Seed::new(&folder, "README.md", card.as_bytes())?,
        Seed::new(&folder, "quern.json", record.as_bytes())?,
    ])
}

/// Random bytes: each is a sound input.
fn choices(place: &Place) -> Result<Vec<Seed>> {
    let make = |at: u64| {
        let mut random = Random::new(at);
        let bytes: Vec<u8> = (0..600).map(|_| random.next_u64() as u8).collect();
        let seed = Seed::new(&place.work.join(format!("choices/{at}")), "choices", &bytes)?;
        Ok(Seed { open: seed.file.clone(), ..seed })
    };
    (0..64).map(make).collect()
}

fn hub_answers(place: &Place) -> Result<Vec<Seed>> {
    let file = |name: &str| std::fs::read(place.fixtures.join("architectures/llama").join(name));
    let mut files = Vec::new();
    for name in ["config.json", "special_tokens_map.json", "tokenizer_config.json"] {
        files.push((name, file(name).map_err(exercise::text)?));
    }
    // A file of its own, because damage is to meet the answers about it and not 90 KB of weights.
    let mut weights = 60_u64.to_le_bytes().to_vec();
    weights.extend(br#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}      "#);
    weights.extend([0; 8]);
    files.push(("model.safetensors", weights));
    let seed = Seed::new(&place.work.join("hub"), "answers", &hub::answers(&files))?;
    Ok(vec![Seed { open: seed.file.clone(), ..seed }])
}

fn patterns(place: &Place) -> Result<Vec<Seed>> {
    let make = |(at, text): (usize, &&str)| {
        let seed = Seed::new(&place.work.join(format!("pattern/{at}")), "patterns", text.as_bytes())?;
        Ok(Seed { open: seed.file.clone(), ..seed })
    };
    PATTERNS.iter().enumerate().map(make).collect()
}

const PATTERNS: &[&str] = &[
    "attn_v\nffn_(down|up)\nblk\\.[0-9]+\\.attn_[qk]\n.*\\.weight$",
    "model\\.layers\\.(0|[1-9]\\d*)\\.self_attn\\.(q|k|v|o)_proj\n(?:a{1,20}){1,20}\n(a|b|ab)*c",
    "[a-z&&[^aeiou]]+_proj\n(?i)LM_HEAD\n\\p{L}+\\.\\p{N}{2,8}\n(?:(?:(?:x?){9}){9}){9}\n^(?P<layer>\\w+)$",
];
