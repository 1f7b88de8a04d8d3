//! Changes of GGUF metadata: `--set KEY=VALUE`, `--remove KEY`.
//!
//! A key that is there keeps its type; a new one is given with its type, `KEY:TYPE=VALUE`. Arrays are not edited:
//! the tokenizer's must fit each other and the embedding. What says how the file itself is laid out, or what no
//! reader can do without, is refused.

use std::path::Path;

use quern_tensor_io::{Error, Metadata, Remedy, Result, Value};

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// Sets a key.
    Set {
        /// The key.
        key: String,
        /// Its type; that of the key as it is where `None`.
        kind: Option<Kind>,
        /// The value, as text.
        text: String,
    },
    /// Removes a key.
    Remove(String),
}

macro_rules! kinds {
    ($($variant:ident $name:literal $parse:ty,)*) => {
        /// The type of a value that is no array.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs)]
        pub enum Kind { $($variant,)* String }

        impl Kind {
            const ALL: &'static [Self] = &[$(Self::$variant,)* Self::String];

            fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* Self::String => "str" }
            }

            fn of(value: &Value) -> Option<Self> {
                match value {
                    $(Value::$variant(_) => Some(Self::$variant),)*
                    Value::String(_) => Some(Self::String),
                    Value::Array(_) => None,
                }
            }

            fn parse(self, text: &str) -> Option<Value> {
                match self {
                    $(Self::$variant => text.trim().parse::<$parse>().ok().map(Value::$variant),)*
                    Self::String => Some(Value::String(text.to_owned())),
                }
            }
        }
    };
}

kinds! {
    U8 "u8" u8,
    I8 "i8" i8,
    U16 "u16" u16,
    I16 "i16" i16,
    U32 "u32" u32,
    I32 "i32" i32,
    U64 "u64" u64,
    I64 "i64" i64,
    F32 "f32" f32,
    F64 "f64" f64,
    Bool "bool" bool,
}

/// Without these, or with others, no reader can do anything with the file.
const FIXED: [&str; 5] =
    ["general.architecture", "split.no", "split.count", "split.tensors.count", "tokenizer.ggml.model"];

/// What llama.cpp refuses to load without, after the architecture's name.
const NEEDED: [&str; 7] = [
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "attention.head_count",
    "attention.layer_norm_epsilon",
    "attention.layer_norm_rms_epsilon",
];

impl Edit {
    /// Reads `KEY=VALUE` or `KEY:TYPE=VALUE`. The error says in words what is wrong.
    pub fn parse_set(text: &str) -> Result<Self, String> {
        let Some((key, value)) = text.split_once('=') else {
            return Err("KEY=VALUE or KEY:TYPE=VALUE is expected".into());
        };
        let (key, kind) = match key.rsplit_once(':') {
            None => (key, None),
            Some((key, name)) => {
                let kind = Kind::ALL.iter().copied().find(|k| k.name() == name);
                let names = || Kind::ALL.iter().map(|k| k.name()).collect::<Vec<_>>().join(", ");
                let kind = kind.ok_or_else(|| format!("there is no type {name:?}; known are {}", names()))?;
                (key, Some(kind))
            }
        };
        if key.is_empty() {
            return Err("the key is empty".into());
        }
        Ok(Self::Set { key: key.to_owned(), kind, text: value.to_owned() })
    }

    /// The key it is about.
    pub fn key(&self) -> &str {
        match self {
            Self::Set { key, .. } | Self::Remove(key) => key,
        }
    }

