//! The space that SentencePiece puts in front of a text, so that its first word is spelled like any other.

use super::vocabulary::{SPACE, escape_spaces};

/// Where a space is put in front of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SpacePrefix {
    /// Nowhere.
    Never,
    /// At the start and after each special token, even in front of another space.
    Always,
    /// Likewise, unless the text starts with a space.
    AlwaysUnlessSpace,
    /// At the very start, unless the text starts with a space.
    FirstUnlessSpace,
}

/// The position of a piece of text.
pub(super) struct Place {
    /// At the very start.
    pub first: bool,
    /// At the start or behind a special token.
    pub after_special: bool,
}

impl SpacePrefix {
    /// Appends `raw` in SentencePiece's form: U+2581 for spaces, with one in front where the rule says so.
    pub(super) fn escape(self, raw: &str, place: &mut Place, out: &mut String) {
        let space = raw.starts_with([' ', SPACE]);
        let wanted = match self {
            Self::Never => false,
            Self::Always => place.after_special,
            Self::AlwaysUnlessSpace => place.after_special && !space,
            Self::FirstUnlessSpace => place.first && !space,
        };
        let spaces = raw.bytes().filter(|&b| b == b' ').count() + usize::from(wanted);
        out.reserve_exact(raw.len() + 2 * spaces + 1);
        if wanted {
            out.push(SPACE);
        }
        escape_spaces(raw, out);
        place.after_special = false;
    }
}
