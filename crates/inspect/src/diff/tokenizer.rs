//! Tokenizers: by what they do with text, whatever files they are read from.
//!
//! | pair | read from | lists compared |
//! |---|---|---|
//! | two GGUF files | their metadata | tokens and kinds, scores, merges; and every other `tokenizer.*` key |
//! | two directories | their files | tokens and kinds; scores and merges as GGUF would have them |
//! | one of each | the metadata, and what a converter would write for the directory | tokens and kinds, scores, merges |

use quern_model::gguf::{gguf_metadata, tokenizer_metadata};
use quern_model::{Config, EncodeOptions, TokenKind, Tokenizer};
use quern_tensor_io::{Checkpoint, Container, Metadata};
use serde::Serialize;

use super::entry::{Entry, around_difference};
use super::metadata;

/// Items of a list that are shown.
const SHOWN: usize = 5;
/// What both tokenizers encode: spaces, digits, other scripts, code, names of special tokens.
const SAMPLE: &str = "Hello, world!  It's 3.14159 or 1234567890;\tnaïve café\n\n  \
    for (int i = 0; i <= 10; ++i) { x[i] += \"y\"; }\r\n\
    Ünïcödé, Ελληνικά, русский, עברית, العربية, हिन्दी, 中文字符, 日本語テキスト, 한국어 🙂👩‍👩‍👧 \u{a0}\u{3000}… \
    <s></s> <unk> <|endoftext|> <|im_start|>user<|im_end|> [INST] <start_of_turn> don't we'LL I'm 'tis e\u{301}";

/// What distinguishes two tokenizers.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct TokenizerDiff {
    /// Properties: kind, special tokens, what is added, chat templates.
    pub settings: Vec<Entry>,
    /// Tokens and kinds of tokens by id; `None` if they are the same.
    pub tokens: Option<ListDiff>,
    /// Merges in order.
    pub merges: Option<ListDiff>,
    /// Scores by id.
    pub scores: Option<ListDiff>,
    /// What could not be compared, in words.
    pub notes: Vec<String>,
}

/// Two lists that are not the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ListDiff {
    /// Length in A.
    pub a: usize,
    /// Length in B.
    pub b: usize,
    /// Places where they differ, with those that only the longer one has.
    pub different: usize,
    /// The first of them.
    pub first: Vec<ItemDiff>,
}

/// One place of two lists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ItemDiff {
    /// The id of a token, or the number of a merge.
    pub id: usize,
    /// A's item as text; `None` beyond its end.
    pub a: Option<String>,
    /// B's.
    pub b: Option<String>,
}

impl TokenizerDiff {
    /// Whether both give the same tokens.
    pub fn same(&self) -> bool {
        let lists = [&self.tokens, &self.merges, &self.scores];
        lists.iter().all(|list| list.is_none()) && self.settings.iter().all(|entry| !entry.counts)
    }
}

