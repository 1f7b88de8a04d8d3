//! Cutting text at special tokens.
//!
//! Added (user-defined) tokens are always recognised, control and unknown tokens only on request; at each
//! place the longest one wins.

use std::collections::HashMap;

use super::vocabulary::{SPACE, TokenKind, Vocabulary};

/// The note on the id of a special token that does not exist; `instead` is taken in its place.
pub(crate) fn no_such_token(key: &str, found: &str, tokens: usize, instead: Option<u32>) -> String {
    let instead = instead.map(|id| format!("; {id} is taken instead")).unwrap_or_default();
    format!("{key}: {found} is not the id of one of the {tokens} tokens and is ignored{instead}")
}

/// The conditions of an added token on the text around it (`lstrip`, `rstrip`, `single_word` in Hugging Face's files).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Edges {
    /// Blanks in front belong to it.
    pub left: bool,
    /// Blanks behind belong to it.
    pub right: bool,
    /// It is recognised only where no word character touches its ends.
    pub single_word: bool,
    /// It is looked for where spaces have become U+2581 (`normalized`), so the two are one in it.
    pub either_space: bool,
}

/// A piece of text between special tokens, or one of those.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fragment<'a> {
    /// Ordinary text, not empty.
    Text(&'a str),
    /// A special token.
    Token(u32),
}

/// Special tokens by their text.
///
/// In a GGUF file and in a SentencePiece model, added tokens that are blanks (Gemma's) are spaces, while the
/// model's own tokenizer looks for them twice: as they are spelled, with U+2581, in raw text, and again where spaces
/// have become U+2581.
#[derive(Clone, Debug, Default)]
pub(crate) struct SpecialTokens {
    raw: Table,
    blanks: Table,
}

impl SpecialTokens {
    /// All special tokens of a vocabulary. `edges` holds only tokens with conditions. With `as_spaces` the
    /// vocabulary has spaces in added tokens where the tokenizer has U+2581.
    ///
    /// # Errors
    /// One of them is longer than any that is looked for in text.
    pub fn new(
        vocabulary: &Vocabulary,
        edges: &HashMap<u32, Edges>,
        as_spaces: bool,
    ) -> Result<Self, String> {
        let special = |id: u32, kind: TokenKind| {
            let control = matches!(kind, TokenKind::Control | TokenKind::Unknown);
            let piece = vocabulary.piece(id).unwrap_or_default();
            let wanted = !piece.is_empty() && (control || kind == TokenKind::UserDefined);
            wanted.then_some((piece, control))
        };
        let all =
            || (0u32..).zip(vocabulary.kinds()).filter_map(|(id, &kind)| Some((id, special(id, kind)?)));
        let (mut raw, mut blanks) = (Table::with_capacity(all().count()), Table::default());
        let sign = SPACE.encode_utf8(&mut [0; 4]).to_owned();
        for (id, (piece, control)) in all() {
            if piece.len() > LONGEST {
                return Err(format!(
                    "token {id}, which is looked for in text, has {} bytes, and at most {LONGEST} are allowed",
                    piece.len()
                ));
            }
            let edges = edges.get(&id).copied().unwrap_or_default();
            let special = Special { id, control, edges };
            let both = as_spaces || edges.either_space;
            if control || !both || !piece.contains([' ', SPACE]) {
                raw.add(piece, special);
                continue;
            }
            let (spaced, signed) = (piece.replace(SPACE, " "), piece.replace(' ', &sign));
            if as_spaces && spaced.bytes().all(|b| b == b' ') {
                raw.add(&signed, special);
                blanks.add(&spaced, special);
            } else {
                raw.add(piece, special);
                raw.add(&spaced, special);
                raw.add(&signed, special);
            }
        }
        raw.sort();
        blanks.sort();
        Ok(Self { raw, blanks })
    }

    /// Cuts `text`; control tokens count only with `control`.
    pub fn split<'a>(&'a self, text: &'a str, control: bool) -> Fragments<'a> {
        self.raw.split(text, control)
    }

    /// Cuts text between special tokens, in which every blank is a space, at tokens that are blanks.
    pub fn split_blanks<'a>(&'a self, text: &'a str) -> Fragments<'a> {
        self.blanks.split(text, false)
    }
}

/// Longer tokens are not looked for: at each place of a text, all that begin like it are followed to their end.
const LONGEST: usize = 1024;

#[derive(Clone, Copy, Debug)]
struct Special {
    id: u32,
    control: bool,
    edges: Edges,
}

/// A text to look for.
#[derive(Clone, Copy, Debug)]
struct Entry {
    start: usize,
    len: u16,
    special: Special,
}