    /// Makes the change; `file` is for the errors.
    pub(crate) fn apply(&self, file: &Path, metadata: &mut Metadata) -> Result<()> {
        let key = self.key();
        let error = |what: String| Error::refused(file, format!("metadata key {key:?}: {what}"));
        let refused = |what: String| Err(error(what));
        if FIXED.contains(&key) {
            return refused("it says what the file is, so it cannot be changed or removed".into());
        }
        let present = metadata.get(key);
        if let Some(Value::Array(_)) = present
            && key.starts_with("tokenizer.")
        {
            return refused(
                "the tokenizer's lists must fit each other and the weights; they are not edited".into(),
            );
        }
        match self {
            Self::Remove(_) => {
                if present.is_none() {
                    return Err(error("there is no such key".into()).with_remedy(Remedy::ListMetadata));
                }
                let architecture = metadata.str("general.architecture").unwrap_or_default();
                let own = key.strip_prefix(architecture).and_then(|k| k.strip_prefix('.'));
                if own.is_some_and(|own| NEEDED.contains(&own)) {
                    return refused("no reader can load the model without it".into());
                }
                metadata.remove(key);
            }
            Self::Set { kind, text, .. } => {
                let kind = match (kind, present) {
                    (_, Some(Value::Array(_))) => {
                        return refused("it is an array, and those are not edited".into());
                    }
                    (Some(kind), _) => *kind,
                    (None, Some(value)) => Kind::of(value).unwrap_or(Kind::String),
                    (None, None) => {
                        let remedy = Remedy::TypeNewKey { edit: format!("{key}:str={text}") };
                        return Err(error("there is no such key".into()).with_remedy(remedy));
                    }
                };
                let Some(value) = kind.parse(text) else {
                    return refused(format!("{text:?} is no {}", kind.name()));
                };
                metadata.set(key, value);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quern_tensor_io::Array;

    fn metadata() -> Metadata {
        let mut m = Metadata::new();
        m.set("general.architecture", "llama");
        m.set("general.name", "Old");
        m.set("llama.block_count", Value::U32(2));
        m.set("llama.rope.freq_base", Value::F32(1e4));
        m.set("tokenizer.ggml.eos_token_id", Value::U32(2));
        m.set("tokenizer.ggml.scores", Value::Array(Array::F32(vec![0.0])));
        m.set("general.tags", Value::Array(Array::U8(vec![0])));
        m
    }

    fn apply(edit: &Edit) -> Result<Metadata> {
        let mut m = metadata();
        edit.apply(Path::new("m.gguf"), &mut m).map(|()| m)
    }

    fn set(text: &str) -> Result<Metadata> {
        apply(&Edit::parse_set(text).unwrap())
    }

    #[test]
    fn values_take_the_type_of_their_key() {
        assert_eq!(set("general.name=New = better").unwrap().str("general.name"), Some("New = better"));
        let m = set("tokenizer.ggml.eos_token_id=7").unwrap();
        assert_eq!(m.get("tokenizer.ggml.eos_token_id"), Some(&Value::U32(7)));
        assert_eq!(m.iter().map(|(k, _)| k.to_owned()).collect::<Vec<_>>(), {
            metadata().iter().map(|(k, _)| k.to_owned()).collect::<Vec<_>>()
        });
        assert_eq!(
            set("llama.rope.freq_base=5e5").unwrap().get("llama.rope.freq_base"),
            Some(&Value::F32(5e5))
        );
        let m = set("tokenizer.ggml.add_bos_token:bool=false").unwrap();
        assert_eq!(m.bool("tokenizer.ggml.add_bos_token"), Some(false));
        // A type given wins: that is how a wrong one is mended.
        assert_eq!(set("llama.block_count:u64=2").unwrap().get("llama.block_count"), Some(&Value::U64(2)));
    }

    #[test]
    fn removed_keys_are_gone() {
        let m = apply(&Edit::Remove("general.name".into())).unwrap();
        assert_eq!((m.len(), m.get("general.name")), (metadata().len() - 1, None));
    }

    #[test]
    fn what_would_spoil_the_file_is_refused() {
        for (text, part) in [
            ("general.architecture=qwen2", "cannot be changed"),
            ("split.count=2", "cannot be changed"),
            ("tokenizer.ggml.scores=1", "not edited"),
            ("general.tags=1", "an array"),
            ("tokenizer.ggml.eos_token_id=-1", "\"-1\" is no u32"),
            ("new.key=1", "no such key"),
            ("general.flag:bool=yes", "\"yes\" is no bool"),
        ] {
            let error = set(text).unwrap_err().to_string();
            assert!(error.starts_with("m.gguf: metadata key ") && error.contains(part), "{text}: {error}");
        }
        let typed = Remedy::TypeNewKey { edit: "new.key:str=1".into() };
        assert_eq!(set("new.key=1").unwrap_err().remedy(), Some(typed));
        for (key, part) in [
            ("general.architecture", "cannot be changed or removed"),
            ("llama.block_count", "without it"),
            ("tokenizer.ggml.scores", "not edited"),
            ("no.such.key", "no such key"),
        ] {
            let error = apply(&Edit::Remove(key.into())).unwrap_err().to_string();
            assert!(error.contains(part), "{key}: {error}");
        }
        for (text, part) in [("general.name", "KEY=VALUE"), ("a:i24=1", "no type \"i24\""), ("=1", "empty")] {
            assert!(Edit::parse_set(text).unwrap_err().contains(part), "{text}");
        }
    }
}