/// Compares the tokenizers of two checkpoints, given their configurations where quern has them.
pub(super) fn compare(a: (&Checkpoint, Option<&Config>), b: (&Checkpoint, Option<&Config>)) -> TokenizerDiff {
    let mut found = TokenizerDiff::default();
    let gguf = |checkpoint: &Checkpoint| checkpoint.container() == Container::Gguf;
    let across = gguf(a.0) != gguf(b.0);
    let (form_a, form_b) = (form(a, "A", &mut found.notes), form(b, "B", &mut found.notes));
    let read = |(checkpoint, _): (&Checkpoint, Option<&Config>), form: &Option<Metadata>| match form {
        Some(form) if across => Tokenizer::from_gguf(checkpoint.metadata_file(), form),
        _ => Tokenizer::from_checkpoint(checkpoint),
    };
    match (read(a, &form_a), read(b, &form_b)) {
        (Ok(of_a), Ok(of_b)) => {
            properties(&of_a, &of_b, across, &mut found.settings);
            found.tokens = tokens(&of_a, &of_b);
            found.notes.retain(|_| across);
        }
        (Err(of_a), Err(of_b)) => {
            // A model without tokenizer is compared like any other.
            found.notes = vec![format!("A: no tokenizer: {of_a}"), format!("B: no tokenizer: {of_b}")];
        }
        (Ok(one), Err(e)) => {
            found.settings.push(Entry::new("tokenizer", Some(one.kind_name()), None, true));
            found.notes = vec![format!("B: no tokenizer: {e}")];
        }
        (Err(e), Ok(one)) => {
            found.settings.push(Entry::new("tokenizer", None, Some(one.kind_name()), true));
            found.notes = vec![format!("A: no tokenizer: {e}")];
        }
    }
    if let (Some(form_a), Some(form_b)) = (&form_a, &form_b) {
        let strings = |form: &Metadata, key: &str| {
            form.strings(key).map(|list| list.iter().map(str::to_owned).collect::<Vec<_>>())
        };
        let key = "tokenizer.ggml.merges";
        found.merges = of_both(strings(form_a, key), strings(form_b, key), |text| format!("{text:?}"));
        let floats =
            |form: &Metadata| form.f32s("tokenizer.ggml.scores").map(<[f32]>::to_vec).unwrap_or_default();
        let (scores_a, scores_b) = (floats(form_a), floats(form_b));
        let bits = |scores: &[f32]| scores.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        found.scores = list(&bits(&scores_a), &bits(&scores_b), |v| f32::from_bits(*v).to_string());
        if gguf(a.0) && gguf(b.0) {
            let listed = ["tokens", "merges", "scores"].map(|name| format!("tokenizer.ggml.{name}"));
            let wanted = |key: &str| {
                let own = key.starts_with("tokenizer.") || key.starts_with("quern.tokenizer.");
                // Templates are among the properties.
                own && !key.starts_with("tokenizer.chat_template") && !listed.iter().any(|l| l == key)
            };
            found.settings.extend(metadata::keys(form_a, form_b, wanted));
        }
    }
    found
}

/// The tokenizer as GGUF metadata; `None`, with a note, if it has no such form.
fn form(
    (checkpoint, config): (&Checkpoint, Option<&Config>),
    side: &str,
    notes: &mut Vec<String>,
) -> Option<Metadata> {
    if checkpoint.container() == Container::Gguf {
        return Some(checkpoint.metadata().clone());
    }
    let directory = checkpoint.directory();
    let made = match config {
        // Readers of GGUF know some things by the model's name, which is part of the whole metadata alone.
        Some(config) => gguf_metadata(checkpoint, config)
            .or_else(|_| tokenizer_metadata(directory, config.architecture.name, config.vocab_size)),
        None => Tokenizer::from_directory(directory)
            .and_then(|tokenizer| tokenizer_metadata(directory, "", tokenizer.vocab_size())),
    };
    match made {
        // A gap that the embedding has rows for is filled with unused tokens, as converters do.
        Ok((metadata, _)) => Some(metadata),
        Err(e) => {
            notes.push(format!("{side}: the tokenizer has no form in GGUF: {e}"));
            None
        }
    }
}