/// Texts in the order of their bytes.
///
/// Those that begin with the same bytes are a range, which narrows byte by byte as the text is followed.
#[derive(Clone, Debug, Default)]
struct Table {
    texts: Vec<u8>,
    entries: Vec<Entry>,
    /// The range of each first byte; empty without entries.
    first: Vec<(u32, u32)>,
}

impl Table {
    fn with_capacity(count: usize) -> Self {
        Self { entries: Vec::with_capacity(count), ..Self::default() }
    }

    /// Of equal texts the first one counts.
    fn add(&mut self, text: &str, special: Special) {
        // Signs are three times as long as spaces, so this fits 16 bits.
        self.entries.push(Entry { start: self.texts.len(), len: text.len() as u16, special });
        self.texts.extend_from_slice(text.as_bytes());
    }

    fn sort(&mut self) {
        let Self { texts, entries, first } = self;
        let bytes = |entry: &Entry| &texts[entry.start..][..usize::from(entry.len)];
        entries.sort_unstable_by(|a, b| bytes(a).cmp(bytes(b)).then(a.start.cmp(&b.start)));
        entries.dedup_by(|later, kept| bytes(later) == bytes(kept));
        if entries.is_empty() {
            return;
        }
        let mut end = 0;
        *first = (0..=255)
            .map(|byte| {
                let start = end;
                end +=
                    entries[start..].iter().take_while(|entry| bytes(entry).first() == Some(&byte)).count();
                (start as u32, end as u32)
            })
            .collect();
    }

    fn split<'a>(&'a self, text: &'a str, control: bool) -> Fragments<'a> {
        Fragments { table: self, text, control, from: 0, token: None }
    }

    fn bytes(&self, entry: &Entry) -> &[u8] {
        &self.texts[entry.start..][..usize::from(entry.len)]
    }

    /// The longest special token at byte `at`, and its length.
    fn at(&self, text: &str, at: usize, control: bool) -> Option<(Special, usize)> {
        let rest = &text.as_bytes()[at..];
        let &(start, end) = self.first.get(usize::from(*rest.first()?))?;
        let mut range = &self.entries[start as usize..end as usize];
        let (mut best, mut depth) = (None, 1);
        while let [first, others @ ..] = range {
            let len = usize::from(first.len);
            // All that are left agree with the text up to `depth`; the shortest comes first.
            if len == depth || others.is_empty() {
                range = others;
                if !rest.starts_with(self.bytes(first)) {
                    continue;
                }
                let special = first.special;
                let wanted = control || !special.control;
                if wanted && (!special.edges.single_word || stands_alone(text, at, len)) {
                    best = Some((special, len));
                }
                continue;
            }
            let Some(&next) = rest.get(depth) else { break };
            let from = range.partition_point(|entry| self.bytes(entry)[depth] < next);
            let to = from + range[from..].partition_point(|entry| self.bytes(entry)[depth] == next);
            range = &range[from..to];
            depth += 1;
        }
        best
    }
}

/// A text, cut at special tokens.
#[derive(Clone, Debug)]
pub(crate) struct Fragments<'a> {
    table: &'a Table,
    text: &'a str,
    control: bool,
    /// What is before has been given.
    from: usize,
    /// The token behind the text that was given last.
    token: Option<u32>,
}

impl<'a> Iterator for Fragments<'a> {
    type Item = Fragment<'a>;

    fn next(&mut self) -> Option<Fragment<'a>> {
        if let Some(id) = self.token.take() {
            return Some(Fragment::Token(id));
        }
        if self.from == self.text.len() {
            return None;
        }
        let places = if self.table.entries.is_empty() { 0..0 } else { self.from..self.text.len() };
        for at in places {
            let Some((special, len)) = self.table.at(self.text, at, self.control) else { continue };
            let (before, after) = (&self.text[self.from..at], &self.text[at + len..]);
            let before = if special.edges.left { before.trim_end() } else { before };
            let after = if special.edges.right { after.trim_start() } else { after };
            self.from = self.text.len() - after.len();
            if before.is_empty() {
                return Some(Fragment::Token(special.id));
            }
            self.token = Some(special.id);
            return Some(Fragment::Text(before));
        }
        let rest = &self.text[self.from..];
        self.from = self.text.len();
        Some(Fragment::Text(rest))
    }
}

