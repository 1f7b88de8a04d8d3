//! Texts that end generation.
//!
//! A stop text may be spread over several tokens, so what could be its beginning is held back until the next text
//! decides. The text is checked character by character: of several stop texts, the one complete first counts.

/// Looks for stop texts in text that arrives piece by piece.
#[derive(Debug)]
pub(super) struct Stops<'o> {
    texts: &'o [String],
    /// What may be the beginning of a stop text.
    held: String,
}

impl<'o> Stops<'o> {
    /// Looks for `texts`, none of them empty.
    pub fn new(texts: &'o [String]) -> Self {
        Self { texts, held: String::new() }
    }

    /// Takes more text. Returns what is certainly before any stop text, and the stop text that was found: then there
    /// is nothing more to say.
    pub fn push(&mut self, piece: &str) -> (String, Option<&'o str>) {
        if self.texts.is_empty() {
            return (piece.to_owned(), None);
        }
        self.held.push_str(piece);
        let found = self.texts.iter().filter_map(|text| Some((self.held.find(text.as_str())?, text)));
        if let Some((start, text)) = found.min_by_key(|(start, text)| (start + text.len(), *start)) {
            let before = self.held[..start].to_owned();
            self.held.clear();
            return (before, Some(text));
        }
        let free = self.held.len() - self.beginning();
        let rest = self.held.split_off(free);
        (std::mem::replace(&mut self.held, rest), None)
    }

    /// Length of the longest end of the held text that is the beginning of a stop text.
    fn beginning(&self) -> usize {
        let starts = self.held.char_indices().map(|(at, _)| &self.held[at..]);
        let may_begin = |end: &&str| self.texts.iter().any(|text| text.starts_with(*end));
        starts.skip_while(|end| !may_begin(end)).map(str::len).next().unwrap_or(0)
    }

    /// Text that was held back and is not a stop text.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    fn run<'o>(stops: &'o [String], pieces: &[&str]) -> (Vec<String>, Option<&'o str>) {
        let mut finder = Stops::new(stops);
        let mut out = Vec::new();
        for piece in pieces {
            let (text, found) = finder.push(piece);
            out.push(text);
            if found.is_some() {
                return (out, found);
            }
        }
        out.push(finder.finish());
        (out, None)
    }

    fn texts(stops: &[&str]) -> Vec<String> {
        stops.iter().map(|&s| s.to_owned()).collect()
    }

    #[test]
    fn what_may_be_a_beginning_is_held_back() {
        let stops = texts(&["\n\nUser:", "###"]);
        let (out, found) = run(&stops, &["Hello\n", "\nUse", "d", " #", "##", "x"]);
        assert_eq!(out, ["Hello", "", "\n\nUsed", " ", ""]);
        assert_eq!(found, Some("###"));
        let (out, found) = run(&stops, &["a\n\nUser", "\n\nUse"]);
        assert_eq!((out.concat().as_str(), found), ("a\n\nUser\n\nUse", None));
        let (out, found) = run(&stops, &["a\n\n\nUser: b"]);
        assert_eq!((out.concat().as_str(), found), ("a\n", Some("\n\nUser:")));
    }

    #[test]
    fn pieces_do_not_matter() {
        let mut random = Random::new(9);
        let stops = texts(&["aab", "ba€", "abab", "b"][..3]);
        for _ in 0..2000 {
            let text: String = (0..12).map(|_| ['a', 'b', '€'][random.below(3) as usize]).collect();
            // Straight from the definition: the first end of any stop text.
            let ends = text.char_indices().map(|(at, c)| at + c.len_utf8());
            let mut hits = ends.filter_map(|end| {
                let stop = stops.iter().filter(|s| text[..end].ends_with(s.as_str())).max_by_key(|s| s.len());
                stop.map(|stop| (end - stop.len(), stop.as_str()))
            });
            let expected = hits.next().map_or((text.as_str(), None), |(at, stop)| (&text[..at], Some(stop)));
            let mut pieces = Vec::new();
            let mut rest = text.as_str();
            while !rest.is_empty() {
                let chars = 1 + random.below(4) as usize;
                let at = rest.char_indices().nth(chars).map_or(rest.len(), |(at, _)| at);
                pieces.push(&rest[..at]);
                rest = &rest[at..];
            }
            let (out, found) = run(&stops, &pieces);
            assert_eq!((out.concat().as_str(), found), expected, "{pieces:?}");
        }
    }
}