fn properties(a: &Tokenizer, b: &Tokenizer, across: bool, out: &mut Vec<Entry>) {
    let mut differ = |key: &str, a: Option<String>, b: Option<String>, counts: bool| {
        if a != b {
            let (a, b) = around_difference(a.as_deref(), b.as_deref());
            out.push(Entry { key: key.to_owned(), a, b, counts });
        }
    };
    let token =
        |t: &Tokenizer, id: Option<u32>| id.map(|id| format!("{id} {:?}", t.piece(id).unwrap_or_default()));
    differ("kind", Some(a.kind_name().into()), Some(b.kind_name().into()), true);
    let pre = |t: &Tokenizer| t.pre_tokenizer().map(str::to_owned);
    differ("pre-tokenizer", pre(a), pre(b), true);
    let (ids_a, ids_b) = (a.special_ids(), b.special_ids());
    for (key, of_a, of_b) in [
        ("bos", ids_a.bos, ids_b.bos),
        ("eos", ids_a.eos, ids_b.eos),
        ("unk", ids_a.unk, ids_b.unk),
        ("sep", ids_a.sep, ids_b.sep),
        ("pad", ids_a.pad, ids_b.pad),
        ("mask", ids_a.mask, ids_b.mask),
        ("end of turn", ids_a.eot, ids_b.eot),
        ("end of message", ids_a.eom, ids_b.eom),
    ] {
        differ(key, token(a, of_a), token(b, of_b), true);
    }
    differ("adds bos", Some(a.add_bos().to_string()), Some(b.add_bos().to_string()), true);
    differ("adds eos", Some(a.add_eos().to_string()), Some(b.add_eos().to_string()), true);
    // GGUF has no list of ends: what generation_config.json adds is lost there.
    let ends = |t: &Tokenizer| Some(t.end_tokens().iter().map(u32::to_string).collect::<Vec<_>>().join(", "));
    differ("ends of generation", ends(a), ends(b), !across);
    let names = a.chat_templates().iter().chain(b.chat_templates()).map(|(name, _)| name.as_str());
    let mut names: Vec<&str> = names.collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let of =
            |t: &Tokenizer| t.chat_templates().iter().find(|(n, _)| n == name).map(|(_, text)| text.clone());
        let key = if name == "default" { "chat template".into() } else { format!("chat template {name}") };
        differ(&key, of(a), of(b), true);
    }
    let options = EncodeOptions { add_special: false, parse_special: true };
    let ids = |t: &Tokenizer| match t.encode(SAMPLE, options) {
        Ok(ids) => Some(ids.iter().map(u32::to_string).collect::<Vec<_>>().join(" ")),
        Err(e) => Some(e.to_string()),
    };
    differ("tokens of a sample text", ids(a), ids(b), true);
}

fn tokens(a: &Tokenizer, b: &Tokenizer) -> Option<ListDiff> {
    let all = |t: &Tokenizer| -> Vec<(Option<String>, Option<TokenKind>)> {
        let ids = 0..t.vocab_size() as u32;
        ids.map(|id| (t.piece(id).map(str::to_owned), t.token_kind(id))).collect()
    };
    list(&all(a), &all(b), |(piece, kind)| {
        let piece = piece.as_ref().map_or_else(|| "none".to_owned(), |piece| format!("{piece:?}"));
        match kind {
            None | Some(TokenKind::Normal) => piece,
            Some(kind) => format!("{piece} ({})", format!("{kind:?}").to_lowercase()),
        }
    })
}

/// As [`list`], nothing where neither side has one.
fn of_both<T: PartialEq>(
    a: Option<Vec<T>>,
    b: Option<Vec<T>>,
    text: impl Fn(&T) -> String,
) -> Option<ListDiff> {
    list(&a.unwrap_or_default(), &b.unwrap_or_default(), text)
}

fn list<T: PartialEq>(a: &[T], b: &[T], text: impl Fn(&T) -> String) -> Option<ListDiff> {
    let longer = a.len().max(b.len());
    let places = (0..longer).filter(|&at| a.get(at) != b.get(at));
    let (mut different, mut first) = (0, Vec::new());
    for at in places {
        different += 1;
        if first.len() < SHOWN {
            first.push(ItemDiff { id: at, a: a.get(at).map(&text), b: b.get(at).map(&text) });
        }
    }
    (different > 0).then_some(ListDiff { a: a.len(), b: b.len(), different, first })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_compared_place_by_place() {
        let (a, b) = (vec![1, 2, 3], vec![1, 5, 3, 4]);
        let found = list(&a, &b, i32::to_string).unwrap();
        assert_eq!((found.a, found.b, found.different), (3, 4, 2));
        let item = |id, a: Option<&str>, b: Option<&str>| ItemDiff {
            id,
            a: a.map(str::to_owned),
            b: b.map(str::to_owned),
        };
        assert_eq!(found.first, [item(1, Some("2"), Some("5")), item(3, None, Some("4"))]);
        assert_eq!(list(&a, &a, i32::to_string), None);
        assert_eq!(list(&Vec::<i32>::new(), &[], i32::to_string), None);
    }
}