fn stands_alone(text: &str, at: usize, len: usize) -> bool {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let (before, after) = (text[..at].chars().next_back(), text[at + len..].chars().next());
    !before.is_some_and(word) && !after.is_some_and(word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn tokens_take_what_they_ask_for() {
        let pieces = ["<a>", "<b>", "<ab>", "ab", "<ab", "é"];
        let kinds = [TokenKind::Control, TokenKind::Control, TokenKind::UserDefined, TokenKind::UserDefined];
        let kinds = [&kinds[..], &[TokenKind::UserDefined; 2]].concat();
        let vocabulary = Vocabulary::byte_level(pieces.into_iter().collect(), kinds, None);
        let edges = HashMap::from([
            (0, Edges { right: true, ..Edges::default() }),
            (1, Edges { left: true, ..Edges::default() }),
            (3, Edges { single_word: true, ..Edges::default() }),
        ]);
        let special = SpecialTokens::new(&vocabulary, &edges, false).unwrap();
        use Fragment::{Text, Token};
        let split = |text: &'static str, control| special.split(text, control).collect::<Vec<_>>();
        assert_eq!(split("x <a> \ty <b> z", true), [Text("x "), Token(0), Text("y"), Token(1), Text(" z")]);
        assert_eq!(split("x <a> y", false), [Text("x <a> y")]);
        assert_eq!(
            split("<ab><abab ab xabéé", true),
            [Token(2), Token(4), Text("ab "), Token(3), Text(" xab"), Token(5), Token(5)]
        );
        assert_eq!(split(" <b><a> ", true), [Token(1), Token(0)]);
        assert_eq!(split("", true), []);
        // Blanks that a token takes are gone with it, up to the end.
        assert_eq!(split("x <a> ", true), [Text("x "), Token(0)]);
    }

    #[test]
    fn thousands_of_tokens_that_contain_each_other_take_no_long_time() {
        let pieces: Vec<String> = (1..=LONGEST).map(|len| "o".repeat(len)).collect();
        let kinds = vec![TokenKind::UserDefined; pieces.len()];
        let vocabulary = Vocabulary::byte_level(pieces.iter().collect(), kinds, None);
        let special = SpecialTokens::new(&vocabulary, &HashMap::new(), false).unwrap();
        let text = "o".repeat(100 * LONGEST + 3);
        let start = std::time::Instant::now();
        let found: Vec<_> = special.split(&text, false).collect();
        assert_eq!((found.len(), found[0], found[100]), (101, Fragment::Token(1023), Fragment::Token(2)));
        assert!(start.elapsed().as_secs() < 2);

        let long = Vocabulary::byte_level(
            ["o".repeat(LONGEST + 1)].into_iter().collect(),
            vec![TokenKind::Control],
            None,
        );
        let error = SpecialTokens::new(&long, &HashMap::new(), false).unwrap_err();
        assert!(error.contains("1025 bytes"), "{error}");
    }

    proptest! {
        /// Against the rule as it is written: at each place, the longest one that is wanted there.
        #[test]
        fn the_longest_token_is_taken(
            pieces in proptest::collection::vec("[ab é]{1,5}", 1..12),
            flags in proptest::collection::vec(0u8..16, 12),
            text in "[ab é]{0,40}",
            control: bool,
        ) {
            let kinds: Vec<TokenKind> = flags[..pieces.len()]
                .iter()
                .map(|flag| if flag & 1 == 1 { TokenKind::Control } else { TokenKind::UserDefined })
                .collect();
            let edge = |flag: u8| Edges { left: flag & 2 != 0, right: flag & 4 != 0, single_word: flag & 8 != 0, either_space: false };
            let edges: HashMap<u32, Edges> = (0..pieces.len()).map(|id| (id as u32, edge(flags[id]))).collect();
            let vocabulary = Vocabulary::byte_level(pieces.iter().collect(), kinds.clone(), None);
            let special = SpecialTokens::new(&vocabulary, &edges, false).unwrap();
            let mut expected = Vec::new();
            let (mut from, mut at) = (0, 0);
            while at < text.len() {
                let fits = |&id: &usize| {
                    text[from..].is_char_boundary(at - from)
                        && text[at..].starts_with(&pieces[id])
                        && pieces.iter().position(|p| *p == pieces[id]) == Some(id)
                        && (control || kinds[id] == TokenKind::UserDefined)
                        && (flags[id] & 8 == 0 || stands_alone(&text, at, pieces[id].len()))
                };
                let Some(id) = (0..pieces.len()).filter(fits).max_by_key(|&id| pieces[id].len()) else {
                    at += 1;
                    continue;
                };
                let before = &text[from..at];
                let before = if flags[id] & 2 != 0 { before.trim_end() } else { before };
                if !before.is_empty() {
                    expected.push(Fragment::Text(before));
                }
                expected.push(Fragment::Token(id as u32));
                let after = &text[at + pieces[id].len()..];
                let after = if flags[id] & 4 != 0 { after.trim_start() } else { after };
                at = text.len() - after.len();
                from = at;
            }
            if from < text.len() {
                expected.push(Fragment::Text(&text[from..]));
            }
            prop_assert_eq!(special.split(&text, control).collect::<Vec<_>>(), expected);
        }
    }
}
