//! Pieces of a text from the matches in it, without a list of either.

use std::ops::Range;

use super::Behavior;

/// Calls `each` with the pieces that a split makes of `len` bytes of text, in order, none of them empty. `matches` are
/// ranges of bytes in order; with `invert`, what is between them counts as the match.
///
/// ```text
/// "a-b--c", matches "-"   Isolated            a|-|b|-|-|c
///                         Removed             a|b|c
///                         Contiguous          a|-|b|--|c
///                         MergedWithPrevious  a-|b-|-|c
///                         MergedWithNext      a|-b|-|-c
/// ```
pub(super) fn split<E>(
    len: usize,
    matches: impl Iterator<Item = Result<(usize, usize), E>>,
    behavior: Behavior,
    invert: bool,
    mut each: impl FnMut(Range<usize>) -> Result<(), E>,
) -> Result<(), E> {
    let mut grouped = Grouped {
        behavior,
        held: None,
        after_match: false,
        each: |range: Range<usize>| {
            if range.is_empty() { Ok(()) } else { each(range) }
        },
    };
    let mut done = 0;
    for found in matches {
        let (start, end) = found?;
        if start > done {
            grouped.add(done..start, invert)?;
        }
        grouped.add(start..end, !invert)?;
        done = end;
    }
    if done < len {
        grouped.add(done..len, invert)?;
    }
    grouped.finish()
}

/// Puts segments together as the behavior says.
struct Grouped<F> {
    behavior: Behavior,
    /// A segment that the next one may join.
    held: Option<Range<usize>>,
    after_match: bool,
    each: F,
}

impl<E, F: FnMut(Range<usize>) -> Result<(), E>> Grouped<F> {
    fn add(&mut self, segment: Range<usize>, is_match: bool) -> Result<(), E> {
        let joins = match self.behavior {
            Behavior::Removed if is_match => return Ok(()),
            Behavior::Removed | Behavior::Isolated => return (self.each)(segment),
            Behavior::Contiguous => is_match == self.after_match,
            Behavior::MergedWithPrevious => is_match && !self.after_match,
            Behavior::MergedWithNext => !is_match && self.after_match,
        };
        self.after_match = is_match;
        match &mut self.held {
            Some(held) if joins => {
                held.end = segment.end;
                Ok(())
            }
            held => match held.replace(segment) {
                Some(before) => (self.each)(before),
                None => Ok(()),
            },
        }
    }

    fn finish(mut self) -> Result<(), E> {
        self.held.take().map_or(Ok(()), &mut self.each)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behaviors_are_those_of_the_table() {
        let pieces = |behavior, invert| {
            let text = "a-b--c";
            let matches = text.match_indices('-').map(|(at, _)| Ok::<_, ()>((at, at + 1)));
            let mut out = Vec::new();
            let each = |range: Range<usize>| {
                out.push(&text[range]);
                Ok(())
            };
            split(text.len(), matches, behavior, invert, each).unwrap();
            out.join("|")
        };
        assert_eq!(pieces(Behavior::Isolated, false), "a|-|b|-|-|c");
        assert_eq!(pieces(Behavior::Removed, false), "a|b|c");
        assert_eq!(pieces(Behavior::Removed, true), "-|-|-");
        assert_eq!(pieces(Behavior::Contiguous, false), "a|-|b|--|c");
        assert_eq!(pieces(Behavior::MergedWithPrevious, false), "a-|b-|-|c");
        assert_eq!(pieces(Behavior::MergedWithNext, false), "a|-b|-|-c");
    }
}
