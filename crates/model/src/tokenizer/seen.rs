//! The words of a text that have been encoded before.
//!
//! The tokens of a word are copied from where they are in the output. A word has one slot, which a later word may take
//! from it: the memory is small, whatever the text.

use super::hash::Key;

/// Hardly a longer word comes twice in a text.
const LONGEST: usize = 31;
/// More slots do not find more words in prose.
const MOST_SLOTS: usize = 1 << 16;
/// Bytes of text for each slot.
const PER_SLOT: usize = 64;

/// A word and the place of its tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slot {
    /// The bytes, zeros, and the length plus one; 0 for none.
    word: [u8; LONGEST + 1],
    from: usize,
    count: u8,
}

const FREE: Slot = Slot { word: [0; LONGEST + 1], from: 0, count: 0 };

/// Words and the places of their tokens.
#[derive(Debug)]
pub(super) struct Seen {
    slots: Vec<Slot>,
    key: Key,
}

impl Seen {
    /// A memory for a text of so many bytes.
    pub fn for_text(bytes: usize) -> Self {
        let slots = ((bytes / PER_SLOT + 1).next_power_of_two() / 2).clamp(16, MOST_SLOTS);
        Self { slots: vec![FREE; slots], key: Key::random() }
    }

    /// The place of the tokens of `word`, or the slot to note it in, if it is short enough. Words of two sorts that are
    /// spelled alike are not the same.
    pub fn find(&mut self, word: &str, sort: bool) -> Result<(usize, usize), Option<usize>> {
        if word.len() > LONGEST {
            return Err(None);
        }
        let mut padded = [0; LONGEST + 1];
        padded[..word.len()].copy_from_slice(word.as_bytes());
        padded[LONGEST] = word.len() as u8 + 1 + if sort { 128 } else { 0 };
        let at = self.key.bytes(&padded) as usize & (self.slots.len() - 1);
        let slot = &mut self.slots[at];
        if slot.word == padded {
            return Ok((slot.from, slot.from + usize::from(slot.count)));
        }
        *slot = Slot { word: padded, ..FREE };
        Err(Some(at))
    }

    /// Notes the place of the tokens of the word that was just looked for.
    pub fn set(&mut self, slot: usize, from: usize, to: usize) {
        match u8::try_from(to - from) {
            Ok(count) => (self.slots[slot].from, self.slots[slot].count) = (from, count),
            Err(_) => self.slots[slot] = FREE,
        }
    }
}
